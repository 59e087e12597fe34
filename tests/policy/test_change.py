"""The identity of a change: the same for other literals and layout, another for another kind of change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.change import WORDS_CHARACTERS_MAX, Change, change_of

PARENT = '''"""A program."""
import torch

WIDTH = 64  # knob
ACTIVATION = "relu"
NORM = True

assert WIDTH > 1

class Block:
    """A block."""

    gain = 1.0

    def forward(self, x):
        """Doc."""
        y = x * 2
        if NORM:
            y = y + 1
        return y

def train(model, task):
    for step in range(10):
        model(step)
'''


def change(*edits: tuple[str, str], parent: str = PARENT) -> Change:
    child = parent
    for before, after in edits:
        assert before in child
        child = child.replace(before, after)
    found = change_of(parent.encode(), child.encode())
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("edits", "words", "tags"),
    [
        ([("WIDTH = 64", "WIDTH = 128")], "WIDTH raised", ("constant",)),
        ([("WIDTH = 64", "WIDTH = 32")], "WIDTH lowered", ("constant",)),
        ([("NORM = True", "NORM = False")], "NORM switched off", ("constant",)),
        ([('"relu"', '"gelu"')], "ACTIVATION set to 'gelu'", ("constant",)),
        ([("y = x * 2", "y = x @ x")], "Block.forward changed", ("class",)),
        ([("range(10)", "range(20)")], "numbers of train changed", ("function",)),
        ([("def train", "def helper(): ...\n\ndef train")], "helper added", ("function",)),
        ([("import torch", "import torch\nimport math")], "imports and asserts changed", ("import",)),
        ([("    gain = 1.0\n", "")], "Block.gain removed", ("constant",)),
        ([("class Block:", "class Block(Base):")], "Block changed", ("class",)),
        ([("WIDTH = 64", "WIDTH = 32"), ("range(10)", "range(2)")], "WIDTH lowered; numbers of train changed",
         ("constant", "function")),
    ],
)  # fmt: skip
def test_a_change_in_words(edits: list[tuple[str, str]], words: str, tags: tuple[str, ...]) -> None:
    found = change(*edits)
    assert found.words == words
    assert found.tags == tags


def test_literals_do_not_matter_and_directions_do() -> None:
    assert change(("64", "128")).fingerprint == change(("64", "96")).fingerprint
    assert change(("64", "128")).fingerprint != change(("64", "32")).fingerprint
    wider = PARENT.replace("64", "96")
    assert change(("64", "128")).fingerprint == change(("96", "200"), parent=wider).fingerprint
    assert change(("x * 2", "x / 3")).fingerprint == change(("x * 2", "x / 4")).fingerprint
    assert change(("x * 2", "x / 3")).fingerprint != change(("x * 2", "x + 3")).fingerprint
    assert change(('"relu"', '"gelu"')).fingerprint != change(('"relu"', '"silu"')).fingerprint


def test_layout_comments_docstrings_and_the_order_of_units_are_no_change() -> None:
    other = (
        PARENT.replace("  # knob", "").replace("A block.", "Blocks").replace("Doc.", "Other").replace("x * 2", "x*2")
    )
    moved = other.replace("NORM = True\n", "").replace("WIDTH = 64", "NORM = True\nWIDTH = 64")
    assert change_of(PARENT.encode(), moved.encode()) is None


def test_the_fingerprint_is_the_same_on_every_machine() -> None:
    """Peers compare them, so this value may not change without a new version of the lesson's type."""
    assert change(("64", "128"), ("y = x * 2", "y = x @ x")).fingerprint == FIXED


FIXED = "be1aa6c25a995df5702d1e26a52bab7245ed7d29512d278aa9b6bfc5c23a8691"


@pytest.mark.parametrize("text", [b"def (", b"\xff", b"x" * 70_000, b"x = 1" + b" + 1" * 500, b"(" * 3000, b"\x00"])
def test_what_cannot_be_read_has_no_change(text: bytes) -> None:
    assert change_of(PARENT.encode(), text) is None
    assert change_of(text, PARENT.encode()) is None


def test_words_are_bounded() -> None:
    text = "".join(f"N{'A' * 40}{number} = 1\n" for number in range(100))
    found = change_of(text.encode(), text.replace("= 1", "= 2").encode())
    assert found is not None
    assert len(found.words) <= WORDS_CHARACTERS_MAX
    assert len(found.units) == 64


constants = st.dictionaries(st.sampled_from("ABCDEF"), st.integers(0, 9), max_size=6)


@given(constants, constants)
def test_a_change_is_there_exactly_where_programs_differ(before: dict[str, int], after: dict[str, int]) -> None:
    parent, child = (
        "".join(f"{name} = {value}\n" for name, value in some.items()).encode() for some in (before, after)
    )
    there, back = change_of(parent, child), change_of(child, parent)
    assert (there is None) == (back is None) == (before == after)
    if there is not None and back is not None:
        assert there.fingerprint != back.fingerprint
        assert set(there.units) == {name for name in "ABCDEF" if before.get(name) != after.get(name)}
