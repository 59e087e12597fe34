"""Claims in the ledger: stated before a first run, heeded before a proposal is taken, and read back as memory.

A claim says what is about to be tried, by which operator and why. What became of it follows from its author's later
statements: trials of the program, a discovery of it, or a claim of the next. So the claims of a ledger, joined with
these, are its memory of what was tried, failures included, and nothing more needs to be stated about a failure.

Which claims count is decided in policy/claims.py.
"""

import statistics
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed, read_unchecked
from ledger.predicates import CLAIM_TICKS_MAX, Claim
from ledger.store import CLOCK_MAX, Store
from policy.change import change_of
from policy.claims import Claimed, contested, holder, live, ticks_for
from trainer.proposers.proposal import Outcome

LIVE_READ_MAX = 4_000  # claims, the latest that can be live
OUTCOMES_MAX = 1_000  # claims whose outcomes proposers learn from, the latest; own ones and others' each
PAST_MAX = 300  # own claims of which proposers are told at the start; older ones have faded (shares.py)
TAKEN_KEPT = 8  # candidates by whose ticks the next claim is dated


class Candidate(NamedTuple):
    """A proposal that is being tried."""

    parent: str  # SHA-256
    child: str
    hypothesis: str
    proposer: str
    operator: str
    source: str = ""  # id of the discovery in another track whose change it is, where it came by transfer


class Became(NamedTuple):
    """What became of an own candidate, as `proposers.Chosen.learn` takes it."""

    proposer: str
    program: str  # its text
    score: float | None  # mean of its runs, bits per byte; None: it failed
    gain: float  # bits per byte; 0: not kept
    lane_s: float


class _Stated(NamedTuple):
    id: str
    program: str
    claim: Claim


