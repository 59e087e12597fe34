"""The command `waggle`: parses, calls, prints. Whatever can go wrong arrives here as an error that explains itself.

Exit codes: 0 done · 1 the demo found nothing, or the environment failed · 2 wrong usage or something to mend ·
3 a trial (or one of a comparison) that ended in another status than ok · 130 interrupted.
"""

import sqlite3
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, TextIO

import click
import msgspec
import trio
from rich.console import Console

from gossip.errors import GossipError
from ledger import queries
from ledger.errors import LedgerError
from ledger.predicates import PAIRS_MAX
from node import corpora, story
from node import status as node_status
from node.amend_cli import amend_group
from node.charter import Charter
from node.errors import NodeFailure, UserError
from node.exchange_cli import export_command, import_command
from node.gate_cli import gate_group
from node.home import Home, found_challenge
from node.key_cli import key
from node.ledger_cli import ledger
from node.lessons_cli import lessons_command, skills_command
from node.mending_cli import fsck_command, gc_command
from node.options import console, home_option, json_option
from node.peers_cli import invite_command, peers_group
from node.proof_cli import check_command, checkpoint_command, prove_command
from node.steering_cli import propose_command, suggest_command
from node.swarm_key import keep_swarm_key, new_swarm_key
from node.tracks import CPU_TRACK, GPU_TRACK, OWN_TRACKS, own_tracks
from node.transfer_cli import transfers_command
from node.why_cli import adopt_command, verify_command, why_command
from policy.constitution import ConstitutionError, from_toml
from trainer.challenge import ChallengeError
from trainer.corpus import SHARED_BYTES_MAX, CorpusError
from trainer.sandbox.command import SandboxUnavailable
from trainer.tokens import TokenizerError

MENDABLE = (
    UserError,
    GossipError,
    LedgerError,
    ChallengeError,
    ConstitutionError,
    CorpusError,
    TokenizerError,
    SandboxUnavailable,
    OSError,
)

field_option = click.option(
    "--field", default="text", show_default=True, help="Field of JSON lines, or column of Parquet, that holds the text."
)
track_option = click.option("--track", metavar="NAME", help="Track of the challenge. Default: its first for the CPU.")
program_argument = partial(click.argument, type=click.Path(path_type=Path, exists=True, dir_okay=False))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "WAGGLE"})
@click.version_option(package_name="waggledance", prog_name="waggle")
def waggle() -> None:
    """A swarm of machine-learning research agents that check each other's discoveries.

    Every option can also be given in the environment: --listen of `waggle start` as WAGGLE_START_LISTEN.
    """


