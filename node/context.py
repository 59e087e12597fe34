"""What a proposer is told, and what the node learns of what became of its proposals.

`Contexts` is the source of `proposing.Ahead` and its outlook on the rest of the node: it reads the ledger (what was
tried and with which outcome, who is about to try what, other confirmed programs), the lessons and skills, and the
operator's files, afresh for each proposal. `research.Research` tells it how candidates end; it learns lessons and
notices a plateau. All of it is read from the ledger at the start, so a restart forgets nothing but counts.
"""

import math
import random
import statistics
from collections.abc import Callable
from pathlib import Path

from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed
from ledger.predicates import PROGRAM_BYTES_MAX
from ledger.store import Store
from node.claims import Candidate, ClaimBook
from node.lessons import LessonBook, trials_of
from node.population import Population
from node.proposing import Ready
from node.steering import PROPOSER as OPERATOR_NAME
from node.steering import State, Steering
from node.workbench import RunFailed
from policy.archive import Draw
from policy.failures import Outcome as Fate
from policy.lessons import Refusal
from policy.plateau import Plateau, Tried, Watch
from policy.screening import screen_findings
from trainer.proposers.proposal import Context, Outcome, ProposerError, fingerprint

BRIEF_BYTES_MAX = 32 * 1024
NORMAL_95 = 1.96

Learn = Callable[[str, str, float | None, float, float], None]
"""See `proposers.Chosen.learn`."""


