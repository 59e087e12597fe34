"""Addresses, signed records of them, the book of peers, and the owner's rules."""

import random
from pathlib import Path

import examples
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip import limits
from gossip.addresses import LOCAL, Endpoint, Scope, network_of, parse_listen, parse_peer, scope_of
from gossip.errors import BadAddress, DialFailed, PeerFault
from gossip.interfaces import resolve
from gossip.peerbook import Book, Known, reach_of
from gossip.peerstore import PeerStore
from gossip.records import Record, announced, open_record, parse_announced, sign_record
from gossip.rules import Rule, Rules, target_of
from ledger.store import Store

CHALLENGE = examples.CHALLENGE
ME = examples.author_id(1)


def place(host: str, port: int = 4001) -> Endpoint:
    return Endpoint("ip6" if ":" in host else "ip4", host, port)


def record(number: int, *hosts: str, counter: int = 1) -> Record:
    return sign_record(examples.key(number), CHALLENGE, counter, [place(host) for host in hosts])


def everybody(peer: str) -> bool:
    return True


def dialled(book: Book, connected: tuple[str, ...] = ()) -> set[str]:
    """Whom the book may name over many draws."""
    draws = (book.next_to_dial(connected, 1e6, random.Random(seed), everybody) for seed in range(200))
    return {peer for peer in draws if peer is not None}


# Addresses


@pytest.mark.parametrize(
    ("host", "scope", "network"),
    [
        ("127.0.0.1", Scope.LOOPBACK, LOCAL), ("::1", Scope.LOOPBACK, LOCAL),
        ("::ffff:127.0.0.1", Scope.LOOPBACK, LOCAL),
        ("192.168.1.1", Scope.PRIVATE, LOCAL), ("fd00::1", Scope.PRIVATE, LOCAL), ("100.64.0.1", Scope.PRIVATE, LOCAL),
        ("8.8.4.4", Scope.GLOBAL, "8.8.0.0/16"), ("2600:1f00::1", Scope.GLOBAL, "2600:1f00::/32"),
        ("0.0.0.0", None, LOCAL), ("224.0.0.1", None, "224.0.0.0/16"), ("169.254.1.1", None, LOCAL),
        ("fe80::1", None, LOCAL),
    ],
)  # fmt: skip
def test_how_far_an_address_reaches(host: str, scope: Scope | None, network: str) -> None:
    assert (scope_of(place(host)), network_of(place(host))) == (scope, network)


def test_listening_and_peer_addresses_are_parsed_the_same() -> None:
    assert parse_peer(f"/ip4/8.8.4.4/tcp/1/p2p/{ME}")[0] == parse_listen("/ip4/8.8.4.4/tcp/1")


def test_only_addresses_that_help_others_are_announced() -> None:
    mine = [f"/ip4/{host}/tcp/1/p2p/{ME}" for host in ("192.168.1.1", "8.8.4.4", "127.0.0.1")]
    assert announced(mine) == (place("192.168.1.1", 1), place("8.8.4.4", 1))
    assert announced(mine[2:]) == (place("127.0.0.1", 1),)
    assert reach_of(announced(mine)) is Scope.PRIVATE


def test_what_nobody_could_dial_cannot_be_announced() -> None:
    assert parse_announced("/ip4/8.8.4.4/tcp/4001") == place("8.8.4.4")
    for bad in (
        "/ip4/0.0.0.0/tcp/4001",
        "/ip4/8.8.4.4/tcp/0",
        "/dns4/example.org/tcp/1",
        f"/ip4/8.8.4.4/tcp/1/p2p/{ME}",
    ):
        with pytest.raises(BadAddress, match=r"/ip4/203\.0\.113\.7/tcp/4001"):
            parse_announced(bad)


async def test_names_are_resolved_by_the_system() -> None:
    assert place("127.0.0.1", 7) in await resolve(Endpoint("dns4", "localhost", 7))
    assert await resolve(place("8.8.4.4")) == [place("8.8.4.4")]
    with pytest.raises(DialFailed, match="cannot be resolved"):
        await resolve(Endpoint("dns4", "no such name", 7))


