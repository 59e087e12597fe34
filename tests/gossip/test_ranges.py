"""Ranges from several peers come out in order, whole and bounded, in whatever order and however slowly they arrive."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gossip.ranges import Ranges, Span

RANGE, AHEAD, BLOCK = 40, 160, 10


def drain(ranges: Ranges) -> bytes:
    kept = b""
    while (block := ranges.due()) is not None:
        kept += block
        ranges.advance()
    return kept


@given(st.integers(0, 1000), st.integers(0, 30), st.integers(1, 5), st.integers(0, 2**32), st.floats(0, 0.3))
def test_all_bytes_come_once_and_in_order(size: int, had: int, peers: int, seed: int, failing: float) -> None:
    """Each peer sends blocks at its own pace, and some give up in the middle; one never does."""
    chance, data = Random(seed), Random(seed).randbytes(size)
    have = min(size, had * BLOCK)
    ranges = Ranges(have, RANGE, AHEAD)
    kept = data[:have]
    working: dict[int, Span] = {}
    living = list(range(peers))
    for _ in range(20 * (size // BLOCK + 10)):
        if ranges.is_complete:
            break
        peer = chance.choice(living)
        if peer not in working:
            span = ranges.take()
            if span is not None:
                assert ranges.learn(size)
                working[peer] = span
            continue
        start, end = working.pop(peer)
        end = min(end, size)
        if len(living) > 1 and chance.random() < failing:
            ranges.give_back(Span(start, end))
            living.remove(peer)
        elif start < end and not ranges.is_useless(Span(start, end)):
            ranges.arrived(start, data[start : min(start + BLOCK, end)])
            kept += drain(ranges)
            assert ranges.waiting_bytes <= AHEAD + RANGE
            working[peer] = Span(start + BLOCK, end)
    assert ranges.is_complete
    assert kept == data


def test_a_slow_peer_is_helped_out_once() -> None:
    ranges = Ranges(0, RANGE, AHEAD)
    slow = ranges.take()
    assert slow == Span(0, RANGE)
    assert ranges.learn(1000)
    others = [ranges.take() for _ in range(3)]
    assert [span.start for span in others if span] == [40, 80, 120]
    assert ranges.take() == slow  # as far ahead as may be: what all wait for, a second time
    assert ranges.take() is None
    assert ranges.arrived(0, b"x" * BLOCK)
    assert not ranges.arrived(0, b"y" * BLOCK)
    assert drain(ranges) == b"x" * BLOCK


def test_two_sizes_cannot_both_be_right() -> None:
    ranges = Ranges(0, RANGE, AHEAD)
    assert ranges.learn(10)
    assert ranges.learn(10)
    assert not ranges.learn(11)
