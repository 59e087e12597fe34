"""Trials to measure: a challenge over the standard library's text, sandboxes that note when their program ran, programs
that count what they train on.
"""

import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from msgspec import Struct

import trainer
from ledger.predicates import Measurement
from trainer.challenge import Challenge, CorpusRef, Split, Track
from trainer.corpus import Corpus, split, standard_library
from trainer.requests import TrialRequest
from trainer.sandbox.pool import Pool
from trainer.sandbox.process import Sandbox
from trainer.trial import Start, run_trial, start_sandbox

SALT = bytes(range(16))
VALIDATION_SHARE = 0.2  # so that there is 1 MB of validation text
SEQ_LEN = 128
PROGRAMS = Path(trainer.__file__).parent / "programs"

# Appended to a program. A hook sees every forward pass; its cost is that of a Python call per step.
_COUNTING = """

import json as _json
import time as _time

_counted_train = train


def train(model, task):
    tokens = 0

    def count(module, arguments, output):
        nonlocal tokens
        tokens += arguments[0].numel()

    hook = model.register_forward_hook(count)
    cpu_s, wall_s = _time.process_time(), _time.monotonic()
    _counted_train(model, task)
    cpu_s, wall_s = _time.process_time() - cpu_s, _time.monotonic() - wall_s
    hook.remove()
    print(_json.dumps({"tokens": tokens, "cpu_s": cpu_s, "wall_s": wall_s}))
"""


class Counted(Struct, frozen=True):
    """What a counting program says of its own training."""

    tokens: int
    cpu_s: float
    wall_s: float
    bits_per_byte: float


class Phases(NamedTuple):
    """Wall seconds in which a program ran, from its source's sending to its answer's end."""

    training_s: float
    evaluation_s: float
    audit_s: float

    @property
    def total_s(self) -> float:
        return sum(self)


@functools.cache
def corpus() -> Corpus:
    return standard_library()


def program(name: str, counting: bool = False, **constants: object) -> bytes:
    """The text of a program in trainer/programs, with constants changed, counting its tokens if asked to."""
    text = (PROGRAMS / name).read_text()
    for constant, value in constants.items():
        before = next(line for line in text.splitlines() if line.startswith(f"{constant} = "))
        text = text.replace(before, f"{constant} = {value!r}", 1)
    return (text + _COUNTING if counting else text).encode()


def trial(
    source: bytes,
    budget_s: float,
    *,
    seed: int = 0,
    eval_bytes: int = 64 * 1024,
    start: Start = start_sandbox,
    log: Callable[[str], None] = lambda text: None,
) -> Measurement:
    """One trial as a runner makes it. Raises `RuntimeError` if it does not end as ok."""
    track = Track(budget_s=budget_s, seq_len=SEQ_LEN, eval_bytes=eval_bytes, baseline="0" * 64)
    text = corpus()
    challenge = Challenge(
        name="bench",
        founder="12D3KooW" + "A" * 44,
        constitution="c" * 64,
        corpus=CorpusRef(digest="0" * 64, bytes=text.text_bytes, documents=len(text.documents)),
        split=Split(public_salt=SALT.hex(), validation_share=VALIDATION_SHARE),
        tracks={"bench": track},
    )
    measured = run_trial(TrialRequest(source, "bench", seed, SALT), challenge, text, start=start, log=log)
    if measured.status != "ok":
        raise RuntimeError(f"a trial of the benchmark ended as {measured.status}: {measured.reason}")
    return measured


def counted_inside(source: bytes, budget_s: float, seed: int) -> Counted:
    """A counting program in a sandbox."""
    logs: list[str] = []
    measured = trial(source, budget_s, seed=seed, log=logs.append)
    assert measured.val_bpb is not None, "an ok trial has a score"
    return Counted(**json.loads("".join(logs).splitlines()[-1]), bits_per_byte=measured.val_bpb)


def counted_outside(
    source: bytes, budget_s: float, seed: int, device: str = "cpu", clock: Literal["cpu", "wall"] = "cpu"
) -> Counted:
    """A counting program in an ordinary process, its score taken there. Raises `RuntimeError` if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        tokens, rows = Path(folder, "tokens"), Path(folder, "rows")
        training, validation = split(corpus(), SALT, VALIDATION_SHARE)
        tokens.write_bytes(b"".join(training))
        stream = b"".join(validation)
        rows.write_bytes(stream[: min(len(stream), 2**16) // (SEQ_LEN + 1) * (SEQ_LEN + 1)])
        specification = {
            "program": source.decode(),
            "tokens": str(tokens),
            "rows": str(rows),
            "seq_len": SEQ_LEN,
            "device": device,
            "seed": seed,
            "threads": 1,
            "budget_s": budget_s,
            "clock": clock,
        }
        done = subprocess.run(
            [sys.executable, "-I", "-B", "-u", str(Path(__file__).with_name("outside.py"))],
            input=json.dumps(specification),
            capture_output=True,
            text=True,
            env={},  # as empty as the sandbox's
            check=False,
        )
    if done.returncode != 0:
        raise RuntimeError(f"a program of the benchmark fails outside the sandbox: {done.stderr}")
    *_, counted, scored = done.stdout.splitlines()
    return Counted(**json.loads(counted), **json.loads(scored))


class Observed:
    """Sandboxes for one trial after another, which note when the source was sent and when the last answer came."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._spans: list[dict[str, float]] = []

    def start(self, mode: Literal["train", "eval"], track: Track) -> Sandbox:
        sandbox: Any = self._start(mode, track)
        span = {"sent": 0.0, "last": 0.0}
        send, read = sandbox.send, sandbox.read

        def noted_send(*parts: bytes) -> None:
            span["sent"] = span["last"] = time.monotonic()  # the last thing sent is the source
            send(*parts)

        def noted_read(bytes_max: int) -> bytes:
            piece: bytes = read(bytes_max)
            span["last"] = time.monotonic()
            return piece

        sandbox.send, sandbox.read = noted_send, noted_read
        self._spans.append(span)
        observed: Sandbox = sandbox
        return observed

    def phases(self) -> Phases:
        """Of the trial that has just ended, whose sandboxes were asked for in the order of its steps."""
        training, evaluation, audit = (span["last"] - span["sent"] for span in self._spans)
        self._spans.clear()
        return Phases(training, evaluation, audit)


@contextmanager
def warm(budget_s: float, eval_bytes: int = 64 * 1024) -> Iterator[Observed]:
    """Observed sandboxes out of pools that are full, as a runner has them between trials."""
    track = Track(budget_s=budget_s, seq_len=SEQ_LEN, eval_bytes=eval_bytes, baseline="0" * 64)
    with ExitStack() as pools:
        training = pools.enter_context(Pool(lambda: start_sandbox("train", track), 1))
        others = pools.enter_context(Pool(lambda: start_sandbox("eval", track), 2))
        yield Observed(lambda mode, track: (training if mode == "train" else others).take())
