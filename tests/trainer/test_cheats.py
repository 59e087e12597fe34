"""The cheat battery: every cheat is voided or gains nothing, and no honest program is ever voided.

Programs are evaluated and audited in real sandboxes, with real rows. Where training is not what is tried, the weights
are made here, which is quicker and gives the same ones each time; the others are whole trials. The cuts are drawn from
a fixed seed, so that what is found today is found tomorrow; tests/trainer/test_audit.py measures how often it is found
when they are not.
"""

import functools
import io
import os
import random
from typing import Any

import psutil
import pytest
import torch
from programs import HONEST, cheat

from ledger.predicates import PROGRAM_BYTES_MAX, Measurement
from policy.screening import screen_program
from trainer.challenge import Challenge, CorpusRef, Split, Track
from trainer.corpus import Corpus, split, standard_library
from trainer.requests import TrialRequest
from trainer.trial import Evaluation, evaluate_weights, run_trial

SALT = b"0123456789abcdef"
STEP_S = 0.007
TRACK = Track(budget_s=0.5, memory_bytes=2**30, seq_len=32, eval_bytes=16 * 1024, baseline="0" * 64)


@functools.cache
def corpus() -> Corpus:
    return Corpus(standard_library().documents[:100])


def challenge() -> Challenge:
    text = corpus()
    return Challenge(
        name="cheats",
        founder="12D3KooW" + "A" * 44,
        constitution="c" * 64,
        corpus=CorpusRef(digest=text.digest(), bytes=text.text_bytes, documents=len(text.documents)),
        split=Split(public_salt="0" * 32, validation_share=0.2),
        tracks={"tiny": TRACK},
    )


class Task:
    """What `train` is given, with steps for seconds: every look at the clock takes `STEP_S`."""

    vocab_size, seq_len, device = 256, TRACK.seq_len, torch.device("cpu")

    def __init__(self, seed: int) -> None:
        training, _ = split(corpus(), SALT, 0.2)
        self.tokens = torch.frombuffer(bytearray(b"".join(training)), dtype=torch.uint8)
        self.seed = seed
        self._left_s = 1.0

    def time_left(self) -> float:
        self._left_s -= STEP_S
        return self._left_s


