"""Whole trials of tiny programs: the honest one, and one for each way to fail or to cheat."""

import os
import random
from pathlib import Path

import msgspec
import psutil
import pytest
import toy

import trainer.trial
from ledger.predicates import PROGRAM_BYTES_MAX, Measurement
from trainer.challenge import Challenge, CorpusRef, Split, Track
from trainer.corpus import Corpus, Document
from trainer.requests import TrialRequest
from trainer.sandbox.command import SandboxUnavailable
from trainer.trial import ImpossibleTrial, run_trial

SALT = b"0123456789abcdef"
TRACK = Track(budget_s=1.0, memory_bytes=2**29, seq_len=16, eval_bytes=2048, baseline="0" * 64)

HONEST = """
import torch

class Bigram(torch.nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = torch.nn.Embedding(vocab_size, vocab_size)

    def forward(self, tokens):
        return self.table(tokens)

def build(vocab_size, seq_len):
    print("building", flush=True)
    return Bigram(vocab_size)

def train(model, task):
    assert task.doc_starts[0] == 0 and task.tokens.dtype == torch.uint8 and task.seq_len == 16
    assert 0 < task.time_left() <= 1
    pairs = task.tokens[:-1].long() * 256 + task.tokens[1:].long()
    counts = torch.bincount(pairs, minlength=256 * 256).view(256, 256)
    with torch.no_grad():
        model.table.weight.copy_((counts + 0.1).log())
    print("trained")
"""


def corpus() -> Corpus:
    rng = random.Random(5)
    words = ["bee", "dance", "hive", "waggle", "nectar", "swarm", "comb", "scout"]
    texts = (" ".join(rng.choices(words, k=150)) for _ in range(60))
    return Corpus(tuple(Document(f"{index}.txt", text.encode()) for index, text in enumerate(texts)))


CORPUS = corpus()


def challenge(track: Track = TRACK) -> Challenge:
    return Challenge(
        name="tiny",
        founder="12D3KooW" + "A" * 44,
        constitution="c" * 64,
        corpus=CorpusRef(digest=CORPUS.digest(), bytes=CORPUS.text_bytes, documents=len(CORPUS.documents)),
        split=Split(public_salt="0" * 32, validation_share=0.2),
        tracks={"tiny": track},
    )


def trial(
    program: str, track: Track = TRACK, *, wall_cap_s: float = 30.0, rng: random.Random | None = None
) -> Measurement:
    request = TrialRequest(program.encode(), "tiny", 1, SALT)
    return run_trial(request, challenge(track), CORPUS, wall_cap_s=wall_cap_s, rng=rng)


def with_train(body: str, prelude: str = "") -> str:
    """The honest program with another `train`; `body` is one line."""
    return HONEST.partition("def train")[0] + f"import os, sys, time\n{prelude}\ndef train(model, task):\n    {body}\n"


def test_an_honest_program_gets_the_same_number_in_every_order_of_evaluation() -> None:
    first, second = (trial(HONEST, rng=random.Random(seed)) for seed in (1, 2))
    assert first.status == second.status == "ok", first.reason
    assert first.val_bpb is not None
    assert 0.5 < first.val_bpb < 4.0
    assert first.val_bpb == pytest.approx(second.val_bpb, abs=1e-9)
    assert 1024 < first.evaluated_bytes <= 2048
    assert first.budget_used_s < 1.3  # a few milliseconds, and the kernel counts in hundredths of a second
    assert first.peak_memory_bytes > 2**26
    assert first.weights_bytes > 256 * 256 * 4
    assert first.weights_sha256 == second.weights_sha256
    assert first.validation_sha256 == second.validation_sha256
    assert first.hardware.torch
    assert first.audit is not None
    assert first.audit.cuts == first.evaluated_bytes // 16


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("def build(:\n", "SyntaxError"),
        (
            with_train("print('é' * 999, '\\n' * 99); raise RuntimeError('no \\x1b[31mluck')"),
            "RuntimeError: no [31mluck",
        ),
        (with_train("os._exit(0)"), "ended with exit status 0"),
    ],
    ids=["syntax", "raise", "vanish"],
)
def test_a_broken_program_is_a_crash_with_the_end_of_its_log(program: str, reason: str) -> None:
    result = trial(program)
    assert result.status == "crash"
    assert reason in result.reason
    assert result.val_bpb is None
    assert str(Path.home()) not in result.reason
    assert "\x1b" not in result.reason
    assert len(result.reason) <= 8000


def test_over_budget_kills_the_program_and_its_daemon_and_counts_from_the_first_line() -> None:
    marker = f"31536000.{os.getpid()}"
    daemon = f"os.fork() or (os.setsid(), os.fork() and os._exit(0), os.execv('/usr/bin/sleep', ['sleep', '{marker}']))"
    result = trial(with_train("pass", prelude=f"{daemon}\nwhile True: pass"))
    assert result.status == "over_budget", result.reason
    assert 1.0 < result.budget_used_s < 3.0
    assert result.val_bpb is None
    assert not [process for process in psutil.process_iter(["cmdline"]) if marker in (process.info["cmdline"] or ())]


