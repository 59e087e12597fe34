"""Runs inside the sandbox: `python -I -B stub.py train|eval FD`. Imports the standard library and torch, nothing of
ours.

From the parent on stdin, integers big-endian:

    u32 n, n bytes   JSON: seed, threads, vocab_size, token_bytes, seq_len, sizes (of the two parts),
                     device, and for
                     train: budget_s, clock ("cpu" or "wall")
                     eval: groups ([rows, tokens of each] in turn), batch_positions, last_only
    two parts        train: the training tokens, and int64 little-endian offsets of its documents
                     eval: weights as torch.save wrote them, and the rows of all groups, end to end
                                                        ── here the stub answers with one byte, "R"
    u32 n, n bytes   the program's source; the budget runs from here on

To the parent on descriptor FD, after "R" and until end of file:

    train            the state dict, as torch.save writes it
    eval             for each row in the order received, float32 little-endian logits (its tokens, vocab_size), or
                     with last_only those after its last token (vocab_size,)

Tokens are uint8 or int32 little-endian, as token_bytes (1 or 4) says.
Neither answer carries a length: the parent knows how much it wants, or takes what comes up to its bound. After end of
file the stub lives on until its stdin closes, so that the parent can read the final CPU time of a living process.
The program shares this process and can change anything in it; the parent's trust ends where the source is sent.

Exit status: 0 done, 1 the program raised (traceback on stderr), 3 it ran out of memory, 4 its logits have no such
shape or type as the contract says.
"""

import contextlib
import importlib
import io
import json
import linecache
import os
import random
import struct
import sys
import time
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

READY = b"R"
EXIT_RAISED = 1
EXIT_OUT_OF_MEMORY = 3
EXIT_WRONG_LOGITS = 4
_TOKEN_TYPES = {1: torch.uint8, 4: torch.int32}
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class WrongLogits(Exception):
    """What the model returns is not logits of the shape and type that the contract says."""


@dataclass
class Task:
    """What a program is given to train on."""

    tokens: torch.Tensor  # (n,) uint8 or int32, the training text; not to be written to
    doc_starts: torch.Tensor  # (d,) int64, offsets into tokens, the first is 0
    vocab_size: int
    seq_len: int
    device: torch.device
    seed: int
    clock: Callable[[], float]  # seconds
    limit_s: float  # of the clock

    def time_left(self) -> float:
        """Seconds of the budget that are left, by the track's clock; negative once it is spent."""
        return self.limit_s - self.clock()


def tree_cpu_s() -> float:
    """CPU seconds of this process (to the nanosecond) and of all others in the namespace (to the clock tick)."""
    times = os.times()
    total = time.process_time() + times.children_user + times.children_system
    own = str(os.getpid())
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and process.name != own:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                stat = (process / "stat").read_bytes()
                fields = stat.rpartition(b")")[2].split()  # proc(5): the first of these is field 3; utime is field 14
                total += sum(map(int, fields[11:15])) / _TICKS_PER_S
    return total


def receive(size: int) -> bytearray:
    """Exactly `size` bytes of stdin."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = os.readv(0, [view])
        if count == 0:
            raise SystemExit("the parent has gone")
        view = view[count:]
    return data


def receive_sized() -> bytearray:
    return receive(struct.unpack(">I", receive(4))[0])


def send(out: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]


def start_device(name: str) -> torch.device:
    """The device, in use already: that its driver starts is no work of the program, and if it does not, no fault."""
    device = torch.device(name)
    torch.empty(1, device=device)
    return device


def load_program() -> types.ModuleType:
    """Receive the source and run it as the module `train`."""
    source = bytes(receive_sized())
    module = types.ModuleType("train")
    module.__file__ = "train.py"
    sys.modules["train"] = module
    lines = source.decode(errors="replace").splitlines(keepends=True)
    linecache.cache["train.py"] = (len(source), None, lines, "train.py")  # source lines in tracebacks
    exec(compile(source, "train.py", "exec"), module.__dict__)
    return module


def train(header: dict[str, Any], out: int) -> None:
    text, starts = (receive(size) for size in header["sizes"])
    tokens = torch.frombuffer(text, dtype=_TOKEN_TYPES[header["token_bytes"]])
    doc_starts = torch.frombuffer(starts, dtype=torch.int64)
    vocab_size, seq_len, seed = header["vocab_size"], header["seq_len"], header["seed"]
    device = start_device(header["device"])
    clock = {"cpu": tree_cpu_s, "wall": time.monotonic}[header["clock"]]
    send(out, READY)
    limit_s = clock() + header["budget_s"]
    program = load_program()
    model = program.build(vocab_size, seq_len)
    task = Task(tokens, doc_starts, vocab_size, seq_len, device, seed, clock, limit_s)
    program.train(model, task)
    weights = io.BytesIO()
    torch.save(model.state_dict(), weights)
    send(out, weights.getbuffer())


def evaluate(header: dict[str, Any], out: int) -> None:
    weights, rows = (receive(size) for size in header["sizes"])
    tokens = torch.frombuffer(rows, dtype=_TOKEN_TYPES[header["token_bytes"]])
    device = start_device(header["device"])
    send(out, READY)
    program = load_program()
    model = program.build(header["vocab_size"], header["seq_len"])
    model.load_state_dict(torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True))
    model.to(device).eval()
    sizes = [count * length for count, length in header["groups"]]
    with torch.no_grad():
        for group, (_, length) in zip(torch.split(tokens, sizes), header["groups"], strict=True):
            for batch in torch.split(group.view(-1, length), max(1, header["batch_positions"] // length)):
                logits = predict(model, batch.to(device).long(), header["vocab_size"])
                if header["last_only"]:
                    logits = logits[:, -1]
                send(out, logits.to("cpu", torch.float32).contiguous().numpy().tobytes())


def predict(model: torch.nn.Module, batch: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Logits (B, T, V) of any floating-point type, for tokens (B, T) int64."""
    logits = model(batch)
    expected = (*batch.shape, vocab_size)
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point():
        raise WrongLogits(f"the model returns {type(logits).__name__} where floating-point logits are expected")
    if tuple(logits.shape) != expected:
        raise WrongLogits(f"the model gives logits of shape {tuple(logits.shape)} where {expected} is expected")
    return logits


def main() -> int:
    out = int(sys.argv[2])  # not stdout: what the program prints must not land between the answer's bytes
    os.set_inheritable(out, False)
    os.environ.update(HOME="/scratch", TMPDIR="/tmp", USER="nobody", PATH="/usr/bin:/bin")
    mode = {"train": train, "eval": evaluate}[sys.argv[1]]
    if mode is train:
        # The first optimiser would import this lazily, which takes longer than many a budget's first hundred steps.
        importlib.import_module("torch._dynamo")
    header = json.loads(receive_sized())
    torch.set_num_threads(header["threads"])
    random.seed(header["seed"])
    torch.manual_seed(header["seed"])
    try:
        mode(header, out)
        status = 0
    except BaseException as error:  # noqa: BLE001 - the boundary around the program: it may raise anything
        traceback.print_exc()
        out_of_memory = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        status = EXIT_OUT_OF_MEMORY if out_of_memory else EXIT_RAISED
        if isinstance(error, WrongLogits):
            status = EXIT_WRONG_LOGITS
    with contextlib.suppress(OSError):  # the program may have closed any of these
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.close(out)
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    return status


if __name__ == "__main__":
    os._exit(main())  # the program's threads and exit handlers do not get another turn
