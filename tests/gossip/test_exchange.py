"""Two ledgers become equal by asking each other, whatever they hold and however small the pages; liars gain nothing."""

import random
from itertools import pairwise

import pytest
from examples import CHALLENGE, TRACK, author_id, key, measurement
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip import limits
from gossip.errors import PeerFault
from gossip.exchange import (
    Answer,
    Compare,
    Compared,
    Fingerprint,
    Memory,
    Page,
    Position,
    Pull,
    Question,
    Session,
    Sound,
    checked,
    compare,
    digest,
    key_of,
    next_page,
)
from gossip.summary import WHOLE, FeedName, Range, Summary, after, feed_key, proof_key
from gossip.wire import SyncReply, SyncRequest, decode, encode
from ledger.envelope import Signed, seal
from ledger.errors import BrokenChain, Equivocation
from ledger.feed import Head, check_extends, next_entry
from ledger.predicates import Adoption, Entry, Trial
from ledger.statements import encode as encode_statement

OTHER = "d" * 64
AUTHORS, LENGTH, FORK = 3, 6, 3  # the second history of each main feed parts from the first before entry FORK


def statement(entry: Entry, reason: str) -> Adoption | Trial:
    if entry.feed == "trials":
        return Trial(entry=entry, track=TRACK, seed=1, split="public", result=measurement())
    return Adoption(entry=entry, track=TRACK, previous=None, discovery=None, reason=reason, comparison=None)


def chain(
    number: int, feed: str, length: int, *, start: tuple[Signed, ...] = (), challenge: str = CHALLENGE, reason: str = ""
) -> tuple[Signed, ...]:
    """The first `length` entries of a feed, those after `start` with this reason."""
    entries = list(start)
    while len(entries) < length:
        last = entries[-1].statement.entry if entries else None
        head = Head(last.seq, entries[-1].id, last.lamport) if last else None
        entry = next_entry(head, clock=0, challenge=challenge, author=author_id(number), feed=feed, recorded_at="")
        entries.append(seal(key(number), encode_statement("b" * 64, statement(entry, reason))))
    return tuple(entries)


FEEDS = {(author_id(n), feed): chain(n, feed, LENGTH) for n in range(1, AUTHORS + 1) for feed in ("main", "trials")}
SECOND = {
    (author_id(n), "main"): chain(
        n, "main", LENGTH, start=FEEDS[author_id(n), "main"][:FORK], reason="on second thoughts"
    )
    for n in range(1, AUTHORS + 1)
}
BY_BYTES = {e.envelope: e for histories in (FEEDS, SECOND) for run in histories.values() for e in run}


