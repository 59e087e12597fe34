"""Opening many envelopes in threads: the same answers, in the same order, and no more work than asked for."""

import os
import threading
from itertools import islice
from pathlib import Path

import examples
import pytest

from ledger.envelope import open_envelope
from ledger.errors import BadStatement
from ledger.opening import EACH, THREADS_MAX, open_all

MANY = 3 * EACH * THREADS_MAX + 5


def test_all_are_opened_in_order_and_a_bad_one_says_why(tmp_path: Path) -> None:
    by = examples.author(examples.new_store(tmp_path))
    envelopes = [examples.state_trial(by, "b" * 64, seed, 3.0).envelope for seed in range(MANY)]
    spoilt = {0, EACH, MANY - 1}
    sent = [data[:-1] + bytes([data[-1] ^ 1]) if place in spoilt else data for place, data in enumerate(envelopes)]
    found = list(open_all(sent, open_envelope))
    assert {place for place, one in enumerate(found) if isinstance(one, BadStatement)} == spoilt
    for place, (one, envelope) in enumerate(zip(found, envelopes, strict=True)):
        assert place in spoilt or one == open_envelope(envelope)


def test_who_stops_early_has_not_paid_for_all() -> None:
    read: list[bytes] = []
    endless = (b"%d" % number for number in range(10**9))

    def reads(data: bytes) -> bytes:
        read.append(data)
        return data

    assert list(islice(open_all(endless, reads), 3)) == [b"0", b"1", b"2"]
    assert len(read) <= EACH * THREADS_MAX


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core: one thread opens")
def test_with_two_cores_two_threads_open() -> None:
    both = threading.Barrier(2, timeout=60)  # broken unless two are under way at once

    def meet(data: bytes) -> bytes:
        if data in (b"0", b"%d" % EACH):  # the first of each part
            both.wait()
        return data

    assert len(list(open_all((b"%d" % number for number in range(2 * EACH)), meet))) == 2 * EACH
