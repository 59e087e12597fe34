"""The static screen refuses what cannot run under the contract, and never raises whatever the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.predicates import PROGRAM_BYTES_MAX
from node.tracks import CPU_TRACK, baseline_program
from policy.screening import screen_program

SOUND = b"def build(vocab_size, seq_len): ...\ndef train(model, task): ...\n"


def test_sound_programs_pass() -> None:
    assert screen_program(SOUND) is None
    assert screen_program(baseline_program(CPU_TRACK)) is None


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (SOUND + b"#" * PROGRAM_BYTES_MAX, "over the limit"),
        (b"def build(", "not Python"),
        (SOUND + b"\x00", "not Python"),
        (b"# coding: latin-1\n# \xe9\n" + SOUND, "not Python in UTF-8"),
        (b"x = " + b"(" * 5000, "not Python"),
        (b"x = " + b"-" * 60000 + b"1", "not Python"),
        (SOUND + b"x = 1" + b" + 1" * 500, "levels deep"),
        (b"def train(model, task): ...", "does not define build"),
        (b"def build(vocab_size, seq_len): ...", "does not define train"),
        (SOUND + b"def train(model): ...", "train does not take 2"),
        (b"class build: ...\ndef train(model, task): ...", "does not define build"),
    ],
)
def test_others_are_refused_with_a_reason(program: bytes, why: str) -> None:
    refusal = screen_program(program)
    assert refusal is not None
    assert why in refusal


@given(st.binary(max_size=300))
def test_any_bytes_get_an_answer(program: bytes) -> None:
    assert screen_program(program) is not None


def test_a_strangers_odd_escape_warns_nobody() -> None:
    assert screen_program(SOUND + rb"x = '\d'") is None  # a SyntaxWarning would fail this test
