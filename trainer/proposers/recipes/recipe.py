"""A structural change as data: what it does to a program's tree, where it comes from, and what is expected of it.

A recipe has one or more *forms*, each a sequence of rules. The first form whose rules all fit is the change; where none
fits, the precondition is not met, and nothing is raised. A rule fits where the program has the names and shapes that it
looks for, so a precondition is written once, as the change itself. No recipe fits its own result, except those that
only scale constants and say `repeats`.

`expected` is a prior in bits per byte at five minutes on an H100 (child - parent, negative is better), taken from the
source or from published nights of such search. Small ones are within the noise: they order what is tried and say no
more.
"""

import functools
from dataclasses import dataclass

import libcst as cst

from trainer.proposers.constants import keeps_asserts
from trainer.proposers.proposal import ProgramUnreadable, fingerprint
from trainer.proposers.recipes.rules import Rule
from trainer.proposers.syntax import syntax

CACHED = 512  # results; a proposer meets the same parent at every call


@dataclass(frozen=True, eq=False)  # one object each: the cache compares by identity
class Recipe:
    name: str  # lower case, words joined by hyphens
    hypothesis: str  # one sentence: what changes, and why it should help
    needs: str  # what a program must have, for readers
    source: str
    expected: float  # bits per byte, child - parent
    forms: tuple[tuple[Rule, ...], ...]
    repeats: bool = False

    @property
    def operator(self) -> str:
        """Its name among the operators of proposals."""
        return f"recipe:{self.name}"


@functools.lru_cache(maxsize=CACHED)
def apply(recipe: Recipe, program: str) -> str | None:
    """`program` changed, or None where the recipe does not fit or the program's asserts would not hold.

    Never raises for a program's sake: one that cannot be read fits no recipe.
    """
    try:
        module = syntax(program)
        for form in recipe.forms:
            text = _formed(form, module)
            if text is not None and text != program and keeps_asserts(text):
                fingerprint(text)  # must be readable for a proposal
                return text
    except (ProgramUnreadable, RecursionError):  # libcst's visitors recurse; a deep tree is nothing to build on
        return None
    return None


def _formed(form: tuple[Rule, ...], module: cst.Module) -> str | None:
    for rule in form:
        changed = rule.rewrite(module)
        if changed is None:
            return None
        module = changed
    return module.code