class Ledger:
    """The least that anti-entropy needs of a ledger, with the real rule of feeds."""

    def __init__(self, lengths: dict[FeedName, int], second: frozenset[FeedName] = frozenset()) -> None:
        self.feeds = {
            name: list((SECOND if name in second else FEEDS)[name][:length])
            for name, length in lengths.items()
            if length
        }
        self.proofs: dict[str, tuple[bytes, bytes]] = {}

    def heads(self) -> dict[FeedName, Head]:
        return {
            name: Head(len(run) - 1, run[-1].id, run[-1].statement.entry.lamport) for name, run in self.feeds.items()
        }

    def summary(self) -> Summary:
        return Summary(self.heads(), self.proofs)

    def read(self, author: str, feed: str, from_seq: int, bytes_max: int) -> list[bytes]:
        page: list[bytes] = []
        for signed in self.feeds.get((author, feed), [])[from_seq:]:
            if page and sum(map(len, page)) + len(signed.envelope) > bytes_max:
                break
            page.append(signed.envelope)
        return page

    def add(self, signed: Signed) -> bool:
        """Whether the entry is here now, or else refused."""
        entry = signed.statement.entry
        run = self.feeds.get((entry.author, entry.feed), [])
        present = run[entry.seq] if entry.seq < len(run) else None
        try:
            new = check_extends(
                self.heads().get((entry.author, entry.feed)), entry, signed.id, present=present and present.id
            )
        except Equivocation:
            assert present is not None
            self.proofs.setdefault(entry.author, (present.envelope, signed.envelope))
            return False
        except BrokenChain:
            return False
        if entry.author in self.proofs:
            return not new
        if new:
            self.feeds.setdefault((entry.author, entry.feed), []).append(signed)
        return True

    def keep(self, items: list[Sound]) -> bool:
        """Whether the last item was refused."""
        fits = True
        for item in items:
            fits = False not in [self.add(signed) for signed in item]
            if len(item) == 2:
                fits = key_of(item)[1:-1] in self.proofs
        return not fits

    def answer(self, question: Question, bytes_max: int) -> Answer:
        if isinstance(question, Compare):
            return compare(self.summary(), question)
        page = next_page(self.summary(), question, self.read, self.proofs.get, bytes_max)
        items = [*page.envelopes, *page.proofs]
        assert len(items) == 1 or sum(map(len, page.envelopes)) + sum(len(a + b) for a, b in page.proofs) <= bytes_max
        return page

    def ask(self, other: "Ledger", bytes_max: int) -> int:
        """Ask `other` until nothing is lacking here; the number of questions."""
        session, asked = Session(), 0
        while (question := session.next_question(self.summary())) is not None:
            asked += 1
            take_up(self, session, question, other.answer(question, bytes_max))
        return asked


def take_up(ledger: Ledger, session: Session, question: Question, answer: Answer) -> None:
    if isinstance(question, Compare):
        assert isinstance(answer, Compared)
        session.compared(ledger.summary(), answer)
    else:
        assert isinstance(answer, Page)
        items = list(checked(answer, question, CHALLENGE))
        session.received(answer, items, refused=ledger.keep(items))


lengths = st.fixed_dictionaries({name: st.integers(0, LENGTH) for name in FEEDS})
seconds = st.frozensets(st.sampled_from(sorted(SECOND)))


@settings(max_examples=60, deadline=None)
@given(lengths, lengths, st.integers(1, 6000), st.booleans())
def test_two_ledgers_converge(
    ours: dict[FeedName, int], theirs: dict[FeedName, int], bytes_max: int, we_first: bool
) -> None:
    one, two = Ledger(ours), Ledger(theirs)
    for asker, answerer in ((one, two), (two, one)) if we_first else ((two, one), (one, two)):
        asker.ask(answerer, bytes_max)
    assert digest(one.heads()) == digest(two.heads())
    assert {name: len(run) for name, run in one.feeds.items()} == {
        name: longest for name in FEEDS if (longest := max(ours[name], theirs[name]))
    }


@settings(max_examples=60, deadline=None)
@given(lengths, lengths, seconds, st.integers(1, 6000), st.booleans())
def test_who_signed_two_histories_is_found_out_by_both_sides(
    ours: dict[FeedName, int], theirs: dict[FeedName, int], second: frozenset[FeedName], bytes_max: int, we_first: bool
) -> None:
    one, two = Ledger(ours), Ledger(theirs, second)
    forked = {author for author, feed in second if min(ours[author, feed], theirs[author, feed]) > FORK}
    first, then = (one, two) if we_first else (two, one)
    first.ask(then, bytes_max)  # who holds more of a feed does not see here that the other's is another
    then.ask(first, bytes_max)
    first.ask(then, bytes_max)
    assert one.proofs.keys() == two.proofs.keys() == forked
    assert one.summary().whole() == two.summary().whole()
    assert one.ask(two, bytes_max) == two.ask(one, bytes_max) == 1  # though they hold different parts of its feeds


