"""Foreign discoveries, from the queue to verdict and adoption: the shell around the second half of policy/intake.py.

What the ledger has (verdicts, adoptions, retractions) is compared with the noted courses (courses.py) at each start and
wins; so nothing is lost by a restart, and nothing depends on the order in which entries and blobs arrive.

The share of compute is counted over the node's last `WINDOW_RUNS` runs: all those on private splits are verification,
the comparison of a confirmed program with the incumbent too. A verification may begin while they are within the share,
so it is passed by one verification at most, and a lane that would be idle may verify beyond it.
"""

import hashlib
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import trio
from msgspec.structs import replace

from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed
from ledger.predicates import Attestation, Comparison, Reveal, Verdict
from ledger.queries import arrivals
from ledger.queries.arrivals import ClaimRow, Spent
from ledger.statements import commit
from ledger.store import Store
from node.adoption import Adopter
from node.asking import Asked, Nobody
from node.charter import default_constitution
from node.courses import OF_VERDICTS, Courses
from node.doubts import Doubts
from node.home import SplitChoice
from node.intake import Intake, measures, nobody_waits, nothing_known
from node.salts import Salts
from node.trust import Trust
from node.workbench import Compared, Workbench, seeds_of
from policy import sequential
from policy.anomaly import after_runs
from policy.constitution import Limits
from policy.evidence import Decision
from policy.following import Next, Situation, plan
from policy.intake import Move, State, Step
from policy.noise import Spread
from policy.priority import Queued, choose, gain_ceiling, may_verify, pairs_allowed, promise
from policy.retraction import after_recheck
from policy.splits import carries_over, estimate
from policy.standing import Kind, audit_due

# A child that crashes or cheats here does not do what was claimed; one that met a limit of this machine may elsewhere.
REFUTING_STATUSES = ("crash", "void", "refused")
WINDOW_RUNS = 500  # over which the share is counted: what a quiet week did not use is not saved up
AFTER_VERDICT = frozenset(
    {
        State.CONFIRMED, State.REFUTED, State.INCONCLUSIVE, State.ADOPTED, State.DECLINED, State.WITHHELD,
        State.OVERTURNED,
    }
)  # fmt: skip


class Picked(NamedTuple):
    """What is run next, and why it and not another."""

    claim: ClaimRow
    reason: str
    trust: float  # that the claim holds, before it is run; 0 to 1


