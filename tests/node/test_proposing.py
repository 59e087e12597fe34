"""Proposals made ahead: the lane does not wait, nothing is tried twice, and no proposer's failure ends the node."""

import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import examples
import pytest
import trio
import trio.testing
from scripted import NOISE, ScriptedLane, program

from ledger.predicates import Measurement
from node.adoption import Adopter
from node.home import SplitChoice
from node.incumbent import IncumbentTree
from node.proposing import (
    AGAIN_S,
    AVOIDED_MAX,
    LOOK_S,
    REFUSED_MAX,
    UNANSWERED_MAX,
    Ahead,
    Alone,
    Propose,
    Ready,
    Source,
    in_thread,
)
from node.research import Research
from node.workbench import Workbench
from trainer.proposers.proposal import Context, NothingNew, Proposal, ProposerError, fingerprint
from trainer.requests import TrialRequest

PARENT = "a" * 64
BASELINE = program(0.0).decode()


class Counting:
    """Proposes gains 0.001, 0.002, … and remembers what it was told; `errors` are raised first."""

    name = "counting"
    answers = True  # suggestions

    def __init__(self, *errors: Exception, most: int = 10**6) -> None:
        self.errors, self.most, self.contexts = list(errors), most, list[Context]()

    def propose(self, context: Context, rng: random.Random) -> Proposal:
        self.contexts.append(context)
        if self.errors:
            raise self.errors.pop(0)
        if len(self.contexts) > self.most:
            raise NothingNew("all of them have been tried")
        gain = len(self.contexts) / 1000
        return Proposal(
            program=program(gain).decode(), hypothesis=f"gain {gain}", proposer=self.name,
            answers=self.answers and bool(context.suggestion),
        )  # fmt: skip


class Outlook(Alone):
    """What a test says of proposals; `claims` has weights by the SHA-256 of programs."""

    def __init__(self) -> None:
        self.given: list[Ready] = []
        self.known: set[str] = set()
        self.claims: dict[str, float] = {}
        self.told: list[tuple[str, str]] = []

    def by_hand(self, parent: str) -> Ready | None:
        return self.given.pop(0) if self.given else None

    def tried(self, child: str) -> bool:
        return child in self.known

    def contested(self, ready: Ready) -> float | None:
        return self.claims.get(ready.child)

    def queued(self, ready: Ready, suggested: bool) -> None:
        self.told.append(("suggested" if suggested else "queued", ready.child))

    def dropped(self, ready: Ready) -> None:
        self.told.append(("dropped", ready.child))

    def none_passed(self, reason: str) -> None:
        self.told.append(("none", reason))


def source(parent: str, waiting: frozenset[str], rng: random.Random) -> Context:
    return Context(program=BASELINE, seen=waiting)


def passes(parent: str, text: str) -> str | None:
    return None


async def at_once(propose: Propose, context: Context, rng: random.Random) -> Proposal:
    """Without a thread, so that tests are the same each time."""
    await trio.lowlevel.checkpoint()
    return propose(context, rng)


def gain_of(ready: Ready | None) -> float:
    assert ready is not None
    return float(ready.proposal.program.split()[2])


def digest(gain: float) -> str:
    return examples.digest(program(gain).decode())


class Made:
    """An `Ahead` with its parts; `async with` runs it."""

    def __init__(
        self,
        proposer: Counting,
        screen: Callable[[str, str], str | None] = passes,
        told: Source = source,
        call: Callable[[Propose, Context, random.Random], Awaitable[Proposal]] = at_once,
    ) -> None:
        self.lines, self.outlook = list[str](), Outlook()
        self.ahead = Ahead(
            told, proposer, screen, random.Random, self.lines.append, outlook=self.outlook, call=call
        )  # fmt: skip