@waggle.command()
@home_option
@click.option(
    "--corpus",
    multiple=True,
    metavar="PATH|URL",
    help="Text to train on: a text file, folder, .jsonl, .jsonl.gz, .jsonl.zst or .parquet, or https://…#sha256=HEX; "
    "may be repeated. Default: the Python standard library's own sources.",
)
@field_option
@click.option("--name", default="standard", show_default=True, help="Name of the challenge, in a-z, 0-9 and -.")
@click.option(
    "--budget",
    type=click.FloatRange(min=0.5, max=86400),
    help=f"Seconds that a program may train: CPU seconds in {CPU_TRACK}, wall time in {GPU_TRACK}.  [default: 10, 300]",
)
@click.option(
    "--track",
    "tracks",
    multiple=True,
    type=click.Choice(OWN_TRACKS),
    default=(CPU_TRACK,),
    show_default=True,
    help="What programs are trained on; may be repeated.",
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Byte-level BPE file of the tokenizers library, pinned by the challenge. Default: bytes are the tokens.",
)
@click.option(
    "--constitution",
    "constitution_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TOML with the articles and limits of the swarm. Default: as `waggle amend show` prints it afterwards.",
)
@click.option(
    "--maintainer",
    "maintainers",
    multiple=True,
    metavar="PEER",
    help="Peer id of one who can amend the constitution; may be repeated. Default: you alone.",
)
@click.option("--private", is_flag=True, help="Make a key that others need to join; `waggle invite` passes it on.")
def init(
    home_path: Path,
    corpus: tuple[str, ...],
    field: str,
    name: str,
    budget: float | None,
    tracks: tuple[str, ...],
    tokenizer: Path | None,
    constitution_file: Path | None,
    maintainers: tuple[str, ...],
    private: bool,
) -> None:
    """Make a challenge and an identity of your own."""
    if budget is not None and len(set(tracks)) > 1:
        raise UserError("--budget is for one --track; several have their own budgets, by different clocks.")
    home, file = Home(home_path), None if tokenizer is None else tokenizer.read_bytes()
    constitution = None if constitution_file is None else from_toml(constitution_file.read_text())
    with corpora.progress_bars(Console(stderr=True)) as report:
        challenge = found_challenge(
            home, name, corpus, own_tracks(tracks, budget), field=field, tokenizer=file,
            constitution=constitution, maintainers=maintainers, progress=report,
        )  # fmt: skip
    if private:
        keep_swarm_key(home.swarm_key_file, new_swarm_key())
    text = challenge.corpus
    packed_bytes = home.corpus_file(text.digest).stat().st_size
    click.echo(f"challenge {challenge.name} {challenge.digest()}")
    click.echo(f"corpus    {text.documents} documents, {text.bytes / 1e6:.1f} MB of text, {text.digest[:12]}")
    if packed_bytes > SHARED_BYTES_MAX:
        click.echo(f"note      {corpora.unshareable(packed_bytes)}")
    for title, track in challenge.tracks.items():
        click.echo(f"track     {title}: {track.device}, {track.budget_s:g} s of {track.clock} time a trial")
    click.echo(f"rules     constitution {challenge.constitution[:12]}, {len(challenge.maintainers)} maintainer(s)")
    click.echo(f"you are   {challenge.founder}")
    click.echo(f"home      {home.path}; now: waggle start --home {home.path}")


@waggle.command()
@home_option
@click.option(
    "--listen",
    metavar="ADDR",
    help="Multiaddr to listen on, e.g. /ip4/0.0.0.0/tcp/4141. Default: as the last time; at first loopback.",
)
@click.option(
    "--join",
    multiple=True,
    metavar="LINK|MULTIADDR",
    help="Link of `waggle invite`, or address of a peer, ending in /p2p/ID; may be repeated.",
)
@click.option(
    "--announce",
    multiple=True,
    metavar="ADDR",
    help="Where others can reach this node, if its own interfaces do not show it (a forwarded port); may be repeated.",
)
@click.option("--mdns/--no-mdns", default=None, help="Look for peers on the LAN. Default: unless on loopback only.")
@click.option(
    "--swarm-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File with the key of the private swarm to join, if it is not in the link.",
)
@track_option
@click.option("--trials", type=click.IntRange(min=1), help="Stop after about this many trials.")
@click.option(
    "--proposer",
    metavar="NAME[,NAME…]",
    help="Where candidates come from: evolve, optuna, anthropic, command. Default: as in waggle.toml, else evolve.",
)
@click.option("--observe", is_flag=True, help="Hold, serve and gossip the ledger, and run no program.")
def start(
    home_path: Path,
    listen: str | None,
    join: tuple[str, ...],
    announce: tuple[str, ...],
    mdns: bool | None,
    swarm_key: Path | None,
    track: str | None,
    trials: int | None,
    proposer: str | None,
    observe: bool,
) -> None:
    """Run a node: research, publish, re-verify what others publish, adopt what holds."""
    from node.app import Options, run_node  # libp2p takes a second to import; no other command needs it

    options = Options(
        home=home_path, listen=listen, join=join, announce=announce, mdns=mdns, swarm_key=swarm_key,
        track=track, trials=trials, observe=observe,
        proposers=tuple(name.strip() for name in (proposer or "").split(",") if name.strip()),
    )  # fmt: skip
    trio.run(partial(run_node, options, _log_line))