@settings(max_examples=40, deadline=None)
@given(lengths, lengths, seconds, st.integers(1, 6000))
def test_a_proof_reaches_a_ledger_that_holds_any_part_of_the_feed(
    ours: dict[FeedName, int], theirs: dict[FeedName, int], second: frozenset[FeedName], bytes_max: int
) -> None:
    """Also none at all: what comes before the proof comes with it."""
    knows = Ledger(dict.fromkeys(FEEDS, LENGTH))
    knows.ask(Ledger(dict.fromkeys(FEEDS, LENGTH), frozenset(SECOND)), bytes_max)
    assert len(knows.proofs) == AUTHORS
    other = Ledger(ours, second)
    other.ask(knows, bytes_max)
    assert other.proofs.keys() == knows.proofs.keys()
    assert knows.ask(other, bytes_max) == 1


@settings(max_examples=40, deadline=None)
@given(lengths, lengths, st.integers(1, 12))
def test_a_session_that_was_cut_goes_on_where_it_was(
    ours: dict[FeedName, int], theirs: dict[FeedName, int], cut_after: int
) -> None:
    asker, answerer = Ledger(ours), Ledger(theirs)
    session = Session()
    for _ in range(cut_after):
        if (question := session.next_question(asker.summary())) is not None:
            take_up(asker, session, question, answerer.answer(question, bytes_max=1))
    before = sum(map(len, asker.feeds.values()))
    lacking = sum(max(0, theirs[name] - len(asker.feeds.get(name, ()))) for name in FEEDS)
    assert asker.ask(answerer, bytes_max=1) <= 2 + lacking + 1  # compare, at most two levels; then an entry a page
    assert sum(map(len, asker.feeds.values())) == before + lacking


# Cost


