"""One trial: train a program in a sandbox, evaluate its weights in fresh ones, and say what came of it.

1. Sandboxes import torch before they are needed: the evaluation's while the training runs, the audit's while the
   evaluation does. They are idle then: nothing has been sent to them, and they execute nothing of the program before.
2. The training stub gets the text and answers with its ready byte. Nothing untrusted has run so far, so a failure up to
   here is this machine's (`SandboxUnavailable`) and no verdict on the program.
3. The clock is read, the source is sent, and the budget runs: the program's imports, compilation, training and
   serialisation all count. The tree is killed when it passes budget and grace. The clock is the CPU time of the whole
   tree; or the wall clock, for a GPU's work takes no CPU time.
4. The weights are opaque bytes here. They are never unpickled in this process.
5. The evaluation stub gets weights, rows in random order without their last token, then the source; evaluate.py scores
   what it returns. The sandbox is killed.
6. The audit's stub gets weights, one prefix of each row, then the source; audit.py compares.

Until its first logits an evaluation may use little time. Otherwise a program could save the training text in its
weights and go on training on it there. What it does later has to be the same in every call, or the audit shows it.

A program that fails is a measurement with a status and a reason, never a number and never an exception:

    crash           it raised or ended, in training or evaluation    timeout        the wall cap; or an endless
                                                                                    evaluation
    over_budget     the track's clock, of the training or before     out_of_memory  resident memory, or an allocation
                    the first logits of an evaluation                               that the kernel refused
    void            its logits are not finite, not of the right shape, or not those of the audit

`refused` is for whoever screens programs before they come here.
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
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ledger.predicates import Audit, Hardware, Measurement, Status
from trainer.audit import AuditFailed, draw, judge, ngram_bits, prefixes, targets, tolerance_bits
from trainer.challenge import Challenge, Track
from trainer.corpus import Corpus, split
from trainer.evaluate import InvalidLogits, MissingLogits, Score, Tokens, inputs, row_nats, score, target_nats
from trainer.requests import TrialRequest
from trainer.sandbox.command import Limits, SandboxUnavailable, nvidia_name
from trainer.sandbox.process import LimitExceeded, Sandbox
from trainer.tokens import ByteTokens, Tokenizer, rows

WEIGHTS_BYTES_MAX = 256 * 2**20
STARTUP_TIMEOUT_S = 120.0  # importing torch from a cold disk
GRACE_SHARE = 0.05  # beyond the budget, for the last step and for saving the weights …
GRACE_S = 0.25  # … and for the interval between two samples of the watcher
WALL_FACTOR = 6.0  # a CPU second takes longer than a second on a busy machine, but not for ever
WALL_EXTRA_S = 30.0
EVALUATION_FACTOR = 2.0  # of the budget; a model trained for 10 s takes half a second for 64 KB
EVALUATION_EXTRA_S = 20.0
FIRST_LOGITS_SHARE = 0.02  # of the budget, that an evaluation may use before its first logits: building the model, …
# … loading the weights and predicting one batch; by the wall clock also waiting for a processor, and CUDA's kernels.
FIRST_LOGITS_S = {"cpu": 0.5, "wall": 5.0}
SPLITS_CACHED = 4  # public and private salt, and those before a rotation; each holds the training text once

_STUB = Path(__file__).with_name("stub.py")
_STUB_INSIDE = "/stub.py"
_READY = b"R"
_EXIT_OUT_OF_MEMORY = 3  # of the stub
_EXIT_WRONG_LOGITS = 4  # of the stub
_BATCH_BYTES = 2 * 2**20  # of logits that the evaluation stub holds at once
_BYTE_TOKENS = ByteTokens()
_STATUS: dict[str, Status] = {"wall": "timeout", "cpu": "timeout", "memory": "out_of_memory"}  # by the limit passed
_BACKSTOP_CPU_S = 120.0  # RLIMIT_CPU counts from the start of the process, imports included


Mode = Literal["train", "eval"]
Start = Callable[[Mode, Track], Sandbox]


class ImpossibleTrial(ValueError):
    """No such track, or a split of the corpus that leaves too little text; the message says what to do."""


class _Failed(Exception):
    """The program did not earn a number."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Prepared(NamedTuple):
    """A corpus under one salt, ready to be sent."""

    tokens: memoryview  # the training texts end to end, as bytes
    doc_starts: bytes  # int64 little-endian
    rows: Tokens  # (N, seq_len + 1), of validation text
    target_bytes: int  # that the targets of all rows stand for
    surprise: NDArray[np.float32]  # (N, seq_len), bits that the audit's n-gram model pays
    validation_sha256: str


