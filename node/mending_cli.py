"""`waggle ledger fsck | gc`: is the ledger whole, what to do if not, and what in it nobody needs."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ledger.author import Author
from ledger.errors import BrokenChain
from ledger.findings import Finding, Report
from ledger.fsck import fsck
from ledger.salvage import salvage
from ledger.store import Store, readable
from node import story
from node.errors import UserError
from node.home import Home
from node.options import home_option, json_option
from trainer.challenge import Challenge

EXIT_CLEAN = 0
EXIT_DAMAGED = 1


@click.command("fsck")
@home_option
@click.option(
    "--rebuild",
    is_flag=True,
    help="First make indexes and derived tables anew from the envelopes, and remove spoilt blobs.",
)
@click.option(
    "--salvage",
    "salvage_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a new ledger with everything in this one that is whole. This one stays as it is.",
)
@json_option
def fsck_command(home_path: Path, rebuild: bool, salvage_file: Path | None, as_json: bool) -> None:
    """Check every signature, chain, index, table and blob of the ledger.

    Exit code 0: nothing is damaged. 1: something is. 2: the ledger cannot be opened.
    """
    if rebuild and salvage_file is not None:
        raise UserError("--rebuild mends this ledger, --salvage makes another one of it: give one of them.")
    home = Home(home_path)
    if salvage_file is not None:
        _salvage(home, salvage_file, as_json)
        return
    findings = []
    with readable(home.ledger_file), _progress() as report:
        store = Store.open(home.ledger_file)
        with home.locked() if rebuild else nullcontext():
            for found in fsck(store, rebuild=rebuild, progress=report):
                findings.append(found)
                if not as_json:
                    click.echo("\n".join(_lines(found)))
        store.close()
    damaged = any(found.severity == "error" for found in findings)
    click.echo(msgspec.json.encode(findings) if as_json else "damaged" if damaged else "clean")
    sys.exit(EXIT_DAMAGED if damaged else EXIT_CLEAN)


def _lines(found: Finding) -> list[str]:
    lines = [story.plain(f"{found.severity:<7}  {found.check:<10}  {found.where}: {found.what}")]
    return lines + [f"         → {story.plain(found.remedy)}"] * bool(found.remedy)


def _salvage(home: Home, file: Path, as_json: bool) -> None:
    if home.is_locked():
        raise UserError(f"a node is running on {home.path}: stop it, or what it adds meanwhile is missing in {file}.")
    if not home.key_file.exists():
        raise UserError(f"{home.key_file} is missing, without which this node's feeds cannot go on in a new ledger.")
    with readable(home.ledger_file):
        store = Store.open(home.ledger_file)
        made = salvage(store, file)
        with closing(Store.open(file)) as copy:
            writable = _begin_anew(Author(copy, home.key()))
    if as_json:
        click.echo(msgspec.json.encode(made._asdict() | {"file": str(file), "writable": writable}))
        return
    click.echo(f"{made.entries} entries and {made.blobs} blobs are in {file}")
    if made.entries_left or made.blobs_left:
        click.echo(f"{made.entries_left} entries and {made.blobs_left} blobs could be read and not be kept")
    if not writable:
        click.echo("this node's key is revoked or banned: it can add nothing to it")
    click.echo(f"To use it, with the node stopped: move {home.ledger_file}* away, and {file} in its place.")


def _begin_anew(author: Author) -> bool:
    """Whether the author may write in a ledger in which the ends of its feeds, or all of them, may be lost.

    It begins new feeds, also where no old one is left, so that it never signs a second entry for a place.
    """
    try:
        author.reset("salvaged from a damaged ledger, in which the end of a feed may be lost")
    except BrokenChain:
        return False
    return True


@click.command("gc")
@home_option
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--vacuum", is_flag=True, help="Then make the file smaller, which takes as much free space as it has.")
@json_option
def gc_command(home_path: Path, dry_run: bool, vacuum: bool, as_json: bool) -> None:
    """Remove the blobs that neither an entry nor the challenge names."""
    home = Home(home_path)
    challenge = home.challenge()
    # A running node puts a program there before it signs the entry that names it.
    with nullcontext() if dry_run else home.locked(), readable(home.ledger_file):
        store = home.store(challenge)
        garbage = store.blobs.garbage(_parts(challenge))
        if not dry_run:
            store.blobs.drop(garbage)
            if vacuum:
                store.db.execute("VACUUM")
        store.close()
    facts = {
        "removed": not dry_run,
        "blobs": len(garbage),
        "bytes": sum(blob.size for blob in garbage),
        "stored_bytes": sum(blob.stored for blob in garbage),
    }
    if as_json:
        click.echo(msgspec.json.encode(facts))
        return
    for blob in garbage:
        click.echo(f"{blob.digest}  {blob.size} bytes")
    verb = "would be removed" if dry_run else "removed"
    click.echo(f"{facts['blobs']} blobs {verb}, {facts['stored_bytes']} bytes in the file")


def _parts(challenge: Challenge) -> set[str]:
    """Digests of what the challenge is made of."""
    tokenizer = set() if challenge.tokenizer == "bytes" else {challenge.tokenizer.digest}
    baselines = {track.baseline for track in challenge.tracks.values()}
    return {challenge.digest(), challenge.constitution, challenge.corpus.digest} | tokenizer | baselines


@contextmanager
def _progress() -> Iterator[Report]:
    """A bar for each thing that is checked, while the block runs; none where standard error is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield report