# Records


def test_a_record_is_believed_as_signed() -> None:
    made = record(2, "8.8.4.4", "192.168.1.1", counter=7)
    assert open_record(made.signed, CHALLENGE) == made


def test_records_that_no_correct_peer_passes_on_are_refused() -> None:
    made = record(2, "8.8.4.4").signed
    for bad, why in [
        (made[:-1] + bytes([made[-1] ^ 1]), "not signed"),
        (made.replace(examples.author_id(2).encode(), examples.author_id(3).encode()), "not signed"),
        (made[:40], "malformed"),
        (b"\xc1", "malformed"),
        (made + bytes(limits.RECORD_BYTES_MAX), "over"),
    ]:
        with pytest.raises(PeerFault, match=why):
            open_record(bad, CHALLENGE)
    with pytest.raises(PeerFault, match="of challenge"):
        open_record(made, "d" * 64)


def test_endpoints_that_nobody_can_dial_are_left_out_of_a_record() -> None:
    made = record(2, "0.0.0.0", "8.8.4.4", "224.0.0.1", "8.8.4.4")
    assert open_record(made.signed, CHALLENGE).endpoints == (place("8.8.4.4"),)
    strange = sign_record(
        examples.key(2), CHALLENGE, 1, [Endpoint("dns4", "example.org", 1), place("8.8.4.4", 0), place("8.8.8.8")]
    )
    assert open_record(strange.signed, CHALLENGE).endpoints == (place("8.8.8.8"),)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_a_fault(data: bytes) -> None:
    with pytest.raises(PeerFault):
        open_record(data, CHALLENGE)


# The book


def test_an_older_record_never_replaces_a_newer_one() -> None:
    book = Book(ME)
    assert book.hear(record(2, "8.8.4.4", counter=2), "a", Scope.GLOBAL)
    assert not book.hear(record(2, "9.9.9.9", counter=1), "b", Scope.GLOBAL)
    assert book.addresses(examples.author_id(2), Scope.GLOBAL) == [f"/ip4/8.8.4.4/tcp/4001/p2p/{examples.author_id(2)}"]
    assert book.hear(record(2, "9.9.9.9", counter=3), "b", Scope.GLOBAL)
    assert "9.9.9.9" in book.addresses(examples.author_id(2), Scope.GLOBAL)[0]


def test_a_node_keeps_no_record_of_itself() -> None:
    book = Book(ME)
    assert not book.hear(record(1, "8.8.4.4"), "a", Scope.GLOBAL)
    book.reached(ME, f"/ip4/8.8.4.4/tcp/1/p2p/{ME}", 1)
    assert len(book) == 0


def test_a_strangers_private_and_loopback_addresses_are_not_dialled_from_the_internet() -> None:
    book = Book(ME)
    book.hear(record(2, "192.168.1.1", "127.0.0.1", "8.8.4.4"), "a", Scope.GLOBAL)
    assert not book.hear(record(3, "127.0.0.1"), "a", Scope.PRIVATE)
    assert book.addresses(examples.author_id(2), Scope.GLOBAL) == [f"/ip4/8.8.4.4/tcp/4001/p2p/{examples.author_id(2)}"]
    assert len(book.addresses(examples.author_id(2), Scope.PRIVATE)) == 2


def test_one_source_cannot_fill_the_book() -> None:
    book = Book(ME)
    heard = [book.hear(record(n, f"{n}.1.2.3"), "liar", Scope.PRIVATE) for n in range(2, 120)]
    assert sum(heard) == limits.PEERS_PER_SOURCE_MAX
    assert book.hear(record(200, "130.1.2.3"), "honest", Scope.PRIVATE)


def test_one_network_cannot_fill_the_book() -> None:
    book = Book(ME)
    heard = [book.hear(record(n, f"8.8.{n}.1"), f"source {n}", Scope.GLOBAL) for n in range(2, 60)]
    assert sum(heard) == limits.PEERS_PER_NETWORK_MAX
    assert book.hear(record(200, "8.9.1.1"), "another", Scope.GLOBAL)