class _Job(NamedTuple):
    """What the steps of one trial share."""

    request: TrialRequest
    track: Track
    vocab_size: int
    prepared: _Prepared
    wall_s: float
    rng: random.Random


class Evaluation(NamedTuple):
    """What evaluation and audit of some weights gave; with status ok, and no other, there are score and audit."""

    status: Status
    reason: str = ""
    score: Score | None = None
    audit: Audit | None = None


def start_sandbox(mode: Mode, track: Track) -> Sandbox:
    """A new sandbox whose stub imports torch and then waits for what `run_trial` sends. Raises `SandboxUnavailable`."""
    processors = 1 if track.clock == "cpu" else os.cpu_count() or 1
    cpu_s = _BACKSTOP_CPU_S + EVALUATION_FACTOR * track.budget_s * processors
    limits = Limits(track.memory_bytes, cpu_s, track.threads, nvidia=track.device == "cuda")
    return Sandbox([_STUB_INSIDE, mode], limits, {_STUB: _STUB_INSIDE})


def run_trial(
    request: TrialRequest,
    challenge: Challenge,
    corpus: Corpus,
    tokenizer: Tokenizer | None = None,
    *,
    wall_cap_s: float | None = None,
    rng: random.Random | None = None,
    start: Start = start_sandbox,
    log: Callable[[str], None] = lambda text: None,
) -> Measurement:
    """Train and evaluate `request.program`; blocks for about the budget, two evaluations and some seconds.

    `tokenizer` is the challenge's (tokens.py); bytes where none is given. `wall_cap_s` ends the training, and again the
    evaluation and the audit, that many seconds after the source was sent; by default a generous multiple of the budget.
    `rng` orders the rows and draws the audit's cuts; by default neither can be foreseen. `start` gives sandboxes that
    nothing has been sent to. `log` is given the sanitised end of what the training printed.

    Raises `ImpossibleTrial` and `SandboxUnavailable`.
    """
    started = time.monotonic()
    job = _job(request, challenge, corpus, tokenizer, wall_cap_s, rng)
    track, prepared = job.track, job.prepared
    weights = b""
    with start("train", track) as training, start("eval", track) as evaluating:
        try:
            weights = _train(training, job)
        except _Failed as failure:
            outcome = Evaluation(failure.status, str(failure))
        else:
            outcome = _evaluated(job, weights, evaluating, start)
        log(training.log())
    return Measurement(
        status=outcome.status,
        val_bpb=outcome.score.bits_per_byte if outcome.score else None,
        evaluated_bytes=outcome.score.evaluated_bytes if outcome.score else 0,
        budget_used_s=training.cpu_s if track.clock == "cpu" else training.wall_s,
        wall_s=time.monotonic() - started,
        peak_memory_bytes=training.peak_memory_bytes,
        weights_bytes=len(weights),
        weights_sha256=hashlib.sha256(weights).hexdigest() if weights else None,
        validation_sha256=prepared.validation_sha256,
        program_lines=len(request.program.splitlines()),
        hardware=hardware(track.device),
        audit=outcome.audit,
        reason=outcome.reason,
    )


def evaluate_weights(
    weights: bytes,
    request: TrialRequest,
    challenge: Challenge,
    corpus: Corpus,
    tokenizer: Tokenizer | None = None,
    *,
    wall_cap_s: float | None = None,
    rng: random.Random | None = None,
    start: Start = start_sandbox,
) -> Evaluation:
    """The second half of `run_trial`: evaluation and audit of weights that a training of `request.program` gave.

    Arguments and exceptions as there.
    """
    job = _job(request, challenge, corpus, tokenizer, wall_cap_s, rng)
    with start("eval", job.track) as evaluating:
        return _evaluated(job, weights, evaluating, start)


def _job(
    request: TrialRequest,
    challenge: Challenge,
    corpus: Corpus,
    tokenizer: Tokenizer | None,
    wall_cap_s: float | None,
    rng: random.Random | None,
) -> _Job:
    track = challenge.tracks.get(request.track)
    if track is None:
        raise ImpossibleTrial(
            f"challenge {challenge.name} has no track {request.track}, but {', '.join(challenge.tracks)}"
        )
    tokenizer = _BYTE_TOKENS if tokenizer is None else tokenizer
    share = challenge.split.validation_share
    try:
        prepared = _prepare(corpus, request.salt, share, track.seq_len, track.eval_bytes, tokenizer)
    except ValueError as error:
        raise ImpossibleTrial(str(error)) from error
    if wall_cap_s is None:
        wall_cap_s = WALL_FACTOR * track.budget_s + WALL_EXTRA_S
    return _Job(request, track, tokenizer.vocab_size, prepared, wall_cap_s, rng or random.SystemRandom())