def _log_line(line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')}  {story.plain(line)}")


@waggle.command()
@program_argument("program")
@home_option
@track_option
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True, max=86400),
    help="Seconds that it may train by the track's clock, instead of the track's.",
)
@click.option(
    "--split",
    type=click.Choice(("public", "private")),
    default="public",
    show_default=True,
    help="Evaluate on everybody's validation text, or on this node's own.",
)
@click.option(
    "--no-screen", is_flag=True, help="Skip the static screen, to test the sandbox itself; never the sandbox."
)
@click.option(
    "--log",
    "log_file",
    type=click.File("w", encoding="utf-8", lazy=False),
    help="File for the end of what the program printed while it trained, without control characters.",
)
@json_option
def trial(
    program: Path,
    home_path: Path,
    track: str | None,
    seed: int,
    budget: float | None,
    split: Literal["public", "private"],
    no_screen: bool,
    log_file: TextIO | None,
    as_json: bool,
) -> None:
    """Train PROGRAM once in a sandbox and evaluate it. Nothing is recorded."""
    from node.single import TrialOptions, read_program, run_single_trial

    options = TrialOptions(track, seed, budget, split, screen=not no_screen)
    measured = trio.run(run_single_trial, Home(home_path), read_program(program), options)
    measurement = measured.measurement
    if log_file is not None:
        click.echo(measured.log, file=log_file)
    if as_json:
        click.echo(msgspec.json.encode(measurement))
    elif measurement.val_bpb is None:
        click.echo(f"{measurement.status}: {measurement.reason}", err=True)
    else:
        click.echo(
            f"ok  {measurement.val_bpb:.4f} bpb over {measurement.evaluated_bytes} bytes  "
            f"({measurement.budget_used_s:.1f} s of budget, {measurement.wall_s:.1f} s in all, "
            f"{measurement.peak_memory_bytes / 2**20:.0f} MiB)"
        )
    sys.exit(0 if measurement.status == "ok" else 3)


@waggle.command()
@program_argument("a", metavar="A.py")
@program_argument("b", metavar="B.py")
@home_option
@track_option
@click.option(
    "--seeds", type=click.IntRange(2, PAIRS_MAX), default=3, show_default=True, help="Pairs, each with its seed."
)
@json_option
def compare(a: Path, b: Path, home_path: Path, track: str | None, seeds: int, as_json: bool) -> None:
    """Run A and B in pairs on the public split: mean difference, interval and p-value. Nothing is recorded."""
    from node.compare import compare_programs, outcome_line, pair_line
    from node.single import read_program

    compared = trio.run(
        compare_programs,
        Home(home_path),
        read_program(a),
        read_program(b),
        track,
        seeds,
        lambda pair: None if as_json else click.echo(pair_line(pair)),
    )
    failed = compared.failure is not None
    click.echo(msgspec.json.encode(compared) if as_json else outcome_line(compared), err=failed and not as_json)
    sys.exit(3 if failed else 0)


@waggle.command()
@home_option
@json_option
def status(home_path: Path, as_json: bool) -> None:
    """What the node on this home is doing and what its ledger holds."""
    home = Home(home_path)
    challenge = home.challenge()
    store = home.store(challenge)
    charter = Charter(store, challenge)
    term, waiting = charter.term(), charter.history().waiting_for
    now, running = node_status.read(home.status_file), home.is_locked()
    facts: dict[str, Any] = {
        "running": running,
        "challenge": store.challenge,
        "constitution": {"digest": term.constitution, "since": term.since, "waiting_for": waiting},
        "entries": queries.counts(store),
        "authors": len({author for author, _ in store.heads()}),
        "known_peers": sorted(store.peers()),
        "last": msgspec.to_builtins(now),
    }
    if as_json:
        click.echo(msgspec.json.encode(facts))
        return
    click.echo(f"node       {'running' if running else 'not running'} on {home.path}")
    click.echo(f"challenge  {store.challenge}")
    since = "the challenge's own" if term.proposal is None else f"since Lamport time {term.since}"
    click.echo(f"rules      constitution {term.constitution[:12]}, {since}")
    if waiting is not None:
        click.echo(f"rules      constitution {waiting[:12]} is ratified, and its text has not arrived from a peer yet")
    click.echo(f"ledger     {', '.join(f'{n} {kind}' for kind, n in facts['entries'].items()) or 'empty'}")
    if now is not None:
        click.echo(f"you are    {now.peer}")
        if running:
            click.echo(f"address    {', '.join(now.addresses)}")
            click.echo(f"peers      {', '.join(now.peers) or 'none connected'}")
            if "sync_lag_seconds" in now.network and now.peers:
                click.echo(f"in step    {now.network['sync_lag_seconds']:.0f} s ago with all of them")
            click.echo(f"doing      {now.activity}")
            if now.gate is not None:
                click.echo(story.plain(f"gate       {now.gate.state}{': ' * bool(now.gate.reason)}{now.gate.reason}"))
            for discovery, reason in now.waiting.items():
                click.echo(f"waits      {discovery[: story.ID_SHOWN]}  {story.plain(reason)}")
        score = "" if now.incumbent_bpb is None else f", {now.incumbent_bpb:.4f} bpb on the public split"
        click.echo(f"incumbent  {now.incumbent or 'none yet'}{score}")


