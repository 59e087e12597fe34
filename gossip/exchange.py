"""Anti-entropy: how two ledgers become equal, as decisions over plain values. *Pure.*

Gossip is a hint, the feeds are the truth: late joiners, restarts, partitions and lost messages all heal here. One side
asks, the other answers from what it holds at that moment and remembers nothing; each side asks for itself, so equality
needs a session in each direction. Both know their items in the same order (summary.py).

    asks                                      answers
    digest of all items                    →  differs or not
    digests of a range's parts             →  which parts differ, and are not empty there    … while parts are large
    the small ranges that differ,
    with its own heads in them             →  a page: entries after these heads, in order of keys, then proofs
    the rest of the ranges                 →  the next page                                  … until nothing is lacking

Source of the first half: A. Meyer (2022), "Range-Based Set Reconciliation", arXiv:2212.13567. Here one side splits and
the other only answers, so that the asker alone decides how much a session costs. d differing feeds of n take about
d log n digests, in batches, and log n questions.

Equivocation comes to light here: an answerer whose entry at the place of the asker's head is another one sends that
entry, and who holds two entries for one place has proof. Proofs travel in pages like entries. What a session brought to
light, the other side learns when it asks the next time.

What a liar can do: say that there is nothing, which silence does as well. Say that all differs: this costs the asker
its own digests, and heads for `SYNC_EMPTY_PAGES_MAX` empty pages, and the more it cost the later it asks again
(`Memory`). Forged entries fail their signature; entries that were not asked for, out of order, or a page that leads
nowhere are a fault, and end the session. This module knows neither streams nor storage: reading entries is an argument.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import ceil
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from gossip import limits
from gossip.errors import PeerFault
from gossip.summary import (
    PROOFS,
    WHOLE,
    Digest,
    FeedName,
    Key,
    Range,
    Summary,
    after,
    feed_key,
    proof_key,
)
from ledger.envelope import Signed, open_envelope, payload_of
from ledger.errors import BadStatement, TooNew
from ledger.feed import Head
from ledger.opening import open_all
from ledger.predicates import Count, EntryId, Feed, PeerId
from ledger.statements import entry_id

Read = Callable[[str, str, int, int], Sequence[bytes]]
"""author, feed, first seq, bytes_max → envelopes, oldest first, at least one if there is any (Store.envelopes)."""

ReadProof = Callable[[str], tuple[bytes, bytes] | None]
"""author → two envelopes that it signed for one place."""


# What is asked and answered. Bounds stand here because wire.py decodes into these types.


class Fingerprint(NamedTuple):
    start: Key
    end: Key
    digest: Digest


class Position(NamedTuple):
    """The asker's head of a feed."""

    author: PeerId
    feed: Feed
    seq: Count
    id: EntryId


