"""Two programs against each other by hand: pairs as a node makes them, recorded nowhere.

Both runs of a pair have one seed and follow each other directly, and which goes first alternates, for the reason that
workbench.py gives. The number of pairs is fixed before the first run and all are looked at once, so the interval and
the p-value mean what they say for *this* comparison; whoever compares many programs and picks the best one has to
correct for that. A program against itself shows the noise.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct

from ledger.predicates import Measurement, Status
from node.home import Home
from node.single import challenge_by_hand, lane_by_hand, refused
from node.workbench import Lane
from policy import evidence
from policy.screening import screen_program
from trainer.requests import TrialRequest
from trainer.sandbox.preflight import preflight

Side = Literal["a", "b"]


class ScoredPair(Struct, frozen=True):
    """Bits per byte of both programs with one seed."""

    seed: int
    a: float
    b: float
    difference: float  # b - a: negative if b is better


class Failure(Struct, frozen=True):
    """The run that ended the comparison."""

    program: Side
    seed: int | None  # None: refused before any run
    status: Status
    reason: str


class Comparison(Struct, frozen=True):
    """What the pairs came to. There is an effect if no run failed, and a failure otherwise."""

    track: str
    split: str
    a: str  # SHA-256 of the program's text
    b: str
    pairs: tuple[ScoredPair, ...]
    effect: evidence.Effect | None  # of b - a
    failure: Failure | None


Report = Callable[[ScoredPair], None]


async def compare_programs(home: Home, a: bytes, b: bytes, asked: str | None, pairs: int, report: Report) -> Comparison:
    """`pairs` (at least 2) pairs on the home's public split, in the track `asked` for or else one for the CPU.

    Seeds count from 0; `report` hears of each pair as it is complete.

    Raises `UserError`, `SandboxUnavailable`, `NodeFailure`.
    """
    challenge, track = challenge_by_hand(home, asked)
    preflight(challenge.tracks[track].device)
    programs: dict[Side, bytes] = {"a": a, "b": b}
    for side, program in programs.items():
        if (why := screen_program(program)) is not None:
            return _compared(programs, track, [], _failure(side, None, refused(program, why)))
    salt = home.public_split(challenge).salt
    async with lane_by_hand(home, challenge) as lane:
        return await run_pairs(lane, programs, track, salt, range(pairs), report)


async def run_pairs(
    lane: Lane, programs: dict[Side, bytes], track: str, salt: bytes, seeds: Sequence[int], report: Report
) -> Comparison:
    """One pair for each seed, until a run fails."""
    done: list[ScoredPair] = []
    orders: tuple[tuple[Side, Side], ...] = (("a", "b"), ("b", "a"))
    for index, seed in enumerate(seeds):
        scores: dict[Side, float] = {}
        for side in orders[index % 2]:
            measured = await lane.trial(TrialRequest(program=programs[side], track=track, seed=seed, salt=salt))
            if measured.val_bpb is None:
                return _compared(programs, track, done, _failure(side, seed, measured))
            scores[side] = measured.val_bpb
        done.append(ScoredPair(seed, scores["a"], scores["b"], scores["b"] - scores["a"]))
        report(done[-1])
    return _compared(programs, track, done, None)


def _failure(side: Side, seed: int | None, measured: Measurement) -> Failure:
    return Failure(side, seed, measured.status, measured.reason)


def _compared(
    programs: dict[Side, bytes], track: str, pairs: Sequence[ScoredPair], failure: Failure | None
) -> Comparison:
    shown = None if failure else evidence.effect([pair.difference for pair in pairs])
    a, b = (hashlib.sha256(programs[side]).hexdigest() for side in ("a", "b"))
    return Comparison(track, "public", a, b, tuple(pairs), shown, failure)


def pair_line(pair: ScoredPair) -> str:
    return f"seed {pair.seed}  A {pair.a:.4f}  B {pair.b:.4f}  B - A {pair.difference:+.4f} bpb"


def outcome_line(compared: Comparison) -> str:
    """One line for people: the effect, or what failed."""
    if compared.failure is not None:
        failed = compared.failure
        where = "" if failed.seed is None else f" with seed {failed.seed}"
        return f"{failed.program.upper()} failed{where}, {failed.status}: {failed.reason}"
    assert compared.effect is not None, "without a failure there is an effect"
    mean, low, high, p_value = (getattr(compared.effect, name) for name in ("mean", "low", "high", "p_value"))
    return (
        f"B - A {mean:+.4f} bpb, 95 % interval [{low:+.4f}, {high:+.4f}], p {p_value:.3g} of B being no better, "
        f"{len(compared.pairs)} pairs"
    )