@waggle.group()
def corpus() -> None:
    """The text that is trained on."""


@corpus.command("info")
@click.argument("sources", nargs=-1, metavar="[PATH|URL]...")
@home_option
@field_option
@json_option
def corpus_info(sources: tuple[str, ...], home_path: Path, field: str, as_json: bool) -> None:
    """Size, near duplicates and split of a home's corpus, or of what `init --corpus` would make of PATHs."""
    if sources:
        with corpora.progress_bars(Console(stderr=True)) as report:
            found = corpora.info_of_sources(sources, field, report)
    else:
        found = corpora.info_of_home(Home(home_path))
    click.echo(msgspec.json.encode(found) if as_json else "\n".join(map(story.plain, corpora.lines(found))))


@waggle.command()
@home_option
@json_option
def doctor(home_path: Path, as_json: bool) -> None:
    """What this machine has of what a node needs, and what to do about the rest."""
    from node.doctor import doctor as examine
    from node.doctor import exit_status, lines

    findings = examine(home_path)
    click.echo(msgspec.json.encode(findings) if as_json else "\n".join(lines(findings)))
    sys.exit(exit_status(findings))


for command in (
    *(export_command, import_command, prove_command, check_command, checkpoint_command),
    *(fsck_command, gc_command, transfers_command),
):
    ledger.add_command(command)
for group in (ledger, key, peers_group, gate_group, amend_group):
    waggle.add_command(group)
waggle.add_command(invite_command)
for command in (
    *(lessons_command, skills_command, suggest_command, propose_command),
    *(why_command, verify_command, adopt_command),
):
    waggle.add_command(command)


@waggle.command()
@click.option("--nodes", type=click.IntRange(min=2, max=16), default=3, show_default=True)
@click.option("--minutes", type=click.FloatRange(min=0.5), default=8.0, show_default=True, help="Give up after this.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="New folder for all that it leaves.")
def demo(nodes: int, minutes: float, out: Path | None) -> None:
    """Run a small swarm on this machine until one node's discovery is confirmed and adopted by another."""
    from node.demo import run_demo

    sys.exit(run_demo(nodes, minutes * 60, out or Path(time.strftime("waggle-demo-%Y%m%d-%H%M%S")), console()))


def _leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group, however deep; the exception itself if it is no group."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


def main() -> None:
    """Entry point: runs the command line, and turns expected errors into one line and an exit code."""
    sys.exit(_run(waggle))


def _run(command: Callable[[], Any]) -> int:
    try:
        command()
    except (*MENDABLE, NodeFailure, sqlite3.DatabaseError, KeyboardInterrupt, BaseExceptionGroup) as error:
        leaves = _leaves(error)
        for expected, code in ((MENDABLE, 2), (sqlite3.DatabaseError, 2), (NodeFailure, 1), (KeyboardInterrupt, 130)):
            for leaf in leaves:
                if isinstance(leaf, expected):
                    # It may quote a peer.
                    click.echo(f"waggle: {story.plain_lines(str(leaf) or type(leaf).__name__)}", err=True)
                    return code
        raise
    return 0


if __name__ == "__main__":
    main()
