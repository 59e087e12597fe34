"""One trial by hand: the same sandbox, evaluation and measurement as a node's, recorded nowhere.

Here because a person asks, some things may differ from a node's trial: the budget, the split, and whether the static
screen is asked at all. The sandbox is not among them.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from ledger.predicates import PROGRAM_BYTES_MAX, Measurement
from node.errors import NodeFailure, UserError
from node.home import Home
from node.lanes import RunnerLane, open_lane
from node.tracks import choose_track
from policy.screening import screen_program
from trainer.challenge import Challenge
from trainer.requests import Failed, Measured, TrialRequest
from trainer.sandbox.preflight import preflight
from trainer.trial import hardware


class TrialOptions(NamedTuple):
    track: str | None  # None: the node's own choice
    seed: int
    budget_s: float | None  # instead of the track's
    split: Literal["public", "private"]
    screen: bool  # False: straight into the sandbox, for testing the sandbox itself


async def run_single_trial(home: Home, program: bytes, options: TrialOptions) -> Measured:
    """Train and evaluate `program` once. One that the static screen refuses is not run and measures as `refused`.

    With the measurement comes the sanitised end of what the program printed while it trained.

    Raises `UserError`, `SandboxUnavailable`, `NodeFailure`.
    """
    challenge, track = challenge_by_hand(home, options.track, options.budget_s)
    preflight(challenge.tracks[track].device)
    if options.screen and (why := screen_program(program)) is not None:
        return Measured(refused(program, why))
    if len(program) > PROGRAM_BYTES_MAX:
        raise UserError(f"the program is over the limit of {PROGRAM_BYTES_MAX} bytes.")
    split = home.public_split(challenge) if options.split == "public" else home.private_split()
    request = TrialRequest(program=program, track=track, seed=options.seed, salt=split.salt)
    async with lane_by_hand(home, challenge) as lane:
        reply = await lane.ask(request)  # not lane.trial, which leaves out the log
    if not isinstance(reply, Measured):
        raise NodeFailure(f"the trial could not be made: {reply.reason if isinstance(reply, Failed) else reply}")
    return reply


def challenge_by_hand(home: Home, asked: str | None, budget_s: float | None = None) -> tuple[Challenge, str]:
    """The home's challenge and a track of it, perhaps with another budget; the challenge's digest then names no swarm.

    Raises `UserError` for a track that it does not have.
    """
    challenge = home.challenge()
    track = choose_track(challenge, asked)
    if budget_s is None:
        return challenge, track
    changed = msgspec.structs.replace(challenge.tracks[track], budget_s=budget_s)
    return msgspec.structs.replace(challenge, tracks={track: changed}), track


@asynccontextmanager
async def lane_by_hand(home: Home, challenge: Challenge) -> AsyncIterator[RunnerLane]:
    """A runner for trials of `challenge`, over the corpus of the home. Raises what `open_lane` raises."""
    own = home.challenge()
    store = home.store(own)
    async with open_lane(challenge, home.corpus_path(own, store), home.tokenizer_path(own, store)) as lane:
        yield lane


def read_program(path: Path) -> bytes:
    """The text of a program, read no further than one byte past the limit: the screen refuses it by its size."""
    with path.open("rb") as file:
        return file.read(PROGRAM_BYTES_MAX + 1)


def refused(program: bytes, why: str) -> Measurement:
    """The measurement of a program that was not run."""
    return Measurement(
        status="refused",
        val_bpb=None,
        evaluated_bytes=0,
        budget_used_s=0.0,
        wall_s=0.0,
        peak_memory_bytes=0,
        weights_bytes=0,
        weights_sha256=None,
        validation_sha256=None,
        program_lines=len(program.splitlines()),
        hardware=hardware("cpu"),
        reason=f"the static screen refuses the program: {why}",
    )
