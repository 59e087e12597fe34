"""The runner as the node sees it: a process with two pipes, which dies with whoever holds them."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec
import psutil
import pytest

from ledger.predicates import Seed
from trainer.challenge import Challenge, CorpusRef, Split, TokenizerRef, Track
from trainer.corpus import Corpus, Document
from trainer.requests import (
    Failed,
    FrameError,
    Measured,
    Ready,
    Reply,
    Request,
    Setup,
    TrialRequest,
    body_bytes,
    decode_reply,
    decode_request,
    encode,
    read_body,
)

DEADLINE_S = 60
SALT = b"0123456789abcdef"
CORPUS = Corpus(tuple(Document(f"{n}.txt", (f"document {n}: " + "waggle dance " * 40).encode()) for n in range(80)))
CHALLENGE = Challenge(
    name="tiny",
    founder="12D3KooW" + "A" * 44,
    constitution="c" * 64,
    corpus=CorpusRef(digest=CORPUS.digest(), bytes=CORPUS.text_bytes, documents=len(CORPUS.documents)),
    split=Split(public_salt="0" * 32, validation_share=0.2),
    tracks={"tiny": Track(budget_s=0.5, memory_bytes=2**30, seq_len=16, eval_bytes=1024, baseline="0" * 64)},
)
BPE_CHALLENGE = msgspec.structs.replace(CHALLENGE, tokenizer=TokenizerRef(digest="e" * 64))
UNIFORM = b"""
import torch

class Uniform(torch.nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(vocab_size))

    def forward(self, tokens):
        return self.bias.expand(*tokens.shape, -1)

def build(vocab_size, seq_len):
    return Uniform(vocab_size)

def train(model, task):
    print("trained on", len(task.tokens), "tokens")
"""
MARKER = f"31536000.{os.getpid()}"
SLEEPER = f"import os\nos.execv('/usr/bin/sleep', ['sleep', '{MARKER}'])".encode()


class Runner:
    def __init__(self, process: subprocess.Popen[bytes], requests: IO[bytes], replies: IO[bytes]) -> None:
        self.process, self.requests, self.replies = process, requests, replies

    def send(self, message: Request) -> None:
        self.requests.write(encode(message))
        self.requests.flush()

    def reply(self) -> Reply:
        ready, _, _ = select.select([self.replies], [], [], DEADLINE_S)
        assert ready, "no reply in time"
        body = read_body(self.replies)
        assert body is not None, "the runner ended"
        return decode_reply(body)

    def ask(self, message: Request) -> Reply:
        self.send(message)
        return self.reply()

    def running_sandbox(self) -> list[int]:
        """Descriptors (pidfd) of all processes below the runner, once `SLEEPER` runs there."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            tree = psutil.Process(self.process.pid).children(recursive=True)
            with contextlib.suppress(psutil.NoSuchProcess):  # those that prepare a sandbox come and go
                if any(process.cmdline() == ["sleep", MARKER] for process in tree):
                    return [os.pidfd_open(process.pid) for process in tree]
        raise AssertionError("no sandbox was started")


@contextlib.contextmanager
def runner() -> Iterator[Runner]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-m", "trainer.runner"], stdin=pipe, stdout=pipe, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Runner(process, process.stdin, process.stdout)
        finally:
            process.kill()


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    path = tmp_path / "corpus"
    path.write_bytes(CORPUS.packed())
    return Setup(CHALLENGE.canonical(), str(path))


def request(program: bytes = UNIFORM, track: str = "tiny", seed: Seed = 1) -> TrialRequest:
    return TrialRequest(program, track, seed, SALT)


def gone(processes: list[int]) -> bool:
    """Whether all processes end in time."""
    deadline = time.monotonic() + 20
    ended = [bool(select.select([each], [], [], max(0, deadline - time.monotonic()))[0]) for each in processes]
    for each in processes:
        os.close(each)
    return all(ended)


def test_two_trials_a_bad_request_and_an_interrupt_between(setup: Setup) -> None:
    with runner() as node:
        ready = node.ask(setup)
        assert isinstance(ready, Ready)
        assert ready.sandbox.startswith("bubblewrap works")
        first = node.ask(request())
        node.process.send_signal(signal.SIGINT)
        assert node.ask(request(track="gpu")) == Failed("challenge tiny has no track gpu, but tiny")
        second = node.ask(request(program=b"def"))
        assert isinstance(first, Measured)
        assert first.measurement.val_bpb == pytest.approx(8.0)
        assert first.log.startswith("trained on")
        assert isinstance(second, Measured)
        assert second.measurement.status == "crash"
        node.requests.close()
        assert node.process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("end", ["killed", "stdin closed"])
def test_a_runner_that_ends_leaves_no_sandbox_behind(setup: Setup, end: str) -> None:
    with runner() as node:
        assert isinstance(node.ask(setup), Ready)
        node.send(request(program=SLEEPER))
        sandbox = node.running_sandbox()
        if end == "killed":
            node.process.kill()
        else:
            node.requests.close()
        assert gone(sandbox)
        assert node.process.wait(DEADLINE_S) == (-signal.SIGKILL if end == "killed" else 0)


def test_a_setup_that_does_not_fit_says_so(setup: Setup, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(Corpus(CORPUS.documents[:-1]).packed())
    unusable = [
        (Setup(setup.challenge, str(other)), "is not the challenge's corpus"),
        (Setup(setup.challenge, str(tmp_path / "none")), "No such file"),
        (Setup(BPE_CHALLENGE.canonical(), setup.corpus_path), f"needs the tokenizer {'e' * 64}"),
        (Setup(BPE_CHALLENGE.canonical(), setup.corpus_path, str(other)), "tokenizer file is not the challenge's"),
    ]
    for wrong, reason in unusable:
        with runner() as node:
            failed = node.ask(wrong)
            assert isinstance(failed, Failed)
            assert reason in failed.reason
            assert node.process.wait(DEADLINE_S) == 1


def test_frames_are_bounded_and_strict() -> None:
    frame = encode(request())
    assert decode_request(frame[4:]) == request()
    assert body_bytes(frame[:4]) == len(frame) - 4
    for header in (b"\0\0\0\0", b"\0\x10\0\0", b"\xff\xff\xff\xff"):
        with pytest.raises(FrameError, match="is not within"):
            body_bytes(header)
    for body in (b"", b"\xc1", b"\x80", frame[4:-1]):
        with pytest.raises(FrameError, match="malformed"):
            decode_request(body)
        with pytest.raises(FrameError, match="malformed"):
            decode_reply(body)