def many(count: int) -> dict[FeedName, Head]:
    """Heads of made-up authors, two feeds each."""
    letters = random.Random(1)
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    entry = next(iter(FEEDS.values()))[0].id
    return {
        (author, feed): Head(0, entry, 1)
        for author in ("12D3KooW" + "".join(letters.choices(alphabet, k=44)) for _ in range(count // 2))
        for feed in ("main", "trials")
    }


def test_one_feed_of_100000_that_differs_is_found_with_few_questions_and_bytes() -> None:
    heads = many(100_000)
    name, run = next(iter(FEEDS.items()))
    ours = Summary(heads | {name: Head(LENGTH - 2, run[-2].id, LENGTH - 1)})
    theirs = Summary(heads | {name: Head(LENGTH - 1, run[-1].id, LENGTH)})
    session, questions, sent = Session(), 0, 0
    items: list[Sound] = []
    while (question := session.next_question(ours)) is not None:
        request = encode(SyncRequest(CHALLENGE, question))
        question = decode(request[4:], SyncRequest).question
        if isinstance(question, Compare):
            answer: Answer = compare(theirs, question)
        else:
            answer = next_page(theirs, question, lambda *at: [run[at[2]].envelope], lambda _: None, 1 << 18)
        reply = encode(SyncReply(answer))
        answer = decode(reply[4:], SyncReply).answer
        if isinstance(question, Compare):
            assert isinstance(answer, Compared)
            session.compared(ours, answer)
        else:
            assert isinstance(answer, Page)
            items = list(checked(answer, question, CHALLENGE))
            session.received(answer, items, refused=False)
        questions += 1
        sent += len(request) + len(reply)
    assert [item[0].id for item in items] == [run[-1].id]
    assert questions <= 6
    assert sent <= 10_000 + len(run[-1].envelope)


def test_a_peer_that_says_that_all_differs_costs_some_megabytes_once_a_minute() -> None:
    ours = Summary(many(100_000))
    session, memory, asked = Session(), Memory(), 0
    while (question := session.next_question(ours)) is not None:
        asked += len(encode(SyncRequest(CHALLENGE, question)))
        if isinstance(question, Compare):
            session.compared(ours, Compared(b"?" * 16, tuple(range(len(question.ranges)))))
        else:
            session.received(Page((), (), more=False), [], refused=False)
    assert asked < 4_000_000
    assert not session.is_complete
    memory.ended(ours.whole(), b"?" * 16, complete=False, received=0, asked_bytes=asked, now=0.0)
    assert memory.is_hopeless(ours.whole(), b"!" * 16, now=limits.SYNC_FRUITLESS_PAUSE_S_MAX - 1)
    assert not memory.is_hopeless(ours.whole(), b"?" * 16, now=limits.SYNC_FRUITLESS_PAUSE_S_MAX)


def test_what_was_fruitless_is_not_repeated_until_something_changes() -> None:
    memory = Memory()
    assert not memory.is_hopeless(b"a", b"b", now=0.0)
    memory.ended(b"a", b"b", complete=True, received=0, asked_bytes=1, now=0.0)
    assert memory.is_hopeless(b"a", b"b", now=1e9)
    assert not memory.is_hopeless(b"a", b"c", now=1.0)
    memory.ended(b"a", b"c", complete=True, received=1, asked_bytes=10**9, now=1.0)
    assert not memory.is_hopeless(b"a", b"c", now=1.0)
    memory.ended(b"a", b"c", complete=False, received=0, asked_bytes=1, now=2.0)
    assert not memory.is_hopeless(b"a", b"c", now=3.0)


def test_a_peer_that_is_empty_is_asked_once() -> None:
    assert Ledger(dict.fromkeys(FEEDS, LENGTH)).ask(Ledger({}), 1000) == 1


def test_after_a_page_only_what_comes_after_it_is_asked_about() -> None:
    """Else a joiner would tell all that it has got so far with each request."""
    asker, answerer, session = Ledger({}), Ledger(dict.fromkeys(FEEDS, LENGTH)), Session()
    while (question := session.next_question(asker.summary())) is not None:
        if isinstance(question, Pull):
            assert len(question.positions) <= 1
        take_up(asker, session, question, answerer.answer(question, 1))
    assert digest(asker.heads()) == digest(answerer.heads())


def test_a_refused_feed_is_passed_over_and_no_other() -> None:
    key = feed_key("a", "main")
    assert key < after(key) < feed_key("a", "main.1") < feed_key("b", "main")


# The order of things


def test_main_feeds_are_sent_before_trials() -> None:
    everything = Pull((WHOLE,), (), ())
    page = Ledger(dict.fromkeys(FEEDS, 1)).answer(everything, 1 << 20)
    assert isinstance(page, Page)
    feeds = [item[0].statement.entry.feed for item in checked(page, everything, CHALLENGE)]
    assert feeds == ["main"] * AUTHORS + ["trials"] * AUTHORS


names = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["main", "main.1", "main.12", "trials"])), unique=True
)


@given(names, st.integers(2, 5), st.integers(1, 4))
def test_parts_of_a_range_are_in_order_and_hold_all_of_it_evenly(those: list[FeedName], parts: int, room: int) -> None:
    summary = Summary({name: Head(0, "x", 0) for name in those})
    found = summary.split(WHOLE, parts)
    assert [found[0].start, found[-1].end] == [*WHOLE]
    assert all(one.end == two.start for one, two in pairwise(found))
    counts = [summary.count(part) for part in found]
    assert sum(counts) == len(those)
    assert max(counts) - min(counts) <= 1 or len(those) < parts
    assert summary.count(summary.beginning(WHOLE, room)) == min(room, len(those))


@given(lengths, lengths, st.frozensets(st.sampled_from(sorted(FEEDS)).map(lambda name: name[0])))
def test_a_summary_kept_in_step_equals_one_made_afresh(
    ours: dict[FeedName, int], theirs: dict[FeedName, int], banned: frozenset[str]
) -> None:
    before, now = Ledger(ours).heads(), Ledger(theirs).heads()
    summary = Summary(before, banned)
    for author in {author for author, _ in FEEDS}:
        feeds = {feed: head for (name, feed), head in now.items() if name == author}
        summary.replace(author, feeds, banned=author not in banned)
    fresh = Summary(now, {author for author, _ in FEEDS} - banned)
    assert summary.whole() == fresh.whole()
    assert list(summary.held(WHOLE)) == list(fresh.held(WHOLE))