async def test_proposals_are_ready_ahead_and_what_waits_is_told_to_the_proposer(nursery: trio.Nursery) -> None:
    proposer = Counting()
    made = Made(proposer)
    nursery.start_soon(made.ahead.run)
    assert gain_of(await made.ahead.next(PARENT)) == 0.001
    await trio.testing.wait_all_tasks_blocked()
    assert len(proposer.contexts) == 3  # one is under way and two wait
    made_so_far = {fingerprint(program(gain).decode()) for gain in (0.001, 0.002)}
    assert set(proposer.contexts[2].seen) == made_so_far  # type: ignore[call-overload]
    with trio.fail_after(0):
        assert gain_of(await made.ahead.next(PARENT)) == 0.002


async def test_a_change_of_another_program_than_the_parent_says_so(nursery: trio.Nursery) -> None:
    def told(parent: str, waiting: frozenset[str], rng: random.Random) -> Context:
        origin = "made from 0123, an elite" if rng.random() < 0.5 else ""
        return Context(program=BASELINE, seen=waiting, origin=origin)

    made = Made(Counting(), told=told)
    nursery.start_soon(made.ahead.run)
    ready = [await made.ahead.next(PARENT) for _ in range(8)]
    proposals = [one.proposal for one in ready if one is not None]
    drawn = [random.Random(number).random() < 0.5 for number in range(1, 9)]  # each by the chance of its own number
    assert {True, False} == set(drawn)
    assert [one.operator for one in proposals] == ["elite:" if other else "" for other in drawn]
    assert [one.hypothesis.startswith("made from 0123, an elite: gain") for one in proposals] == drawn
    assert {one.parent for one in ready if one is not None} == {PARENT}


async def test_it_says_whether_the_lane_would_wait(nursery: trio.Nursery) -> None:
    made = Made(Counting(most=1))
    assert made.ahead.waits(PARENT)
    nursery.start_soon(made.ahead.run)
    await trio.testing.wait_all_tasks_blocked()
    assert not made.ahead.waits(PARENT)  # one is ready
    await made.ahead.next(PARENT)
    await trio.testing.wait_all_tasks_blocked()
    assert not made.ahead.waits(PARENT)  # nothing will come
    assert made.ahead.waits("b" * 64)


async def test_another_parent_drops_what_was_made_for_the_last(nursery: trio.Nursery) -> None:
    made = Made(Counting())
    nursery.start_soon(made.ahead.run)
    await made.ahead.next(PARENT)
    await trio.testing.wait_all_tasks_blocked()
    ready = await made.ahead.next("b" * 64)
    assert ready is not None
    assert ready.parent == "b" * 64
    assert [child for what, child in made.outlook.told if what == "dropped"] == [digest(0.002), digest(0.003)]


async def test_a_proposer_that_has_nothing_is_asked_again_after_news_and_not_at_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    proposer = Counting(NothingNew("all tried"), ProposerError("the service is down"), OSError("no git"))
    made = Made(proposer)
    nursery.start_soon(made.ahead.run)
    assert await made.ahead.next(PARENT) is None
    for pause_s in (AGAIN_S, 2 * AGAIN_S):
        made.ahead.hear()
        assert await made.ahead.next(PARENT) is None
        asked = len(proposer.contexts)
        await trio.sleep(pause_s)
        assert await made.ahead.next(PARENT) is None
        assert len(proposer.contexts) == asked + 1
    made.ahead.hear(urgent=True)
    assert gain_of(await made.ahead.next(PARENT)) == 0.004
    assert [line.partition(": ")[2] for line in made.lines] == ["all tried", "the service is down", "no git"]


async def test_something_new_wakes_a_lane_that_waits_for_a_slow_proposer(nursery: trio.Nursery) -> None:
    """What has arrived may be more urgent than the node's own search."""
    gate = trio.Event()

    async def slow(propose: Propose, context: Context, rng: random.Random) -> Proposal:
        await gate.wait()
        return propose(context, rng)

    made = Made(Counting(), call=slow)
    nursery.start_soon(made.ahead.run)
    answers: list[Ready | None] = []

    async def ask() -> None:
        answers.append(await made.ahead.next(PARENT))

    nursery.start_soon(ask)
    await trio.testing.wait_all_tasks_blocked()
    made.ahead.hear()
    await trio.testing.wait_all_tasks_blocked()
    assert answers == [None]
    gate.set()
    assert gain_of(await made.ahead.next(PARENT)) == 0.001


