"""Crossover: both changes or nothing; and what a program's text says of its size."""

import pytest
import toy

from trainer.proposers.crossover import merge
from trainer.proposers.descriptors import descriptors
from trainer.proposers.recipes.recipe import apply
from trainer.proposers.recipes.table import RECIPES

BASE = "A = 1\nB = 2\nC = 3\nassert A + B < 7\n"


def test_changes_of_different_lines_are_both_there() -> None:
    assert merge(BASE.replace("A = 1", "A = 2"), BASE, BASE.replace("C = 3", "C = 4")) == BASE.replace(
        "A = 1", "A = 2"
    ).replace("C = 3", "C = 4")


def test_neighbouring_lines_do_not_conflict() -> None:
    merged = merge(BASE.replace("A = 1", "A = 2"), BASE, BASE.replace("B = 2", "B = 4"))
    assert merged is not None
    assert merged.startswith("A = 2\nB = 4\n")


@pytest.mark.parametrize(
    "texts",
    [
        (BASE.replace("A = 1", "A = 2"), BASE, BASE.replace("A = 1", "A = 3")),  # a conflict
        (BASE.replace("A = 1", "A = 4"), BASE, BASE.replace("B = 2", "B = 5")),  # the assert
        ("A = [\n1\n)\n", "A = [\n1\n]\n", "A = [\n2\n]\n"),  # no program
        ("A = 1\n", "A = 1\n", "A = (\n"),  # no program
        ("A = '\x01'\n", "A = 1\n", "A = 1\n"),
        ("A = '\ud800'\n", "A = 1\n", "A = 1\n"),
        ("#" * (2**20 + 1), "A = 1\n", "A = 1\n"),
    ],
    ids=["conflict", "assert", "brackets", "syntax", "mark", "surrogate", "size"],
)
def test_what_does_not_make_a_program_is_no_result(texts: tuple[str, str, str]) -> None:
    assert merge(*texts) is None


def test_line_ends_and_a_missing_last_one_are_kept() -> None:
    base = "A = 1\r\nB = 2\r\nC = 3"
    assert merge(base.replace("A = 1", "A = 5"), base, base.replace("C = 3", "C = 6")) == "A = 5\r\nB = 2\r\nC = 6"


def test_two_recipes_cross() -> None:
    base = toy.source("cpu_quick.py")
    one, other = (next(r for r in RECIPES if r.name == name) for name in ("softcap", "key-shift"))
    ours, theirs = apply(one, base), apply(other, base)
    assert ours is not None
    assert theirs is not None
    assert merge(ours, base, theirs) is None  # both add a constant in one place: that is a conflict
    far = merge(ours, base, base.replace("BATCH = 16", "BATCH = 8"))
    assert far is not None
    assert "SOFTCAP" in far
    assert "BATCH = 8" in far


def test_descriptors_are_near_the_model() -> None:
    text = toy.source("cpu_quick.py")
    found = descriptors(text)
    model = toy.load("cpu_quick.py").build(256, 128)
    counted = sum(weight.numel() for weight in model.parameters())
    assert found.parameters == pytest.approx(counted, rel=0.05)
    assert (found.width, found.depth, found.step_tokens) == (64, 2, 16 * 128)
    assert 50 < found.lines < len(text.splitlines())
    assert found.bin() == (17, 11, 6)


def test_comments_and_docstrings_are_no_lines_and_unknown_shapes_are_none() -> None:
    found = descriptors('"""Text."""\n# note\ndef build(v, t):\n    """Doc."""\n    return 1\n')
    assert found.lines == 2
    assert (found.width, found.depth, found.parameters, found.step_tokens) == (None, None, None, None)
    assert found.bin() == (-1, -1, 1)
