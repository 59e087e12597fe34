"""Lessons of failures, and the ladder by which they are enforced.

A failure becomes a *lesson* about a kind of change (change.py) and a kind of failure (failures.py). A lesson that
recurs climbs, and what it does grows; one that stops to help goes down again and is retired:

    prose ──► warning ──► static rule ──► fingerprint block ──► refusal
      │  ◄──      ◄──          ◄──                ◄──
      ▼
    retired ──► prose, if it fails again

How sure a lesson is, is the probability that such a change fails in this way more often than not: with `failed` and
`passed` the counts of what was tried, the upper half of Beta(1 + failed, 1 + passed). Older counts fade by FADING with
each new one, as what fails on one incumbent may work on a later one. It climbs a rung when the failure recurs and the
probability has reached LADDER's level for the rung above, goes down when it falls below the level of the rung below,
and is retired when it is below RETIREMENT, or no proposal has matched it for EXPIRY of them.

Not every failure may climb to the top (CEILINGS): that a change was no gain here says nothing about another program, so
it is never forbidden; that it ran out of memory holds for this machine. Rungs that forbid let a probe through now and
then (PROBES), so that they can be proved wrong; the last one does not, and ends by expiry.

Peers' lessons count by their authors' standing, a number from 0 to 1 that is passed in: a stranger's is prose and
never more, a trusted one's alone gets no further than PEER_CEILING, where probes still check it. Their texts are data.
*Pure.*
"""

from collections.abc import Callable, Iterable, Mapping
from enum import Enum

import msgspec
from msgspec import Struct
from scipy.special import betaincc

from ledger.predicates import EVIDENCE_MAX
from ledger.predicates import Lesson as Stated
from policy.change import Change, change_of
from policy.failures import Outcome, failure_kind, failure_words, stage_of
from policy.moves import made

LESSONS_MAX = 512
PEER_LESSONS_MAX = 64  # of one author, the last ones
PEER_FAILURES_MAX = 3  # of one peer's counts that are believed for one lesson, before its standing
HEARD_MAX = 6.0  # of all peers' counts for one lesson: fewer than what own runs can come to, 1 / (1 - FADING)
TRUST_MIN = 0.25  # standing from which a peer's lesson is more than prose
FADING = 0.9  # of both counts with each proposal that matches
EXPIRY = 200  # proposals
RETIREMENT = 0.5
EVIDENCE_KEPT = 8  # ids, the latest
TEXT_CHARACTERS_MAX = 400
TEXTS_MAX = 20  # for one proposer's context


class Rung(Enum):
    RETIRED = "retired"
    PROSE = "prose"
    WARNING = "warning"
    STATIC_RULE = "static rule"
    BLOCK = "fingerprint block"
    REFUSAL = "refusal"


class Move(Enum):
    CLIMB = "it recurs"
    EASE = "proposals that match fail less often than the rung asks for"
    RETIRE = "it does not help any more"
    REVIVE = "it fails again"


ORDER = tuple(Rung)  # from the bottom
TRANSITIONS: Mapping[tuple[Rung, Move], Rung] = {
    (Rung.PROSE, Move.CLIMB): Rung.WARNING,
    (Rung.WARNING, Move.CLIMB): Rung.STATIC_RULE,
    (Rung.STATIC_RULE, Move.CLIMB): Rung.BLOCK,
    (Rung.BLOCK, Move.CLIMB): Rung.REFUSAL,
    (Rung.WARNING, Move.EASE): Rung.PROSE,
    (Rung.STATIC_RULE, Move.EASE): Rung.WARNING,
    (Rung.BLOCK, Move.EASE): Rung.STATIC_RULE,
    (Rung.REFUSAL, Move.EASE): Rung.BLOCK,
    (Rung.PROSE, Move.RETIRE): Rung.RETIRED,
    (Rung.WARNING, Move.RETIRE): Rung.RETIRED,
    (Rung.STATIC_RULE, Move.RETIRE): Rung.RETIRED,
    (Rung.BLOCK, Move.RETIRE): Rung.RETIRED,
    (Rung.REFUSAL, Move.RETIRE): Rung.RETIRED,
    (Rung.RETIRED, Move.REVIVE): Rung.PROSE,
}

