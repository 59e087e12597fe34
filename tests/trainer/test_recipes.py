"""Every recipe, on every baseline that it fits: it changes the program once, and what comes out builds, trains and
looks at nothing later. Composition, and what a hostile text cannot do.
"""

import itertools
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import toy

from policy.screening import DEPTH_MAX as SCREENED_DEPTH_MAX
from policy.screening import screen_program
from trainer.proposers.proposal import ProgramUnreadable
from trainer.proposers.recipes.recipe import Recipe, apply
from trainer.proposers.recipes.table import RECIPES, document
from trainer.proposers.syntax import DEPTH_MAX, syntax

CHECKOUT = Path(__file__).parents[2]
SMALL: dict[str, dict[str, Any]] = {
    "cpu_quick.py": {"WIDTH": 64, "LAYERS": 2, "BATCH": 4, "CONTEXT": 16},
    "gpu_5min.py": {"WIDTH": 64, "LAYERS": 2, "HEADS": 2, "BATCH": 4, "CONTEXT": 16},
}
SOURCES = {name: toy.source(name, **changes) for name, changes in SMALL.items()}
FITTING = [(name, recipe) for name, text in SOURCES.items() for recipe in RECIPES if apply(recipe, text) is not None]
# What the baselines have already, as a program without it: recipe to edits of cpu_quick.py.
UNDONE = {
    "qk-norm": [("        if QK_NORM:\n            q, k = norm(q), norm(k)\n", "")],
    "relu2": [("x = x + self.down(activate(self.up(norm(x))))", "x = x + self.down(F.gelu(self.up(norm(x))))")],
    "rms-norm": [("F.rms_norm", "F.layer_norm")],
    "no-dropout": [("self.head = nn.", "self.dropout = nn.Dropout(0.1)\n        self.head = nn.")],
    "zero-projections": [("nn.init.zeros_(weight)", "nn.init.normal_(weight, std=INIT_STD)")],
}


def fitted(name: str, text: str) -> str:
    changed = apply(by_name(name), text)
    assert changed is not None
    return changed


def by_name(name: str) -> Recipe:
    return next(recipe for recipe in RECIPES if recipe.name == name)


def check_that_it_trains(text: str, autocast: bool = False) -> None:
    """Builds, takes two steps, changes every parameter that it has, is finite, and sees no later token."""
    scope: dict[str, Any] = {"__name__": "train"}
    exec(compile(text, "train.py", "exec"), scope)
    if autocast and "reduced_precision" in scope:
        scope["reduced_precision"] = lambda device: torch.autocast("cpu", torch.bfloat16)
    task = toy.make_task(8)
    torch.manual_seed(1)
    model = scope["build"](toy.VOCAB_SIZE, toy.SEQ_LEN)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    scope["train"](model, task)
    assert task.clock.left >= 0
    assert [key for key, value in model.state_dict().items() if torch.equal(value, before[key])] == []
    tokens = torch.randint(toy.VOCAB_SIZE, (2, toy.SEQ_LEN), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[:, 20:] = 0
    with torch.no_grad():
        logits, others = model(tokens), model(changed)
    assert logits.shape == (2, toy.SEQ_LEN, toy.VOCAB_SIZE)
    assert torch.isfinite(logits).all()
    assert torch.allclose(logits[:, :20], others[:, :20], atol=1e-4)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "recipe"), FITTING, ids=[f"{recipe.name}-{name[:3]}" for name, recipe in FITTING])
def test_a_recipe_makes_another_program_that_trains(name: str, recipe: Recipe) -> None:
    text = apply(recipe, SOURCES[name])
    assert text is not None
    assert recipe.repeats or apply(recipe, text) is None
    check_that_it_trains(text, autocast=True)


@pytest.mark.parametrize("name", UNDONE)
def test_what_the_baselines_have_already_is_given_to_one_without(name: str) -> None:
    text = SOURCES["cpu_quick.py"]
    assert apply(by_name(name), text) is None
    for old, new in UNDONE[name]:
        assert old in text
        text = text.replace(old, new)
    changed = fitted(name, text)
    assert apply(by_name(name), changed) is None
    if name != "no-dropout":  # which lies unused there
        check_that_it_trains(changed)


def test_every_recipe_is_tried_by_a_test_and_most_fit_each_baseline() -> None:
    tested = {recipe.name for _, recipe in FITTING} | set(UNDONE) | {"muon-rows"}
    assert {recipe.name for recipe in RECIPES} == tested
    for name in SOURCES:
        assert sum(1 for fitting, _ in FITTING if fitting == name) >= 30


