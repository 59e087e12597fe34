"""One trial: train a program in a sandbox, evaluate its weights in a fresh one, and say what came of it.

1. Both sandboxes start, and import torch, at once. The evaluation's is idle while the training runs: nothing has been
   sent to it, and it executes nothing of the program before it is.
2. The training stub gets the text and answers with its ready byte. Nothing untrusted has run so far, so a failure up to
   here is this machine's (`SandboxUnavailable`) and no verdict on the program.
3. The CPU time of the tree is read, the source is sent, and the budget runs: the program's imports, compilation,
   training and serialisation all count. The tree is killed when it passes budget and grace.
4. The weights are opaque bytes here. They are never unpickled in this process.
5. The evaluation stub gets weights, rows in random order without their last byte, then the source; evaluate.py scores
   what it returns.

A program that fails is a measurement with a status and a reason, never a number and never an exception.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import random
import struct
import time
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ledger.statements import Hardware, Measurement, Status
from trainer.challenge import VOCAB_SIZE_BYTES, Challenge, Track
from trainer.corpus import Corpus, split, validation_rows
from trainer.evaluate import InvalidLogits, MissingLogits, Score, inputs, score
from trainer.requests import TrialRequest
from trainer.sandbox.command import Limits, SandboxUnavailable
from trainer.sandbox.process import LimitExceeded, Sandbox

WEIGHTS_BYTES_MAX = 256 * 2**20
STARTUP_TIMEOUT_S = 120.0  # importing torch from a cold disk
GRACE_SHARE = 0.05  # beyond the budget, for the last step and for saving the weights …
GRACE_S = 0.25  # … and for the interval between two samples of the watcher
WALL_FACTOR = 6.0  # a CPU second takes longer than a second on a busy machine, but not for ever
WALL_EXTRA_S = 30.0
EVALUATION_CPU_FACTOR = 2.0  # of the budget; a model trained for 10 s takes half a second for 64 KB
EVALUATION_CPU_EXTRA_S = 20.0
SPLITS_CACHED = 4  # public and private salt, and those before a rotation; each holds the training text once

_STUB = Path(__file__).with_name("stub.py")
_STUB_INSIDE = "/stub.py"
_READY = b"R"
_EXIT_OUT_OF_MEMORY = 3  # of the stub
_BATCH_BYTES = 8 * 2**20  # of logits that the evaluation stub holds at once
_BACKSTOP_CPU_S = 120.0  # RLIMIT_CPU counts from the start of the process, imports included


class ImpossibleTrial(ValueError):
    """No such track, or a split of the corpus that leaves too little text; the message says what to do."""


class _Failed(Exception):
    """The program did not earn a number."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Prepared(NamedTuple):
    """A corpus under one salt, ready to be sent."""

    tokens: bytes  # the training texts end to end
    doc_starts: bytes  # int64 little-endian
    rows: tuple[bytes, ...]  # of validation text, seq_len + 1 bytes each
    validation_sha256: str


def run_trial(
    request: TrialRequest,
    challenge: Challenge,
    corpus: Corpus,
    *,
    wall_cap_s: float | None = None,
    rng: random.Random | None = None,
) -> Measurement:
    """Train and evaluate `request.program`; blocks for about the budget, the evaluation and some seconds.

    `wall_cap_s` ends the training, and again the evaluation, that many seconds after the source was sent; by default a
    generous multiple of the budget. `rng` orders the rows; by default the order cannot be foreseen.

    Raises `ImpossibleTrial` and `SandboxUnavailable`.
    """
    started = time.monotonic()
    track = challenge.tracks.get(request.track)
    if track is None:
        raise ImpossibleTrial(
            f"challenge {challenge.name} has no track {request.track}, but {', '.join(challenge.tracks)}"
        )
    try:
        prepared = _prepare(corpus, request.salt, challenge.split.validation_share, track.seq_len, track.eval_bytes)
    except ValueError as error:
        raise ImpossibleTrial(str(error)) from error
    wall_s = WALL_FACTOR * track.budget_cpu_s + WALL_EXTRA_S if wall_cap_s is None else wall_cap_s
    status: Status = "ok"
    result: Score | None = None
    weights, reason = b"", ""
    with _start("train", track) as training, _start("eval", track) as evaluation:
        try:
            weights = _train(training, request, track, prepared, wall_s)
            result = _evaluate(evaluation, request, track, prepared, weights, wall_s, rng or random.SystemRandom())
        except _Failed as failure:
            status, reason = failure.status, str(failure)
    return Measurement(
        status=status,
        val_bpb=result.bits_per_byte if result else None,
        evaluated_bytes=result.evaluated_bytes if result else 0,
        budget_used_s=training.cpu_s,
        wall_s=time.monotonic() - started,
        peak_memory_bytes=training.peak_memory_bytes,
        weights_bytes=len(weights),
        weights_sha256=hashlib.sha256(weights).hexdigest() if weights else None,
        validation_sha256=prepared.validation_sha256,
        program_lines=len(request.program.splitlines()),
        hardware=hardware(),
        reason=reason,
    )