@given(lengths, lengths)
def test_digests_are_equal_exactly_for_equal_ledgers(ours: dict[FeedName, int], theirs: dict[FeedName, int]) -> None:
    equal = {name: n for name, n in ours.items() if n} == {name: n for name, n in theirs.items() if n}
    assert (Ledger(ours).summary().whole() == Ledger(theirs).summary().whole()) == equal
    assert (digest(Ledger(ours).heads()) == digest(Ledger(theirs).heads())) == equal


# Liars

NAME = min(FEEDS, key=lambda name: feed_key(*name))
LAST = max(FEEDS, key=lambda name: feed_key(*name))
RUN = [signed.envelope for signed in FEEDS[NAME]]
EVERYTHING = Pull((WHOLE,), (), ())


def position(name: FeedName, seq: int) -> Position:
    return Position(*name, seq, FEEDS[name][seq].id)


@pytest.mark.parametrize(
    ("envelopes", "pull", "good", "fault"),
    [
        ([RUN[0], RUN[1], b"junk"], EVERYTHING, 2, "malformed"),
        ([RUN[0], RUN[2]], EVERYTHING, 1, "2, where 1 was asked for"),
        ([RUN[0], RUN[0]], EVERYTHING, 1, "0, where 1 was asked for"),
        ([RUN[3]], EVERYTHING, 0, "3, where 0 was asked for"),
        ([RUN[1]], Pull((WHOLE,), (position(NAME, 1),), ()), 0, "1, where 2 was asked for"),
        ([RUN[0]], Pull((Range(feed_key(*NAME) + "!", "~"),), (), ()), 0, "not asked for"),
        ([RUN[0]], Pull((WHOLE,), (), (NAME[0],)), 0, "not asked for"),
        ([FEEDS[LAST][0].envelope, RUN[0]], EVERYTHING, 1, "out of order"),
        ([chain(1, "main", 1, challenge=OTHER)[0].envelope], EVERYTHING, 0, f"challenge {OTHER}"),
    ],
)  # fmt: skip
def test_a_bad_page_is_refused_from_its_first_bad_entry(
    envelopes: list[bytes], pull: Pull, good: int, fault: str
) -> None:
    kept = []
    with pytest.raises(PeerFault, match=fault):
        kept.extend(item[0].envelope for item in checked(Page(tuple(envelopes), (), more=False), pull, CHALLENGE))
    entries = checked(Page(tuple(envelopes), (), more=False), pull, CHALLENGE)
    assert [next(entries)[0].envelope for _ in range(good)] == envelopes[:good]


FORKED = author_id(1), "main"
PROOF = FEEDS[FORKED][FORK].envelope, SECOND[FORKED][FORK].envelope


@pytest.mark.parametrize(
    ("proof", "pull", "fault"),
    [
        ((PROOF[0], PROOF[0]), EVERYTHING, "prove nothing"),
        ((PROOF[0], SECOND[FORKED][FORK + 1].envelope), EVERYTHING, "prove nothing"),
        ((PROOF[0], SECOND[author_id(2), "main"][FORK].envelope), EVERYTHING, "prove nothing"),
        ((PROOF[0], b"junk"), EVERYTHING, "malformed"),
        (PROOF, Pull((WHOLE,), (), (FORKED[0],)), "not asked for"),
        (PROOF, Pull((Range("", proof_key(FORKED[0])),), (), ()), "not asked for"),
    ],
)
def test_a_proof_that_proves_nothing_is_a_fault(proof: tuple[bytes, bytes], pull: Pull, fault: str) -> None:
    with pytest.raises(PeerFault, match=fault):
        list(checked(Page((), (proof,), more=False), pull, CHALLENGE))
    assert [len(item) for item in checked(Page((), (PROOF,), more=False), EVERYTHING, CHALLENGE)] == [2]


