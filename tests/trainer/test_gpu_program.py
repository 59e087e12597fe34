"""The GPU baseline keeps the program contract and learns on a CPU at toy size; Muon does what it says."""

import random
from typing import Any

import pytest
import torch
from toy import SEQ_LEN, VOCAB_SIZE, bits_per_byte, load, make_task, source, trained

from policy.screening import screen_program
from trainer.proposers.evolve import Evolve
from trainer.proposers.proposal import Context

NAME = "gpu_5min.py"
TINY: dict[str, Any] = {"WIDTH": 32, "LAYERS": 2, "HEADS": 2, "BATCH": 8, "CONTEXT": 32}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("optimizer", "enough"), [("muon", 3.2), ("adamw", 3.9)])
def test_it_learns_with_either_optimizer(optimizer: str, enough: float) -> None:
    program, task = load(NAME, **TINY, OPTIMIZER=optimizer), make_task(120)
    assert bits_per_byte(program.build(VOCAB_SIZE, SEQ_LEN), task.tokens) == pytest.approx(8, abs=0.1)
    assert bits_per_byte(trained(program, task), task.tokens) < enough


def test_both_optimizers_train_models_of_equal_size() -> None:
    muon, adamw = (load(NAME, **TINY, OPTIMIZER=name).build(VOCAB_SIZE, SEQ_LEN) for name in ("muon", "adamw"))
    assert [p.shape for p in muon.parameters()] == [p.shape for p in adamw.parameters()]


def test_every_parameter_is_trained_and_only_once() -> None:
    for optimizer in ("muon", "adamw"):
        program = load(NAME, **TINY, OPTIMIZER=optimizer)
        model = program.build(VOCAB_SIZE, SEQ_LEN)
        held = program.Optimizer(model)
        by_muon = [id(matrix) for group, _ in held.muon.groups for matrix in group]
        by_adamw = [id(weight) for group in held.adamw.param_groups for weight in group["params"]]
        assert sorted(by_muon + by_adamw) == sorted(map(id, model.parameters()))
        assert bool(by_muon) == (optimizer == "muon")


def test_the_state_dict_is_the_model() -> None:
    program, task = load(NAME, **TINY), make_task(20)
    model = trained(program, task)
    again = program.build(VOCAB_SIZE, SEQ_LEN)
    again.load_state_dict(model.state_dict())
    assert bits_per_byte(again, task.tokens) == bits_per_byte(model, task.tokens)