LADDER: Mapping[Rung, float] = {
    Rung.PROSE: 0.0,
    Rung.WARNING: 0.85,  # two failures and no pass
    Rung.STATIC_RULE: 0.92,  # three
    Rung.BLOCK: 0.95,  # four
    Rung.REFUSAL: 0.98,  # six
}
"""The probability that a rung asks for; see the module's text. The counts are those without fading between."""

PROBES: Mapping[Rung, int] = {Rung.STATIC_RULE: 4, Rung.BLOCK: 16}
"""Of so many matching proposals of our own one runs nevertheless."""

CEILINGS: tuple[tuple[str, Rung], ...] = (
    ("harm", Rung.REFUSAL),
    ("void:leaks-ahead", Rung.REFUSAL),
    ("void:reads-ahead", Rung.REFUSAL),
    ("void", Rung.BLOCK),  # numbers that overflow do so on one program and not on another
    ("crash", Rung.BLOCK),
    ("timeout", Rung.BLOCK),
    ("over_budget", Rung.BLOCK),
    ("out_of_memory", Rung.BLOCK),
    ("discarded:worse", Rung.STATIC_RULE),
    ("discarded", Rung.PROSE),  # most changes are no gain
)
"""The highest rung for a kind of failure; the first that the kind begins with. PROSE for any other."""

PEER_CEILING = Rung.STATIC_RULE
STRANGER_CEILING = Rung.PROSE


def advance(rung: Rung, move: Move) -> Rung:
    """The rung after a move. Raises `IllegalMove`."""
    return made(TRANSITIONS, rung, move)


def ceiling(kind: str) -> Rung:
    """The highest rung that lessons of a kind of failure may reach."""
    return next((rung for start, rung in CEILINGS if kind.startswith(start)), Rung.PROSE)


class Lesson(Struct, frozen=True, kw_only=True):
    """What is known of one kind of change and one kind of failure."""

    fingerprint: str  # of the change
    kind: str  # of the failure
    words: str  # the change in words; may hold a stranger's names
    rung: Rung = Rung.PROSE
    failed: float = 0.0  # own counts, faded
    passed: float = 0.0
    tries: int = 0  # own, all of them: proposals that matched and ran, or were refused by the screen
    failures: int = 0  # of those
    heard_failed: float = 0.0  # trusted peers' counts, times their standing
    heard_passed: float = 0.0
    held: int = 0  # proposals that it kept from running since the last one that ran
    matched: int = 0  # the number of the proposal that matched it last
    evidence: tuple[str, ...] = ()  # entry ids
    statement: str | None = None  # id of this node's latest statement of it

    @property
    def sureness(self) -> float:
        """Probability that such a change fails in this way more often than not."""
        failed, passed = self.failed + self.heard_failed, self.passed + self.heard_passed
        return float(betaincc(1 + failed, 1 + passed, 0.5))

    @property
    def text(self) -> str:
        """For a proposer or a person, one line, bounded. What stands in it of programs is data."""
        counts = f"{self.failures} of {self.tries} times here" if self.tries else "by a peer's word"
        found = f"{self.words}: {failure_words(self.kind)}, {counts}"
        return " ".join(found.split())[:TEXT_CHARACTERS_MAX]


class Caution(Struct, frozen=True):
    """The proposal may run; what is known against it."""

    reason: str
    lesson: Lesson


class Refusal(Struct, frozen=True):
    """The proposal is not to run; the reason is for whoever proposed it."""

    reason: str
    lesson: Lesson