class _Part(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Compare(_Part, frozen=True, array_like=True, tag="compare"):
    """Which of these ranges differ? They are in order and do not overlap."""

    ranges: Annotated[tuple[Fingerprint, ...], Meta(max_length=limits.SYNC_RANGES_MAX)]


class Compared(_Part, frozen=True, array_like=True, tag="compared"):
    whole: Digest  # of all that the answerer holds
    lacking: Annotated[tuple[Count, ...], Meta(max_length=limits.SYNC_RANGES_MAX)]  # which differ and are not empty


class Pull(_Part, frozen=True, array_like=True, tag="pull"):
    """What is there that is not here? Says everything about the asker's feeds in these ranges."""

    ranges: Annotated[tuple[Range, ...], Meta(min_length=1, max_length=limits.SYNC_RANGES_MAX)]
    positions: Annotated[tuple[Position, ...], Meta(max_length=limits.SYNC_POSITIONS_MAX)]
    banned: Annotated[tuple[PeerId, ...], Meta(max_length=limits.SYNC_POSITIONS_MAX)]  # nothing of these authors


class Page(_Part, frozen=True, array_like=True, tag="page"):
    """Envelopes in order of their feeds' keys and of seq, then proofs in order of authors.

    With `more`, nothing is lacking before the last of them, and something after it.
    """

    envelopes: tuple[bytes, ...]
    proofs: tuple[tuple[bytes, bytes], ...]
    more: bool


Question = Compare | Pull
Answer = Compared | Page

Sound = tuple[Signed, ...]
"""A checked item of a page: one entry, or the two entries of a proof."""


class Passed(Struct, frozen=True):
    """Of a page: the rest of a feed, or a proof, that a newer version wrote and this one cannot hold. Nobody's fault.

    Like what the ledger refuses, it is not asked for again in the same round.
    """

    key: str
    reason: str


Item = Sound | Passed


def digest(heads: Mapping[FeedName, Head]) -> str:
    """SHA-256 (hex) over the sorted lines `author/feed/seq/id`: equal exactly if the ledgers hold the same feeds."""
    lines = sorted(f"{author}/{feed}/{head.seq}/{head.id}\n" for (author, feed), head in heads.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# The asker


class Session:
    """The questions of one round to one peer. After each comes exactly one of `compared` and `received`."""

    def __init__(self) -> None:
        self._undecided = [WHOLE]  # to be compared
        self._wanted: list[Range] = []  # differ and are small
        self._asked: list[Range] = []
        self._empty_pages = 0  # in a row

    @property
    def is_complete(self) -> bool:
        """Whether all has been asked that there is to ask."""
        return not self._undecided and not self._wanted

    @property
    def pulls_next(self) -> bool:
        """Whether the next question, if there is one, is for a page."""
        return not self._undecided

    def next_question(self, summary: Summary) -> Question | None:
        """What to ask, given what the ledger holds now. None: nothing is lacking, or nothing comes of asking."""
        if self._undecided:
            self._asked = self._undecided[: limits.SYNC_RANGES_MAX]
            del self._undecided[: limits.SYNC_RANGES_MAX]
            return Compare(tuple(Fingerprint(*part, summary.digest(part)) for part in self._asked))
        if self._wanted and self._empty_pages < limits.SYNC_EMPTY_PAGES_MAX:
            return self._pull(summary)
        return None

    def compared(self, summary: Summary, answer: Compared) -> None:
        """Take up which of the ranges differ. Raises `PeerFault` if that is no answer to the question."""
        places = answer.lacking
        if any(a >= b for a, b in pairwise(places)) or (places and places[-1] >= len(self._asked)):
            raise PeerFault(f"named ranges as lacking that are not among the {len(self._asked)} asked, or not in order")
        for part in (self._asked[place] for place in places):
            count = summary.count(part)
            if count > limits.SYNC_SMALL_ITEMS:
                parts = min(limits.SYNC_PARTS, ceil(count / limits.SYNC_SMALL_ITEMS))
                self._undecided.extend(summary.split(part, parts))
            else:
                self._wanted.append(part)
        self._undecided.sort()
        self._wanted.sort()

    def received(self, page: Page, items: Sequence[Item], *, refused: bool) -> None:
        """Take up a page, given its checked items, and whether the ledger could not take the last of them.

        What is refused is not asked for again. Raises `PeerFault` for an empty page that says that there is more.
        """
        self._empty_pages = 0 if items else self._empty_pages + 1
        if not page.more:
            return
        if not items:
            raise PeerFault("announced more entries with an empty page")
        start = after(key_of(items[-1])) if refused else key_of(items[-1])
        rest = [Range(max(start, part.start), part.end) for part in self._asked if start < part.end]
        self._wanted = rest + self._wanted

    def _pull(self, summary: Summary) -> Pull:
        """As many of the wanted ranges, from the first on, as one request can say everything about."""
        self._asked = []
        room = limits.SYNC_POSITIONS_MAX
        taken = 0
        for part in self._wanted[: limits.SYNC_RANGES_MAX]:
            beginning = summary.beginning(part, room)
            self._asked.append(beginning)
            if beginning != part:
                self._wanted[taken] = Range(beginning.end, part.end)
                break
            taken += 1
            room -= summary.count(part)
            if not room:
                break
        del self._wanted[:taken]
        items = [item for part in self._asked for item in summary.items(part)]
        return Pull(
            tuple(self._asked),
            tuple(Position(i.author, i.feed, i.head.seq, i.head.id) for i in items if i.head is not None),
            tuple(sorted({item.author for item in items if item.head is None})),
        )


def key_of(item: Item) -> str:
    if isinstance(item, Passed):
        return item.key
    entry = item[0].statement.entry
    return feed_key(entry.author, entry.feed) if len(item) == 1 else proof_key(entry.author)


def checked(page: Page, pull: Pull, challenge: str) -> Iterator[Item]:
    """Yield the items of a received page one by one, each after its checks. Raises `PeerFault` at the first bad one.

    What was yielded before a fault is sound: its author signed it, whoever passed it on. Each entry:

    1. The envelope is signed by its author and well formed.
    2. It belongs to this challenge.
    3. It was asked for: its feed lies in the ranges, its author is not banned here, and feeds are in order.
    4. Its seq is the next of its feed, or that of the asker's head with another id: then there are two histories.

    Each proof, of two such envelopes:

    5. It was asked for, as in 3.
    6. They are different entries of one author for one place.

    Of a feed in which an entry is of too new a version (1), the rest is passed over, because it does not follow on what
    can be held; what was asked for (3) is checked of it all the same.
    """
    heads = {(position.author, position.feed): position for position in pull.positions}
    last, wanted, passing = "", 0, False
    found = open_all(page.envelopes, open_envelope)
    for data, each in zip(page.envelopes, found, strict=True):
        opened = _opened(data, each, challenge)  # 1, 2
        entry = opened.place if isinstance(opened, _TooNew) else opened.statement.entry
        key = feed_key(entry.author, entry.feed)
        if key != last:
            _check_asked(key, entry.author, last, pull)  # 3
            head = heads.get((entry.author, entry.feed))
            wanted, passing = 0 if head is None else head.seq + 1, False
            if isinstance(opened, Signed) and head is not None and head.seq == entry.seq and head.id != opened.id:
                wanted = entry.seq  # forked
            last = key
        if passing:
            continue
        if isinstance(opened, _TooNew):
            passing = True
            yield Passed(key, opened.reason)
            continue
        if entry.seq != wanted:  # 4
            raise PeerFault(f"sent {entry.author}/{entry.feed}/{entry.seq}, where {wanted} was asked for")
        wanted += 1
        yield (opened,)
    for proof in page.proofs:
        found = open_all(proof, open_envelope)
        one, other = (_opened(data, each, challenge) for data, each in zip(proof, found, strict=True))
        author = _author(one)
        _check_asked(proof_key(author), author, last, pull)  # 5
        last = proof_key(author)
        if isinstance(one, _TooNew) or isinstance(other, _TooNew):
            yield Passed(last, one.reason if isinstance(one, _TooNew) else "a proof with an entry that is too new")
            continue
        if one.id == other.id or _place(one) != _place(other):  # 6
            raise PeerFault(f"sent two entries of {author} that prove nothing")
        yield one, other


class _Place(Struct, frozen=True):
    """Of an entry, as every version has it; what else a newer one writes is passed over."""

    author: PeerId
    feed: Feed
    seq: Count


class _Predicate(Struct, frozen=True):
    entry: _Place


class _Payload(Struct, frozen=True):
    predicate: _Predicate


class _TooNew(Struct, frozen=True):
    place: _Place
    reason: str


def _opened(data: bytes, found: Signed | BadStatement, challenge: str) -> Signed | _TooNew:
    if isinstance(found, TooNew):
        return _TooNew(_newer_place(data), str(found))
    if isinstance(found, BadStatement):
        raise PeerFault(f"sent a bad entry: {found}") from found
    if found.statement.entry.challenge != challenge:
        raise PeerFault(f"sent an entry of challenge {found.statement.entry.challenge}")
    return found


def _newer_place(data: bytes) -> _Place:
    try:
        return msgspec.json.decode(payload_of(data), type=_Payload).predicate.entry
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerFault(f"sent an entry of a newer version without a place: {error}") from error


def _author(opened: Signed | _TooNew) -> str:
    return opened.place.author if isinstance(opened, _TooNew) else opened.statement.entry.author


def _check_asked(key: str, author: str, last: str, pull: Pull) -> None:
    if key <= last or author in pull.banned or not any(part.holds(key) for part in pull.ranges):
        raise PeerFault(f"sent {key[1:]}, which was not asked for or is out of order")


def _place(signed: Signed) -> tuple[str, str, int]:
    entry = signed.statement.entry
    return entry.author, entry.feed, entry.seq


class Memory:
    """What came of the last round with a peer, so that one that cannot help is not asked the same again.

    Two ledgers may differ for long and rightly: one is behind, or does not accept a proof. And a peer may say that all
    differs whenever it is asked.
    """

    def __init__(self) -> None:
        self._settled: tuple[bytes, bytes] | None = None
        self._next = float("-inf")  # when to go on past the first question, in the clock of `now`

    def is_hopeless(self, ours: bytes, theirs: bytes, now: float) -> bool:
        """Whether to stop after the first question: `ours` and `theirs` are the digests of everything."""
        return (ours, theirs) == self._settled or now < self._next

    def ended(self, ours: bytes, theirs: bytes, *, complete: bool, received: int, asked_bytes: int, now: float) -> None:
        """A round went past the first question, brought `received` new items, and its questions had this size.

        `complete`: it asked all that there was to ask, so that the same round would end the same way.
        """
        self._settled = (ours, theirs) if complete and not received else None
        pause_s = min(asked_bytes / limits.SYNC_FRUITLESS_BYTES_PER_S, limits.SYNC_FRUITLESS_PAUSE_S_MAX)
        self._next = now if received else now + pause_s


# The answerer


def compare(summary: Summary, question: Compare) -> Compared:
    """Which ranges differ and are not empty. One pass over the items. Raises `PeerFault` for ranges out of order."""
    ranges = [Range(part.start, part.end) for part in question.ranges]
    _check_order(ranges)
    lacking = (
        place
        for place, part in enumerate(ranges)
        if summary.count(part) and summary.digest(part) != question.ranges[place].digest
    )
    return Compared(summary.whole(), tuple(lacking))


def next_page(summary: Summary, pull: Pull, read: Read, read_proof: ReadProof, bytes_max: int) -> Page:
    """The next entries and proofs that the asker lacks: at most `bytes_max` bytes of them, but at least one.

    Raises `PeerFault` for ranges out of order.
    """
    _check_order(pull.ranges)
    heads = {(position.author, position.feed): position for position in pull.positions}
    banned = frozenset(pull.banned)
    envelopes: list[bytes] = []
    proofs: list[tuple[bytes, bytes]] = []
    room = bytes_max
    for item in (item for part in pull.ranges for item in summary.held(part) if item.author not in banned):
        if item.head is not None:
            # Also where the author is banned here: a proof is of use only to a ledger that holds one of its entries.
            known = heads.get((item.author, item.feed))
            run, complete = _run(item.author, item.feed, item.head, known, read, max(1, room))
            size = sum(map(len, run))
            if size > room and room < bytes_max:  # `read` gives one entry even where it does not fit
                return Page(tuple(envelopes), tuple(proofs), more=True)
            envelopes.extend(run)
            room -= size
            if not complete:
                return Page(tuple(envelopes), tuple(proofs), more=True)
        elif item.kind == PROOFS and (proof := read_proof(item.author)) is not None:
            size = sum(map(len, proof))
            if size > room and room < bytes_max:
                return Page(tuple(envelopes), tuple(proofs), more=True)
            proofs.append(proof)
            room -= size
    return Page(tuple(envelopes), tuple(proofs), more=False)


def _run(
    author: str, feed: str, head: Head, known: Position | None, read: Read, bytes_max: int
) -> tuple[Sequence[bytes], bool]:
    """The next entries of a feed after the asker's head, and whether they are all.

    If the asker's head is not in this feed, there are two histories: then the entry in its place, as proof.
    """
    if known is None:
        run = read(author, feed, 0, bytes_max)
        return run, len(run) > head.seq
    if known.seq > head.seq or (known.seq, known.id) == (head.seq, head.id):
        return (), True
    place = read(author, feed, known.seq, 1)
    if entry_id(payload_of(place[0])) != known.id:
        return place, True
    run = read(author, feed, known.seq + 1, bytes_max)
    return run, known.seq + len(run) == head.seq


def _check_order(ranges: Sequence[Range]) -> None:
    edges = [edge for part in ranges for edge in part]
    if any(a > b for a, b in pairwise(edges)):
        raise PeerFault("asked about ranges that overlap or are out of order")