def test_a_compiled_forward_would_not_rename_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilation itself needs a C++ compiler and half a minute; what matters here is what it is applied to."""
    compiled: list[object] = []

    def wrap(model: object) -> object:
        compiled.append(model)
        return model

    monkeypatch.setattr(torch, "compile", wrap)
    model = trained(load(NAME, **TINY, COMPILE=True), make_task(6))
    assert compiled == [model]
    assert set(model.state_dict()) == set(load(NAME, **TINY).build(VOCAB_SIZE, SEQ_LEN).state_dict())


def test_logits_have_the_shape_of_the_contract_and_see_no_later_token() -> None:
    model = trained(load(NAME, **TINY), make_task(20))
    tokens = torch.randint(VOCAB_SIZE, (3, SEQ_LEN), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(tokens)
        assert whole.shape == (3, SEQ_LEN, VOCAB_SIZE)
        assert whole.dtype == torch.float32
        for length in (1, 7, SEQ_LEN - 1):
            assert torch.allclose(model(tokens[:, :length]), whole[:, :length], atol=1e-4)
            changed = tokens.clone()
            changed[:, length:] = (changed[:, length:] + 1) % VOCAB_SIZE
            assert torch.allclose(model(changed)[:, :length], whole[:, :length], atol=1e-4)
            assert not torch.allclose(model(changed)[:, length:], whole[:, length:], atol=1e-2)
        assert torch.allclose(model(tokens[1:2])[0], whole[1], atol=1e-4)


def test_an_evaluation_longer_than_the_training_windows() -> None:
    model = load(NAME, **TINY | {"CONTEXT": 8}).build(VOCAB_SIZE, SEQ_LEN)
    assert model(torch.zeros(1, SEQ_LEN, dtype=torch.int64)).shape == (1, SEQ_LEN, VOCAB_SIZE)


def test_no_logit_passes_the_cap() -> None:
    program = load(NAME, **TINY, SOFTCAP=2.0, HEAD_STD=100.0)
    logits = program.build(VOCAB_SIZE, SEQ_LEN)(torch.zeros(1, SEQ_LEN, dtype=torch.int64))
    assert 1.9 < logits.abs().max() <= 2.0


def test_it_stops_before_the_budget_is_spent() -> None:
    task = make_task(200)
    trained(load(NAME, **TINY), task)
    assert 0 < task.clock.left <= 5


def test_it_is_deterministic_for_a_seed_and_varies_with_it() -> None:
    program = load(NAME, **TINY)
    one, same, other = (trained(program, make_task(10, seed)).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_accumulated_gradients_are_those_of_the_larger_batch() -> None:
    """With equal draws: two windows at once, or one after the other."""
    gradients: list[torch.Tensor] = []
    for batch, passes in ((2, 1), (1, 2)):
        program = load(NAME, **TINY | {"BATCH": batch}, ACCUMULATION=passes)
        program.Optimizer.step = lambda self, share: gradients.append(self.model.head.weight.grad.clone())
        trained(program, make_task(3))
    assert torch.allclose(*gradients, atol=1e-7)
    assert gradients[0].abs().max() > 1e-4


def test_reduced_precision_holds_for_the_whole_residual_stream_and_learns() -> None:
    """With the CPU's autocast in place of CUDA's: the same mixture of types."""
    program, task = load(NAME, **TINY), make_task(60)
    program.train.__globals__["reduced_precision"] = lambda device: torch.autocast("cpu", torch.bfloat16)
    model = trained(program, task)
    assert bits_per_byte(model, task.tokens) < 4.5
    seen: list[torch.dtype] = []
    for block in model.blocks:  # type: ignore[union-attr]
        block.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    tokens = torch.zeros(1, SEQ_LEN, dtype=torch.int64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        reduced = model(tokens)
    assert set(seen) == {torch.bfloat16}
    assert reduced.dtype == torch.float32
    assert torch.allclose(reduced, model(tokens), atol=0.2)
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("shape", [(3, 64, 256), (3, 256, 64), (2, 48, 64)])
def test_muon_updates_are_near_orthogonal(shape: tuple[int, int, int]) -> None:
    """All singular values near 1, with the gradient's own singular vectors."""
    gradient = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    update = load(NAME).orthogonal(gradient)
    values = torch.linalg.svdvals(update)
    assert 0.7 < values.min() <= values.max() < 1.2
    u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
    turned = u.mT @ update @ vh.mT
    diagonal = torch.diagonal(turned, dim1=-2, dim2=-1)
    assert torch.allclose(turned, torch.diag_embed(diagonal), atol=1e-3)
    assert diagonal.min() > 0.7


def test_the_size_of_a_gradient_does_not_matter_to_muon() -> None:
    program = load(NAME)
    gradient = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(program.orthogonal(gradient), program.orthogonal(1000 * gradient), atol=1e-3)
    assert not program.orthogonal(torch.zeros(1, 16, 32)).any()


def test_weight_decay_acts_only_where_the_update_shrinks_the_weight() -> None:
    program = load(NAME, WEIGHT_DECAY=0.5)
    grown, shrunk = (torch.nn.Parameter(torch.full((8, 8), value)) for value in (-1.0, 1.0))
    muon = program.Muon([grown, shrunk])
    for matrix in (grown, shrunk):
        matrix.grad = torch.ones(8, 8)
    update = program.orthogonal(torch.ones(1, 8, 8))[0]
    muon.step(0.1)
    assert torch.allclose(grown, -1.0 - 0.1 * update, atol=1e-5)
    assert torch.allclose(shrunk, 1.0 - 0.1 * (update + 0.5), atol=1e-5)


def test_rates_rise_stay_and_fall() -> None:
    rate = load(NAME, WARMUP_SHARE=0.1, WARMDOWN_SHARE=0.5, FINAL_RATE_SHARE=0.2).rate_share
    assert [round(rate(progress), 6) for progress in (0.0, 0.05, 0.1, 0.5, 0.75, 1.0)] == [0, 0.5, 1, 1, 0.6, 0.2]


@pytest.mark.parametrize("vocab_size", [256, 8192])
def test_at_full_size_its_state_fits_what_a_trial_takes_back(vocab_size: int) -> None:
    with torch.device("meta"):
        model = load(NAME).build(vocab_size, 2048)
    state = model.state_dict().values()
    assert 80e6 < sum(tensor.numel() * tensor.element_size() for tensor in state) < 250 * 2**20


def test_it_passes_the_screen_and_a_proposer_can_change_it() -> None:
    text = source(NAME)
    assert screen_program(text.encode()) is None
    proposals = [Evolve().propose(Context(program=text), random.Random(seed)) for seed in range(10)]
    assert len({proposal.program for proposal in proposals}) > 5