class Lessons:
    """The lessons of one track, in memory. Who makes them durable is told by what `observe` returns."""

    def __init__(self) -> None:
        self._lessons: dict[tuple[str, str], Lesson] = {}
        self._proposals = 0

    @classmethod
    def of(cls, stated: Iterable[tuple[str, Stated]], me: str, standing: Callable[[str], float]) -> "Lessons":
        """From `lesson` statements, as (id, body) in causal order; `me` is this node's peer id.

        Of each author the latest statement about a change and failure counts. Own lessons go on from their rung. What
        own failures were not worth a statement of their own is forgotten.
        """
        latest: dict[tuple[str, str, str], tuple[str, Stated]] = {}
        for entry_id, body in stated:
            key = (body.entry.author, body.fingerprint, body.failure)
            latest.pop(key, None)
            latest[key] = (entry_id, body)
        found, heard = cls(), dict[str, int]()
        for (author, fingerprint, failure), (entry_id, body) in reversed(latest.items()):  # the last ones first
            key2 = (fingerprint, failure)
            known = found._lessons.get(key2) or Lesson(fingerprint=fingerprint, kind=failure, words=body.change)
            if author == me:
                known = msgspec.structs.replace(
                    known,
                    words=body.change,
                    rung=min(Rung(body.rung), ceiling(failure), key=ORDER.index),
                    failed=float(min(body.failed, PEER_FAILURES_MAX * 4)),
                    passed=float(min(body.tried - body.failed, PEER_FAILURES_MAX * 4)),
                    tries=body.tried,
                    failures=body.failed,
                    evidence=body.evidence[-EVIDENCE_KEPT:],
                    statement=entry_id,
                )
            else:
                weight = min(1.0, max(0.0, standing(author)))
                heard[author] = heard.get(author, 0) + 1
                if heard[author] > PEER_LESSONS_MAX or body.rung == Rung.RETIRED.value:
                    continue
                if weight >= TRUST_MIN:
                    failed = weight * min(body.failed, PEER_FAILURES_MAX)
                    passed = weight * min(body.tried - body.failed, PEER_FAILURES_MAX)
                    known = msgspec.structs.replace(
                        known,
                        heard_failed=min(HEARD_MAX, known.heard_failed + failed),
                        heard_passed=min(HEARD_MAX, known.heard_passed + passed),
                    )
                evidence = tuple(dict.fromkeys((*body.evidence, *known.evidence)))[-EVIDENCE_KEPT:]
                known = msgspec.structs.replace(known, evidence=evidence)
            found._lessons[key2] = known
        found._lessons = {key: _believed(lesson) for key, lesson in reversed(found._lessons.items())}
        found._bound()
        return found

    def all(self) -> list[Lesson]:
        """Every lesson, the highest rung first, then the surest."""
        return sorted(self._lessons.values(), key=lambda known: (-ORDER.index(known.rung), -known.sureness, known.text))

    def texts(self, limit: int = TEXTS_MAX) -> tuple[str, ...]:
        """Lines for a proposer's context, with rung and evidence; retired lessons are left out."""
        return tuple(
            f"[{known.rung.value}] {known.text}{_evidence(known)}"
            for known in self.all()
            if known.rung is not Rung.RETIRED
        )[:limit]

    def check(self, parent: bytes, child: bytes, *, own: bool = True) -> Refusal | Caution | None:
        """What the lessons say of a proposal before it runs; `own`: made by this node's proposers.

        A peer's program is refused by the last rung only. One that is held back is counted, for the probes.
        """
        change = change_of(parent, child)
        if change is None:
            return None
        matching = [known for known in self._matching(change) if known.rung is not Rung.RETIRED]
        if not matching:
            return None
        known = max(matching, key=lambda lesson: ORDER.index(lesson.rung))
        reason = f"{known.rung.value}: {known.text}"
        if known.rung is Rung.REFUSAL:
            return Refusal(reason, known)
        if not own or known.rung not in PROBES:
            return Caution(reason, known) if known.rung is not Rung.PROSE else None
        probe = known.held + 1 >= PROBES[known.rung]
        self._put(msgspec.structs.replace(known, held=0 if probe else known.held + 1))
        return Caution(f"a probe of {reason}", known) if probe else Refusal(reason, known)

    def observe(self, parent: bytes, child: bytes, outcome: Outcome) -> list[Lesson]:
        """Learn from one proposal of this node: the lessons whose rung changed, to be stated; new ones among them."""
        self._proposals += 1
        changed: list[Lesson] = []
        change = change_of(parent, child)
        if change is not None:
            kind = failure_kind(outcome)
            if kind != "kept" and (change.fingerprint, kind) not in self._lessons:
                self._put(Lesson(fingerprint=change.fingerprint, kind=kind, words=change.words))
            for known in self._matching(change):
                if known.kind == kind:
                    after = self._failed(known, outcome)
                elif stage_of(kind) > stage_of(known.kind):
                    after = self._passed(known)
                else:
                    continue  # it did not get as far as where this lesson's failure shows
                self._put(after)
                if after.rung is not known.rung or after.tries == 1:
                    changed.append(after)
        for known in list(self._lessons.values()):
            if known.rung is not Rung.RETIRED and self._proposals - known.matched > EXPIRY:
                self._put(msgspec.structs.replace(known, rung=advance(known.rung, Move.RETIRE)))
                if known.tries:
                    changed.append(self._lessons[known.fingerprint, known.kind])
        self._bound()
        return changed

    def stated(self, lesson: Lesson, entry_id: str) -> None:
        """Remember that this node has stated the lesson, under this id."""
        known = self._lessons.get((lesson.fingerprint, lesson.kind))
        if known is not None:
            self._put(msgspec.structs.replace(known, statement=entry_id))

    def _matching(self, change: Change) -> list[Lesson]:
        return [known for known in self._lessons.values() if known.fingerprint == change.fingerprint]

    def _put(self, lesson: Lesson) -> None:
        self._lessons[lesson.fingerprint, lesson.kind] = lesson

    def _failed(self, known: Lesson, outcome: Outcome) -> Lesson:
        evidence = tuple(dict.fromkeys((*known.evidence, *outcome.evidence)))[-EVIDENCE_KEPT:]
        after = msgspec.structs.replace(
            known,
            failed=FADING * known.failed + 1,
            passed=FADING * known.passed,
            tries=known.tries + 1,
            failures=known.failures + 1,
            matched=self._proposals,
            evidence=evidence[:EVIDENCE_MAX],
        )
        if known.rung is Rung.RETIRED:
            return msgspec.structs.replace(after, rung=advance(known.rung, Move.REVIVE))
        return _climbed(after, ceiling(known.kind))

    def _passed(self, known: Lesson) -> Lesson:
        after = msgspec.structs.replace(
            known,
            failed=FADING * known.failed,
            passed=FADING * known.passed + 1,
            tries=known.tries + 1,
            matched=self._proposals,
        )
        if known.rung is Rung.RETIRED:
            return after
        if after.sureness < RETIREMENT:
            return msgspec.structs.replace(after, rung=advance(known.rung, Move.RETIRE))
        below = ORDER[ORDER.index(known.rung) - 1]
        if known.rung is not Rung.PROSE and after.sureness < max(LADDER[below], RETIREMENT):
            return msgspec.structs.replace(after, rung=advance(known.rung, Move.EASE))
        return after

    def _bound(self) -> None:
        """Forget the least useful beyond LESSONS_MAX: retired ones, then those that matched longest ago."""
        surplus = len(self._lessons) - LESSONS_MAX
        if surplus > 0:
            ranked = sorted(
                self._lessons.values(),
                key=lambda known: (known.rung is not Rung.RETIRED, known.matched, known.tries, ORDER.index(known.rung)),
            )
            for known in ranked[:surplus]:
                del self._lessons[known.fingerprint, known.kind]


def _climbed(lesson: Lesson, highest: Rung) -> Lesson:
    """One rung up, if it is sure enough for it and may stand there."""
    if ORDER.index(lesson.rung) >= ORDER.index(highest):
        return lesson
    above = advance(lesson.rung, Move.CLIMB)
    return lesson if lesson.sureness < LADDER[above] else msgspec.structs.replace(lesson, rung=above)


def _believed(lesson: Lesson) -> Lesson:
    """With the rung that peers' words give it where this node's own experience gives less."""
    heard = lesson.heard_failed + lesson.heard_passed
    highest = min(PEER_CEILING if heard else STRANGER_CEILING, ceiling(lesson.kind), key=ORDER.index)
    while lesson.rung is not Rung.RETIRED and (above := _climbed(lesson, highest)) is not lesson:
        lesson = above
    return lesson


def _evidence(lesson: Lesson) -> str:
    return f" (evidence: {', '.join(lesson.evidence[-3:])})" if lesson.evidence else ""