@functools.cache
def weights(program: str, seed: int) -> bytes:
    """What the program's own training gives, made in this process."""
    module: dict[str, Any] = {}
    exec(compile(program, "train.py", "exec"), module)
    torch.manual_seed(seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other on a busy machine, for longer than they compute
    model = module["build"](Task.vocab_size, Task.seq_len)
    module["train"](model, Task(seed))
    torch.set_num_threads(threads)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getvalue()


def evaluation(program: str, state: bytes | None = None) -> Evaluation:
    request = TrialRequest(program.encode(), "tiny", 1, SALT)
    state = weights(cheat(), 1) if state is None else state
    return evaluate_weights(state, request, challenge(), corpus(), wall_cap_s=120, rng=random.Random(7))


def trial(program: str) -> Measurement:
    return run_trial(TrialRequest(program.encode(), "tiny", 1, SALT), challenge(), corpus(), wall_cap_s=120)


@functools.cache
def honest_score() -> float:
    result = evaluation(cheat())
    assert result.status == "ok", result.reason
    assert result.score is not None
    assert result.audit is not None
    assert result.audit.largest_bits < 1e-5
    return result.score.bits_per_byte


def assert_void(program: str) -> None:
    result = evaluation(program)
    assert result.status == "void", result.reason
    assert result.score is None
    assert "predictions differ by more than" in result.reason
    assert "with the whole row" in result.reason


ALWAYS = "torch.ones(tokens.shape)"


def test_peeking_at_the_target_always() -> None:
    assert_void(cheat(f"return self.peek(tokens, logits, {ALWAYS})"))


def test_peeking_at_one_percent_of_positions() -> None:
    assert_void(
        cheat("return self.peek(tokens, logits, (tokens.cumsum(1) * 40503 % 65521 < 655).float())"),
    )


def test_peeking_only_where_the_text_is_coherent() -> None:
    """It looks at whole rows that read like text, so that nonsense put in place of a row's end would see it honest."""
    forward = """
after = torch.roll(tokens, -1, 1)
likely = logits.softmax(-1).gather(-1, after[..., None])[:, :-1, 0].log().mean(1)
return self.peek(tokens, logits, (likely > -2.2).float()[:, None].expand(tokens.shape))
"""
    assert_void(cheat(forward))


def test_peeking_where_it_would_be_badly_surprised() -> None:
    """At 0.1 % of positions; the targeted cuts are for this."""
    forward = """
after = torch.roll(tokens, -1, 1)
cost = -logits.log_softmax(-1).gather(-1, after[..., None])[..., 0]
return self.peek(tokens, logits, (cost > 11.0).float(), 30.0)
"""
    assert_void(cheat(forward))


def test_peeking_only_in_rows_of_full_length() -> None:
    assert_void(cheat(f"return self.peek(tokens, logits, {ALWAYS} * (tokens.shape[1] == 32))"))


def test_mixing_a_little_of_the_target_into_every_prediction() -> None:
    """Each gain is below what bfloat16 is allowed, and the mean of them is not."""
    result = evaluation(cheat(f"return self.peek(tokens, logits, {ALWAYS}, 0.1)  # as bfloat16 would"))
    assert result.status == "void"
    assert "uniform cuts the whole row saves" in result.reason


def test_answers_replayed_for_rows_seen_before() -> None:
    """In one process this would pass: shown the start of a row that it has seen, it says what it said then."""
    prelude = "global memory\nmemory = {}"
    forward = f"""
logits = self.peek(tokens, logits, {ALWAYS})
for row, answer in zip(tokens.tolist(), logits):
    known = memory.get(tuple(row))
    if known is not None:
        answer[:] = known
    for length in range(1, len(row) + 1):
        memory.setdefault(tuple(row[:length]), answer[:length].clone())
return logits
"""
    assert_void(cheat(forward, prelude=prelude))


def test_answers_left_on_disk_for_the_next_sandbox() -> None:
    forward = f"""
for folder in ("/tmp", "/dev/shm", "/scratch"):
    for name in os.listdir(folder):
        if name.startswith("row-"):
            return self.peek(tokens, logits, {ALWAYS})
    open(folder + "/row-" + str(tokens.sum().item()), "w").close()
return self.peek(tokens, logits, {ALWAYS})
"""
    assert_void(cheat(forward))


def test_state_across_calls() -> None:
    """It learns the pairs of the rows that it is shown."""
    forward = """
self.table.data.index_put_((tokens[:, :-1], tokens[:, 1:]), torch.tensor(20.0), accumulate=True)
return self.honest(tokens)
"""
    assert_void(cheat(forward))


def test_rows_mixed_in_a_batch() -> None:
    forward = """
words = torch.zeros(256).index_add_(0, tokens.flatten(), torch.ones(tokens.numel()))
return logits + 0.3 * (words / words.sum() + 1e-3).log()
"""
    assert_void(cheat(forward))


def test_batch_statistics_in_training_mode() -> None:
    """Honest by intention; the reason tells its author what is wrong."""
    result = evaluation(cheat("return logits + 0.1 * torch.nn.functional.layer_norm(logits.mean(1), (256,)).mean(0)"))
    assert result.status == "void"
    assert "batch norm in training mode" in result.reason


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        ("logits[-1, -1, -1] = float('nan')\nreturn logits", "not finite"),
        ("return logits[:, -1:]", "1, 256) where"),
        ("return tokens", "where floating-point logits are expected"),
    ],
    ids=["not finite", "wrong shape", "no logits"],
)
def test_answers_that_are_no_logits(forward: str, reason: str) -> None:
    result = evaluation(cheat(forward))
    assert result.status == "void", result.reason
    assert reason in result.reason


def test_logits_that_are_not_normalised_gain_nothing() -> None:
    result = evaluation(cheat("return logits + 50"))
    assert result.status == "ok", result.reason
    assert result.score is not None
    assert result.score.bits_per_byte == pytest.approx(honest_score(), abs=1e-4)


def test_a_program_that_fails_in_evaluation_only_is_a_crash() -> None:
    for forward, where in (("raise RuntimeError('no')", "evaluation"), ("assert tokens.shape[1] == 32", "audit")):
        result = evaluation(cheat(forward + "\nreturn logits"))
        assert result.status == "crash"
        assert result.reason.startswith(where)