async def test_refused_proposals_are_replaced_and_only_so_many(nursery: trio.Nursery) -> None:
    proposer = Counting()
    made = Made(proposer, lambda parent, text: "not this one" if "0.001" in text else None)
    nursery.start_soon(made.ahead.run)
    assert gain_of(await made.ahead.next(PARENT)) == 0.002
    refusing = Made(proposer := Counting(), lambda parent, text: "never")
    nursery.start_soon(refusing.ahead.run)
    assert await refusing.ahead.next(PARENT) is None
    assert len(proposer.contexts) == REFUSED_MAX
    unreadable = Made(Counting())
    unreadable.ahead._proposer = _Unreadable()
    nursery.start_soon(unreadable.ahead.run)
    assert await unreadable.ahead.next(PARENT) is None
    assert "not Python" in unreadable.lines[-1]


class _Unreadable(Counting):
    def propose(self, context: Context, rng: random.Random) -> Proposal:
        return Proposal(program="def (", hypothesis="nonsense", proposer="nonsense")


async def test_what_anybody_has_tried_is_not_tried_again(nursery: trio.Nursery) -> None:
    made = Made(Counting())
    made.outlook.known = {digest(0.001), digest(0.002), digest(0.003)}
    nursery.start_soon(made.ahead.run)
    assert gain_of(await made.ahead.next(PARENT)) == 0.004


async def test_what_others_claim_comes_last_and_is_not_lost(nursery: trio.Nursery) -> None:
    made = Made(proposer := Counting(most=3))
    made.outlook.claims = {digest(0.001): 0.5, digest(0.002): 0.0}
    nursery.start_soon(made.ahead.run)
    assert gain_of(await made.ahead.next(PARENT)) == 0.003
    await trio.testing.wait_all_tasks_blocked()
    assert len(proposer.contexts) >= 4  # the proposer has nothing else:
    assert gain_of(await made.ahead.next(PARENT)) == 0.002  # a stranger's claim weighs nothing
    assert gain_of(await made.ahead.next(PARENT)) == 0.001


async def test_a_liar_who_claims_everything_costs_a_few_proposals_and_no_run(nursery: trio.Nursery) -> None:
    made = Made(proposer := Counting())
    made.outlook.claims = {digest(n / 1000): 0.0 for n in range(1, 1000)}
    nursery.start_soon(made.ahead.run)
    assert await made.ahead.next(PARENT) is not None
    assert AVOIDED_MAX <= len(proposer.contexts) <= AVOIDED_MAX + 1  # the next may be asked for already


async def test_what_was_set_aside_is_taken_as_soon_as_its_claim_is_over(nursery: trio.Nursery) -> None:
    made = Made(Counting())
    made.outlook.claims = {digest(0.001): 1.0}
    nursery.start_soon(made.ahead.run)
    assert gain_of(await made.ahead.next(PARENT)) == 0.002
    await trio.testing.wait_all_tasks_blocked()  # 3 and 4 wait
    made.outlook.claims = {digest(0.003): 1.0}  # claimed since it was queued
    assert gain_of(await made.ahead.next(PARENT)) == 0.004
    await trio.testing.wait_all_tasks_blocked()
    made.outlook.claims = {}
    assert [gain_of(await made.ahead.next(PARENT)) for _ in range(2)] == [0.003, 0.001]


async def test_the_operators_program_goes_before_all(nursery: trio.Nursery) -> None:
    made = Made(Counting())
    nursery.start_soon(made.ahead.run)
    await made.ahead.next(PARENT)
    mine = Ready(PARENT, Proposal(program=BASELINE, hypothesis="mine", proposer="operator"))
    made.outlook.given = [mine]
    assert await made.ahead.next(PARENT) is mine
    assert gain_of(await made.ahead.next(PARENT)) == 0.002