def _train(sandbox: Sandbox, request: TrialRequest, track: Track, prepared: _Prepared, wall_s: float) -> bytes:
    """The weights, as the program's process wrote them. Raises `_Failed`."""
    _make_ready(sandbox, request, track, prepared.tokens, prepared.doc_starts)
    weights = bytearray()
    try:
        sandbox.limit(wall_s=wall_s, cpu_s=track.budget_cpu_s * (1 + GRACE_SHARE) + GRACE_S)
        sandbox.send(*_sized(request.program))
        while piece := sandbox.read(WEIGHTS_BYTES_MAX):
            weights += piece
            if len(weights) > WEIGHTS_BYTES_MAX:
                raise _Failed("crash", f"the state dict takes more than {WEIGHTS_BYTES_MAX} bytes")
        sandbox.measure()
    except LimitExceeded as error:
        status: dict[str, Status] = {"wall": "timeout", "cpu": "over_budget", "memory": "out_of_memory"}
        raise _Failed(status[error.limit], _reason(f"training: {error}", sandbox)) from error
    exit_status = sandbox.end()
    if exit_status != 0 or not weights:
        raise _ended(exit_status, "training", sandbox)
    return bytes(weights)


def _evaluate(
    sandbox: Sandbox,
    request: TrialRequest,
    track: Track,
    prepared: _Prepared,
    weights: bytes,
    wall_s: float,
    rng: random.Random,
) -> Score:
    """The score of the weights on the validation rows. Raises `_Failed`."""
    order = list(range(len(prepared.rows)))
    rng.shuffle(order)
    _make_ready(sandbox, request, track, weights, inputs(prepared.rows, order))
    try:
        sandbox.limit(wall_s=wall_s, cpu_s=EVALUATION_CPU_FACTOR * track.budget_cpu_s + EVALUATION_CPU_EXTRA_S)
        sandbox.send(*_sized(request.program))
        return score(prepared.rows, order, VOCAB_SIZE_BYTES, sandbox.read)
    except LimitExceeded as error:
        status: Status = "out_of_memory" if error.limit == "memory" else "timeout"
        raise _Failed(status, _reason(f"evaluation: {error}", sandbox)) from error
    except MissingLogits as error:
        raise _ended(sandbox.end(), f"evaluation ({error})", sandbox) from error
    except InvalidLogits as error:
        raise _Failed("void", _reason(f"evaluation: {error}", sandbox)) from error


def _start(mode: str, track: Track) -> Sandbox:
    cpu_s = _BACKSTOP_CPU_S + EVALUATION_CPU_FACTOR * track.budget_cpu_s
    return Sandbox([_STUB_INSIDE, mode], Limits(track.memory_bytes, cpu_s, track.threads), {_STUB: _STUB_INSIDE})


def _make_ready(sandbox: Sandbox, request: TrialRequest, track: Track, *parts: bytes) -> None:
    """Send everything but the program (the framing is stub.py's) and wait until the stub has taken it."""
    header = {
        "seed": request.seed,
        "threads": track.threads,
        "vocab_size": VOCAB_SIZE_BYTES,
        "seq_len": track.seq_len,
        "budget_cpu_s": track.budget_cpu_s,
        "batch_rows": max(1, _BATCH_BYTES // (track.seq_len * VOCAB_SIZE_BYTES * 4)),
        "sizes": [len(part) for part in parts],
    }
    sandbox.limit(wall_s=STARTUP_TIMEOUT_S)
    sandbox.send(*_sized(json.dumps(header).encode()), *parts)
    try:
        answer = sandbox.read(1)
    except LimitExceeded as error:
        raise SandboxUnavailable(f"the sandbox does not get ready: {error}") from error
    if answer != _READY:
        status = sandbox.end()
        raise SandboxUnavailable(f"the sandbox does not get ready: exit status {status}\n{sandbox.log()}")


def _sized(data: bytes) -> tuple[bytes, bytes]:
    return struct.pack(">I", len(data)), data


def _ended(exit_status: int | None, where: str, sandbox: Sandbox) -> _Failed:
    """The stub ended without all that was asked of it."""
    if exit_status == _EXIT_OUT_OF_MEMORY:
        return _Failed("out_of_memory", _reason(f"{where}: memory could not be allocated", sandbox))
    return _Failed("crash", _reason(f"{where}: ended with exit status {exit_status}", sandbox))


def _reason(what: str, sandbox: Sandbox) -> str:
    return f"{what}\n{sandbox.log()}".rstrip()


@functools.lru_cache(maxsize=SPLITS_CACHED)
def _prepare(corpus: Corpus, salt: bytes, validation_share: float, seq_len: int, eval_bytes: int) -> _Prepared:
    training, validation = split(corpus, salt, validation_share)
    rows = validation_rows(validation, seq_len, eval_bytes)
    starts = [0, *accumulate(map(len, training))][:-1]
    digest = hashlib.sha256(b"".join(rows)).hexdigest()
    return _Prepared(b"".join(training), np.array(starts, dtype="<i8").tobytes(), tuple(rows), digest)


@functools.cache
def hardware() -> Hardware:
    """What trials on this machine run on."""
    return Hardware(
        machine=platform.machine()[:64],
        cpu=_cpu_name()[:1000],
        cores=len(os.sched_getaffinity(0)),
        system=f"{platform.system()} {platform.release()}"[:1000],
        python=platform.python_version()[:64],
        torch=importlib.metadata.version("torch")[:64],
    )


def _cpu_name() -> str:
    """The kernel's name of the processor; processors other than x86 often have none, then the architecture."""
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
