"""Transfer of changes between tracks: a change that was confirmed in one is tried on the program of another.

Where the discovery was made by a recipe, the recipe is applied: it finds its place in a program of another shape. That
a recipe made it is its author's word, so it counts only if the recipe makes the discovery's program of its parent here
as well. Else the change is merged, with the discovery's parent as the common ancestor; where the two tracks' programs
have different texts at that place, the merge conflicts and nothing is proposed.
"""

import functools
import random

from trainer.proposers.crossover import merge
from trainer.proposers.proposal import Context, NothingNew, ProgramUnreadable, Proposal, Transfer, fingerprint
from trainer.proposers.recipes.recipe import Recipe, apply
from trainer.proposers.recipes.table import RECIPES

OPERATOR = "transfer"  # where it is merged; else the recipe's
_RECIPES = {recipe.operator: recipe for recipe in RECIPES}


class Transfers:
    """Proposes what `Context.transfers` has, in its order; each proposal names its source."""

    name = "transfer"

    def propose(self, context: Context, rng: random.Random) -> Proposal:
        """The first transfer that makes a new program, of what peers have claimed last; no chance is used.

        Raises `ProgramUnreadable` or `NothingNew`; `OSError` where there are transfers and git cannot be started.
        """
        parent = fingerprint(context.program)
        claimed: Proposal | None = None
        for transfer in context.transfers:
            made = carry(transfer, context.program)
            if made is None:
                continue
            found = fingerprint(made.program)
            if found == parent or found in context.seen:
                continue
            if found not in context.claimed:
                return made
            claimed = claimed or made
        if claimed is not None:
            return claimed
        raise NothingNew("no discovery of another track makes a new program of this one")


def carry(transfer: Transfer, program: str) -> Proposal | None:
    """The transfer as a change of `program`; None where neither recipe nor merge makes one.

    Raises `OSError` where git cannot be started.
    """
    where = f"confirmed in the track {transfer.track}, {transfer.effect:+.4f} bpb there"
    recipe = _made_by(transfer)
    if recipe is not None:
        text = apply(recipe, program)
        hypothesis = f"{recipe.hypothesis}: {where}"
        return None if text is None else _proposal(transfer, text, hypothesis, recipe.operator)
    text = _merged(program, transfer.ancestor, transfer.program)
    return (
        None if text is None else _proposal(transfer, text, f"a change that was {where}, may help here too", OPERATOR)
    )


_merged = functools.lru_cache(maxsize=64)(merge)  # those that conflict are met again at each proposal


def _proposal(transfer: Transfer, text: str, hypothesis: str, operator: str) -> Proposal:
    return Proposal(
        program=text,
        hypothesis=hypothesis[:1000],
        proposer=Transfers.name,
        operator=operator,
        source=transfer.source,
    )


def _made_by(transfer: Transfer) -> Recipe | None:
    recipe = _RECIPES.get(transfer.operator)
    if recipe is None:
        return None
    try:
        made = apply(recipe, transfer.ancestor)
        return recipe if made is not None and fingerprint(made) == fingerprint(transfer.program) else None
    except ProgramUnreadable:
        return None