class ClaimBook:
    """The claims of one track, as one node sees them."""

    def __init__(
        self, store: Store, author: Author, track: str, standing: Callable[[str], float] = lambda author: 0.0
    ) -> None:
        """`standing`: what an author's word is worth here, 0 (a stranger) to 1."""
        self._store, self._author, self._track, self._standing = store, author, track, standing
        self._read: dict[str, _Stated] = {}  # by entry id; what is signed does not change
        self._taken: deque[int] = deque(maxlen=TAKEN_KEPT)
        self._begun: int | None = None  # Lamport time of the own claim under way
        self._decided: dict[str, Outcome | None] = {}  # by claim id; what cannot change any more

    def state(self, candidate: Candidate) -> Signed:
        """State that the candidate is about to be tried. Its texts are in the store."""
        now = self._store.clock()
        if self._begun is not None:
            self._taken.append(max(0, now - self._begun))
        change = change_of(self._store.blobs.get(candidate.parent), self._store.blobs.get(candidate.child))
        signed = self._author.append(
            "main",
            candidate.child,
            lambda entry: Claim(
                entry=entry,
                track=self._track,
                parent=candidate.parent,
                hypothesis=candidate.hypothesis,
                proposer=candidate.proposer,
                operator=candidate.operator,
                fingerprint=None if change is None else change.fingerprint,
                ticks=ticks_for(self._taken, CLAIM_TICKS_MAX),
                source=candidate.source or None,
            ),
        )
        self._begun = signed.statement.entry.lamport
        return signed

    def live(self) -> list[Claimed]:
        """The claims that count now, own ones among them, in the order in which they hold."""
        clock = self._store.clock()
        sql = """SELECT id, envelope FROM entries WHERE kind = 'claim' AND lamport BETWEEN ? AND ?
                 AND author NOT IN (SELECT author FROM refused WHERE reason = 'equivocation')
                 ORDER BY lamport DESC, id DESC LIMIT ?"""
        found = []
        for entry_id, envelope in self._store.db.execute(sql, (clock - CLAIM_TICKS_MAX, clock, LIVE_READ_MAX)):
            stated = self._stated(entry_id, envelope)
            if stated is None or stated.claim.entry.lamport + stated.claim.ticks < clock:
                continue
            entry = stated.claim.entry
            weight = 1.0 if entry.author == self._author.id else min(1.0, max(0.0, self._standing(entry.author)))
            found.append(
                Claimed(
                    id=stated.id,
                    author=entry.author,
                    lamport=entry.lamport,
                    ticks=stated.claim.ticks,
                    program=stated.program,
                    change=stated.claim.fingerprint,
                    weight=weight,
                )
            )
        return live(found, clock)

    def contested(self, parent: bytes, program: bytes, digest: str) -> float | None:
        """How much others' claims to this proposal weigh, 0 for strangers' only; None where nobody claims it.

        `digest`: the program's SHA-256.
        """
        claims = [claim for claim in self.live() if claim.author != self._author.id]
        if not claims:
            return None
        change = change_of(parent, program)
        return contested(claims, self._author.id, digest, None if change is None else change.fingerprint)

    def held_by_another(self, program: str) -> Claimed | None:
        """Who goes on with the program, or kind of change, that this node has claimed too; None: this node does."""
        claims = self.live()
        own = [claim for claim in claims if claim.author == self._author.id and claim.program == program]
        if not own:
            return None  # it has expired: it was tried for long
        found = holder(claims, program, own[-1].change)
        return None if found is None or found.author == self._author.id else found

    def tried_by_anybody(self, program: str) -> bool:
        """Whether a trial of the program in this track is in the ledger; its text need not be here."""
        sql = "SELECT 1 FROM trials WHERE program = ? AND track = ? LIMIT 1"
        return self._store.db.execute(sql, (program, self._track)).fetchone() is not None

    def outcomes(self) -> tuple[Outcome, ...]:
        """What became of what was claimed here and by peers, oldest first; what is still open is left out.

        An own outcome, and one that this node has run again, has weight 1; a peer's the standing of its author.
        """
        sql = """SELECT id, envelope FROM entries WHERE kind = 'claim' AND (author = :me) = :own
                 AND author NOT IN (SELECT author FROM refused WHERE reason = 'equivocation')
                 ORDER BY lamport DESC, id DESC LIMIT :most"""
        known: list[_Stated] = []
        for own in (True, False):  # apart, so that others' claims, however many, leave a node its own memory
            values = {"me": self._author.id, "own": own, "most": OUTCOMES_MAX}
            for entry_id, envelope in self._store.db.execute(sql, values).fetchall():
                if (stated := self._stated(entry_id, envelope)) is not None:
                    known.append(stated)
        latest: dict[str, _Stated] = {}  # by author: the claim after the one that is looked at
        found: list[Outcome] = []
        for stated in sorted(known, key=lambda one: (one.claim.entry.lamport, one.id), reverse=True):
            author = stated.claim.entry.author
            outcome = self._outcome(stated, latest.get(author))
            latest[author] = stated
            if outcome is not None:
                found.append(outcome)
        return tuple(reversed(found))

    def own_past(self) -> list[Became]:
        """What became of this node's own last candidates, oldest first: for proposers, which remember nothing."""
        sql = """SELECT id, envelope FROM entries WHERE kind = 'claim' AND author = ?
                 ORDER BY lamport DESC, id DESC LIMIT ?"""
        following: _Stated | None = None
        found: list[Became] = []
        for entry_id, envelope in self._store.db.execute(sql, (self._author.id, PAST_MAX)).fetchall():
            if (stated := self._stated(entry_id, envelope)) is None:
                continue
            outcome, following = self._outcome(stated, following), stated
            if outcome is not None and self._store.blobs.has(stated.program):  # else still on its way back from peers
                found.append(self._became(stated, outcome))
        return found[::-1]

    def _became(self, stated: _Stated, outcome: Outcome) -> Became:
        runs = queries.trials(self._store, self._author.id, stated.program, "public")
        made = [known[1] for run in runs if (known := queries.trial(self._store, run.id)) is not None]
        results = [trial.result for trial in made if trial.track == self._track]
        scores = [result.val_bpb for result in results if result.val_bpb is not None]
        return Became(
            proposer=stated.claim.proposer,
            program=self._store.blobs.get(stated.program).decode(errors="replace"),
            score=statistics.fmean(scores) if scores and outcome.verdict != "failed" else None,
            gain=max(0.0, -outcome.effect) if outcome.verdict == "kept" and outcome.effect is not None else 0.0,
            lane_s=sum(result.wall_s for result in results),
        )

    def _stated(self, entry_id: str, envelope: bytes) -> _Stated | None:
        """The claim in an entry, where it is one of this track. It was checked when it was stored."""
        known = self._read.get(entry_id)
        if known is None:
            signed = read_unchecked(envelope)
            if not isinstance(signed.statement.body, Claim):
                return None
            known = _Stated(entry_id, signed.statement.subject, signed.statement.body)
            if len(self._read) >= 2 * LIVE_READ_MAX:
                self._read.clear()
            self._read[entry_id] = known
        return known if known.claim.track == self._track else None

    def _outcome(self, stated: _Stated, following: _Stated | None) -> Outcome | None:
        if stated.id in self._decided:
            known = self._decided[stated.id]
            author = stated.claim.entry.author
            return None if known is None else _weighed(known, self._weight(author))
        claim, author = stated.claim, stated.claim.entry.author
        rows = queries.discoveries(
            self._store,
            "d.child = :child AND d.author = :author AND d.track = :track",
            {"child": stated.program, "author": author, "track": self._track},
        )
        if rows:
            return self._of_discovery(claim, rows[-1])
        until = CLOCK_MAX if following is None else following.claim.entry.lamport  # later runs would change the answer
        ran, scores, levels = self._runs(author, stated.program, claim.parent, until)
        if ran and len(scores) < ran:
            outcome = _told(claim, "failed", None, 1.0)
        elif following is None:
            return None  # it may be under way
        elif not ran or self._gave_up(stated, following):
            self._decided[stated.id] = None
            return None
        else:
            effect = statistics.fmean(scores) - statistics.fmean(levels) if levels else None
            outcome = _told(claim, "discarded", effect, 1.0)
        self._decided[stated.id] = outcome
        return _weighed(outcome, self._weight(author))

    def _of_discovery(self, claim: Claim, row: queries.DiscoveryRow) -> Outcome:
        """By what this node itself measured of it, else by its author's word; it may be overturned later."""
        own = [said for said in queries.attestations(self._store, row.id) if said.author == self._author.id]
        if own and own[-1].verdict != "inconclusive":
            kept = own[-1].verdict == "confirmed" and not row.retracted
            return _told(claim, "kept" if kept else "discarded", own[-1].mean, 1.0)
        return _told(claim, "discarded" if row.retracted else "kept", row.mean, self._weight(row.author))

    def _runs(self, author: str, child: str, parent: str, until: int) -> tuple[int, list[float], list[float]]:
        """An author's public runs: how many of the child, the child's scores and the parent's, bits per byte."""
        tried, level = (
            [
                run.val_bpb
                for run in queries.trials(self._store, author, program, "public")
                if run.track == self._track and run.lamport <= until
            ]
            for program in (child, parent)
        )
        known = [[score for score in scores if score is not None] for scores in (tried, level)]
        return len(tried), known[0], known[1]

    def _gave_up(self, stated: _Stated, following: _Stated) -> bool:
        """Whether the author built on another program before it claimed the next: then it says nothing of this one."""
        begun, ended = stated.claim.entry.lamport, following.claim.entry.lamport
        adopted = queries.incumbents(self._store, stated.claim.entry.author, self._track)
        return any(begun < lamport < ended and program != stated.program for lamport, program in adopted)

    def _weight(self, author: str) -> float:
        return 1.0 if author == self._author.id else min(1.0, max(0.0, self._standing(author)))


def _told(claim: Claim, verdict: str, effect: float | None, weight: float) -> Outcome:
    assert verdict in ("kept", "discarded", "failed")
    return Outcome(
        operator=claim.operator,
        hypothesis=claim.hypothesis,
        verdict=verdict,  # type: ignore[arg-type]
        effect=effect,
        weight=weight,
    )


def _weighed(outcome: Outcome, weight: float) -> Outcome:
    if outcome.weight == weight:
        return outcome
    return Outcome(
        operator=outcome.operator,
        hypothesis=outcome.hypothesis,
        verdict=outcome.verdict,
        effect=outcome.effect,
        weight=weight,
    )
