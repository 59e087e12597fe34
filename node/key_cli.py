"""`waggle key`: who this node is, and what to do when its key is lost, stolen or shared."""

from pathlib import Path

import click
import msgspec

from ledger.envelope import peer_id
from node import keys
from node.home import Home
from node.options import home_option, json_option

reason_option = click.option("--reason", required=True, metavar="TEXT", help="For others to read, in the ledger.")


@click.group()
def key() -> None:
    """Who this node is, and what to do when its key is lost or stolen."""


@key.command("show")
@home_option
@json_option
def show(home_path: Path, as_json: bool) -> None:
    """The node's peer id, and the file to back up."""
    home = Home(home_path)
    home.challenge()  # raises: no key is made by asking for it
    facts = {"peer": peer_id(home.key().public_key()), "file": str(home.key_file)}
    click.echo(msgspec.json.encode(facts) if as_json else f"{facts['peer']}\nback up {facts['file']} (secret)")


@key.command("revoke")
@home_option
@reason_option
def revoke(home_path: Path, reason: str) -> None:
    """State that the key is void: what it signed so far holds, what it signs later is refused. There is no way back."""
    home = Home(home_path)
    click.echo(f"revoked by {keys.revoke(home, reason).id}; others learn of it when this node next connects:")
    click.echo(f"waggle start --observe --home {home.path}")


@key.command("rotate")
@home_option
@reason_option
@json_option
def rotate(home_path: Path, reason: str, as_json: bool) -> None:
    """Revoke the key and go on with a new one, which has to earn its standing anew."""
    done = keys.rotate(Home(home_path), reason)
    if as_json:
        click.echo(msgspec.json.encode(done))
        return
    click.echo(f"revoked {done.old} by {done.revocation}")
    click.echo(f"you are now {done.new}; the old key lies in {done.kept}")
