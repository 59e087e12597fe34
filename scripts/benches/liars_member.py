"""A node of the simulation of benches/liars.py: decides by the rules of policy/, and draws instead of running."""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from msgspec.structs import replace

from benches.liars_world import BASELINE, NOISE, SCORE, SPREAD, TRACK, Item, Program, Truth, World, grown, union
from ledger.predicates import Verdict
from policy import anomaly, following, intake, priority, quorum, retraction, sequential, standing
from policy.evidence import Decision
from policy.intake import Move, Question, State
from policy.standing import Kind, Outcome

CHECK_PAIRS = 24  # what the constitution allows by default
SEARCH_RUNS = 6.0  # of one candidate of its own
FALSE_KEEPS = 0.1  # of its own discoveries: what the evidence promises at most
MERGE_PAIRS_MAX = 3 * sequential.PAIRS_MAX  # both sides were confirmed: of proposals, the likeliest to hold
REDRAWS = 300  # until the runs of a discovery look like one
RECONSIDER_EVERY = 25  # turns
CHECK_MOST = 2.0 * priority.FURTHER_PAIRS_MAX  # runs of the longest check
REOPENING = {  # how a claim comes to be run again; one that is queued is to be run anyway
    State.ADOPTED: Move.REOPEN,
    State.DECLINED: Move.REOPEN,
    State.INCONCLUSIVE: Move.REOPEN,
    State.DUPLICATE: Move.RELEASE,
}
VERDICTS: dict[Decision, Verdict] = {Decision.BETTER: "confirmed", Decision.NOT_BETTER: "refuted"}


