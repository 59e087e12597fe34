"""What is true, what is stated and what the liars do, in the simulation of benches/liars.py."""

import heapq
import random
import statistics
from collections.abc import Sequence
from enum import Enum

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ledger.predicates import Comparison, Discovery, Entry, Hardware, Measurement, Trial, Verdict
from policy import intake, priority, retraction, sequential, standing
from policy.noise import Spread

NOISE = 0.01  # bits per byte, standard deviation of a difference
SPREAD = Spread(NOISE, 6.0)
SCORE = 3.0  # of the baseline, bits per byte
TRACK = "cpu-quick"
LIARS = {"refute": 0.3, "betray": 0.2, "copy": 1 / 6}  # shares of the liars; the rest fabricate
COPIED = 0.8  # of the honest discoveries
CLUSTERS = 2


class Plan(Struct, frozen=True, kw_only=True):
    """What is simulated."""

    nodes: int = 1000
    liars: float = 0.3  # share of the nodes
    cluster: int = 500  # keys of each cluster, besides the nodes
    finds: int = 60  # discoveries of honest nodes that are expected
    fabrications: float = 1.5  # claims of each who fabricates
    cluster_claims: int = 50  # of each cluster
    runs: float = 3000.0  # of each node's lane
    quiet: float = 0.25  # of that, at the end, without a new claim by anybody, so that verdicts can come in
    delay: float = 10.0  # from a statement to its arrival everywhere, in runs
    share: float = priority.VERIFY_SHARE
    seed: int = 1


class Truth(Enum):
    TRUE = "a gain"
    CHANCE = "an honest discovery with no gain behind it"
    FABRICATED = "fabricated"


class Program(Struct, frozen=True):
    """A set of edits, whose effects add up."""

    name: str
    edits: frozenset[int]
    line: tuple[str, ...]  # programs that it came by, itself last
    rests_on: tuple[str, ...]  # discoveries


BASELINE = Program("baseline", frozenset(), ("baseline",), ())


def grown(parent: Program, edit: int) -> Program:
    """The parent with one more edit."""
    return union(parent, Program("", frozenset({edit}), (), ()))


def union(ours: Program, theirs: Program) -> Program:
    """Both sets of edits: what a three-way merge gives where edits do not touch each other."""
    edits = ours.edits | theirs.edits
    name = ",".join(map(str, sorted(edits)))
    rests_on = tuple(dict.fromkeys([*ours.rests_on, *theirs.rests_on]))
    return Program(name, edits, tuple(dict.fromkeys([*ours.line, *theirs.line, name])), rests_on)


class Item(Struct, frozen=True):
    """A discovery as everybody sees it."""

    number: int
    author: int
    parent: Program
    child: Program
    gain: float  # claimed, bits per byte
    interval: standing.Interval  # claimed
    judged: intake.Waiting | intake.Rejected | None  # by `check_claim`, which says the same to everybody
    link: retraction.Link
    change: tuple[str, str]