class Contexts:
    """One node's view of the search in one track; see the module's text."""

    def __init__(
        self,
        store: Store,
        author: Author,
        track: str,
        *,
        brief: Path,
        claims: ClaimBook,
        lessons: LessonBook,
        steering: Steering,
        population: Population,
        run_sd: Callable[[], float],
        report: Callable[[str], None],
        learn: Learn | None = None,
    ) -> None:
        """`brief`: the operator's program.md, which may be missing. `run_sd`: of one run's score, bits per byte.

        `learn` hears what became of proposals, for the shares of proposers.
        """
        self._learn = learn
        self._store, self._author, self._track = store, author, track
        self._brief, self._claims, self._lessons, self._steering = brief, claims, lessons, steering
        self._population, self._run_sd, self._report = population, run_sd, report
        self._fingerprints: dict[str, str] = {}  # of programs, by SHA-256; empty for what cannot be read
        self._brief_said = ""
        self._statements: list[Signed] = []
        self._watch = Watch()
        self._plateau: Plateau | None = None  # the last suggestion since a keep

    # -- before a trial: `proposing.Source`, its screen, and `proposing.Outlook` --------------------------------------

    def __call__(self, parent: str, waiting: frozenset[str], rng: random.Random) -> Context:
        """What is known of a parent, given by its SHA-256, whose text is in the store.

        The program to change is drawn from the population. What the operator suggests and what comes from another track
        is tried on the parent itself, or its effect would be mixed with that of another program.
        """
        suggestion = self._steering.suggestion()
        drawn = Draw(parent, parent, "") if suggestion else self._population.parent_for_next(parent, rng, self._plateau)
        other = drawn.parent != parent
        seen = {self._fingerprint(program) for program in queries.programs_tried(self._store, self._track)}
        others = [claim.program for claim in self._claims.live() if claim.author != self._author.id]
        return Context(
            program=self._store.blobs.get(drawn.parent).decode(),
            origin=f"made from {drawn.parent[:12]}, {drawn.reason}" if other else "",
            seen=waiting | (seen | {self._fingerprint(parent)}) - {""},
            claimed={self._fingerprint(program) for program in others} - {""},
            noise=self._run_sd(),
            relatives=self._population.relatives_of(drawn.parent),
            transfers=() if other else self._population.transfers_to_try(),
            outcomes=self._claims.outcomes(),
            lessons=self._lessons.texts(),
            skills=self._lessons.skill_texts(self._watch.rate),
            brief=self.brief(),
            suggestion=suggestion,
            widen=0.0 if self._plateau is None else self._plateau.widen,
        )

    def screen(self, parent: str, program: str) -> str | None:
        """Why this node's own proposal is not to run; what the static screen refuses becomes a lesson."""
        refusal = self._harm(parent, program)
        if refusal is not None:
            return refusal
        said = self._lessons.check(self._store.blobs.get(parent), program.encode())
        return said.reason if isinstance(said, Refusal) else None

    def by_hand(self, parent: str) -> Ready | None:
        """What the operator wants to be tried: the static screen holds for it, lessons do not."""
        return self._steering.by_hand(parent, self._harm)

    def tried(self, child: str) -> bool:
        return self._claims.tried_by_anybody(child)

    def contested(self, ready: Ready) -> float | None:
        parent = self._store.blobs.get(ready.parent)
        return self._claims.contested(parent, ready.proposal.program.encode(), ready.child)

    def queued(self, ready: Ready, suggested: bool) -> None:
        if suggested:
            self._steering.proposed(ready.child, None)

    def dropped(self, ready: Ready) -> None:
        self._steering.ended(_candidate(ready), "open", "its parent is no longer the incumbent")

    def none_passed(self, reason: str) -> None:
        self._steering.proposed("", f"no proposal for it could be tried: {reason}")

    def brief(self) -> str:
        """The operator's program.md as it is now, at most BRIEF_BYTES_MAX of it; empty where there is none."""
        trouble, text = "", ""
        try:
            with self._brief.open("rb") as file:
                content = file.read(BRIEF_BYTES_MAX + 1)
            if len(content) > BRIEF_BYTES_MAX:
                trouble = f"{self._brief} is longer than {BRIEF_BYTES_MAX} bytes: proposers see its beginning only"
            text = content[:BRIEF_BYTES_MAX].decode(errors="replace")
        except FileNotFoundError:
            pass
        except OSError as error:
            trouble = f"{self._brief} cannot be read ({error}): proposers do without it"
        if trouble and trouble != self._brief_said:
            self._report(trouble)
        self._brief_said = trouble
        return text

    # -- during and after trials: `research.Course` -------------------------------------------------------------------

    def begin(self, candidate: Candidate) -> list[Signed]:
        """Claim the candidate, before its first run."""
        return [self._claims.state(candidate)]

    def gives_way(self, candidate: Candidate) -> str | None:
        """Why the candidate is left to another node, if so; what the operator asked for never is."""
        if candidate.proposer == OPERATOR_NAME:
            return None
        other = self._claims.held_by_another(candidate.child)
        return None if other is None else f"{other.author[-8:]} claimed it first ({other.id[:16]})"

    def given_up(self, candidate: Candidate, why: str) -> None:
        """The candidate was not tried to the end, and nothing is known of it."""
        self._steering.ended(candidate, "open", why)

    def ended(self, candidate: Candidate, outcome: Outcome, failure: RunFailed | None, discovery: str) -> list[Signed]:
        """Learn from what became of a candidate: the statements that were made of it. `discovery`: its id, if kept."""
        parent, child = self._store.blobs.get(candidate.parent), self._store.blobs.get(candidate.child)
        low, high = self._interval(candidate)
        evidence = (discovery,) if discovery else trials_of(self._store, candidate.child, self._author.id)
        fate = Fate(
            kept=outcome.verdict == "kept",
            status="ok" if failure is None else failure.status,
            reason="" if failure is None else str(failure),
            low=low,
            high=high,
            evidence=evidence,
        )
        self._tell_proposers(candidate, outcome, child)
        stated = self._lessons.observe(parent, child, fate)
        stated += self._lessons.state_skills(self._watch.rate)
        effect = "" if outcome.effect is None else f"{outcome.effect:+.4f} bpb"
        self._steering.ended(candidate, outcome.verdict, effect or str(failure or "").partition("\n")[0])
        plateau = self._notice(outcome, self._ways())
        if plateau is not None:
            self._report(f"plateau: {plateau.suggestion.value}, since {plateau.reason}")
        return stated

    def take_statements(self) -> list[Signed]:
        """What was stated since the last call, to be published."""
        stated, self._statements = self._statements, []
        return stated

    def resume(self, under_way: str) -> None:
        """At the start: settle the operator's wishes, and count how long the search has been waiting for a keep.

        `under_way`: the candidate that is taken up again, or empty.
        """
        ways = self._ways()
        for outcome in self._claims.outcomes():
            if outcome.weight == 1.0:
                self._notice(outcome, ways)
        self._steering.resume(under_way, self._became)

    def urgent(self) -> bool:
        """Whether the operator has asked for something since the last call."""
        return self._steering.news()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _harm(self, parent: str, program: str) -> str | None:
        findings = screen_findings(program.encode("utf-8", "surrogatepass"))
        if not findings:
            return None
        fate = Fate(rule=findings[0].rule)
        text = program.encode("utf-8", "surrogatepass")
        self._statements += self._lessons.observe(self._store.blobs.get(parent), text, fate)
        return findings[0].sentence

    def _fingerprint(self, program: str) -> str:
        """Of a program by its SHA-256; empty where its text is not here or cannot be read."""
        known = self._fingerprints.get(program)
        if known is None:
            size = queries.program_size(self._store, program)
            if size is None:
                return ""  # it may still arrive
            known = ""
            if size <= PROGRAM_BYTES_MAX:  # a claim can name any blob
                try:
                    known = fingerprint(self._store.blobs.get(program).decode())
                except (ProposerError, UnicodeDecodeError):  # nothing that we propose can be equal to it
                    known = ""
            self._fingerprints[program] = known
        return known

    def _interval(self, candidate: Candidate) -> tuple[float | None, float | None]:
        """95 % interval of child - parent by own public runs, as far as the noise is known."""
        means, counts = [], []
        for program in (candidate.parent, candidate.child):
            runs = queries.trials(self._store, self._author.id, program, "public")
            scores = [r.val_bpb for r in runs if r.track == self._track and r.val_bpb is not None]
            if not scores:
                return None, None
            means.append(statistics.fmean(scores))
            counts.append(len(scores))
        effect, half = means[1] - means[0], NORMAL_95 * self._run_sd() * math.sqrt(1 / counts[0] + 1 / counts[1])
        return effect - half, effect + half

    def _tell_proposers(self, candidate: Candidate, outcome: Outcome, child: bytes) -> None:
        if self._learn is None:
            return
        runs = queries.trials(self._store, self._author.id, candidate.child, "public")
        runs = [run for run in runs if run.track == self._track]
        found = [made[1].result for run in runs if (made := queries.trial(self._store, run.id)) is not None]
        scores = [result.val_bpb for result in found if result.val_bpb is not None]
        score = statistics.fmean(scores) if scores and outcome.verdict != "failed" else None
        gain = max(0.0, -outcome.effect) if outcome.verdict == "kept" and outcome.effect is not None else 0.0
        lane_s = sum(result.wall_s for result in found)
        self._learn(candidate.proposer, child.decode(errors="replace"), score, gain, lane_s)

    def _ways(self) -> tuple[bool, bool]:
        """Whether there are programs to cross the incumbent with, and lineages to start again from."""
        adopted = queries.last_adoption(self._store, self._author.id, self._track)
        if adopted is None:
            return False, False
        return self._population.has_relatives(adopted.program), self._population.has_lineages(adopted.program)

    def _notice(self, outcome: Outcome, ways: tuple[bool, bool]) -> Plateau | None:
        """Whether the search has run dry just now; a keep ends a plateau."""
        kept, ran = outcome.verdict == "kept", outcome.verdict != "failed"
        self._watch = self._watch.after(Tried(kept=kept, ran=ran, mean=outcome.effect))
        if kept:
            self._plateau = None
        noise = math.sqrt(2) * self._run_sd()
        self._watch, plateau = self._watch.judge(noise, relatives=ways[0], lineages=ways[1])
        self._plateau = plateau or self._plateau
        return plateau

    def _became(self, child: str) -> State | None:
        rows = queries.discoveries(
            self._store,
            "d.child = :child AND d.author = :me AND d.track = :track",
            {"child": child, "me": self._author.id, "track": self._track},
        )
        if rows:
            return "kept"
        runs = queries.trials(self._store, self._author.id, child, "public")
        runs = [run for run in runs if run.track == self._track]
        if not runs:
            return None
        return "failed" if any(run.val_bpb is None for run in runs) else "discarded"


def _candidate(ready: Ready) -> Candidate:
    proposal = ready.proposal
    return Candidate(
        ready.parent, ready.child, proposal.hypothesis, proposal.proposer, proposal.operator, proposal.source
    )
