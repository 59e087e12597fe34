"""`waggle ledger prove | check | checkpoint`: evidence that holds without this ledger."""

from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from ledger import queries
from ledger.author import Author
from ledger.proof import PROOF_BYTES_MAX, check
from ledger.proving import feeds_to_commit, prove_entry
from node import story
from node.errors import UserError
from node.home import Home
from node.options import home_option, json_option


@click.command("prove")
@click.argument("entry_id", metavar="ID")
@home_option
def prove_command(entry_id: str, home_path: Path) -> None:
    """Print a file that proves to anybody that an entry is in its author's feed. ID: 8 or more characters of an id."""
    home = Home(home_path)
    store = home.store(home.challenge())
    click.echo(prove_entry(store, queries.resolve(store, entry_id)), nl=False)


@click.command("check")
@click.argument("file", type=click.File("rb"), metavar="FILE")
@json_option
def check_command(file: BinaryIO, as_json: bool) -> None:
    """Check what `prove` printed; needs nothing but the FILE (- for standard input)."""
    proved = check(file.read(PROOF_BYTES_MAX + 1))
    statement, tree, older = proved.signed.statement, proved.checkpoint, proved.earlier
    entry = statement.entry
    facts = {
        "entry": proved.signed.id,
        "kind": statement.kind,
        "subject": statement.subject,
        "challenge": entry.challenge,
        "author": entry.author,
        "feed": entry.feed,
        "seq": entry.seq,
        "recorded_at": entry.recorded_at,
        "tree_size": tree.size,
        "tree_root": tree.root.hex(),
        "extends": None if older is None else {"tree_size": older.size, "tree_root": older.root.hex()},
    }
    if as_json:
        click.echo(msgspec.json.encode(facts))
        return
    click.echo(story.plain(f"proved: {statement.kind} {proved.signed.id} about {statement.subject}"))
    click.echo(story.plain(f"signed by {entry.author}, at {entry.seq} of its feed {entry.feed}"))
    click.echo(f"in challenge {entry.challenge}")
    click.echo(f"in the tree of {tree.size} entries with root {tree.root.hex()}, which its author signed")
    if older is not None:
        click.echo(f"and which extends that of {older.size} entries with root {older.root.hex()}")
    click.echo("This proves who stated it and where, not that it is true. Are author and challenge those you expect?")


@click.command("checkpoint")
@home_option
def checkpoint_command(home_path: Path) -> None:
    """Commit to this node's feeds now; a running node does it by itself, every few dozen entries."""
    home = Home(home_path)
    with home.locked():
        store = home.store(home.challenge())
        author = Author(store, home.key())
        feeds = feeds_to_commit(store, author, 1)
        if not feeds:
            raise UserError("there is nothing to commit to: no entries of this node since its last checkpoint.")
        for feed in feeds:
            click.echo(f"{author.checkpoint(feed).id}  {feed}")