async def test_while_the_operators_program_is_tried_proposals_are_made(nursery: trio.Nursery) -> None:
    made = Made(Counting())
    made.outlook.given = [Ready(PARENT, Proposal(program=BASELINE, hypothesis="mine", proposer="operator"))]
    nursery.start_soon(made.ahead.run)
    await trio.testing.wait_all_tasks_blocked()
    await made.ahead.next(PARENT)
    await trio.testing.wait_all_tasks_blocked()
    assert [what for what, _ in made.outlook.told] == ["queued", "queued"]


async def test_the_operators_program_does_not_wait_for_a_slow_proposer(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def never(propose: Propose, context: Context, rng: random.Random) -> Proposal:
        await trio.sleep_forever()
        raise AssertionError("it sleeps for ever")

    made = Made(Counting(), call=never)
    nursery.start_soon(made.ahead.run)
    mine = Ready(PARENT, Proposal(program=BASELINE, hypothesis="mine", proposer="operator"))

    async def later() -> None:
        await trio.sleep(1.0)
        made.outlook.given = [mine]

    nursery.start_soon(later)
    with trio.fail_after(1.0 + LOOK_S):
        assert await made.ahead.next(PARENT) is mine


async def test_a_proposer_that_never_returns_does_not_keep_the_node_from_stopping() -> None:
    """With a real thread, which is left alone."""
    begun, release = threading.Event(), threading.Event()

    class Stuck(Counting):
        def propose(self, context: Context, rng: random.Random) -> Proposal:
            begun.set()
            release.wait()
            return super().propose(context, rng)

    made = Made(Stuck(), call=in_thread)
    try:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(made.ahead.run)
                nursery.start_soon(made.ahead.next, PARENT)
                assert await trio.to_thread.run_sync(begun.wait, 20.0)
                nursery.cancel_scope.cancel()
        assert made.outlook.told == []
    finally:
        release.set()


async def test_a_suggestion_is_answered_whoever_claims_it_or_said_to_be_impossible(nursery: trio.Nursery) -> None:
    def told(parent: str, waiting: frozenset[str], rng: random.Random) -> Context:
        return Context(program=BASELINE, seen=waiting, suggestion="a larger batch")

    made = Made(Counting(most=1), told=told)
    made.outlook.claims = {digest(0.001): 1.0}
    nursery.start_soon(made.ahead.run)
    assert gain_of(await made.ahead.next(PARENT)) == 0.001
    await trio.testing.wait_all_tasks_blocked()
    assert made.outlook.told == [("suggested", digest(0.001)), ("none", "all of them have been tried")]


async def test_a_suggestion_that_proposals_leave_aside_stays_open_and_not_for_ever(nursery: trio.Nursery) -> None:
    asked = ["a state space model"]

    def told(parent: str, waiting: frozenset[str], rng: random.Random) -> Context:
        return Context(program=BASELINE, seen=waiting, suggestion=asked[0])

    proposer = Counting()
    proposer.answers = False
    made = Made(proposer, told=told)
    nursery.start_soon(made.ahead.run)
    for _ in range(UNANSWERED_MAX - 2):  # two more wait
        await made.ahead.next(PARENT)
    await trio.testing.wait_all_tasks_blocked()
    assert [what for what, _ in made.outlook.told] == ["queued"] * (UNANSWERED_MAX - 1) + ["none", "queued"]
    assert f"{UNANSWERED_MAX} proposals in a row, the last by counting" in made.outlook.told[-2][1]
    asked[0] = "a larger batch"
    proposer.answers = True
    for _ in range(3):
        ready = await made.ahead.next(PARENT)
    assert ready is not None
    assert ("suggested", ready.child) in made.outlook.told


TRIAL_S, PROPOSAL_S, RUN_S = 10.0, 5.0, 15 * 60.0


class TimedLane(ScriptedLane):
    """Trials that take TRIAL_S; counts the time in which one runs."""

    busy_s = 0.0

    async def trial(self, request: TrialRequest) -> Measurement:
        await trio.sleep(TRIAL_S)
        self.busy_s += TRIAL_S
        return await super().trial(request)


async def taking_its_time(propose: Propose, context: Context, rng: random.Random) -> Proposal:
    await trio.sleep(PROPOSAL_S)
    return propose(context, rng)


class Drawing(Counting):
    """Proposes losses and a few small gains on what its parent has, as a search finds them."""

    def propose(self, context: Context, rng: random.Random) -> Proposal:
        self.contexts.append(context)
        gain = float(context.program.split()[2]) + rng.gauss(-2 * NOISE, 3 * NOISE)
        return Proposal(program=program(gain).decode(), hypothesis="drawn", proposer=self.name)


async def test_proposals_are_made_while_the_controls_of_their_parent_run(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Though one takes longer than a trial: the lane waits neither for the first nor for the one after a keep."""
    store, lines = examples.new_store(tmp_path), list[str]()
    author, lane = examples.author(store), TimedLane()
    adopter = Adopter(store, author, IncumbentTree(tmp_path / "tree"), examples.TRACK, lines.append)
    adopter.begin(store.blobs.put(BASELINE.encode()))

    class Gaining(Counting):
        """The first gains much."""

        def propose(self, context: Context, rng: random.Random) -> Proposal:
            self.contexts.append(context)
            gain = 0.2 if context.program == BASELINE else -0.01 * len(self.contexts)
            return Proposal(program=program(gain).decode(), hypothesis="gains much", proposer=self.name)

    async def slowly(propose: Propose, context: Context, rng: random.Random) -> Proposal:
        await trio.sleep(1.5 * TRIAL_S)
        return propose(context, rng)

    def told(parent: str, waiting: frozenset[str], rng: random.Random) -> Context:
        return Context(program=store.blobs.get(parent).decode(), seen=waiting)

    ahead = Ahead(told, Gaining(), passes, random.Random, lines.append, call=slowly)
    bench = Workbench(store, author, lane, examples.TRACK, lines.append)
    research = Research(store, author, bench, adopter, ahead, SplitChoice("public", bytes(16)), lines.append)
    research.resume()
    nursery.start_soon(ahead.run)
    started_s = trio.current_time()
    while research.search.keeps == 0 or not research.search.children:
        assert await research.step() is not None
    assert len(lane.requests) >= 7  # controls, three runs of what was kept, and one of the next
    assert lane.busy_s == trio.current_time() - started_s


@pytest.mark.parametrize("seed", range(3))
async def test_the_lane_is_busy_with_a_proposer_that_takes_five_seconds(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, seed: int
) -> None:
    """15 virtual minutes: research over a ledger, with trials of 10 s and proposals of 5 s."""
    store, lines = examples.new_store(tmp_path), list[str]()
    author, lane = examples.author(store), TimedLane()
    adopter = Adopter(store, author, IncumbentTree(tmp_path / "tree"), examples.TRACK, lines.append)
    adopter.begin(store.blobs.put(BASELINE.encode()))

    def told(parent: str, waiting: frozenset[str], rng: random.Random) -> Context:
        return Context(program=store.blobs.get(parent).decode(), seen=waiting)

    ahead = Ahead(
        told, Drawing(), passes, lambda number: random.Random(f"{seed} {number}"), lines.append, call=taking_its_time
    )
    bench = Workbench(store, author, lane, examples.TRACK, lines.append)
    research = Research(store, author, bench, adopter, ahead, SplitChoice("public", bytes(16)), lines.append)
    research.resume()
    nursery.start_soon(ahead.run)
    started_s = trio.current_time()
    while trio.current_time() - started_s < RUN_S:
        assert await research.step() is not None
    wall_s = trio.current_time() - started_s
    assert research.search.candidates > 20
    assert lane.busy_s / wall_s >= 0.97