class Member:
    """Honest: all honest nodes, and those who betray until they do."""

    def __init__(self, world: World, me: int, finds_per_step: float) -> None:
        self.world, self.me, self._rate = world, me, finds_per_step
        self.rng = random.Random(f"{world.plan.seed} {me}")
        self._good = np.zeros((len(Kind), world.authors))
        self._bad = np.zeros((len(Kind), world.authors))
        self.weight = np.zeros((len(Kind), world.authors))
        self._banned: set[int] = set()
        self.incumbent = BASELINE
        self._history = [retraction.Held(BASELINE.name, None)]
        self._programs = {BASELINE.name: BASELINE}
        self.states: dict[int, State] = {}
        self._asked: dict[str, list[Question]] = {}  # by child and by change
        self._open: dict[int, Item] = {}  # queued, or in quarantine before any run
        self.verdicts: dict[int, Verdict] = {}
        self._pairs: dict[int, list[float]] = {}  # differences of the pairs run for a claim
        self._looks: Counter[int] = Counter()
        self._gains: list[float] = []  # verified here
        self._merges: list[Program] = []
        self._tries: dict[int, tuple[int, str]] = {}  # to merge one change: how many, and into what the last
        self._merges_due = False  # something may have to be merged: verdicts or incumbent are new
        self._marked: dict[str, str] = {}  # discoveries that rest on something believed no more
        self._ground: set[str] = set()  # discoveries that the incumbent rests on
        self._finds: dict[int, int] = {}  # number of its own discovery to its edit
        self._overturned: set[str] = set()
        self._doubted: set[str] = set()  # to be run again before anything else
        self._met = self._turns = self._picks = 0
        self.spent = self.verifying = self.wasted = 0.0
        self.rolled_back = 0
        self.touched = False  # has ever built on something fabricated

    def turn(self, now: float) -> float:
        """Do what comes next at this time; the runs it took."""
        self._now = now
        world = self.world
        for number in world.arrived[self._met :]:
            self._meet(world.items[number])
        self._met = len(world.arrived)
        self._turns += 1
        if self._turns % RECONSIDER_EVERY == 0:
            self._reconsider()
        if self._open and priority.may_verify(self.verifying, self.spent, world.plan.share, CHECK_MOST):
            cost = self._verify(self._pick())
        else:
            cost = self._search()
        self.spent += cost
        return cost

    # Arrival

    def _move(self, number: int, move: Move) -> None:
        self.states[number] = intake.advance(self.states.get(number, State.RECEIVED), move)

    def _meet(self, item: Item) -> None:
        if item.author == self.me:
            return
        if item.judged is not None or item.author in self._banned:
            self._move(item.number, Move.REJECT)
            if isinstance(item.judged, intake.Rejected) and item.judged.misdeed:
                self._banned.add(item.author)
                self.weight[:, item.author] = 0
            return
        self._move(item.number, Move.CHECKED)
        asked = Question(item.link.id, str(item.author), TRACK, item.parent.name, item.child.name, item.change)
        alike = [self._asked.setdefault(item.child.name, []), self._asked.setdefault(str(item.change), [])]
        earlier = [replace(other, state=self.states[int(other.id[1:])]) for others in alike for other in others]
        if intake.repeats(asked, earlier, set(self.incumbent.line)) is not None:
            self._move(item.number, Move.REPEAT)
            return
        for others in alike:
            others.append(asked)
        clear = anomaly.before_runs(item.gain, SCORE, self._gains).clear
        self._move(item.number, Move.ENQUEUE if clear else Move.QUARANTINE)
        self._open[item.number] = item

    # Standing

    def _strength(self, kind: Kind, stated: np.ndarray) -> np.ndarray:
        """Sums of the strengths of trusted voices; `stated` is (claims, authors)."""
        trusted = np.flatnonzero(self.weight[kind.value])
        return np.asarray(stated[:, trusted] @ quorum.voice_strength(self.weight[kind.value, trusted]))

    def _tallies(self, numbers: Sequence[int]) -> list[quorum.Tally]:
        """As `quorum.tally` gives them, of several claims at once."""
        world, rows = self.world, np.asarray(numbers, dtype=np.intp)
        either = self.weight[1:].max(axis=0)
        sums, counts = [], []
        for stated, weight in (
            (world.confirming, self.weight[Kind.CONFIRM.value]),
            (world.refuting, self.weight[Kind.REFUTE.value]),
            (world.undecided, either),
        ):
            trusted = np.flatnonzero(weight)
            said = stated[np.ix_(rows, trusted)]
            sums.append((said @ weight[trusted]).tolist())
            counts.append(said.sum(axis=1).tolist())
        return [
            quorum.Tally(sums[0][n], sums[1][n], counts[0][n], counts[1][n], sums[2][n], counts[2][n])
            for n in range(len(numbers))
        ]

    def _learn(self, kind: Kind, outcome: Outcome, authors: np.ndarray) -> None:
        good, bad = standing.updated(self._good[:, authors], self._bad[:, authors], kind, outcome)
        self._good[:, authors], self._bad[:, authors] = good, bad
        self.weight[:, authors] = standing.weights(good, bad)
        self.weight[:, list(self._banned)] = 0

    def _judge_others(self, item: Item, verdict: Verdict, ours: standing.Interval) -> None:
        """What the verdict says about the claimant, and about all who spoke before."""
        claimant = np.array([item.author])
        if item.author != self.me and (outcome := standing.judge_claim(verdict, ours, item.interval)) is not None:
            self._learn(Kind.CLAIM, outcome, claimant)
        for stated, theirs in ((self.world.confirming, "confirmed"), (self.world.refuting, "refuted")):
            judged = standing.judge_verdict(theirs, verdict)  # type: ignore[arg-type]
            if judged is not None:
                self._learn(*judged, np.flatnonzero(stated[item.number]))

    # Verification

    def _pick(self) -> Item:
        world, items = self.world, list(self._open.values())
        numbers, authors = [item.number for item in items], [item.author for item in items]
        confirming = self._strength(Kind.CONFIRM, world.confirming[numbers])
        refuting = self._strength(Kind.REFUTE, world.refuting[numbers])
        trust = quorum.belief(self.weight[Kind.CLAIM.value, authors], confirming, refuting)
        trust[[self.states[number] is State.QUARANTINED for number in numbers]] = 0
        means = standing.expected(self._good[Kind.CLAIM.value, authors], self._bad[Kind.CLAIM.value, authors])
        queue = [
            priority.Queued(
                id=str(item.number),
                author=str(item.author),
                gain=item.gain,
                cost=2.0 * priority.pairs_allowed(CHECK_PAIRS, 0.0, audited=True, looks=self._looks[item.number]),
                trust=float(trust[n]),
                promise=priority.promise(float(means[n]), float(refuting[n])),
                again=self.verdicts.get(item.number) == "confirmed" or item.link.id in self._doubted,
            )
            for n, item in enumerate(items)
        ]
        picked = priority.choose(queue, self._picks, self.rng, priority.gain_ceiling(self._gains))
        self._picks += 1
        assert picked is not None
        item = self._open.pop(int(picked.id))
        self._trust = next(one.trust for one in queue if one.id == picked.id)
        if self.states[item.number] is State.QUARANTINED:
            self._move(item.number, Move.RELEASE)
        return item

    def _run(
        self, parent: Program, child: Program, most: int, claimed: float | None, earlier: Sequence[float] = ()
    ) -> tuple[Decision, list[float]]:
        """At most `most` pairs of two programs, after those of `earlier` checks, until the test has enough."""
        effect = self.world.effect(child) - self.world.effect(parent)
        differences = list(earlier)
        horizon = max(len(earlier) + most, sequential.PAIRS_MAX)
        for _ in range(most):
            differences.append(self.rng.gauss(effect, NOISE))
            decision = sequential.verdict(differences, SPREAD, claimed=claimed, pairs_max=horizon)
            if decision is not Decision.MORE:
                return decision, differences
        return Decision.UNDECIDED, differences

    def _verify(self, item: Item) -> float:
        world = self.world
        looks, doubted = self._looks[item.number], item.number in self.verdicts
        audited = item.link.id in self._doubted or standing.audit_due(self.rng)
        most = priority.pairs_allowed(CHECK_PAIRS, self._trust, audited=audited, looks=looks)
        self._move(item.number, Move.START)
        earlier = self._pairs.get(item.number, [])
        self._looks[item.number] += 1
        self._doubted.discard(item.link.id)
        if self.verdicts.get(item.number) == "confirmed":  # in doubt: fresh runs are to say
            decision, fresh = self._run(item.parent, item.child, most, -item.gain)
            differences = [*earlier, *fresh]
            pooled = sequential.verdict(differences, SPREAD, claimed=-item.gain) is Decision.BETTER
            verdict = retraction.after_recheck(VERDICTS.get(decision, "inconclusive"), pooled)
        else:
            decision, differences = self._run(item.parent, item.child, most, -item.gain, earlier)
            verdict = VERDICTS.get(decision, "inconclusive")
        cost = 2.0 * (len(differences) - len(earlier))
        self.verifying += cost
        self._pairs[item.number] = differences
        moves = {"confirmed": Move.CONFIRM, "refuted": Move.REFUTE, "inconclusive": Move.LEAVE_OPEN}
        self._move(item.number, moves[verdict])
        self.verdicts[item.number], self._merges_due = verdict, True
        self._judge_others(item, verdict, standing.Interval(*sequential.interval(differences, SPREAD)))
        if item.author != self.me:
            world.vote(self._now + cost, item.number, [self.me], verdict)
        if verdict == "confirmed" and doubted and item.child.name in self.incumbent.line:
            self._move(item.number, Move.ADOPT)
        elif verdict == "confirmed":
            self._gains.append(max(-sum(differences) / len(differences), 1e-6))
            if anomaly.after_runs(None, self._tallies([item.number])[0]).clear:
                cost += self._consider(item)
            else:
                self._move(item.number, Move.QUARANTINE)
        if verdict == "refuted" and doubted and item.author == self.me:  # inconclusive runs take nothing back
            world.retract(self._now + cost, item.link.id)
        if verdict != "confirmed" and (doubted or item.link.id in self._ground):
            self._reconsider()
        if world.liar(item.author):
            self.wasted += cost
        return cost

    def _consider(self, item: Item) -> float:
        """Adopt or decline a confirmed discovery; the runs that took."""
        situation = following.Situation(
            parent=item.parent.name,
            child=item.child.name,
            incumbent=self.incumbent.name,
            child_line=item.child.line,
            incumbent_line=self.incumbent.line,
            with_parent="confirmed",
            fallen=next((self._marked[name] for name in item.link.sources if name in self._marked), None),
        )
        plan, cost = following.plan(situation), 0.0
        if plan.next is following.Next.COMPARE_WITH_INCUMBENT:
            decision, differences = self._run(self.incumbent, item.child, sequential.PAIRS_MAX, None)
            cost = 2.0 * len(differences)
            plan = following.plan(replace(situation, beats_incumbent=decision is Decision.BETTER))
        if plan.merge is not None and plan.merge.base != item.parent.name:
            merged = union(self.incumbent, item.child)
            if merged.edits not in (self.incumbent.edits, item.child.edits):
                self._merges.append(merged)
        if plan.next is following.Next.ADOPT:
            self._move(item.number, Move.ADOPT)
            self._adopt(item.child, item.link.id)
        else:
            self._move(item.number, Move.DECLINE)
        return cost

    def _adopt(self, program: Program, discovery: str | None) -> None:
        self.incumbent = program
        self._look_at_ground()
        self._programs[program.name] = program
        self._history.append(retraction.Held(program.name, discovery, program.rests_on))
        self.touched |= self.world.is_fabricated(program)
        for number, item in list(self._open.items()):
            repeats = item.child.name in program.line and number not in self.verdicts
            if repeats and (self.states[number], Move.REPEAT) in intake.TRANSITIONS:  # quarantine keeps it
                del self._open[number]
                self._move(number, Move.REPEAT)

    def _links(self) -> Iterator[retraction.Link]:
        return (self.world.items[number].link for number in self.world.arrived)

    def _look_at_ground(self) -> None:
        self._ground = retraction.foundation(self._links(), self.incumbent.rests_on)
        self._merges_due = True

    # Retraction

    def _reconsider(self) -> None:
        """Overturn what own runs refute or others speak against, take up what they do not any more, and go back if the
        incumbent rests on what fell."""
        world = self.world
        numbers = [number for number in world.arrived if number in self.states]
        for number, tally in zip(numbers, self._tallies(numbers), strict=True):
            name, state, own = f"d{number}", self.states[number], self.verdicts.get(number)
            if state is State.REJECTED or (state is State.DUPLICATE and own is None and name not in self._ground):
                continue
            looks = self._looks[number]
            evidence = retraction.Evidence(
                own=own,
                looks=looks,
                built_on=name in self._ground,
                opinion=tally.opinion,
                retracted=name in world.retracted,
            )
            consequence = retraction.judge(evidence).consequence
            if name in self._overturned:
                if retraction.taken_up_again(evidence):
                    self._overturned.discard(name)
                    self._again(number, Move.REOPEN)
            elif consequence is retraction.Consequence.OVERTURNED and own != "refuted":
                self._overturned.add(name)
                self._open.pop(number, None)
                if (state, Move.OVERTURN) in intake.TRANSITIONS:
                    self._move(number, Move.OVERTURN)
            elif consequence is retraction.Consequence.RECHECK:
                self._doubted.add(name)
                if state in REOPENING:
                    self._again(number, REOPENING[state])
            elif state is State.WITHHELD and tally.opinion is quorum.Opinion.CONFIRMS:
                self._move(number, Move.VOUCH)
                self._move(number, Move.DECLINE)  # and is merged, as all that is confirmed and not held
            elif state is State.INCONCLUSIVE and priority.look_again(tally, looks):
                self._again(number, Move.REOPEN)
        refuted = {f"d{number}" for number, verdict in self.verdicts.items() if verdict == "refuted"}
        self._marked = retraction.fallen(self._links(), self._overturned | refuted)
        self._merges = [merge for merge in self._merges if not self._marked.keys() & set(merge.rests_on)]
        if retraction.unsound(self._history[-1], self._marked) is not None:
            sound = retraction.last_sound(self._history, self._marked)
            self.rolled_back += 1
            self._history.append(sound)
            self.incumbent = self._programs[sound.program]
            self._look_at_ground()

    def _again(self, number: int, move: Move) -> None:
        self._move(number, move)
        self._open[number] = self.world.items[number]

    # Search

    def _search(self) -> float:
        if self._merges:
            merged = union(self._merges.pop(), self.incumbent)
            decision, differences = self._run(self.incumbent, merged, MERGE_PAIRS_MAX, None)
            if decision is Decision.BETTER:
                self._adopt(merged, None)
            return 2.0 * len(differences)
        if (number := self._to_merge()) is not None:
            return self._merge_alone(number)
        world = self.world
        if self._now < (1 - world.plan.quiet) * world.plan.runs and self.rng.random() < self._rate:
            self._find()
        return SEARCH_RUNS

    def _to_merge(self) -> int | None:
        """A discovery that is confirmed, its own among them, and whose change the incumbent does not have."""
        for number, verdict in self.verdicts.items() if self._merges_due else ():
            if verdict != "confirmed" or f"d{number}" in self._overturned or number in self._open:
                continue
            change = self._change(number)
            tries, last = self._tries.get(number, (0, None))
            if not change <= self.incumbent.edits and following.try_again(tries, last, self.incumbent.name):
                return number
        self._merges_due = False
        return None

    def _change(self, number: int) -> frozenset[int]:
        if number in self._finds:
            return frozenset({self._finds[number]})
        item = self.world.items[number]
        return item.child.edits - item.parent.edits

    def _merge_alone(self, number: int) -> float:
        """Try one confirmed change on the incumbent; what gains is the node's own, and rests on the incumbent alone."""
        self._tries[number] = self._tries.get(number, (0, ""))[0] + 1, self.incumbent.name
        child = union(self.incumbent, Program("", self._change(number), (), ()))
        decision, differences = self._run(self.incumbent, child, MERGE_PAIRS_MAX, None)
        if decision is Decision.BETTER:
            if number in self._finds:
                self._announce(child, differences)
            else:
                self._adopt(child, None)
        return 2.0 * len(differences)

    def _find(self) -> None:
        """A discovery of its own: true, or false as often as the evidence allows; its runs look like a gain."""
        true = self.rng.random() >= FALSE_KEEPS
        for _ in range(REDRAWS):
            # gains of the bench's easy stream, in noises of one run; the test selects among them
            effect = -NOISE * self.rng.uniform(0.3, 5.0) / math.sqrt(2) if true else 0.0
            differences = self._draws(effect)
            if differences is not None:
                edit = self.world.edit(effect, Truth.TRUE if true else Truth.CHANCE)
                self._announce(grown(self.incumbent, edit), differences)
                return

    def _draws(self, effect: float) -> list[float] | None:
        """The pairs of a candidate that the test finds better; None if it does not."""
        differences: list[float] = []
        while len(differences) < sequential.PAIRS_MAX:
            differences.append(self.rng.gauss(effect, NOISE))
            decision = sequential.verdict(differences, SPREAD)
            if decision is not Decision.MORE:
                return differences if decision is Decision.BETTER else None
        return None

    def _announce(self, child: Program, differences: list[float]) -> None:
        """State a discovery over the incumbent, and build on it."""
        number = self.world.claim(self._now, self.me, self.incumbent, child, differences)
        (self._finds[number],) = child.edits - self.incumbent.edits
        self.states[number], self.verdicts[number] = State.ADOPTED, "confirmed"
        self._pairs[number], self._looks[number] = differences, 1
        self._adopt(replace(child, rests_on=(f"d{number}",)), f"d{number}")