def _evaluated(job: _Job, weights: bytes, evaluating: Sandbox, start: Start) -> Evaluation:
    """Evaluate in the sandbox `evaluating`, audit in a new one."""
    with start("eval", job.track) as auditing:
        try:
            nats = _evaluate(evaluating, job, weights)
            result = _score(nats, job.prepared.target_bytes)
            return Evaluation("ok", score=result, audit=_audit(auditing, job, weights, nats))
        except _Failed as failure:
            return Evaluation(failure.status, str(failure))


def _train(sandbox: Sandbox, job: _Job) -> bytes:
    """The weights, as the program's process wrote them. Raises `_Failed`."""
    budget: dict[str, object] = {"budget_s": job.track.budget_s, "clock": job.track.clock}
    _make_ready(sandbox, job, budget, job.prepared.tokens, job.prepared.doc_starts)
    weights = bytearray()
    try:
        _allow(sandbox, job, job.track.budget_s * (1 + GRACE_SHARE) + GRACE_S)
        sandbox.send(*_sized(job.request.program))
        while piece := sandbox.read(WEIGHTS_BYTES_MAX):
            weights += piece
            if len(weights) > WEIGHTS_BYTES_MAX:
                raise _Failed("crash", f"the state dict takes more than {WEIGHTS_BYTES_MAX} bytes")
        sandbox.measure()
    except LimitExceeded as error:
        status: Status = "over_budget" if error.limit == job.track.clock else _STATUS[error.limit]
        raise _Failed(status, _reason(f"training: {error}", sandbox)) from error
    exit_status = sandbox.end()
    if exit_status != 0 or not weights:
        raise _ended(exit_status, "training", sandbox)
    return bytes(weights)


def _evaluate(sandbox: Sandbox, job: _Job, weights: bytes) -> NDArray[np.float64]:
    """Nats of each target of the validation rows, (N, seq_len). The sandbox is dead afterwards. Raises `_Failed`."""
    rows = job.prepared.rows
    order = list(range(len(rows)))
    job.rng.shuffle(order)
    groups = [(len(rows), job.track.seq_len)]

    def take(read: Callable[[int], bytes]) -> NDArray[np.float64]:
        return row_nats(rows, order, job.vocab_size, read)

    return _predictions(sandbox, job, "evaluation", weights, inputs(rows, order), groups, False, take)


def _score(nats: NDArray[np.float64], target_bytes: int) -> Score:
    try:
        return score(nats, target_bytes)
    except InvalidLogits as error:
        raise _Failed("void", f"evaluation: {error}") from error


def _audit(sandbox: Sandbox, job: _Job, weights: bytes, nats: NDArray[np.float64]) -> Audit:
    """What the audit found. Raises `_Failed`."""
    rows = job.prepared.rows
    bits = nats / np.log(2)
    cuts = draw(bits, job.prepared.surprise, job.rng)
    groups = [(len(list(same)), length) for length, same in groupby(cuts, key=lambda cut: cut.length)]

    def take(read: Callable[[int], bytes]) -> NDArray[np.float64]:
        return target_nats(targets(rows, cuts), job.vocab_size, read)

    prefix_nats = _predictions(sandbox, job, "audit", weights, prefixes(rows, cuts), groups, True, take)
    try:
        return judge(bits, cuts, prefix_nats / np.log(2), tolerance_bits(job.request.program, job.track.device))
    except AuditFailed as error:
        raise _Failed("void", f"audit: {error}") from error