@pytest.mark.parametrize(
    "patch",
    [
        "stub.predict = lambda model, batch, vocab_size: "
        "model.peek(batch, model.honest(batch), torch.ones(batch.shape))",
        "Model.__call__ = lambda self, tokens: self.peek(tokens, self.honest(tokens), torch.ones(tokens.shape))",
        "real = stub.send\nstub.send = lambda out, data: (real(out, data), real(out, data))",
    ],
    ids=["the stub's loop", "torch's call", "the stub's pipe"],
)
def test_monkeypatching_the_evaluation(patch: str) -> None:
    result = evaluation(cheat(prelude="stub = sys.modules['__main__']\n" + patch))
    assert result.status == "void", result.reason


def test_training_on_in_the_evaluation() -> None:
    """The weights may hold the training text. Before the first batch there is no time to use it …"""
    spin = "end = time.process_time() + 5\nwhile time.process_time() < end: pass"
    for prelude, forward in (
        (spin, "return logits"),
        ("pass", "if not hasattr(self, 'trained'):\n    " + spin.replace("\n", "\n    ") + "\nreturn logits"),
        ("os.write(int(sys.argv[2]), bytes(4))\n" + spin, "return logits"),
    ):
        result = evaluation(cheat(forward, prelude=prelude))
        assert result.status == "over_budget", result.reason
        assert "before the first logits" in result.reason


def test_training_on_between_two_batches() -> None:
    """… and what it learns afterwards makes two calls differ."""
    assert_void(cheat("self.calls = getattr(self, 'calls', 0) + 1\nreturn logits / (1 + 1 / self.calls)"))


def test_weights_hidden_in_the_source() -> None:
    program = cheat(prelude=f"hidden = {'x' * PROGRAM_BYTES_MAX!r}").encode()
    assert "over the limit" in (screen_program(program) or "")
    with pytest.raises(ValueError, match="over the limit"):
        TrialRequest(program, "tiny", 1, SALT)


def test_training_in_the_background_after_the_deadline_gains_nothing() -> None:
    """A thread that goes on after `train` has returned: the weights have been saved without it, or it is counted."""
    background = """
import threading
def spoil_or_improve():
    while True:
        model.table.data.mul_(1.0)
threading.Thread(target=spoil_or_improve, daemon=True).start()
"""
    result = trial(cheat(train=background))
    assert result.status == "ok", result.reason
    assert result.val_bpb == pytest.approx(honest_score(), abs=1e-6)


def test_a_child_that_holds_the_pipe_and_trains_on_is_over_budget() -> None:
    marker = f"31536000.{os.getpid()}"
    child = f"""
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv('/usr/bin/sleep', ['sleep', '{marker}'])
    while True: pass
"""
    result = trial(cheat(train=child))
    assert result.status == "over_budget", result.reason
    assert result.val_bpb is None
    assert not [process for process in psutil.process_iter(["cmdline"]) if marker in (process.info["cmdline"] or ())]


@pytest.mark.parametrize(
    "body",
    [
        "task.time_left = lambda: 1e9\nstub = sys.modules['__main__']\n"
        "stub.tree_cpu_s = time.process_time = time.monotonic = lambda: 0.0\n"
        "os.times = lambda: None\nwhile task.time_left() > 0: pass",
        "children = [os.fork() for _ in range(2)]\nif 0 in children:\n    while True: pass\ntime.sleep(30)",
    ],
    ids=["forged time_left and patched clocks", "working children of a sleeping parent"],
)
def test_overrunning_the_clock(body: str) -> None:
    result = trial(cheat(train=body))
    assert result.status == "over_budget", result.reason
    assert result.budget_used_s > TRACK.budget_s
    assert result.val_bpb is None


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_is_never_void(name: str, seed: int) -> None:
    result = evaluation(HONEST[name], weights(HONEST[name], seed))
    print(f"{name}, seed {seed}: {result.audit}")  # `pytest -rP` shows it: the table in docs/audit.md
    assert result.status == "ok", result.reason
    assert result.score is not None
    assert 1.0 < result.score.bits_per_byte < 6.0  # it has learnt something
    assert result.audit is not None
    assert result.audit.cuts == 512
    assert result.audit.largest_bits < result.audit.tolerance_bits / 2
