"""The baseline keeps the program contract and learns: at toy size, with a clock that counts steps."""

from functools import partial
from typing import Any

import pytest
import torch
import toy
from toy import SEQ_LEN, bits_per_byte, trained

load = partial(toy.load, "cpu_quick.py")
make_task = partial(toy.make_task, 120)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_it_learns() -> None:
    task = make_task()
    assert bits_per_byte(load().build(256, SEQ_LEN), task.tokens) > 7.5  # about uniform: 8 bits
    assert bits_per_byte(trained(load(CONTEXT=32), task), task.tokens) < 4.5


def test_it_is_deterministic_for_a_seed_and_varies_with_it() -> None:
    program = load(CONTEXT=32)
    one, same, other = (trained(program, toy.make_task(20, seed)).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_it_stops_before_the_budget_is_spent() -> None:
    task = toy.make_task(200)
    trained(load(CONTEXT=8, WIDTH=16), task)
    assert 0 < task.clock.left <= 5


def test_logits_have_the_shape_of_the_contract_and_see_no_later_byte() -> None:
    model = trained(load(CONTEXT=32), toy.make_task(20))
    tokens = torch.randint(256, (3, SEQ_LEN), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(tokens)
        assert whole.shape == (3, SEQ_LEN, 256)
        assert whole.dtype == torch.float32
        for length in (1, 7, SEQ_LEN - 1):
            assert torch.allclose(model(tokens[:, :length]), whole[:, :length], atol=1e-4)
        alone = model(tokens[1:2])
    assert torch.allclose(alone[0], whole[1], atol=1e-4)


def test_the_state_dict_is_the_model() -> None:
    program = load(CONTEXT=32)
    model, task = trained(program, toy.make_task(20)), make_task()
    again = program.build(256, SEQ_LEN)
    again.load_state_dict(model.state_dict())
    assert bits_per_byte(again, task.tokens) == bits_per_byte(model, task.tokens)


def test_the_rate_rises_stays_and_falls() -> None:
    rate = load(WARMUP_SHARE=0.1, WARMDOWN_SHARE=0.5, FINAL_RATE_SHARE=0.2).rate_share
    assert [round(rate(progress), 6) for progress in (0.0, 0.05, 0.1, 0.5, 0.75, 1.0)] == [0, 0.5, 1, 1, 0.6, 0.2]
    assert load(WARMUP_SHARE=0.0, WARMDOWN_SHARE=0.0).rate_share(0.0) == 1.0


@pytest.mark.parametrize(
    "changes",
    [{"ACTIVATION": "gelu"}, {"ACTIVATION": "silu"}, {"QK_NORM": False}, {"HEADS": 4, "LAYERS": 1}, {"CONTEXT": 64}],
)
def test_every_kind_of_change_still_trains(changes: dict[str, object]) -> None:
    task = toy.make_task(30)
    assert bits_per_byte(trained(load(**changes), task), task.tokens) < 7.5
