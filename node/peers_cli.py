"""`waggle peers` and `waggle invite`: whom this node knows and lets in, and how others join."""

import time
from pathlib import Path
from typing import Any

import click
import msgspec

from gossip.addresses import Scope, parse_peer, scope_of
from gossip.limits import ADDRESSES_MAX
from gossip.peerstore import PeerStore
from gossip.rules import Rule, target_of
from ledger.envelope import open_envelope, peer_id
from ledger.store import Store, readable
from node import status, story
from node.errors import UserError
from node.home import Home
from node.invite import Invitation
from node.options import echo_json, home_option, json_option

REASON_CHARS_MAX = 1000
INVITED_THROUGH_MAX = 3  # other peers that an invitation names, so that it works without this node as well

target_argument = click.argument("target", metavar="PEER|NETWORK")


@click.group("peers")
def peers_group() -> None:
    """Whom this node knows, and whom it lets in. A running node follows changes within seconds."""


@peers_group.command("list")
@home_option
@json_option
def list_command(home_path: Path, as_json: bool) -> None:
    """Known peers, the rules of this home, and who is banned by proof."""
    home = Home(home_path)
    with readable(home.ledger_file):
        facts = _facts(home)
    if as_json:
        echo_json(facts)
        return
    for peer in facts["peers"]:
        state = "connected" if peer["connected"] else _ago(peer["reached_at"])
        unknown = peer["unknown_constitution"]
        law = "" if unknown is None else f"  constitution {unknown[:12]}, unknown here"
        click.echo(story.plain(f"{peer['peer']}  {state:<21}  {' '.join(peer['addresses'])}{law}"))
    for rule in facts["rules"]:
        verdict = "allow" if rule["allowed"] else "ban"
        click.echo(story.plain(f"{verdict:<5}  {rule['target']}  {rule['reason']}".rstrip()))
    for proof in facts["equivocations"]:
        click.echo(f"ban    {proof['author']}  signed two histories: {proof['first']} and {proof['second']}")
    if not any(facts.values()):
        click.echo("nobody is known yet, and there are no rules")


@peers_group.command("ban")
@target_argument
@click.option("--reason", default="", metavar="TEXT", help="For yourself; rules are not told to others.")
@home_option
def ban(target: str, reason: str, home_path: Path) -> None:
    """Never connect to a peer (by its id) or network (an IP address, or CIDR), and disconnect it."""
    _set_rule(home_path, target, allowed=False, reason=reason)


@peers_group.command("allow")
@target_argument
@click.option("--reason", default="", metavar="TEXT", help="For yourself; rules are not told to others.")
@home_option
def allow(target: str, reason: str, home_path: Path) -> None:
    """Let a peer or network in. Once anything is allowed, all others are kept out; a peer's rule beats a network's."""
    _set_rule(home_path, target, allowed=True, reason=reason)


@peers_group.command("unban")
@target_argument
@home_option
def unban(target: str, home_path: Path) -> None:
    """Take back what `ban` or `allow` said of a peer or network."""
    home = Home(home_path)
    store = _open(home)
    found = target_of(target)
    if PeerStore(store).drop_rule(found):
        click.echo(f"no rule for {found} any more")
    elif store.is_banned(found):
        raise UserError(f"{found} is banned by proof that it signed two histories, which no command takes back.")
    else:
        raise UserError(f"there is no rule for {found}; `waggle peers list` shows the rules.")