class World:
    """Honest nodes are 0 to `honest` - 1, liars go on to `nodes` - 1, the keys of the clusters come after."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.rng = plan, random.Random(plan.seed)
        self.effects: list[float] = []  # of edits, bits per byte
        self.truths: list[Truth] = []
        self.items: dict[int, Item] = {}
        self.arrived: list[int] = []
        self.retracted: set[str] = set()
        self.betrayed = False
        self.copies = self.claims = 0
        liars = round(plan.liars * plan.nodes)
        self.honest = plan.nodes - liars
        at = self.honest
        groups: dict[str, list[int]] = {}
        for name, part in LIARS.items():
            groups[name] = list(range(at, at + round(liars * part)))
            at += len(groups[name])
        self.refuters, self.betrayers, self.copiers = groups["refute"], groups["betray"], groups["copy"]
        self.fabricators = list(range(at, plan.nodes))
        starts = [plan.nodes + n * plan.cluster for n in range(CLUSTERS)]
        self.clusters = [list(range(start, start + plan.cluster)) for start in starts]
        self.authors = plan.nodes + CLUSTERS * plan.cluster
        rows = 4 * plan.finds + 2 * plan.nodes + CLUSTERS * plan.cluster_claims + 100
        self.confirming = np.zeros((rows, self.authors), bool)
        self.refuting = np.zeros((rows, self.authors), bool)
        self.undecided = np.zeros((rows, self.authors), bool)
        self._sending: list[tuple[float, int, tuple[object, ...]]] = []
        self._sent = 0

    def edit(self, effect: float, truth: Truth) -> int:
        """A new edit with its true effect."""
        self.effects.append(effect)
        self.truths.append(truth)
        return len(self.effects) - 1

    def effect(self, program: Program) -> float:
        return sum(self.effects[edit] for edit in program.edits)

    def is_fabricated(self, program: Program) -> bool:
        return any(self.truths[edit] is Truth.FABRICATED for edit in program.edits)

    def liar(self, author: int) -> bool:
        """Whether what this author says now is a lie."""
        return author >= self.honest and (self.betrayed or author not in self.betrayers)

    def _send(self, at: float, *what: object) -> None:
        heapq.heappush(self._sending, (at + self.plan.delay, self._sent, what))
        self._sent += 1

    def vote(self, at: float, number: int, authors: Sequence[int], verdict: Verdict) -> None:
        """State verdicts on a discovery."""
        self._send(at, self._hear_votes, number, list(authors), verdict)

    def retract(self, at: float, discovery: str) -> None:
        self._send(at, self.retracted.add, discovery)

    def claim(
        self, at: float, author: int, parent: Program, child: Program, differences: list[float], sound: bool = True
    ) -> int:
        """State a discovery and get its number. `sound`: its records agree with each other."""
        number, self.claims = self.claims, self.claims + 1
        low, high = sequential.interval(differences, SPREAD)
        item = Item(
            number,
            author,
            parent,
            replace(child, rests_on=(f"d{number}",)),
            -statistics.fmean(differences),
            standing.Interval(low, high),
            intake.check_claim(records(author, parent, child, differences, sound), tracks={TRACK: "baseline"}),
            retraction.Link(f"d{number}", parent.rests_on),
            (str(sorted(parent.edits)), str(sorted(child.edits))),
        )
        self._send(at, self._hear_claim, item)
        return number

    def deliver(self, now: float) -> None:
        """Let arrive what has reached everybody by now."""
        while self._sending and self._sending[0][0] <= now:
            self.now, _, (hear, *what) = heapq.heappop(self._sending)
            hear(*what)  # type: ignore[operator]

    def _hear_votes(self, number: int, authors: list[int], verdict: Verdict) -> None:
        stated = {"confirmed": self.confirming, "refuted": self.refuting, "inconclusive": self.undecided}
        for kind, matrix in stated.items():
            matrix[number, authors] = kind == verdict

    def _hear_claim(self, item: Item) -> None:
        self.items[item.number] = item
        self.arrived.append(item.number)
        self._liars_react(item)

    def _liars_react(self, item: Item) -> None:
        """What liars say of a claim that has just reached them."""
        others = [key for key in self.fabricators + self.betrayers * self.betrayed if key != item.author]
        if self.is_fabricated(item.child):
            for cluster in self.clusters:
                if item.author in cluster:
                    self.vote(self.now, item.number, [key for key in cluster if key != item.author], "confirmed")
            self.vote(self.now, item.number, others, "confirmed")
        elif item.author < self.honest or item.author in self.betrayers:
            cluster_keys = [key for cluster in self.clusters for key in cluster]
            self.vote(self.now, item.number, self.refuters + cluster_keys, "refuted")
            if self.betrayed:
                self.vote(self.now, item.number, [key for key in self.betrayers if key != item.author], "refuted")
            if self.rng.random() < COPIED:
                self._copy(item)

    def _copy(self, item: Item) -> None:
        """The same work under another name, half of the time with a comment added."""
        disguised = replace(item.child, name=item.child.name + " # mine")
        child = disguised if self.rng.random() < 0.5 else item.child
        self.copies += 1
        self.claim(self.now, self.rng.choice(self.copiers), item.parent, child, [-item.gain * f for f in (0.9, 1, 1.1)])

    def fabricate(self, at: float, author: int) -> None:
        """Claim a gain that is none, over a recent program. A third does nothing, the others harm."""
        shown = [self.items[number].child for number in self.arrived]
        shown = [BASELINE, *(program for program in shown if not self.is_fabricated(program))]
        parent = shown[-1 - min(int(self.rng.expovariate(0.5)), len(shown) - 1)]
        harm = 0.0 if self.rng.random() < 1 / 3 else abs(self.rng.gauss(0, 2 * NOISE))
        size = NOISE * (100 if self.rng.random() < 0.2 else self.rng.uniform(1, 5))
        differences = [-size * self.rng.uniform(0.8, 1.2) for _ in range(4)]
        child = grown(parent, self.edit(harm, Truth.FABRICATED))
        self.claim(at, author, parent, child, differences, sound=self.rng.random() >= 0.1)


def records(author: int, parent: Program, child: Program, differences: list[float], sound: bool) -> intake.Claim:
    """A claim with its trials, as they would stand in the ledger."""
    entry = Entry(
        protocol=1, challenge="c" * 64, author=f"a{author}", feed="main", seq=0, prev=None, lamport=0, recorded_at=""
    )
    seeds = tuple(range(len(differences)))
    named: dict[str, tuple[str, Trial] | None] = {}
    for seed, difference in zip(seeds, differences, strict=True):
        for program, score in ((parent, SCORE), (child, SCORE + difference * sound)):
            trial = Trial(entry=entry, track=TRACK, seed=seed, split="public", result=replace(_RUN, val_bpb=score))
            named[f"{program.name}:{seed}"] = (program.name, trial)
    mean = statistics.fmean(differences)
    comparison = Comparison(
        split="public",
        seeds=seeds,
        parent_trials=tuple(f"{parent.name}:{seed}" for seed in seeds),
        child_trials=tuple(f"{child.name}:{seed}" for seed in seeds),
        differences=tuple(differences),
        mean=mean,
        low=mean,
        high=mean,
        p_value=0.0,
        noise=NOISE,
    )
    found = Discovery(entry=entry, track=TRACK, parent=parent.name, hypothesis="", proposer="", comparison=comparison)
    return intake.Claim(child.name, found, _TEXT, _TEXT, True, named)


_TEXT = b"def build(vocab_size, seq_len): ...\n\n\ndef train(model, task): ...\n"
_RUN = Measurement(
    status="ok",
    val_bpb=SCORE,
    evaluated_bytes=1,
    budget_used_s=1.0,
    wall_s=1.0,
    peak_memory_bytes=1,
    weights_bytes=1,
    weights_sha256=None,
    validation_sha256=None,
    program_lines=1,
    hardware=Hardware(machine="", cpu="", cores=1, system="", python="", torch=""),
)