def test_sleeping_is_a_timeout() -> None:
    result = trial(with_train("time.sleep(3600)"), wall_cap_s=1.0)
    assert result.status == "timeout", result.reason
    assert result.budget_used_s < 1.0


def test_by_the_wall_clock_sleeping_uses_the_budget() -> None:
    by_the_wall = msgspec.structs.replace(TRACK, clock="wall")
    asleep = "before = task.time_left(); time.sleep(0.25); assert 0.25 < before - task.time_left()"
    rested = trial(with_train(asleep), by_the_wall)
    assert rested.status == "ok", rested.reason
    assert 0.25 < rested.budget_used_s < rested.wall_s
    asleep_too_long = trial(with_train("time.sleep(3600)"), by_the_wall)
    assert asleep_too_long.status == "over_budget", asleep_too_long.reason
    assert 1.0 < asleep_too_long.budget_used_s < asleep_too_long.wall_s


def test_by_the_wall_clock_too_an_evaluation_has_little_time_before_its_first_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(trainer.trial.FIRST_LOGITS_S, "wall", 0.2)
    slow = HONEST.replace("return self.table(tokens)", "import time; time.sleep(1); return self.table(tokens)")
    result = trial(slow, msgspec.structs.replace(TRACK, clock="wall"))
    assert result.status == "over_budget", result.reason
    assert "before the first logits" in result.reason


CUDA_TRACK = Track(device="cuda", clock="wall", budget_s=20.0, seq_len=32, eval_bytes=4096, baseline="0" * 64)
HAS_NVIDIA = Path("/dev/nvidiactl").exists()


@pytest.mark.skipif(HAS_NVIDIA, reason="this machine has an NVIDIA GPU")
def test_without_a_gpu_a_cuda_track_is_refused_with_a_remedy() -> None:
    with pytest.raises(SandboxUnavailable, match="docker run --gpus all"):
        trial(HONEST, CUDA_TRACK)


@pytest.mark.skipif(not HAS_NVIDIA, reason="no NVIDIA GPU")
def test_the_gpu_baseline_trains_on_a_gpu_in_the_sandbox() -> None:
    small = toy.source("gpu_5min.py", WIDTH=64, LAYERS=2, HEADS=2, BATCH=8, CONTEXT=32)
    result = trial(small, CUDA_TRACK, wall_cap_s=120.0)
    assert result.status == "ok", result.reason
    assert result.val_bpb is not None
    assert result.val_bpb < 4.0
    assert result.hardware.gpu


@pytest.mark.parametrize(
    "body",
    ["hog = torch.ones(2**27); time.sleep(3600)", "hog = torch.empty(2**34)"],
    ids=["resident", "refused by the kernel"],
)
def test_too_much_memory(body: str) -> None:
    result = trial(with_train(body), wall_cap_s=20.0)
    assert result.status == "out_of_memory", result.reason


def test_predictions_that_are_not_finite_are_void() -> None:
    result = trial(with_train("model.table.weight.data.fill_(float('nan'))"))
    assert result.status == "void", result.reason
    assert "not finite" in result.reason
    assert result.weights_bytes > 0


def test_a_wrong_shape_is_void() -> None:
    result = trial(HONEST.replace("return self.table(tokens)", "return self.table(tokens)[..., self.training - 1 :]"))
    assert result.status == "void"
    assert result.reason.startswith("evaluation")
    assert "16, 1) where" in result.reason


def test_a_pickle_in_place_of_weights_executes_nothing(tmp_path: Path) -> None:
    """The parent does not unpickle, and the evaluation sandbox only unpickles tensors."""
    trap = tmp_path / "sprung"
    prelude = f"""
class Trap:
    def __reduce__(self):
        return (os.system, ("echo sprung >&2; touch {trap}",))
torch.save = lambda state, file: __import__("pickle").dump(Trap(), file)
"""
    result = trial(with_train("pass", prelude=prelude))
    assert result.status == "crash"
    assert result.reason.startswith("evaluation")
    assert "\nsprung" not in result.reason
    assert not trap.exists()


def test_weights_over_the_bound_are_refused() -> None:
    body = "import io; torch.save = lambda state, file: [file.write(bytes(2**20)) for _ in range(257)]"
    roomy = msgspec.structs.replace(TRACK, memory_bytes=2**30)  # so that memory is not what ends it
    result = run_trial(TrialRequest(with_train(body).encode(), "tiny", 1, SALT), challenge(roomy), CORPUS)
    assert result.status == "crash"
    assert "more than" in result.reason


def test_requests_that_cannot_be_tried() -> None:
    with pytest.raises(ImpossibleTrial, match="has no track gpu"):
        run_trial(TrialRequest(b"", "gpu", 1, SALT), challenge(), CORPUS)
    long = Track(seq_len=65536, baseline="0" * 64)
    with pytest.raises(ImpossibleTrial, match="validation text"):
        run_trial(TrialRequest(b"", "tiny", 1, SALT), challenge(long), CORPUS)
    with pytest.raises(ValueError, match="over the limit"):
        TrialRequest(bytes(PROGRAM_BYTES_MAX + 1), "tiny", 1, SALT)