@click.command("invite")
@home_option
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="MULTIADDR",
    help="Where this node can be reached, instead of where it listens; with or without /p2p/ID; may be repeated.",
)
@json_option
def invite_command(home_path: Path, addresses: tuple[str, ...], as_json: bool) -> None:
    """Print a link with which others join: waggle start --join LINK. That of a private swarm contains its key."""
    home = Home(home_path)
    store = _open(home)
    last = status.read(home.status_file)
    listening = [] if last is None else last.addresses
    if addresses:
        own = [_with_id(address, home) for address in addresses]
    elif listening:
        own = listening
    else:
        raise UserError("this node has not run yet, so it has no address. Start it, or give --address MULTIADDR.")
    wider = [address for address in own if scope_of(parse_peer(address)[0]) is not Scope.LOOPBACK]
    through = [] if not wider else _reached(store, own)
    invitation = Invitation(
        tuple(dict.fromkeys((wider or own)[: ADDRESSES_MAX - INVITED_THROUGH_MAX] + through)),
        home.challenge().digest(),
        home.swarm_key(),
    )
    if as_json:
        echo_json({
            "link": invitation.link(), "challenge": invitation.challenge, "addresses": invitation.addresses,
            "private": invitation.swarm_key is not None,
        })  # fmt: skip
    else:
        click.echo(invitation.link())
    if not wider:
        click.echo(
            "note: this link works on this machine only; to be reached from others, start the node with "
            "--listen /ip4/0.0.0.0/tcp/4141",
            err=True,
        )
    if invitation.swarm_key is not None:
        click.echo("note: the link contains the key of this private swarm; whoever has it can join", err=True)


def _open(home: Home) -> Store:
    return home.store(home.challenge())


def _set_rule(home_path: Path, target: str, *, allowed: bool, reason: str) -> None:
    home = Home(home_path)
    if len(reason) > REASON_CHARS_MAX:
        raise UserError(f"a reason of {len(reason)} characters; {REASON_CHARS_MAX} are enough.")
    rule = Rule(target=target_of(target), allowed=allowed, reason=reason)
    PeerStore(_open(home)).set_rule(rule)
    click.echo(f"{'allowed' if allowed else 'banned'} {rule.target}")


def _facts(home: Home) -> dict[str, Any]:
    store = _open(home)
    peers = PeerStore(store)
    last = status.read(home.status_file)
    running = last is not None and home.is_locked()
    connected = set(last.peers) if last is not None and running else set()
    unknown = last.unknown_constitutions if last is not None and running else {}
    own = None if last is None else last.peer
    known = {one.peer: one for one in peers.known() if one.peer != own}
    return {
        "peers": [
            {
                "peer": peer,
                "connected": peer in connected,
                "addresses": known[peer].places() if peer in known else [],
                "reached_at": known[peer].reached_at if peer in known else None,
                "unknown_constitution": unknown.get(peer),
            }
            for peer in sorted(connected | known.keys())
        ],
        "rules": msgspec.to_builtins(peers.rules()),
        "equivocations": [
            {"author": proof.author, "first": open_envelope(proof.first).id, "second": open_envelope(proof.second).id}
            for proof in store.proofs()
        ],
    }


def _ago(reached_at: int | None) -> str:
    """Unix seconds → how long ago, for people."""
    if not reached_at:
        return "not reached from here"
    seconds = max(0, int(time.time()) - reached_at)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return "just now"


def _reached(store: Store, own: list[str]) -> list[str]:
    """Where the peers that were reached last can be reached by others too."""
    known = [one for one in PeerStore(store).known() if one.address is not None and one.address not in own]
    known.sort(key=lambda one: one.reached_at or 0, reverse=True)
    found = [one.address for one in known if one.address is not None]
    return [a for a in found if scope_of(parse_peer(a)[0]) is not Scope.LOOPBACK][:INVITED_THROUGH_MAX]


def _with_id(address: str, home: Home) -> str:
    """An address of this node with its peer id at the end. Raises `BadAddress`."""
    last = status.read(home.status_file)
    peer = last.peer if last is not None else peer_id(home.key().public_key())
    whole = address if "/p2p/" in address else f"{address.rstrip('/')}/p2p/{peer}"
    if parse_peer(whole)[1] != peer:
        raise UserError(f"{address} ends in the id of another peer; this node is {peer}.")
    return whole