def test_hearsay_never_pushes_out_who_was_reached() -> None:
    book = Book(ME)
    address = f"/ip4/8.8.4.4/tcp/4001/p2p/{examples.author_id(2)}"
    book.reached(examples.author_id(2), address, 1)
    for n in range(3, 1200):
        book.hear(record(n, f"{n % 100 + 20}.{n // 100}.1.1"), f"source {n // 50}", Scope.GLOBAL)
    assert limits.PEERS_HEARD_MAX <= len(book) <= limits.PEERS_HEARD_MAX + 1
    assert book.addresses(examples.author_id(2), Scope.GLOBAL) == [address]
    assert examples.author_id(2) in dialled(book)


def test_of_too_many_reached_the_most_crowded_network_gives_way() -> None:
    known = [
        Known(peer=f"attacker {n}", source="x", address=f"/ip4/8.8.1.1/tcp/{n}/p2p/{ME}", reached_at=1000 + n)
        for n in range(1, limits.PEERS_REACHED_MAX)
    ]
    honest = Known(peer="honest", source="x", address=f"/ip4/9.9.9.9/tcp/1/p2p/{ME}", reached_at=1)
    book = Book(ME, [honest, *known])
    book.reached(examples.author_id(2), f"/ip4/8.8.4.4/tcp/1/p2p/{examples.author_id(2)}", 5000)
    assert len(book) == limits.PEERS_REACHED_MAX
    assert book.get("honest") is not None
    assert book.get("attacker 1") is None


def test_peers_in_networks_that_no_connection_leads_to_are_dialled_first() -> None:
    book = Book(ME)
    for n, host in ((2, "8.8.1.1"), (3, "8.8.2.2"), (4, "9.9.9.9")):
        book.hear(record(n, host), "a", Scope.GLOBAL)
    assert dialled(book) == {examples.author_id(n) for n in (2, 3, 4)}
    assert dialled(book, connected=(examples.author_id(2),)) == {examples.author_id(4)}


def test_hearsay_that_fails_is_forgotten_but_not_while_our_own_network_is_down() -> None:
    peer, book = examples.author_id(2), Book(ME)
    book.hear(record(2, "8.8.4.4"), "a", Scope.GLOBAL)
    for _ in range(3 * limits.PEER_FAILURES_MAX):
        book.failed(peer, 0.0, online=False)
    assert book.get(peer) is not None
    book.failed(peer, 0.0, online=True)
    assert book.get(peer) is None


def test_who_fails_is_dialled_ever_more_rarely_and_never_forgotten_once_reached() -> None:
    peer, book, waits = examples.author_id(2), Book(ME), []
    book.reached(peer, f"/ip4/8.8.4.4/tcp/4001/p2p/{peer}", 1)
    for _ in range(30):
        book.failed(peer, 100.0, online=True)
        waits.append(
            next(
                wait for wait in range(1, 2000)
                if book.next_to_dial(("other",), 100.0 + wait, random.Random(1), everybody)
            )
        )  # fmt: skip
    assert waits[:4] == [2, 4, 8, 16]
    assert waits[-1] == limits.PEER_RETRY_S_MAX
    book.answered(peer)
    assert book.next_to_dial(("other",), 100.0, random.Random(1), everybody) == peer
    book.failed(peer, 100.0, online=True)
    for _ in range(30):
        book.failed(peer, 100.0, online=False)
    alone = book.next_to_dial((), 100.0 + limits.REDIAL_S_MAX, random.Random(1), everybody)
    assert alone == peer


def test_only_what_is_vouched_for_is_passed_on() -> None:
    book = Book(ME)
    hearsay, spoke, reached = record(2, "8.8.1.1"), record(3, "8.9.1.1"), record(4, "9.9.9.9")
    book.hear(hearsay, "a", Scope.GLOBAL)
    book.hear(spoke, spoke.peer, Scope.GLOBAL)
    book.hear(reached, "a", Scope.GLOBAL)
    book.reached(reached.peer, f"/ip4/9.9.9.9/tcp/4001/p2p/{reached.peer}", 1)
    rng = random.Random(1)
    assert set(book.share("x", [spoke.peer], rng)) == {spoke.signed, reached.signed}
    assert book.share(reached.peer, [], rng) == []
    for n in range(10, 200):
        one = record(n, f"{n}.1.1.1")
        book.reached(one.peer, f"/ip4/{n}.1.1.1/tcp/4001/p2p/{one.peer}", 1)
        book.hear(one, one.peer, Scope.GLOBAL)
    assert len(book.share("x", [], rng)) == limits.RECORDS_PER_REPLY_MAX - 1