class Verifier:
    """Checks, runs, attests and perhaps adopts what others claim, and takes back what does not hold after all."""

    def __init__(
        self,
        store: Store,
        author: Author,
        bench: Workbench,
        adopter: Adopter,
        salts: Salts,
        tracks: Mapping[str, str],
        report: Callable[[str], None],
        *,
        trust: Trust | None = None,
        courses: Courses | None = None,
        asked: Asked | None = None,
        limits: Callable[[], Limits] | None = None,
        stranger: Callable[[str], str | None] = nobody_waits,
        refusal: Callable[[bytes, bytes], str | None] = nothing_known,
        held: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`trust`, `courses`: where others of the node need them too. `asked`: what the owner wants; nothing.

        `limits`: those of the constitution in force. `stranger` says why an author's claims are to wait, `refusal` why
        a child is not to be run over a parent, `held` why nothing is to be adopted now, if so.
        """
        self._store, self._author, self._bench, self._adopter = store, author, bench, adopter
        self._salts, self._report, self._adoption_held = salts, report, held
        self._asked: Asked = asked or Nobody()
        self._limits = limits or default_constitution().numbers
        self._courses = courses or Courses()
        self._trust = trust or Trust(store, author.id, self._courses.bans)
        self._baseline = tracks[bench.track]
        self.intake = Intake(
            store, self._trust, self._courses, bench.track, tracks, report,
            line=self._incumbent_line, stranger=stranger, refusal=refusal,
        )  # fmt: skip
        self._doubts = Doubts(
            store, author, adopter, self._trust, self._courses, bench.track, self.intake.move, report
        )  # fmt: skip
        self._spent = deque[Spent](maxlen=WINDOW_RUNS)  # the latest last
        self._runs_counted = -1
        self._touched: set[str] = set()
        self._rated: dict[str, tuple[State, Queued]] = {}  # by id, as of `_rated_at`
        self._rated_at: tuple[int, str, int] | None = None
        self._line_of = ""  # the last adoption, whose line the intake knows
        self._first = self._news = True
        self.next_turn = ""  # why nothing is run now, of what is queued

    # What others and the owner said

    @property
    def states(self) -> dict[str, State]:
        """Of all discoveries that this node has looked at, by id."""
        return self._courses.states()

    @property
    def reasons(self) -> dict[str, str]:
        """Why claims wait or were not run."""
        return self.intake.reasons()

    def hear(self) -> None:
        """Something has arrived: entries or blobs."""
        self._news = True

    def reconsider(self) -> list[Signed]:
        """Take in what has arrived; the statements that were made of it, to be published.

        Retractions, and the way back to a sound program. Cheap where nothing has arrived.
        """
        if self._news:
            self._news = False
            self._take_in()
        adopted = queries.last_adoption(self._store, self._author.id, self._bench.track)
        if adopted is not None and adopted.id != self._line_of:
            self._line_of = adopted.id
            self.intake.line_changed()
        self._touched |= self.intake.look()
        touched, self._touched = self._touched, set()
        for discovery in touched:
            self._rated.pop(discovery, None)
        made = self._doubts.reconsider(touched)
        if self._adoption_held() is None and (back := self._doubts.ground()):
            made += back
        if made:
            self._news = True
        return made

    def _take_in(self) -> None:
        new, touched = self._trust.refresh()
        if self._first:  # somebody else may have read the ledger before
            self._first = False
            new, touched = list(self._trust.claims.values()), set(self._trust.claims)
        for claim in new:
            self._agree_with_ledger(claim)
        self.intake.take_in(new)
        self.intake.wake(new)
        for discovery in touched:  # an own verdict may come back from a peer after the claim that it is about
            about = self._trust.claims.get(discovery)
            if about is not None and self._verdicts_noted(discovery) < len(self._trust.own(discovery)):
                self._agree_with_ledger(about)
                self.intake.settle(discovery)
        self._touched |= touched

    def _agree_with_ledger(self, claim: ClaimRow) -> None:
        """Note of a discovery what the ledger says happened to it, where the noted course does not have it."""
        own, state = self._trust.own(claim.id), self._courses.state(claim.id)
        if not own:
            if state is State.VERIFYING:
                self._courses.move(claim.id, Move.INTERRUPT)
            elif state in AFTER_VERDICT - {State.OVERTURNED} and claim.author != self._author.id:
                self._courses.forget(claim.id)  # the ledger is older than the courses: it was a backup
            return
        if behind := self._verdicts_noted(claim.id) < len(own) or state is None:
            move, state = OF_VERDICTS[own[-1].verdict]
            self._courses.note(claim.id, Step(move, state, own[-1].reason))
        elif state is State.VERIFYING:
            self._courses.move(claim.id, Move.INTERRUPT)
        if self._courses.state(claim.id) is State.CONFIRMED:
            self._agree_on_adoption(claim, own[-1].lamport, behind)

    def _verdicts_noted(self, discovery: str) -> int:
        moves = {move for move, _ in OF_VERDICTS.values()}
        return sum(step.move in moves for step in self._courses.course(discovery).steps)

    def _agree_on_adoption(self, claim: ClaimRow, confirmed: int, behind: bool) -> None:
        """What became of a discovery confirmed at a Lamport time. Without adoption, that is still open: a comparison
        with the incumbent that was cut short begins again, with the same seeds. But where the courses were lost
        (`behind`), runs since then mean that it was compared."""
        made = arrivals.own_adoptions(self._store, self._author.id, self._bench.track)
        adopted = [one.lamport for one in made if one.discovery == claim.id]
        if adopted and (adopted[-1] > confirmed or claim.child in self._incumbent_line()):
            self._courses.move(claim.id, Move.ADOPT)
        elif behind and (own := self._confirmation(claim.id)) is not None:
            runs = queries.trials(self._store, self._author.id, claim.child, own.split)
            if any(run.lamport > confirmed for run in runs):
                why = "it was compared with the incumbent and not adopted, as far as the ledger tells"
                self._courses.move(claim.id, Move.DECLINE, why)

    # What is run next

    def next(self, *, idle: bool = False) -> ClaimRow | None:
        """The claim to run now, if any; after `reconsider`. `idle`: the lane has nothing else to do."""
        picked = self._pick(idle)
        return None if picked is None else picked.claim

    def _pick(self, idle: bool) -> Picked | None:
        for claim in self._wanted():
            return Picked(claim, "the owner asked for it", 0.0)
        if not self.intake.queue:
            self.next_turn = ""
            return None
        self._count_runs()
        limits = self._limits()
        verifying = sum(run.budget_s for run in self._spent if run.split != "public")
        total, share = sum(run.budget_s for run in self._spent), limits.verification_share
        if not idle and not may_verify(verifying, total, share):
            self.next_turn = f"verification has had {verifying / total:.0%} of the lane's last runs, of {share:.0%}"
            return None
        queue = self._rated_queue(limits.verification_pairs_max)
        turn = self._trust.verdicts_given
        rng = self._chance("pick", turn)
        picked = choose(queue, turn, rng, gain_ceiling(self._trust.gains))
        assert picked is not None, "the queue is not empty"
        trust = next(one.trust for one in queue if one.id == picked.id)
        self.next_turn = f"{picked.id[:16]} is next: {picked.reason}"
        return Picked(self._trust.claims[picked.id], picked.reason, trust)

    def _rated_queue(self, pairs_max: int) -> list[Queued]:
        """The queue as `choose` takes it. After a flood it is long, so only what may have changed is rated again."""
        seen = (self._trust.verdicts_given, self._line_of, pairs_max)
        if seen != self._rated_at:
            self._rated_at = seen
            self._rated.clear()
        rated = []
        for claim in self.intake.queue.values():
            state = self.intake.state(claim.id)
            found = self._rated.get(claim.id)
            if found is None or found[0] is not state:
                found = self._rated[claim.id] = state, self._queued(claim, pairs_max)
            rated.append(found[1])
        return rated

    def _queued(self, claim: ClaimRow, pairs_max: int) -> Queued:
        held_back = self.intake.state(claim.id) is State.QUARANTINED
        return Queued(
            id=claim.id,
            author=claim.author,
            gain=-claim.mean,
            cost=2.0 * pairs_allowed(pairs_max, 0.0, audited=True, looks=len(self._trust.own(claim.id))),
            trust=0.0 if held_back else self._trust.belief(claim),
            promise=promise(self._trust.standing(claim.author).account(Kind.CLAIM).mean, self._trust.refuting(claim)),
            again=self._doubted(claim.id) or self._doubts.in_doubt(claim.id),
        )

    def _doubted(self, discovery: str) -> bool:
        """Whether it was confirmed here before: then fresh runs are to say whether it still is."""
        return self._trust.own_verdicts(discovery)[-1:] == ["confirmed"]

    def _pairs_max(self) -> int:
        return self._limits().verification_pairs_max

    def _count_runs(self) -> None:
        """Read what the runs since the last count took."""
        if self._runs_counted != self._bench.trials_run:
            self._runs_counted = self._bench.trials_run
            self._spent.clear()
            self._spent.extend(reversed(arrivals.last_spent(self._store, self._author.id, WINDOW_RUNS)))

    def _chance(self, what: str, number: int) -> random.Random:
        """Nobody else can foresee it: it comes from the private salt. The same again after a restart."""
        return random.Random(self._salts.current() + f"{what} {number}".encode())

    def _wanted(self) -> Iterable[ClaimRow]:
        """What the owner wants verified and can be run now."""
        for discovery in self._asked.to_verify():
            claim = self._trust.claims.get(discovery)
            if claim is None or claim.track != self._bench.track:
                self._asked.done(discovery)
                self._report(f"cannot verify {discovery[:16]}: it is no discovery of this track")
                continue
            self._make_ready(claim)
            if claim.id in self.intake.queue:
                yield claim

    def _make_ready(self, claim: ClaimRow) -> None:
        """Into the queue with it, if the owner's word and what is here allow that."""
        state = self.intake.state(claim.id)
        if state is State.REJECTED:
            self._courses.forget(claim.id)
            self.intake.look_at(claim)
            if self.intake.state(claim.id) is State.REJECTED:
                self._asked.done(claim.id)
        elif state is State.DUPLICATE:
            self.intake.move(claim.id, Move.RELEASE, "the owner asked for it")
        elif state in (State.CONFIRMED, State.WITHHELD):
            self._asked.done(claim.id)
            self._report(f"discovery {claim.id[:16]} is confirmed here already; see waggle why and waggle adopt")
        elif state in AFTER_VERDICT:
            self.intake.move(claim.id, Move.REOPEN, "the owner asked for it")

    # The run

    def _seeds(self, claim: ClaimRow, against: str) -> tuple[int, ...]:
        """This node's own: nobody else knows the salt that they come from."""
        return seeds_of(self._salts.current(), claim.id.encode(), against.encode())

    def _split(self) -> SplitChoice:
        salt = self._salts.current()
        return SplitChoice(commit(salt), salt)

    def _reveal(self) -> list[Signed]:
        """State the salts that have served their time, so that others can run again what our verdicts rest on."""
        return [self._reveal_one(salt) for salt in self._salts.unrevealed()]

    def _reveal_one(self, salt: bytes) -> Signed:
        subject = hashlib.sha256(salt).hexdigest()
        reveal = self._author.append("main", subject, lambda entry: Reveal(entry=entry, salt=salt.hex()))
        self._salts.mark_revealed(salt)
        self._report(f"revealed the private split {subject[:8]}, which has served its time")
        return reveal

    async def step(self, claim: ClaimRow, noise: Spread) -> list[Signed]:
        """Run a claim that `next` gave and conclude; the statements to publish. `noise`: of a difference."""
        if self.intake.gone(claim.id):
            return []
        picked = self._pick(idle=True)
        if picked is None or picked.claim.id != claim.id:
            picked = Picked(claim, "it is queued", 0.0)
        looks = len(self._trust.own(claim.id))
        held_back = self.intake.state(claim.id) is State.QUARANTINED
        again = self._doubted(claim.id)
        doubted = again or self._doubts.in_doubt(claim.id)
        audited = held_back or doubted or looks > 0 or audit_due(self._chance(f"audit {claim.id}", looks))
        most = pairs_allowed(self._pairs_max(), picked.trust, audited=audited, looks=looks + again)
        if held_back:
            self.intake.move(claim.id, Move.RELEASE, "its turn, for a check in full")
            wanted = claim.id in self._asked.to_verify()
            if not wanted and (why := self.intake.repeated(claim)) is not None:  # answered while it was held back
                self.intake.move(claim.id, Move.REPEAT, why)
                await trio.lowlevel.checkpoint()
                return []
        extent = f"at most {most} pairs{', an audit in full' if audited and picked.trust > 0 else ''}"
        self.intake.move(claim.id, Move.START, f"{picked.reason}; {extent}")
        self._report(f"verifying discovery {claim.id[:16]} of {claim.author[-8:]}, claimed {claim.mean:+.4f} bpb")
        try:
            uses_max = self._limits().private_split_uses_max
            await trio.to_thread.run_sync(self._salts.use, uses_max)  # a new one is tried on the whole corpus first
            revealed = self._reveal()
            seeds = self._seeds(claim, "parent" if looks == 0 else f"parent, look {looks + 1}")
            comparing = self._bench.comparing(
                claim.parent, claim.child, seeds, self._split(), noise, claimed=claim.mean
            )  # fmt: skip
            earlier = self._differences(claim.id)
            before = [] if again else earlier
            horizon = max(len(before) + most, sequential.PAIRS_MAX)
            while len(comparing.differences) < most and not comparing.failed:
                pairs = [*before, *comparing.differences]
                decision = sequential.verdict(pairs, noise, claimed=claim.mean, pairs_max=horizon)
                if len(comparing.differences) >= 2 and decision is not Decision.MORE:
                    break
                await comparing.advance()
            compared = comparing.result()
            pooled = [*earlier, *comparing.differences]
            counted = [*before, *comparing.differences]
            decision = sequential.verdict(counted, noise, claimed=claim.mean, pairs_max=horizon)
            verdict, reason = _verdict(claim, compared, decision)
            if again and verdict == "inconclusive":
                shown = sequential.verdict(pooled, noise, claimed=claim.mean) is Decision.BETTER
                verdict = after_recheck(verdict, shown and compared.comparison is not None)
                reason = f"{reason}; with the {len(earlier)} pairs before"
            attestation = self._author.append(
                "main",
                claim.child,
                lambda entry: Attestation(
                    entry=entry, discovery=claim.id, verdict=verdict, reason=reason, comparison=compared.comparison
                ),
            )
        except BaseException:
            self.intake.move(claim.id, Move.INTERRUPT)
            raise
        self.intake.move(claim.id, OF_VERDICTS[verdict][0], reason)
        self._asked.done(claim.id)
        self._report(f"{verdict} discovery {claim.id[:16]}: {reason}")
        self._take_in()
        made = [*revealed, attestation]
        if verdict != "confirmed" or compared.comparison is None:
            return made
        if again and claim.child in self._incumbent_line():
            self.intake.move(claim.id, Move.ADOPT, "it holds, and the incumbent is built on it")
        elif (why := self._adoption_held()) is not None:
            self._report(f"not adopted yet: {why}")
        else:
            made += await self.consider(claim, noise)
        return made

    def _differences(self, discovery: str) -> list[float]:
        """Of all pairs that this node has stated for a discovery, bits per byte."""
        found: list[float] = []
        for row in self._trust.own(discovery):
            shown = self._attested(row.id)
            found += [] if shown is None else shown.differences
        return found

    def _attested(self, attestation: str) -> Comparison | None:
        signed = self._store.entry(attestation)
        body = None if signed is None else signed.statement.body
        return body.comparison if isinstance(body, Attestation) else None

    def _anomalies(self, claim: ClaimRow, shown: Comparison, noise: Spread) -> str | None:
        """What is not as it should be about a confirmed discovery, and what lets it out; None if nothing is."""
        sides = []
        for ids in (shown.parent_trials, shown.child_trials):
            trials = [queries.trial(self._store, trial_id) for trial_id in ids]
            sides.append(measures([trial for _, trial in (one for one in trials if one is not None)]))
        not_carried_over = []
        signed = self._store.entry(claim.id)
        found = None if signed is None else getattr(signed.statement.body, "comparison", None)
        if isinstance(found, Comparison) and found.split != shown.split:
            ours = estimate(shown.differences, noise)
            carried = carries_over(estimate(found.differences, noise), [ours])
            if carried.flagged and ours.mean > sequential.WORTH_SHARE * claim.mean:
                not_carried_over.append(
                    f"it gains {-ours.mean:.4f} bpb on the private split, of {-claim.mean:.4f} where it was found"
                )
        odd = after_runs((sides[0], sides[1]), self._trust.tally(claim.id), not_carried_over=not_carried_over)
        return None if odd.clear else f"{'; '.join(odd.reasons)}. Until {odd.until.value}"

    # Adoption

    def pending(self) -> ClaimRow | None:
        """The first confirmed discovery on whose adoption is not decided yet."""
        for discovery in self._asked.to_adopt():
            self._vouch(discovery)
        states = self._courses.states()
        waiting = (self._trust.claims.get(one) for one, state in states.items() if state is State.CONFIRMED)
        return next((claim for claim in waiting if claim is not None and claim.track == self._bench.track), None)

    def _vouch(self, discovery: str) -> None:
        """The owner wants it adopted: that needs this node's own confirmation."""
        if discovery not in self._trust.claims:
            self._asked.done(discovery)
            return
        state, own = self.intake.state(discovery), self._trust.own_verdicts(discovery)
        if self._doubted(discovery) and state in (State.WITHHELD, State.DECLINED):
            self.intake.move(discovery, Move.VOUCH, "the owner vouches for it")
        elif not (state is State.CONFIRMED and self._doubted(discovery)):
            self._asked.done(discovery)
            why = f"this node's own runs say {own[-1]}" if own else "this node has not run it; see waggle verify"
            self._report(f"cannot adopt {discovery[:16]}: it is {state.value}, {why}")

    def _confirmation(self, discovery: str) -> Comparison | None:
        own = self._trust.own(discovery)
        return self._attested(own[-1].id) if own and own[-1].verdict == "confirmed" else None

    async def consider(self, claim: ClaimRow, noise: Spread) -> list[Signed]:
        """Adopt a confirmed discovery if it beats the incumbent on the same private split, or the owner wants it."""
        await trio.lowlevel.checkpoint()
        if self.intake.gone(claim.id) or self._held_back(claim, noise):
            return []
        confirmation, incumbent = self._confirmation(claim.id), self._adopter.incumbent
        mean = claim.mean if confirmation is None else confirmation.mean
        situation = Situation(
            parent=claim.parent,
            child=claim.child,
            incumbent=incumbent,
            child_line=self._line(claim.id),
            incumbent_line=self._incumbent_line(),
            with_parent="confirmed",
            fallen=self._doubts.rests_on(claim.id),
        )
        wanted = claim.id in self._asked.to_adopt()
        then, against, numbers = plan(situation), None, ""
        if then.next is Next.COMPARE_WITH_INCUMBENT and not wanted:
            seeds = self._seeds(claim, "incumbent")
            comparing = self._bench.comparing(incumbent, claim.child, seeds, self._split(), noise)
            with_incumbent = await comparing.run()
            better = with_incumbent.decision is Decision.BETTER
            if with_incumbent.comparison is not None:
                numbers = f": {_numbers(with_incumbent.comparison)}"
                mean = with_incumbent.comparison.mean
            against = with_incumbent.comparison if better else None
            then = plan(replace(situation, beats_incumbent=better))
        self._asked.done(claim.id)
        if then.next is Next.DECLINE:
            self.intake.move(claim.id, Move.DECLINE, f"{then.reason}{numbers}")
            self._report(f"declined discovery {claim.id[:16]}: {then.reason}")
            return []
        why = "the owner wants it" if wanted else then.reason
        adoption = self._adopter.adopt(
            claim.child, claim.id, f"discovery of {claim.author}, {mean:+.4f} bpb here: {why}", against
        )
        self.intake.move(claim.id, Move.ADOPT, f"{why}{numbers}")
        return [adoption]

    def _held_back(self, claim: ClaimRow, noise: Spread) -> bool:
        """Whether something about a confirmed discovery keeps it from being built on, and nobody vouches for it."""
        shown, steps = self._confirmation(claim.id), self._courses.course(claim.id).steps
        if shown is None or steps[-1].move is Move.VOUCH or claim.author == self._author.id:
            return False
        if (odd := self._anomalies(claim, shown, noise)) is None:
            return False
        self.intake.move(claim.id, Move.QUARANTINE, odd)
        self._report(f"held back discovery {claim.id[:16]}, confirmed: {odd}")
        return True

    def _line(self, discovery: str) -> tuple[str, ...]:
        """The programs from the baseline to a discovery's child."""
        chain = queries.ancestors(self._store, discovery)
        return tuple(dict.fromkeys(program for row in chain for program in (row.parent, row.child)))

    def _incumbent_line(self) -> tuple[str, ...]:
        adopted = queries.last_adoption(self._store, self._author.id, self._bench.track)
        if adopted is None or adopted.discovery is None:
            return (self._baseline,)
        return self._line(adopted.discovery) or (adopted.program,)


def _numbers(shown: Comparison) -> str:
    return (
        f"{shown.mean:+.4f} bpb [{shown.low:+.4f}, {shown.high:+.4f}] over {len(shown.seeds)} pairs on a private split"
    )


def _verdict(claim: ClaimRow, compared: Compared, decision: Decision) -> tuple[Verdict, str]:
    """The verdict on a comparison, and its reason in a sentence. An open decision is inconclusive."""
    if compared.failure is not None:
        whose = "child" if compared.failure.program == claim.child else "parent"
        reason = f"the {whose}'s run ended as {str(compared.failure).splitlines()[0][:900]}"
        return (
            "refuted" if whose == "child" and compared.failure.status in REFUTING_STATUSES else "inconclusive",
            reason,
        )
    numbers = "no pair was run" if compared.comparison is None else _numbers(compared.comparison)
    match decision:
        case Decision.BETTER:
            return "confirmed", numbers
        case Decision.NOT_BETTER:
            return "refuted", numbers
        case _:
            return "inconclusive", numbers
