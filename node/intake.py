"""Foreign discoveries, from arrival to the queue: the shell around the first half of policy/intake.py.

What is open is kept in memory and brought up to date by what arrived since; nothing is read twice. A look at a claim
costs milliseconds (its programs are parsed, the signatures of its trials checked), and up to half a second where they
are as long as programs may be. So at most `LOOKS_AT_ONCE` are made at a time, over about `LOOK_BYTES`: trusted authors
first, the others in turns, one claim of each. Whoever sends ten thousand claims waits with the 9,999 others behind
everybody else's first.
"""

import statistics
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from ledger import queries
from ledger.predicates import Discovery, Trial
from ledger.queries import arrivals
from ledger.queries.arrivals import ClaimRow
from ledger.store import Store
from node.courses import Courses
from node.trust import Trust
from policy.anomaly import Measures, before_runs
from policy.intake import (
    ANSWERING,
    TRANSITIONS,
    Claim,
    Move,
    Question,
    Rejected,
    State,
    Step,
    Waiting,
    check_claim,
    repeats,
)
from policy.standing import Ban, Misdeed
from trainer.proposers.proposal import ProposerError, fingerprint

LOOKS_AT_ONCE = 32
LOOK_BYTES = 128 * 1024  # of programs, at a time; parsing a KiB takes about 4 ms, in which nothing else goes on
AUTHORS_AT_ONCE = 64  # of those whose claims wait for a constitution, asked for each time that something arrives
REASONS_SHOWN_MAX = 1000  # why claims wait or are held back; `waggle why` has all
_Key = tuple[str, ...]
HELD = frozenset({State.WAITING, State.REJECTED, State.QUARANTINED, State.DUPLICATE, State.WITHHELD})


def nobody_waits(author: str) -> str | None:
    return None


def nothing_known(parent: bytes, child: bytes) -> str | None:
    return None