def _predictions(
    sandbox: Sandbox,
    job: _Job,
    where: str,
    weights: bytes,
    shown: bytes,
    groups: Sequence[tuple[int, int]],  # rows of equal length, and that length
    last_only: bool,
    take: Callable[[Callable[[int], bytes]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """What `take` makes of the logits for the rows `shown`; the sandbox is dead afterwards. Raises `_Failed`."""
    budget_s, clock = job.track.budget_s, job.track.clock
    batch_positions = max(1, _BATCH_BYTES // (4 * job.vocab_size))
    header: dict[str, object] = {"groups": groups, "batch_positions": batch_positions, "last_only": last_only}
    _make_ready(sandbox, job, header, weights, shown)
    count, length = groups[0]
    first_rows = min(count, max(1, batch_positions // length))
    # All of the first batch, and not its first byte: that could be sent in advance, and a batch is too much to make up.
    early_bytes = first_rows * (1 if last_only else length) * job.vocab_size * 4

    def read(bytes_max: int) -> bytes:
        nonlocal early_bytes
        piece = sandbox.read(bytes_max)
        if early_bytes > 0:
            early_bytes -= len(piece)
            if early_bytes <= 0:
                _allow(sandbox, job, EVALUATION_FACTOR * budget_s + EVALUATION_EXTRA_S)
        return piece

    try:
        _allow(sandbox, job, FIRST_LOGITS_SHARE * budget_s + FIRST_LOGITS_S[clock])
        sandbox.send(*_sized(job.request.program))
        return take(read)
    except LimitExceeded as error:
        if early_bytes > 0 and error.limit == clock:
            what = f"{where}: before the first logits {error}: leave what takes longer to train()"
            raise _Failed("over_budget", _reason(what, sandbox)) from error
        raise _Failed(_STATUS[error.limit], _reason(f"{where}: {error}", sandbox)) from error
    except MissingLogits as error:
        raise _ended(sandbox.end(), f"{where} ({error})", sandbox) from error
    except InvalidLogits as error:
        raise _Failed("void", _reason(f"{where}: {error}", sandbox)) from error
    finally:
        sandbox.kill()


def _allow(sandbox: Sandbox, job: _Job, seconds: float) -> None:
    """From now on the sandbox may use `seconds` by the track's clock, and in any case no more than the wall cap."""
    if job.track.clock == "cpu":
        sandbox.limit(wall_s=job.wall_s, cpu_s=seconds)
    else:
        sandbox.limit(wall_s=min(seconds, job.wall_s))


def _make_ready(sandbox: Sandbox, job: _Job, more: dict[str, object], *parts: bytes | memoryview) -> None:
    """Send everything but the program (the framing is stub.py's) and wait until the stub has taken it."""
    header = {
        "seed": job.request.seed,
        "threads": job.track.threads,
        "vocab_size": job.vocab_size,
        "token_bytes": job.prepared.rows.itemsize,
        "seq_len": job.track.seq_len,
        "device": job.track.device,
        "sizes": [len(part) for part in parts],
        **more,
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
    if exit_status == _EXIT_WRONG_LOGITS:
        return _Failed("void", _reason(f"{where}: the model's answer is not logits", sandbox))
    return _Failed("crash", _reason(f"{where}: ended with exit status {exit_status}", sandbox))


def _reason(what: str, sandbox: Sandbox) -> str:
    return f"{what}\n{sandbox.log()}".rstrip()


@functools.lru_cache(maxsize=SPLITS_CACHED)
def _prepare(
    corpus: Corpus, salt: bytes, validation_share: float, seq_len: int, eval_bytes: int, tokenizer: Tokenizer
) -> _Prepared:
    training, validation = (
        [tokenizer.encode(text) for text in texts] for texts in split(corpus, salt, validation_share)
    )
    shown = rows(validation, seq_len, eval_bytes, tokenizer.byte_lengths)
    text = np.concatenate(training)
    starts = [0, *accumulate(map(len, training))][:-1]
    return _Prepared(
        tokens=text.data.cast("B"),  # hundreds of MB in a large corpus: not copied once more
        doc_starts=np.array(starts, dtype="<i8").tobytes(),
        rows=shown,
        target_bytes=int(tokenizer.byte_lengths[shown[:, 1:]].sum()),
        surprise=ngram_bits(text, shown, tokenizer.vocab_size),
        validation_sha256=hashlib.sha256(shown.tobytes()).hexdigest(),
    )


@functools.cache
def hardware(device: str) -> Hardware:
    """What trials of a track with this device run on, on this machine."""
    return Hardware(
        machine=platform.machine()[:64],
        cpu=_cpu_name()[:1000],
        cores=len(os.sched_getaffinity(0)),
        system=f"{platform.system()} {platform.release()}"[:1000],
        python=platform.python_version()[:64],
        torch=importlib.metadata.version("torch")[:64],
        gpu=nvidia_name()[:1000] if device == "cuda" else None,
    )


def _cpu_name() -> str:
    """The kernel's name of the processor; processors other than x86 often have none, then the architecture."""
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
