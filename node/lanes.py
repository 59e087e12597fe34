"""A compute lane: the trusted runner process in which trials are measured, one at a time.

The runner spawns sandboxes and computes losses; the node does neither, so a long step never starves a heartbeat. The
runner's answers are believed: it is our code, and what it runs for strangers it runs in sandboxes.
"""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from ledger.predicates import Measurement
from node.errors import NodeFailure
from trainer.challenge import Challenge
from trainer.requests import (
    HEADER_BYTES,
    Failed,
    FrameError,
    Measured,
    Ready,
    Reply,
    Setup,
    TrialRequest,
    body_bytes,
    decode_reply,
    encode,
)


class RunnerLane:
    """Trials through one runner; made by `open_lane`."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._turn = trio.Lock()

    async def trial(self, request: TrialRequest) -> Measurement:
        """Train and evaluate once; waits for its turn.

        Raises `NodeFailure` where no measurement could be made. Cancelled, it leaves the lane unusable: close it.
        """
        reply = await self.ask(request)
        if not isinstance(reply, Measured):
            raise NodeFailure(f"the trial could not be made: {reply.reason if isinstance(reply, Failed) else reply}")
        return reply.measurement

    async def ask(self, request: Setup | TrialRequest) -> Reply:
        """One request, one reply. Raises `NodeFailure` if the runner has ended or does not speak as agreed."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise NodeFailure("the runner has no pipes")
        async with self._turn:
            try:
                await stdin.send_all(encode(request))
                size = body_bytes(await _exactly(stdout, HEADER_BYTES))
                return decode_reply(await _exactly(stdout, size))
            except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError, FrameError) as error:
                raise NodeFailure(f"the runner process {self._process.pid} ended or failed: {error!r}") from error


async def _exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = await stream.receive_some(count - len(data))
        if not chunk:
            raise EOFError(f"the pipe ended after {len(data)} of {count} bytes")
        data += chunk
    return bytes(data)


@asynccontextmanager
async def open_lane(challenge: Challenge, corpus: Path, tokenizer: Path | None) -> AsyncIterator[RunnerLane]:
    """A runner ready for trials of `challenge`, killed with all its sandboxes at the end of the block.

    `corpus` and `tokenizer` are the files that the challenge names; None where bytes are the tokens.

    Raises `NodeFailure` if it cannot work, with its reason.
    """
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "trainer.runner"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in the terminal is for the node, which then ends the runner
    )
    try:
        lane = RunnerLane(process)
        files = {"corpus_path": str(corpus.resolve())}
        if tokenizer is not None:
            files["tokenizer_path"] = str(tokenizer.resolve())
        reply = await lane.ask(Setup(challenge=challenge.canonical(), **files))
        if not isinstance(reply, Ready):
            raise NodeFailure(f"the runner cannot work: {reply.reason if isinstance(reply, Failed) else reply}")
        yield lane
    finally:
        with trio.CancelScope(shield=True):
            process.kill()  # its sandboxes die with it
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()