class Intake:
    """What has arrived, and how far it has come."""

    def __init__(
        self,
        store: Store,
        trust: Trust,
        courses: Courses,
        track: str,
        tracks: Mapping[str, str],
        report: Callable[[str], None],
        *,
        line: Callable[[], Iterable[str]],
        stranger: Callable[[str], str | None] = nobody_waits,
        refusal: Callable[[bytes, bytes], str | None] = nothing_known,
    ) -> None:
        """`tracks`: those of the challenge, name to baseline. `line`: the programs that the incumbent descends from.

        `stranger`: why an author's claims are to wait. `refusal`: why a child is not to be run over a parent.
        """
        self._store, self._trust, self._courses, self._track, self._tracks = store, trust, courses, track, tracks
        self._report, self._line, self._stranger, self._refusal = report, line, stranger, refusal
        self.queue: dict[str, ClaimRow] = {}  # to be run: queued, or held back until a check in full
        self._unlooked: dict[str, deque[str]] = {}  # by author
        self._missing: dict[str, set[str]] = {}  # what claims wait for to those claims
        self._answers: dict[_Key, dict[str, None]] = {}  # by what is asked, the discoveries that answer it
        self._repeats: dict[_Key, dict[str, None]] = {}  # the same, those that ask it again
        self._filed: dict[str, tuple[_Key, ...]] = {}  # under what a discovery stands in `_answers`
        self._in_line: frozenset[str] | None = None  # `line`, asked once for each incumbent

    def state(self, discovery: str) -> State:
        return self._courses.state(discovery) or State.RECEIVED

    def reasons(self) -> dict[str, str]:
        """Why claims wait or are held back, of the latest."""
        shown = [one for one, state in self._courses.states().items() if state in HELD]
        return {one: self._courses.reason(one) for one in shown[-REASONS_SHOWN_MAX:]}

    def move(self, discovery: str, move: Move, reason: str = "") -> State:
        """Make a move and bring the queue in step with it."""
        state = self._courses.move(discovery, move, reason)
        self.settle(discovery)
        return state

    def settle(self, discovery: str) -> None:
        """Bring the queue, and what is known to be asked, in step with a discovery's state."""
        claim, state = self._trust.claims[discovery], self.state(discovery)
        if state in (State.QUEUED, State.QUARANTINED) and claim.track == self._track:
            self.queue[discovery] = claim
        else:
            self.queue.pop(discovery, None)
        self._file(claim, state)

    def gone(self, discovery: str) -> bool:
        """Whether a revocation has removed it from the ledger since; then it is forgotten here too."""
        if arrivals.entries_here(self._store, [discovery]):
            return False
        self._courses.forget(discovery)
        self.settle(discovery)
        return True

    # Arrival

    def take_in(self, new: Iterable[ClaimRow]) -> None:
        """Claims that are new in this process: those met before are where they were."""
        for claim in new:
            if claim.author == self._trust.me:
                if self._courses.state(claim.id) is None:
                    found = Step(Move.ADOPT, State.ADOPTED, f"this node found it itself: {claim.hypothesis}")
                    self._courses.note(claim.id, found)
                self._learn_own_change(claim)
                self.settle(claim.id)
            elif claim.track != self._track:
                continue  # whoever works in that track checks it
            elif self.state(claim.id) in (State.RECEIVED, State.WAITING, State.SCREENED):
                self.look_later(claim)
            else:
                self.settle(claim.id)

    def _learn_own_change(self, claim: ClaimRow) -> None:
        """So that a copy of it, with a comment more, is seen to be one."""
        parent, child = self._program(claim.parent), self._program(claim.child)
        if parent is None or child is None or self._courses.change(claim.id) is not None:
            return
        if (change := _change(parent, child)) is not None:
            self._courses.learn_change(claim.id, change)

    def look_later(self, claim: ClaimRow) -> None:
        """Look at it when its author's turn comes."""
        self._unlooked.setdefault(claim.author, deque()).append(claim.id)

    def wake(self, new: Iterable[ClaimRow]) -> None:
        """Look again at what waited for something that is here now. `new`: the claims that have just arrived."""
        blobs = [name.removeprefix("blob ") for name in self._missing if name.startswith("blob ")]
        trials = [name.removeprefix("trial ") for name in self._missing if name.startswith("trial ")]
        here = {f"blob {digest}" for digest in arrivals.blobs_here(self._store, blobs)}
        here |= {f"trial {trial}" for trial in arrivals.entries_here(self._store, trials)}
        here |= {f"lineage {claim.child}" for claim in new}
        authors = [name for name in self._missing if name.startswith("author ")]
        for name in authors[:AUTHORS_AT_ONCE]:
            if self._stranger(name.removeprefix("author ")) is None:
                here.add(name)
            else:
                self._missing[name] = self._missing.pop(name)  # behind all others
        for name in here & self._missing.keys():
            for discovery in self._missing.pop(name):
                self.look_later(self._trust.claims[discovery])

    def look(self) -> set[str]:
        """Look at the next claims; the discoveries of which something new is known by that."""
        touched: set[str] = set()
        size = 0
        trusted = deque(author for author in self._unlooked if self._trust.word(author) > 0)
        for _ in range(LOOKS_AT_ONCE):
            if not self._unlooked or size >= LOOK_BYTES:
                break
            author = trusted.popleft() if trusted else next(iter(self._unlooked))
            waiting = self._unlooked.pop(author)
            claim = self._trust.claims[waiting.popleft()]
            size += self.look_at(claim)
            touched.add(claim.id)
            if self._trust.standing(author).ban is not None:
                touched |= {other.id for other in self.queue.values() if other.author == author}
            if waiting:
                self._unlooked[author] = waiting  # behind all others
        return touched

    # A look

    def look_at(self, claim: ClaimRow) -> int:
        """Look at it now, if it was not yet, or waited; how many bytes of programs that took."""
        if self.state(claim.id) not in (State.RECEIVED, State.WAITING, State.SCREENED) or self.gone(claim.id):
            return 0
        if self.state(claim.id) is State.SCREENED:  # the node stopped in the middle of its last look at it
            self._courses.forget(claim.id)
        if (ban := self._trust.standing(claim.author).ban) is not None:
            self._reject(claim, f"its author is banned: {ban.misdeed.value} ({', '.join(ban.proof)})")
            return 0
        if (why := self._stranger(claim.author)) is not None:
            self._wait(claim, why, f"author {claim.author}")
            return 0
        found = self._claim(claim)
        match check_claim(found, tracks=self._tracks):
            case Waiting(reason):
                self._wait(claim, reason, self._lacking(claim, found))
            case Rejected(reason, misdeed):
                if misdeed:
                    self._courses.ban(claim.author, Ban(Misdeed.OWN_RECORDS, (claim.id,)))
                    self._trust.read_bans()
                self._reject(claim, reason)
            case None:
                self._screened(claim, found)
        return len(found.child_program or b"") + len(found.parent_program or b"")

    def _claim(self, claim: ClaimRow) -> Claim:
        signed = self._store.entry(claim.id)
        if signed is None or not isinstance(signed.statement.body, Discovery):
            raise LookupError(f"{claim.id} is listed as a discovery and is none: run a check of the ledger")
        found = signed.statement.body
        child, parent = self._program(claim.child), self._program(claim.parent)
        named = (*found.comparison.parent_trials, *found.comparison.child_trials)
        if child is None or parent is None:
            named = ()  # it waits anyway, and each trial read is a signature checked
        return Claim(
            child=claim.child,
            discovery=found,
            child_program=child,
            parent_program=parent,
            parent_known=claim.parent == self._tracks.get(claim.track)
            or queries.program_known(self._store, claim.parent),
            trials={trial_id: queries.trial(self._store, trial_id) for trial_id in named},
        )

    def _program(self, digest: str) -> bytes | None:
        return self._store.blobs.get(digest) if self._store.blobs.has(digest) else None

    def _lacking(self, claim: ClaimRow, found: Claim) -> str:
        """What a claim waits for, in the form of `_missing`; in the order of `check_claim`."""
        if found.child_program is None:
            return f"blob {claim.child}"
        if found.parent_program is None:
            return f"blob {claim.parent}"
        if not found.parent_known:
            return f"lineage {claim.parent}"
        return f"trial {next(trial_id for trial_id, trial in found.trials.items() if trial is None)}"

    def _wait(self, claim: ClaimRow, reason: str, lacking: str) -> None:
        self._missing.setdefault(lacking, set()).add(claim.id)
        if self.state(claim.id) is State.WAITING:
            self._courses.say(claim.id, reason)
        else:
            self.move(claim.id, Move.WAIT, reason)

    def _arrive(self, claim: ClaimRow) -> None:
        if self.state(claim.id) is State.WAITING:
            self.move(claim.id, Move.ARRIVE)

    def _reject(self, claim: ClaimRow, reason: str) -> None:
        self._arrive(claim)
        self.move(claim.id, Move.REJECT, reason)
        self._report(f"rejected discovery {claim.id[:16]} of {claim.author[-8:]}: {reason}")

    def _screened(self, claim: ClaimRow, found: Claim) -> None:
        """The claim agrees with its records: what is left to ask before it may cost runs."""
        assert found.parent_program is not None
        assert found.child_program is not None, "check_claim waits for both"
        if (why := self._refusal(found.parent_program, found.child_program)) is not None:
            self._reject(claim, why)
            return
        self._arrive(claim)
        self.move(claim.id, Move.CHECKED)
        if (change := _change(found.parent_program, found.child_program)) is not None:
            self._courses.learn_change(claim.id, change)
        if (why := self.repeated(claim)) is not None:
            self.move(claim.id, Move.REPEAT, why)
            return
        parents, children = _trials(found, found.discovery.comparison.parent_trials, claim.parent), _trials(
            found, found.discovery.comparison.child_trials, claim.child
        )  # fmt: skip
        score = statistics.fmean(trial.result.val_bpb or 0.0 for trial in parents)
        odd = before_runs(-claim.mean, score, self._trust.gains, (measures(parents), measures(children)))
        if odd.clear:
            self.move(claim.id, Move.ENQUEUE)
        else:
            self.move(claim.id, Move.QUARANTINE, f"{'; '.join(odd.reasons)}. Until {odd.until.value}")
            self._report(f"held back discovery {claim.id[:16]} of {claim.author[-8:]}: {'; '.join(odd.reasons)}")

    # The same question twice

    def _question(self, discovery: str) -> Question:
        claim, change = self._trust.claims[discovery], self._courses.change(discovery)
        state = self.state(discovery)
        return Question(claim.id, claim.author, claim.track, claim.parent, claim.child, change, state)

    def _keys(self, claim: ClaimRow) -> list[_Key]:
        """What another claim may have in common with this one; see `policy.intake.repeats`."""
        change = self._courses.change(claim.id)
        keys: list[_Key] = [("pair", claim.parent, claim.child), ("program", claim.child)]
        return keys if change is None else [*keys, ("change", *change)]

    def _file(self, claim: ClaimRow, state: State) -> None:
        """Note what a discovery answers, or asks again, in its state; what it answers no more may be asked again."""
        before = self._filed.pop(claim.id, ())
        for key in before:
            _drop(self._answers, key, claim.id)
        # What fell by its author's deeds before it was run here answers nothing: else whoever copies a discovery, is
        # heard first and takes the copy back would keep the true one out.
        if state in ANSWERING and (state is not State.OVERTURNED or self._trust.own_verdicts(claim.id)):
            found_good = state in (State.CONFIRMED, State.ADOPTED, State.DECLINED)
            keys = tuple(key for key in self._keys(claim) if found_good or key[0] != "program")
            self._filed[claim.id] = keys
            for key in keys:
                self._answers.setdefault(key, {})[claim.id] = None
        for key in self._keys(claim) if state in (State.DUPLICATE, State.QUEUED) else ():
            if state is State.DUPLICATE:
                self._repeats.setdefault(key, {})[claim.id] = None
            else:
                _drop(self._repeats, key, claim.id)
        for key in set(before) - set(self._filed.get(claim.id, ())):
            self._release(self._repeats.get(key, ()))

    def repeated(self, claim: ClaimRow) -> str | None:
        """Why there is no need to run it: the same is asked or answered already; None if it is not.

        One answer of each kind is enough: a thousand claims of one program are not compared with each other.
        """
        others: dict[str, None] = {}
        for key in self._keys(claim):
            first = next((other for other in self._answers.get(key, ()) if other != claim.id), None)
            if first is not None:
                others[first] = None
        return repeats(self._question(claim.id), map(self._question, others), self._line_known())

    def _line_known(self) -> frozenset[str]:
        if self._in_line is None:
            self._in_line = frozenset(self._line())
        return self._in_line

    def line_changed(self) -> None:
        """Another incumbent: what is in its line needs no run, and what was only in the old one's may."""
        self._in_line = None
        line = self._line_known()
        for claim in [claim for claim in self.queue.values() if claim.child in line and not self._trust.own(claim.id)]:
            if (self.state(claim.id), Move.REPEAT) in TRANSITIONS:
                self.move(claim.id, Move.REPEAT, "its program is in the line of the incumbent already")
        self._release([one for one, state in self._courses.states().items() if state is State.DUPLICATE])

    def _release(self, candidates: Iterable[str]) -> None:
        for other in list(candidates):
            claim = self._trust.claims.get(other)
            if claim is not None and self.state(other) is State.DUPLICATE and self.repeated(claim) is None:
                self.move(other, Move.RELEASE, "what it repeated no longer answers it")


def _drop(filed: dict[_Key, dict[str, None]], key: _Key, discovery: str) -> None:
    if discovery in (found := filed.get(key, {})):
        del found[discovery]
        if not found:
            del filed[key]


def _change(parent: bytes, child: bytes) -> tuple[str, str] | None:
    """Both programs' fingerprints; None where one has none."""
    try:
        return fingerprint(parent.decode()), fingerprint(child.decode())
    except (ProposerError, UnicodeDecodeError):
        return None


def _trials(found: Claim, ids: Iterable[str], program: str) -> list[Trial]:
    """Those of a claim's trials, in which `check_claim` has found no fault."""
    named = (found.trials[trial_id] for trial_id in ids)
    return [trial for ran, trial in (one for one in named if one is not None) if ran == program]


def measures(trials: Iterable[Trial]) -> Measures:
    """What a program's runs on one machine took, one or more of them."""
    results = [trial.result for trial in trials]
    return Measures(
        peak_memory_bytes=statistics.median(result.peak_memory_bytes for result in results),
        weights_bytes=statistics.median(result.weights_bytes for result in results),
        wall_s=statistics.median(result.wall_s for result in results),
        program_lines=statistics.median(result.program_lines for result in results),
    )
