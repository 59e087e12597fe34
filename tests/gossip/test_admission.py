"""Rates, the door, the sieve and the counters, with time as an argument."""

from pathlib import Path

import examples
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip import limits
from gossip.admission import SAME_INCIDENT_S, Door, Guest, address_group
from gossip.events import Event, Kind, Quiet
from gossip.metrics import Metrics
from gossip.rates import Bucket, Buckets, Rate
from gossip.screen import Verdict
from gossip.sieve import SEEN, TOO_MANY, Sieve

HERE, ELSEWHERE = "127.0.0.1", "192.0.2.7"


# Rates


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 3)), max_size=200))
def test_no_more_is_taken_than_the_rate_and_the_burst_allow(steps: list[tuple[float, float]]) -> None:
    rate, now_s, taken = Rate(per_s=2, burst=5), 0.0, 0.0
    bucket = Bucket(rate, now_s)
    for pause_s, weight in steps:
        now_s += pause_s
        taken += weight if bucket.take(now_s, weight) else 0
        assert taken <= rate.burst + rate.per_s * now_s + 1e-6


def test_a_delay_keeps_the_rate_of_what_happens_in_any_case() -> None:
    bucket = Bucket(Rate(per_s=10, burst=2), 0.0)
    delays_s = [bucket.delay_s(0.0) for _ in range(4)]
    assert delays_s == pytest.approx([0, 0, 0.1, 0.2])
    assert bucket.delay_s(1.0) == 0


def test_a_forgotten_key_starts_anew_and_the_others_do_not() -> None:
    buckets: Buckets[str] = Buckets(Rate(per_s=0.001, burst=1), keys_max=2)
    assert buckets.take("a", 0)
    assert buckets.take("b", 0)
    assert not buckets.take("a", 0)
    assert buckets.take("c", 0)  # b was used longest ago
    assert len(buckets) == 2
    assert not buckets.take("a", 0)
    assert buckets.take("b", 0)


# The door


def arrive(door: Door, address: str, at_s: float, peer: str | None = None) -> tuple[Guest, bool, list[Guest]]:
    guest = Guest(address, at_s)
    admitted = door.arrive(guest)
    guest.peer = peer
    return guest, not admitted.refusal, list(admitted.evicted)


def test_the_oldest_that_has_not_proven_useful_makes_way() -> None:
    door = Door(3)
    guests = [arrive(door, f"192.0.2.{n}", 0.0, f"peer {n}")[0] for n in range(3)]
    door.prove("peer 0")
    _, let_in, evicted = arrive(door, "192.0.2.9", 10.0, "late")
    assert let_in
    assert evicted == [guests[1]]


def test_a_newcomer_is_refused_when_all_are_useful_or_on_probation() -> None:
    door = Door(2)
    arrive(door, "192.0.2.1", 0.0, "useful")
    door.prove("useful")
    arrive(door, "192.0.2.2", 10.0, "young")
    assert not arrive(door, "192.0.2.3", 10.0 + limits.PROBATION_S / 2)[1]
    assert arrive(door, "192.0.2.3", 10.0 + limits.PROBATION_S)[1]


def test_one_address_cannot_take_the_place_of_others() -> None:
    door = Door(limits.CONNECTIONS_INBOUND_MAX)
    other, _, _ = arrive(door, "192.0.2.1", 0.0, "other")
    for n in range(60):
        _, let_in, evicted = arrive(door, ELSEWHERE, 100.0 + 10 * n, f"sybil {n}")
        assert let_in
        assert other not in evicted
        assert len(evicted) == (n >= limits.CONNECTIONS_PER_ADDRESS_MAX)


def test_many_useful_peers_of_one_network_make_way_for_others() -> None:
    """An attacker whose peers answer well holds all connections, from addresses of its own /16."""
    door = Door(8)
    guests = [arrive(door, f"198.51.100.{n}", 0.0, f"sybil {n}")[0] for n in range(8)]
    for n in range(8):
        door.prove(f"sybil {n}")
    first, let_in, evicted = arrive(door, "192.0.2.1", 10.0, "honest")
    assert let_in
    assert evicted == [guests[-1]]
    door.prove("honest")
    for n, address in enumerate(["203.0.113.5", "2001:db8::/64", "192.0.2.2", "203.0.113.6"]):
        _, let_in, evicted = arrive(door, address, 20.0 + n, f"other {n}")
        door.prove(f"other {n}")
        assert let_in
        assert first not in evicted
    assert not arrive(door, "198.51.100.99", 30.0)[1]  # one more of the attacker's


def test_one_network_gives_up_no_more_than_its_surplus() -> None:
    door = Door(4)
    for n in range(4):
        arrive(door, f"198.5{n % 2}.100.{n}", 0.0, f"peer {n}")
        door.prove(f"peer {n}")
    assert arrive(door, "192.0.2.1", 10.0, "new")[1]
    door.prove("new")
    assert not arrive(door, "192.0.2.2", 20.0)[1]  # one of the others has two now, and that is one more


def test_handshakes_of_one_address_are_limited_and_the_newest_goes_on() -> None:
    door = Door(limits.CONNECTIONS_INBOUND_MAX)
    guests = [arrive(door, ELSEWHERE, 0.0)[0] for _ in range(limits.HANDSHAKES_PER_ADDRESS_MAX)]
    assert arrive(door, ELSEWHERE, 0.0)[2] == [guests[0]]