# Rules


def test_rules_of_peers_decide_before_those_of_networks_and_narrow_ones_before_wide_ones() -> None:
    rules = Rules([
        Rule(target="10.0.0.0/8", allowed=False), Rule(target="10.1.0.0/16", allowed=True),
        Rule(target="peer", allowed=False), Rule(target="friend", allowed=True),
    ])  # fmt: skip
    assert not rules.admits("x", "10.2.0.1")
    assert rules.admits("x", "10.1.0.1")
    assert not rules.admits("peer", "10.1.0.1")
    assert rules.admits("friend", "10.2.0.1")
    assert rules.admits(None, "10.2.0.1")  # it may be the friend; its handshake will tell
    assert not rules.admits("x", "8.8.8.8")  # with an allow list, whoever is not on it stays out


def test_without_rules_everybody_is_let_in_and_with_bans_all_others() -> None:
    assert Rules().admits("x", "8.8.8.8")
    bans = Rules([Rule(target="2001:db8::/32", allowed=False), Rule(target="8.8.8.8/32", allowed=False)])
    assert bans.admits("x", "8.8.8.9")
    assert not bans.admits(None, "8.8.8.8")
    assert not bans.admits(None, "::ffff:8.8.8.8")
    assert not bans.admits("x", "2001:db8:1::1")


def test_targets_have_one_form_and_others_are_refused_with_an_example() -> None:
    assert target_of("192.0.2.7") == "192.0.2.7/32"
    assert target_of("192.0.2.7/24") == "192.0.2.0/24"
    assert target_of(ME) == ME
    for bad in ("", "12D3KooWx", "192.0.2.300", "example.org"):
        with pytest.raises(BadAddress, match=r"192\.0\.2\.0/24"):
            target_of(bad)


# On the disk


def test_peers_and_rules_outlast_a_restart(tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    store.remember_peer(examples.author_id(9), f"/ip4/9.9.9.9/tcp/9/p2p/{examples.author_id(9)}")
    kept, book = PeerStore(store), Book(ME)
    book.hear(record(2, "8.8.4.4"), "a", Scope.GLOBAL)
    book.reached(examples.author_id(3), f"/ip4/8.9.4.4/tcp/1/p2p/{examples.author_id(3)}", 77)
    book.hear(record(4, "7.7.7.7"), "a", Scope.GLOBAL)
    kept.keep(book.take_changes())
    book.forget(examples.author_id(4))
    kept.keep(book.take_changes())
    kept.set_rule(Rule(target="10.0.0.0/8", allowed=False, reason="noise"))
    kept.set_rule(Rule(target=ME, allowed=True))
    assert kept.drop_rule(ME)
    assert not kept.drop_rule(ME)
    store.close()
    again = PeerStore(Store.open(tmp_path / "ledger.db"))
    known = {one.peer: one for one in again.known()}
    assert known.keys() == {examples.author_id(n) for n in (2, 3, 9)}
    assert known[examples.author_id(2)].record == record(2, "8.8.4.4")
    assert known[examples.author_id(3)].reached_at == 77
    assert again.rules() == [Rule(target="10.0.0.0/8", allowed=False, reason="noise")]


def test_another_process_sees_new_rules(tmp_path: Path) -> None:
    one, other = (PeerStore(store) for store in (examples.new_store(tmp_path), Store.open(tmp_path / "ledger.db")))
    assert one.changed()
    assert not one.changed()
    other.set_rule(Rule(target=ME, allowed=False))
    assert one.changed()
    assert [rule.target for rule in one.rules()] == [ME]
