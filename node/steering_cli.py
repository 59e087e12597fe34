"""`waggle suggest` and `waggle propose`: the operator's word in the search of a running node, or of the next one."""

import hashlib
import time
from pathlib import Path

import click
import msgspec

from ledger import queries
from ledger.predicates import PROGRAM_BYTES_MAX
from node import story
from node.errors import UserError
from node.home import Home
from node.options import echo_json, home_option, json_option
from node.steering import HYPOTHESIS_CHARACTERS_MAX, Steering, Wish
from policy.screening import screen_program
from trainer.proposers.proposal import ProposerError, fingerprint

SHOWN_MAX = 50


@click.command("suggest")
@click.argument("hypothesis", required=False)
@click.option("--list", "listed", is_flag=True, help="Show suggestions and programs, and what became of them.")
@home_option
@json_option
def suggest_command(hypothesis: str | None, listed: bool, home_path: Path, as_json: bool) -> None:
    """Have the proposers try HYPOTHESIS next, for instance "a larger batch with fewer steps". It is used once."""
    if listed == (hypothesis is not None):
        raise UserError('say what to try, as in `waggle suggest "fewer layers"`; or ask with --list what became of it.')
    home = _initialised(home_path)
    steering = Steering(home.steering, lambda line: click.echo(f"note: {line}", err=True))
    if hypothesis is None:
        _list(steering, as_json)
        return
    name = steering.add(Wish(hypothesis=_bounded(hypothesis), made_at=int(time.time())))
    if as_json:
        echo_json({"name": name})
    else:
        click.echo(f"queued; {_when(home)}. What becomes of it: waggle suggest --list")


@click.command("propose")
@click.option(
    "--file",
    "program_file",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The program to try, a whole train.py.",
)
@click.option("--hypothesis", default="", metavar="TEXT", help="Why it should be better; others can read it.")
@home_option
@json_option
def propose_command(program_file: Path, hypothesis: str, home_path: Path, as_json: bool) -> None:
    """Submit a program by hand. It is screened at once, and tried before what the proposers have."""
    home = _initialised(home_path)
    text, digest = _read(program_file)
    _refuse_known(home, text, digest)
    steering = Steering(home.steering, lambda line: click.echo(f"note: {line}", err=True))
    for one in steering.all():
        if one.wish.state in ("open", "trying") and one.wish.program == text:
            raise UserError(f"{digest[:8]} waits or is being tried already, see `waggle suggest --list`.")
    why = _bounded(hypothesis) if hypothesis else ""
    name = steering.add(Wish(hypothesis=why, program=text, made_at=int(time.time())))
    if as_json:
        echo_json({"name": name, "program": digest})
    else:
        click.echo(f"queued {digest[:8]}; {_when(home)}. What becomes of it: waggle suggest --list")


def _initialised(path: Path) -> Home:
    home = Home(path)
    home.challenge()  # raises, with what to do
    return home


def _bounded(hypothesis: str) -> str:
    text = hypothesis.strip()
    if not text or len(text) > HYPOTHESIS_CHARACTERS_MAX:
        raise UserError(f"a hypothesis is 1 to {HYPOTHESIS_CHARACTERS_MAX} characters; this one has {len(text)}.")
    return text


def _read(path: Path) -> tuple[str, str]:
    """The program and its SHA-256. Raises `UserError` for one that the screen refuses."""
    with path.open("rb") as file:
        content = file.read(PROGRAM_BYTES_MAX + 1)
    if (refusal := screen_program(content)) is not None:
        raise UserError(f"{path} is refused: {refusal}")
    return content.decode(), hashlib.sha256(content).hexdigest()


def _refuse_known(home: Home, text: str, digest: str) -> None:
    """Raises `UserError` for what was tried before, in other words too: comments and layout make no new program."""
    store = home.store(home.challenge())
    try:
        meant = fingerprint(text)
        for program in queries.programs_tried(store):
            if digest == program or _meaning(store.blobs.get(program)) == meant:
                raise UserError(
                    f"this program has been tried: see `waggle ledger log --subject {program[:12]}`. "
                    "To run it once more, use `waggle trial` or `waggle compare`."
                )
    finally:
        store.close()


def _meaning(program: bytes) -> str | None:
    try:
        return fingerprint(program.decode())
    except (ProposerError, UnicodeDecodeError):
        return None


def _when(home: Home) -> str:
    if home.is_locked():
        return "the running node takes it up after the candidate that it is at"
    return "the node takes it up at its next start"


def _list(steering: Steering, as_json: bool) -> None:
    known = steering.all()
    if as_json:
        echo_json([{"name": one.name, **msgspec.to_builtins(one.wish)} for one in known])
        return
    for one in known[-SHOWN_MAX:]:
        wish = one.wish
        what = "suggestion" if wish.program is None else "program"
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(wish.made_at))
        tried = f"{wish.candidate[:8]} " if wish.candidate else ""
        click.echo(story.plain(f"{made}  {wish.state:<9}  {what:<10}  {wish.hypothesis or '(no hypothesis)'}"))
        if wish.why:
            click.echo(story.plain(f"{'':<29}{tried}{wish.why}"))
    if len(known) > SHOWN_MAX:
        click.echo(f"… {len(known) - SHOWN_MAX} older ones; --json has all")
    if not known:
        click.echo("nothing was suggested or proposed yet")