def test_all_connections_together_are_limited() -> None:
    door = Door(limits.CONNECTIONS_INBOUND_MAX)
    evictions = sum(len(arrive(door, f"192.0.2.{n}", float(10 * n), f"peer {n}")[2]) for n in range(100))
    assert evictions == 100 - limits.CONNECTIONS_INBOUND_MAX


def test_an_address_that_connects_too_often_is_refused_and_others_are_not() -> None:
    door = Door(limits.CONNECTIONS_INBOUND_MAX)
    let_in = []
    for _ in range(int(limits.ARRIVALS.burst) + 10):
        guest, admitted, _ = arrive(door, ELSEWHERE, 0.0)
        door.leave(guest)
        let_in.append(admitted)
    assert sum(let_in) == limits.ARRIVALS.burst
    assert arrive(door, "192.0.2.8", 0.0)[1]
    assert arrive(door, HERE, 0.0)[1]


def test_faults_lead_to_disconnection_and_repeated_ones_to_refusal_for_a_while() -> None:
    door = Door(10)
    few = int(limits.FAULTS.burst)
    assert not any(door.fault("peer", 0.0) for _ in range(few))
    assert door.fault("peer", 0.0)
    assert door.fault("peer", SAME_INCIDENT_S / 2)  # what was under way
    assert door.refused_for_s("peer", 0.0) == 0
    again_s = SAME_INCIDENT_S * 2
    assert door.fault("peer", again_s)
    assert door.refused_for_s("peer", again_s) == limits.REFUSAL_S
    assert door.refused_for_s("other", again_s) == 0
    assert door.refused_for_s("peer", again_s + limits.REFUSAL_S) == 0


def test_a_few_faults_a_day_are_forgiven() -> None:
    door = Door(10)
    assert not any(door.fault("peer", 3600.0 * hour) for hour in range(1000))


@pytest.mark.parametrize(
    ("host", "group"),
    [("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
     ("fe80::1%eth0", "fe80::/64"), ("::1", "::1")],
)  # fmt: skip
def test_what_counts_as_one_address(host: str, group: str) -> None:
    assert address_group(host) == group


# The sieve


def envelopes(folder: Path, number: int, key: int = 1) -> list[bytes]:
    author = examples.author(examples.new_store(folder, f"{key}.db"), key)
    return [examples.state_adoption(author, examples.digest(str(n))).envelope for n in range(number)]


def test_a_message_is_opened_once_and_handed_over_once(tmp_path: Path) -> None:
    (message,) = envelopes(tmp_path, 1)
    sieve = Sieve(examples.CHALLENGE)
    assert sieve.judge(message, 0.0).verdict is Verdict.ACCEPT
    assert sieve.judge(message, 0.0) is SEEN
    signed = sieve.take(message)
    assert signed is not None
    assert signed.envelope == message
    assert sieve.take(message) is None
    assert sieve.judge(message, 1e6) is SEEN


def test_a_bad_message_is_rejected_each_time_because_each_sender_is_at_fault() -> None:
    sieve = Sieve(examples.CHALLENGE)
    assert [sieve.judge(b"bad", 0.0).verdict for _ in range(2)] == [Verdict.REJECT] * 2


def test_an_author_has_its_share_and_no_more(tmp_path: Path) -> None:
    sieve = Sieve(examples.CHALLENGE)
    many, (other,) = envelopes(tmp_path, 70), envelopes(tmp_path, 1, key=2)
    verdicts = [sieve.judge(message, 0.0) for message in many]
    assert [screened.verdict for screened in verdicts].count(Verdict.ACCEPT) == limits.AUTHOR_ENTRIES.burst
    assert verdicts[-1] is TOO_MANY
    assert sieve.judge(other, 0.0).verdict is Verdict.ACCEPT
    later_s = 1 / limits.AUTHOR_ENTRIES.per_s
    assert sieve.judge(many[-1], later_s).verdict is Verdict.ACCEPT  # it was not taken for seen


def test_what_waits_to_be_taken_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MESSAGES_PENDING_MAX", 2)
    sieve = Sieve(examples.CHALLENGE)
    messages = envelopes(tmp_path, 3)
    for message in messages:
        sieve.judge(message, 0.0)
    assert [sieve.take(message) is None for message in messages] == [True, False, False]


# What is told and counted


def test_faults_of_one_peer_are_told_at_a_rate_and_connections_always() -> None:
    quiet = Quiet()
    faults = [quiet.lets(Event(kind=Kind.PEER_FAULT, peer="p"), 0.0) for _ in range(100)]
    assert sum(faults) == limits.TOLD.burst
    assert quiet.lets(Event(kind=Kind.PEER_FAULT, peer="other"), 0.0)
    assert all(quiet.lets(Event(kind=Kind.PEER_LOST, peer="p"), 0.0) for _ in range(100))
    assert all(quiet.lets(Event(kind=Kind.EQUIVOCATION, peer="p"), 0.0) for _ in range(100))


def test_what_a_peer_said_is_told_without_control_characters_and_cut() -> None:
    shown = Event(kind=Kind.PEER_FAULT, peer="p", detail="\x1b[2J\n" + "x" * 10_000).printable().detail
    assert shown.isprintable()
    assert len(shown) == limits.DETAIL_CHARS_MAX


def test_counters_and_gauges_are_seen_together() -> None:
    metrics = Metrics()
    metrics.count("bytes_total", by=5)
    metrics.count("drops_total", "rate")
    metrics.count("drops_total", "rate")
    metrics.gauge("peers", lambda: 3)
    assert metrics.snapshot() == {"bytes_total": 5, 'drops_total{of="rate"}': 2, "peers": 3}