def test_what_recipes_write_passes_the_screen() -> None:
    """Several at once, so that a screen of a tenth of a second is not paid for each."""
    for name, text in SOURCES.items():
        for fits, recipe in FITTING:
            text = (apply(recipe, text) or text) if fits == name else text
        assert text.count("\n") > SOURCES[name].count("\n") + 40
        assert screen_program(text.encode()) is None


def test_muon_and_its_rows_compose() -> None:
    text = fitted("muon-rows", fitted("muon", SOURCES["cpu_quick.py"]))
    assert "class Muon" in text
    check_that_it_trains(text)


def test_recipes_compose_in_either_order() -> None:
    """A drawn sample of pairs; `scripts/benches/proposals.py` runs many more."""
    rng = random.Random(5)
    trained = 0
    for name, text in SOURCES.items():
        fitting = [recipe for fits, recipe in FITTING if fits == name]
        for one, other in rng.sample(list(itertools.permutations(fitting, 2)), 10):
            first = apply(one, text)
            assert first is not None
            both = apply(other, first)
            if both is None:  # one takes away what the other needs
                continue
            check_that_it_trains(both)
            trained += 1
    assert trained >= 15


def test_a_recipe_changes_what_it_says_and_keeps_the_rest() -> None:
    before = SOURCES["cpu_quick.py"].splitlines()
    after = fitted("softcap", SOURCES["cpu_quick.py"]).splitlines()
    assert [line for line in after if line not in before] == [
        "SOFTCAP = 15.0  # no logit is larger",
        "        return SOFTCAP * torch.tanh(logits / SOFTCAP)",
    ]
    assert [line for line in before if line not in after] == ["        return logits"]


def test_a_program_of_other_names_fits_almost_nothing_and_nothing_is_raised() -> None:
    other = "def build(v, t):\n    return None\n\ndef train(model, task):\n    pass\n"
    assert [recipe.name for recipe in RECIPES if apply(recipe, other) is not None] == []
    assert [recipe.name for recipe in RECIPES if apply(recipe, "not Python (") is not None] == []


def test_broken_asserts_are_no_result() -> None:
    text = SOURCES["cpu_quick.py"].replace("assert CONTEXT >= 8", "assert CONTEXT >= 16")
    assert apply(by_name("shorter-windows"), text) is None


HOSTILE = {
    "brackets": '"A = " + "(" * 199 + "2" + ")" * 199',
    "lists": '"A = " + "[" * 150 + "2" + "]" * 150',
    "chain of and": '"A = " + " and ".join(["1"] * 20_000)',
    "sum": '"A = " + "+".join(["1"] * 20_000)',
    "strings": '"A = " + " ".join(["\'a\'"] * 20_000)',
    "import": '"import " + ".".join(["a"] * 3_000)',
    "generators": '"A = [x " + "for x in y " * 10_000 + "]"',
    "minus": '"A = " + "-" * 20_000 + "2"',
    "calls": '"A = f" + "()" * 20_000',
    "else": '"A = " + "1 if 1 else " * 10_000 + "2"',
    "not": '"A = " + "not " * 20_000 + "2"',
    "blocks": '"\\n".join("  " * n + "if 1:" for n in range(99)) + "\\n" + "  " * 99 + "pass"',
}


def test_nested_text_does_not_end_the_process() -> None:
    """In a process of its own, since libcst's parser would take the process along, and in a thread as in the node."""
    code = f"""
import threading
from trainer.proposers.proposal import ProgramUnreadable
from trainer.proposers.recipes.recipe import apply
from trainer.proposers.recipes.table import RECIPES
from trainer.proposers.syntax import syntax

def run():
    for name, text in {{{", ".join(f"{name!r}: {text}" for name, text in HOSTILE.items())}}}.items():
        assert apply(RECIPES[0], text) is None
        try:
            syntax(text)
        except ProgramUnreadable:
            print("refused", name)

thread = threading.Thread(target=run)
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"refused {name}" for name in HOSTILE]


def test_the_bound_on_depth_is_that_of_the_screen() -> None:
    assert DEPTH_MAX == SCREENED_DEPTH_MAX
    fits = "A = " + "-" * (DEPTH_MAX - 4) + "2"
    assert syntax(fits).code == fits
    with pytest.raises(ProgramUnreadable, match="levels deep"):
        syntax("A = " + "-" * DEPTH_MAX + "2")


def test_the_document_is_that_of_the_table() -> None:
    assert (CHECKOUT / "docs" / "recipes.md").read_text() == document()
    assert len(RECIPES) == len({recipe.name for recipe in RECIPES}) >= 30
