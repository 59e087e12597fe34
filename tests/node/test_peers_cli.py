"""`waggle peers` and `waggle invite` on a home, without a network."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import examples
import pytest
from click.testing import CliRunner

from gossip.errors import BadAddress
from gossip.peerbook import Known
from gossip.peerstore import PeerStore
from ledger.envelope import peer_id
from ledger.errors import Equivocation
from ledger.store import Store
from node import status
from node.errors import UserError
from node.home import Home, found_challenge
from node.invite import parse_link
from node.peers_cli import invite_command, peers_group
from node.swarm_key import keep_swarm_key
from node.tracks import CPU_TRACK, own_tracks

PEER = examples.author_id(5)
KEY = bytes(range(32))


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("founded")
    (folder / "text.txt").write_text("".join(f"{n * 7919}: a line of a text.\n" for n in range(9000)))
    found_challenge(Home(folder / "A"), "test", [folder / "text.txt"], own_tracks([CPU_TRACK], 1.0))
    return folder / "A"


@pytest.fixture
def home(founded: Path, tmp_path: Path) -> Home:
    path = tmp_path / "A"
    path.mkdir()
    for name in ("challenge.toml", "identity.key", "ledger.db"):
        (path / name).write_bytes((founded / name).read_bytes())
    return Home(path)


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    opened = home.store(home.challenge())
    yield opened
    opened.close()


def peers(home: Home, *arguments: str) -> str:
    done = CliRunner().invoke(peers_group, [*arguments, "--home", str(home.path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def invite(home: Home, *arguments: str) -> str:
    done = CliRunner().invoke(invite_command, [*arguments, "--home", str(home.path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def listed(home: Home) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(peers(home, "list", "--json"))
    return facts


def has_run(home: Home, *hosts: str) -> str:
    """Leave a status file as a node does that listened at `hosts`; returns its peer id."""
    own = peer_id(home.key().public_key())
    addresses = [f"/ip4/{host}/tcp/4001/p2p/{own}" for host in hosts]
    status.write(home.status_file, status.NodeStatus(pid=1, peer=own, challenge="", addresses=addresses))
    return own


def test_bans_and_permissions_are_listed_and_taken_back(home: Home) -> None:
    assert "banned 10.1.0.0/16" in peers(home, "ban", "10.1.2.3/16", "--reason", "too\x1b[31m loud")
    assert f"allowed {PEER}" in peers(home, "allow", PEER)
    assert listed(home)["rules"] == [
        {"target": "10.1.0.0/16", "allowed": False, "reason": "too\x1b[31m loud"},
        {"target": PEER, "allowed": True, "reason": ""},
    ]
    shown = peers(home, "list")
    assert "ban    10.1.0.0/16" in shown
    assert "\x1b" not in shown
    peers(home, "allow", "10.1.0.0/16")  # replaces the ban
    assert [rule["allowed"] for rule in listed(home)["rules"]] == [True, True]
    peers(home, "unban", "10.1.9.9/16")
    peers(home, "unban", PEER)
    assert listed(home)["rules"] == []
    assert "nobody is known" in peers(home, "list")


def test_what_is_no_peer_and_no_network_is_refused(home: Home) -> None:
    for target in ("example.org", "12D3KooW", "10.0.0.0/99"):
        with pytest.raises(BadAddress, match=r"192\.0\.2\.0/24"):
            peers(home, "ban", target)
    with pytest.raises(UserError, match="no rule for"):
        peers(home, "unban", PEER)
    with pytest.raises(UserError, match="1000 are enough"):
        peers(home, "ban", PEER, "--reason", "x" * 1001)


def test_a_ban_by_proof_is_listed_with_it_and_cannot_be_taken_back(home: Home, store: Store, tmp_path: Path) -> None:
    challenge = home.challenge().digest()
    one, two = (examples.new_store(tmp_path, f"{n}.db", challenge) for n in range(2))
    first = examples.state_adoption(examples.author(one, 5), "a" * 64)
    second = examples.state_adoption(examples.author(two, 5), "b" * 64)
    store.add(first)
    with pytest.raises(Equivocation):
        store.add(second)
    assert listed(home)["equivocations"] == [{"author": PEER, "first": first.id, "second": second.id}]
    assert f"{first.id} and {second.id}" in peers(home, "list")
    with pytest.raises(UserError, match="two histories"):
        peers(home, "unban", PEER)


def test_known_peers_are_listed_with_their_addresses(home: Home, store: Store) -> None:
    address = f"/ip4/8.8.4.4/tcp/1/p2p/{PEER}"
    PeerStore(store).keep([(PEER, Known(peer=PEER, source=PEER, address=address, reached_at=1))])
    assert listed(home)["peers"] == [
        {"peer": PEER, "connected": False, "addresses": [address], "reached_at": 1, "unknown_constitution": None}
    ]
    assert "d ago" in peers(home, "list")
    assert address in peers(home, "list")


def test_a_connected_peer_under_a_constitution_that_nobody_here_knows_is_listed_as_such(home: Home) -> None:
    now = status.NodeStatus(pid=1, peer="", challenge="", peers=[PEER], unknown_constitutions={PEER: "d" * 64})
    status.write(home.status_file, now)
    assert listed(home)["peers"] == []  # the node does not run any more
    with home.locked():
        assert listed(home)["peers"][0]["unknown_constitution"] == "d" * 64
        assert "constitution dddddddddddd, unknown here" in peers(home, "list")


def test_an_invitation_names_challenge_address_and_key(home: Home) -> None:
    own = has_run(home, "203.0.113.9", "127.0.0.1")
    invitation = parse_link(invite(home))
    assert invitation.addresses == (f"/ip4/203.0.113.9/tcp/4001/p2p/{own}",)
    assert invitation.challenge == home.challenge().digest()
    assert invitation.swarm_key is None
    keep_swarm_key(home.swarm_key_file, KEY)
    assert parse_link(invite(home)).swarm_key == KEY
    told = json.loads(invite(home, "--json"))
    assert (told["private"], parse_link(told["link"]).swarm_key) == (True, KEY)


def test_an_invitation_names_other_peers_too(home: Home, store: Store) -> None:
    has_run(home, "203.0.113.9")
    for n in range(5, 10):
        peer = examples.author_id(n)
        host = "127.0.0.1" if n == 5 else f"8.8.4.{n}"
        known = Known(peer=peer, source=peer, address=f"/ip4/{host}/tcp/1/p2p/{peer}", reached_at=n)
        PeerStore(store).keep([(peer, known)])
    assert [address.split("/")[2] for address in parse_link(invite(home)).addresses] == [
        "203.0.113.9", "8.8.4.9", "8.8.4.8", "8.8.4.7",
    ]  # fmt: skip


def test_an_invitation_to_a_given_address(home: Home) -> None:
    own = peer_id(home.key().public_key())
    with pytest.raises(UserError, match="has not run yet"):
        invite(home)
    assert parse_link(invite(home, "--address", "/dns4/example.org/tcp/7")).addresses == (
        f"/dns4/example.org/tcp/7/p2p/{own}",
    )
    with pytest.raises(UserError, match="another peer"):
        invite(home, "--address", f"/ip4/203.0.113.9/tcp/7/p2p/{PEER}")
    with pytest.raises(BadAddress):
        invite(home, "--address", "example.org:7")


def test_an_invitation_that_works_here_only_says_so(home: Home) -> None:
    has_run(home, "127.0.0.1")
    done = CliRunner().invoke(invite_command, ["--home", str(home.path)], catch_exceptions=False)
    assert "this machine only" in done.stderr
    assert parse_link(done.stdout.strip()).addresses[0].startswith("/ip4/127.0.0.1/")
