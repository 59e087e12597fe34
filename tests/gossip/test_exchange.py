"""Two ledgers become equal by exchanging pages, whatever they hold and however small the pages; liars gain nothing."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import statement

from gossip.errors import PeerFault
from gossip.exchange import (
    SEQ_NONE_WANTED,
    FeedName,
    Page,
    Window,
    checked,
    digest,
    lacking,
    may_ask_again,
    next_page,
    next_window,
)
from ledger.envelope import Signed, peer_id, seal
from ledger.feed import Head, check_extends, next_entry
from ledger.statements import encode

CHALLENGE, OTHER = "c" * 64, "d" * 64
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(3)]
EVERYTHING = Window(None, None, {})


def chain(
    key: Ed25519PrivateKey, feed: str, length: int, *, challenge: str = CHALLENGE, reason: str = ""
) -> list[Signed]:
    entries: list[Signed] = []
    for _ in range(length):
        last = entries[-1].statement.entry if entries else None
        entry = next_entry(
            Head(last.seq, entries[-1].id, last.lamport) if last else None,
            clock=0, challenge=challenge, author=peer_id(key.public_key()), feed=feed, recorded_at="",  # type: ignore[arg-type]
        )  # fmt: skip
        entries.append(seal(key, encode("b" * 64, statement(entry))))
    return entries


FEEDS = {(peer_id(key.public_key()), feed): chain(key, feed, 6) for key in KEYS for feed in ("main", "trials")}


class Ledger:
    """The least that anti-entropy needs of a ledger, with the real rule of feeds."""

    def __init__(self, lengths: dict[FeedName, int]) -> None:
        self.feeds = {name: FEEDS[name][:length] for name, length in lengths.items() if length}

    def heads(self) -> dict[FeedName, Head]:
        return {
            name: Head(len(run) - 1, run[-1].id, run[-1].statement.entry.lamport) for name, run in self.feeds.items()
        }

    def read(self, author: str, feed: str, from_seq: int, bytes_max: int) -> list[bytes]:
        page: list[bytes] = []
        for signed in self.feeds.get((author, feed), [])[from_seq:]:
            if page and sum(map(len, page)) + len(signed.envelope) > bytes_max:
                break
            page.append(signed.envelope)
        return page

    def add(self, signed: Signed) -> None:
        entry = signed.statement.entry
        name = (entry.author, entry.feed)
        assert check_extends(self.heads().get(name), entry, signed.id, present=None)
        self.feeds.setdefault(name, []).append(signed)

    def pull(self, other: "Ledger", bytes_max: int, feeds_max: int) -> int:
        """Ask `other` until nothing is lacking here; the number of requests."""
        after, asked = None, 0
        while True:
            asked += 1
            window = next_window(self.heads(), (), after, feeds_max)
            page = next_page(other.heads(), window, other.read, bytes_max)
            assert len(page.envelopes) == 1 or sum(map(len, page.envelopes)) <= bytes_max
            for signed in checked(page.envelopes, window, CHALLENGE):
                self.add(signed)  # raises unless the order inside its feed is kept
            if not may_ask_again(page):
                if window.upto is None:
                    return asked
                after = window.upto


lengths = st.fixed_dictionaries({name: st.integers(0, 6) for name in FEEDS})


@settings(max_examples=60, deadline=None)
@given(lengths, lengths, st.integers(1, 6000), st.integers(1, 7), st.booleans())
def test_two_ledgers_converge(
    ours: dict[FeedName, int], theirs: dict[FeedName, int], bytes_max: int, feeds_max: int, we_first: bool
) -> None:
    one, two = Ledger(ours), Ledger(theirs)
    for asker, answerer in ((one, two), (two, one)) if we_first else ((two, one), (one, two)):
        asker.pull(answerer, bytes_max, feeds_max)
    assert digest(one.heads()) == digest(two.heads())
    assert {name: len(run) for name, run in one.feeds.items()} == {
        name: longest for name in FEEDS if (longest := max(ours[name], theirs[name]))
    }


@given(lengths, lengths)
def test_digests_are_equal_exactly_for_equal_ledgers(ours: dict[FeedName, int], theirs: dict[FeedName, int]) -> None:
    assert (digest(Ledger(ours).heads()) == digest(Ledger(theirs).heads())) == (ours == theirs)


def test_main_feeds_are_sent_before_trials() -> None:
    feeds = [feed for (_, feed), _ in lacking(Ledger(dict.fromkeys(FEEDS, 1)).heads(), EVERYTHING)]
    assert feeds == ["main"] * 3 + ["trials"] * 3


def test_heads_that_are_too_high_get_one_empty_page() -> None:
    ledger = Ledger(dict.fromkeys(FEEDS, 6))
    liar = Window(None, None, dict.fromkeys(FEEDS, 10**9))
    assert next_page(ledger.heads(), liar, ledger.read, 1000) == Page((), more=False)


def test_nothing_is_sent_of_an_unwanted_feed() -> None:
    ledger, unwanted = Ledger(dict.fromkeys(FEEDS, 6)), next(iter(FEEDS))
    window = next_window({}, {unwanted}, None, 100)
    assert window.next_seq == {unwanted: SEQ_NONE_WANTED}
    assert unwanted not in dict(lacking(ledger.heads(), window))
    assert len(lacking(ledger.heads(), window)) == len(FEEDS) - 1


NAME = next(iter(FEEDS))
RUN = [signed.envelope for signed in FEEDS[NAME]]


@pytest.mark.parametrize(
    ("envelopes", "good", "fault"),
    [
        ([RUN[0], RUN[1], b"junk"], 2, "malformed"),
        ([RUN[0], RUN[2]], 1, "2 where 1 was asked for"),
        ([RUN[0], RUN[0]], 1, "0 where 1 was asked for"),
        ([RUN[3]], 0, "3 where 0 was asked for"),
        ([chain(KEYS[0], "main", 1, challenge=OTHER)[0].envelope], 0, f"challenge {OTHER}"),
    ],
)  # fmt: skip
def test_a_bad_page_is_refused_from_its_first_bad_entry(envelopes: list[bytes], good: int, fault: str) -> None:
    kept = []
    with pytest.raises(PeerFault, match=fault):
        kept.extend(signed.envelope for signed in checked(envelopes, EVERYTHING, CHALLENGE))
    entries = checked(envelopes, EVERYTHING, CHALLENGE)
    assert [next(entries).envelope for _ in range(good)] == envelopes[:good]


def test_an_entry_outside_the_window_is_refused() -> None:
    with pytest.raises(PeerFault, match="was asked for"):
        list(checked([RUN[0]], Window(NAME, None, {}), CHALLENGE))


def test_an_empty_page_that_says_more_is_a_fault() -> None:
    with pytest.raises(PeerFault, match="empty page"):
        may_ask_again(Page((), more=True))