def test_an_empty_page_that_says_more_is_a_fault() -> None:
    session = Session()
    session.next_question(Summary())
    session.compared(Summary(), Compared(b"?" * 16, (0,)))
    session.next_question(Summary())
    with pytest.raises(PeerFault, match="empty page"):
        session.received(Page((), (), more=True), [], refused=False)


@pytest.mark.parametrize("lacking", [(1,), (0, 0), (5, 0)])
def test_naming_ranges_that_were_not_asked_is_a_fault(lacking: tuple[int, ...]) -> None:
    session = Session()
    session.next_question(Summary())
    with pytest.raises(PeerFault, match="not among"):
        session.compared(Summary(), Compared(b"?" * 16, lacking))


@pytest.mark.parametrize("ranges", [(("m", "b"),), (("a", "c"), ("b", "d")), (("c", "d"), ("a", "b"))])
def test_ranges_that_overlap_or_run_backwards_are_a_fault(ranges: tuple[tuple[str, str], ...]) -> None:
    """Else a question of one kilobyte could have everything read a thousand times."""
    with pytest.raises(PeerFault, match="out of order"):
        compare(Summary(), Compare(tuple(Fingerprint(*part, b"?" * 16) for part in ranges)))
    with pytest.raises(PeerFault, match="out of order"):
        next_page(Summary(), Pull(tuple(Range(*part) for part in ranges), (), ()), Ledger({}).read, {}.get, 1)


def test_heads_that_are_too_high_get_one_empty_page() -> None:
    ledger = Ledger(dict.fromkeys(FEEDS, LENGTH))
    liar = Pull((WHOLE,), tuple(Position(*name, 10**9, FEEDS[name][0].id) for name in FEEDS), ())
    assert ledger.answer(liar, 1000) == Page((), (), more=False)


@settings(max_examples=100, deadline=None)
@given(lengths, st.randoms(use_true_random=False))
def test_whatever_a_liar_answers_the_ledger_stays_sound_and_the_session_ends(
    ours: dict[FeedName, int], chance: random.Random
) -> None:
    """Each entry that is kept follows the one before, and the author signed it; each ban has its proof."""
    asker, session = Ledger(ours), Session()
    truth = Ledger(dict.fromkeys(FEEDS, LENGTH), frozenset(chance.sample(sorted(SECOND), 2)))
    for _ in range(200):
        question = session.next_question(asker.summary())
        if question is None:
            break
        try:
            take_up(asker, session, question, lie(chance, truth.answer(question, chance.randrange(1, 9000))))
        except PeerFault:
            break
    else:
        raise AssertionError("asked 200 times")
    for name, run in asker.feeds.items():
        assert tuple(run) in (FEEDS[name][: len(run)], SECOND.get(name, ())[: len(run)])
    for author, proof in asker.proofs.items():
        one, other = (BY_BYTES[data].statement.entry for data in proof)
        assert proof[0] != proof[1]
        assert (one.author, one.feed, one.seq) == (author, other.feed, other.seq)


def lie(chance: random.Random, answer: Answer) -> Answer:
    """A part of the truth, or too much of it, or something else that is signed."""
    if isinstance(answer, Compared):
        return Compared(chance.randbytes(16), tuple(sorted(chance.sample(range(20), chance.randrange(3)))) or (0,))
    envelopes = [*answer.envelopes, *chance.choices(list(BY_BYTES), k=chance.randrange(3))]
    if chance.random() < 0.3:
        chance.shuffle(envelopes)
    proofs = [*answer.proofs, *([tuple(chance.choices(list(BY_BYTES), k=2))] if chance.random() < 0.2 else [])]
    return Page(tuple(envelopes), tuple(proofs), chance.random() < 0.7)  # type: ignore[arg-type]
