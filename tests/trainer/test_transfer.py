"""Discoveries of another track on this one's program: by recipe, by merge, or not at all."""

import random

import pytest
import toy

from trainer.proposers.proposal import Context, NothingNew, ProgramUnreadable, Transfer, fingerprint
from trainer.proposers.recipes.recipe import apply
from trainer.proposers.recipes.table import RECIPES
from trainer.proposers.transfer import OPERATOR, Transfers, carry

CPU, GPU = toy.source("cpu_quick.py"), toy.source("gpu_5min.py")
RECIPE = next(recipe for recipe in RECIPES if recipe.name == "key-shift")


def by_recipe(operator: str = RECIPE.operator) -> Transfer:
    made = apply(RECIPE, CPU)
    assert made is not None
    return Transfer(source="found", track="cpu-quick", operator=operator, ancestor=CPU, program=made, effect=-0.02)


def by_hand(before: str, after: str, source: str = "edited") -> Transfer:
    text = CPU.replace(before, after)
    assert text != CPU
    return Transfer(source=source, track="cpu-quick", operator="constant:X", ancestor=CPU, program=text, effect=-0.05)


def propose(program: str, *transfers: Transfer, **more: object) -> object:
    context = Context(program=program, transfers=transfers, **more)  # type: ignore[arg-type]
    return Transfers().propose(context, random.Random(0))


def test_a_recipe_finds_its_place_in_a_program_of_another_shape() -> None:
    made = carry(by_recipe(), GPU)
    assert made is not None
    assert made.program == apply(RECIPE, GPU)
    assert (made.source, made.operator, made.proposer) == ("found", RECIPE.operator, "transfer")
    assert made.hypothesis.endswith("confirmed in the track cpu-quick, -0.0200 bpb there")


def test_that_it_was_a_recipe_is_checked_and_not_believed() -> None:
    """An author who names a recipe for a change of another kind does not choose what is tried here."""
    other = next(recipe for recipe in RECIPES if recipe.name == "head-bias")
    made = carry(by_recipe(operator=other.operator), GPU)
    assert made is None or made.program != apply(other, GPU)
    unknown = carry(by_recipe(operator="recipe:unheard-of"), CPU)
    assert unknown is not None
    assert (unknown.operator, unknown.program) == (OPERATOR, by_recipe().program)


def test_what_no_recipe_made_is_merged_where_the_texts_allow() -> None:
    line = next(line for line in CPU.splitlines() if line.startswith("WARMUP_SHARE = "))
    ours = f"{CPU}# of another track\n"
    made = carry(by_hand(line, "WARMUP_SHARE = 0.0123"), ours)
    assert made is not None
    assert made.program == ours.replace(line, "WARMUP_SHARE = 0.0123")
    assert (made.operator, made.source) == (OPERATOR, "edited")
    assert carry(by_hand(line, "WARMUP_SHARE = 0.0123"), CPU.replace(line, "WARMUP_SHARE = 0.5")) is None


def test_the_first_that_makes_a_new_program_is_proposed() -> None:
    line = next(line for line in CPU.splitlines() if line.startswith("WARMUP_SHARE = "))
    conflicting, clean = by_hand(line, "WARMUP_SHARE = 0.0123", "conflict"), by_recipe()
    ours = CPU.replace(line, "WARMUP_SHARE = 0.5")
    made = propose(ours, conflicting, clean)
    assert made == carry(clean, ours)
    with pytest.raises(NothingNew):
        propose(ours, conflicting)
    with pytest.raises(NothingNew):
        propose(ours)
    with pytest.raises(NothingNew):
        propose(clean.program, clean)  # it is what this track has already
    with pytest.raises(ProgramUnreadable):
        propose("def (", clean)


def test_what_was_tried_is_left_out_and_what_peers_claim_comes_last() -> None:
    line = next(line for line in CPU.splitlines() if line.startswith("WARMUP_SHARE = "))
    one, two = by_recipe(), by_hand(line, "WARMUP_SHARE = 0.0123")
    programs = [carry(transfer, CPU) for transfer in (one, two)]
    prints = [fingerprint(made.program) for made in programs if made is not None]
    assert propose(CPU, one, two) == programs[0]
    assert propose(CPU, one, two, seen={prints[0]}) == programs[1]
    assert propose(CPU, one, two, claimed={prints[0]}) == programs[1]
    assert propose(CPU, one, two, claimed=set(prints)) == programs[0]
    with pytest.raises(NothingNew):
        propose(CPU, one, two, seen=set(prints))


def test_a_strangers_text_that_cannot_be_read_is_no_result() -> None:
    for text in ("def (", "\0", "x = 1\n" * 9):
        broken = Transfer(source="x", track="t", operator=RECIPE.operator, ancestor=text, program=text, effect=-1.0)
        made = carry(broken, CPU)
        assert made is None or fingerprint(made.program) == fingerprint(CPU)
        with pytest.raises(NothingNew):
            propose(CPU, broken)
