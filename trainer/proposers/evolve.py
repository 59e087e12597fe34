"""The proposer that needs no key and no network: typed edits of constants, structural recipes, and crossover.

A *move* is one change: an edit of a constant (`constants.py`), a recipe (`recipes/`), or a merge with another confirmed
program (`crossover.py`). A proposal is one move, sometimes a pair, and more of them on a plateau. What is tried first
is drawn by Thompson sampling (`bandit.py`) from priors and outcomes. The priors are of the order only: under a fixed
budget the number of steps dominates (batch, context, depth, width), then the learning rate and its schedule.
Everything gets its turn. About half of the proposals *gather*: they make all changes at once that a draw from the
response surface of the outcomes (`surface.py`) finds good, each of which may gain too little to be told from noise.

A program says which combinations make sense by module-level asserts over its constants (`asserts.py`); they are
evaluated on the changed constants before anything is proposed.
"""

import functools
import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from trainer.proposers.asserts import Value
from trainer.proposers.bandit import KEPT_SHARE, Arm, Bandit, prior_kept
from trainer.proposers.constants import Edit, apply_edits, constants_of, edits_of, keeps_asserts, knobs_of
from trainer.proposers.crossover import merge
from trainer.proposers.hypotheses import hypothesis
from trainer.proposers.proposal import Context, NothingNew, ProgramUnreadable, Proposal, Relative, fingerprint, parse
from trainer.proposers.recipes.recipe import Recipe, apply
from trainer.proposers.recipes.table import RECIPES
from trainer.proposers.surface import PARTS_JOINED_BY, Surface

FIRST_WORDS = frozenset(
    {"BATCH", "CONTEXT", "WINDOW", "LAYERS", "DEPTH", "WIDTH", "RATE", "LR", "WARMDOWN", "COOLDOWN"}
)
FIRST_KEPT = 0.3  # prior probability of being kept, of edits of such constants
PAIR_SHARE = 0.25  # of proposals with two moves or more
GATHER_SHARE = 0.5  # of proposals, once gains can be told from noise
GATHER_PRIOR = 0.4  # probability that what was gathered is kept, before any outcome
CROSSOVER_SHARE = 0.15  # of proposals, where there are relatives
MOVES_MAX = 4  # in one proposal, on a plateau
STRUCTURE_SHARE = 0.35  # of proposals that prefer recipes: there are more constants, and each has several edits
STRUCTURE_FACTOR = 4.0  # by which those, and all on a plateau, prefer them
SUGGESTED_FACTOR = 20.0  # for each word of an operator that the suggestion names
GATHERED_MAX = 8  # moves at once
GATHERINGS_TRIED_MAX = 20
COMBINATIONS_TRIED_MAX = 500  # each costs some parses of the program, some milliseconds
HYPOTHESIS_CHARACTERS = 1000

_WORD = re.compile(r"[a-z0-9]{2,}")


class Move(NamedTuple):
    """A change that can be made to a program, or to one that other moves have changed."""

    arm: Arm
    hypothesis: str
    expected: float | None
    prior: float  # probability of being kept, before any outcome
    make: Callable[[str], str | None]

    @property
    def structural(self) -> bool:
        return self.arm.operator.startswith("recipe:")


class Together(NamedTuple):
    """Moves to be made one after the other, as one proposal."""

    moves: tuple[Move, ...]
    operator: str = "pair"  # what they are called where they are more than one


class Evolve:
    """Proposes changes by the moves above; see the module's text. Without recipes it edits constants only."""

    name = "evolve"

    def __init__(self, recipes: Sequence[Recipe] = RECIPES) -> None:
        self._recipes = tuple(recipes)

    def propose(self, context: Context, rng: random.Random) -> Proposal:
        """A change that is new; all single moves are tried before `NothingNew`, of combinations a bounded sample.

        What peers have claimed comes last. The same context and state of `rng` give the same proposal.
        Raises `ProgramUnreadable` or `NothingNew`; `OSError` where there are relatives and git cannot be started.
        """
        parent = fingerprint(context.program)
        claimed: Proposal | None = None
        seen: set[str] = {parent}
        words = _words(context)
        for moves, operator in self._combinations(context, rng):
            text = _made(moves, context.program)
            if text is None:
                continue
            found = fingerprint(text)
            if found in seen or found in context.seen:
                continue
            seen.add(found)
            answers = any(_named(move, words) for move in moves)
            proposal = replace(_proposal(moves, operator, text, self.name), answers=answers)
            if found not in context.claimed:
                return proposal
            claimed = claimed or proposal
        if claimed is not None:
            return claimed
        raise NothingNew("every change of this program has been tried: mutate another, or add constants to this one")

    def _combinations(self, context: Context, rng: random.Random) -> Iterator[Together]:
        """Moves in the order in which to try them: what the draw says first, then all others."""
        singles = [*_edits(context.program), *(_recipe_move(recipe) for recipe in self._recipes)]
        bandit, words = Bandit(context.outcomes, context.noise), _words(context)
        surface = _surface(singles, context)
        structure = max(context.widen, float(rng.random() < STRUCTURE_SHARE))
        scores = [_score(move, bandit, surface, words, structure, rng) for move in singles]
        order = sorted(range(len(singles)), key=lambda place: -scores[place])
        alone = (Together((singles[place],)) for place in order)
        together = _drawn(singles, scores, context.widen, rng)
        crossed = (Together((move,)) for move in _crossings(context))
        pair_share = PAIR_SHARE + (0.75 - PAIR_SHARE) * context.widen
        pair_share *= 2 * bandit.score(Arm("pair"), 0.5, rng)  # learnt, from 1 on average
        first = (together, alone) if rng.random() < pair_share else (alone, together)
        if words and any(_named(move, words) for move in singles):
            return itertools.chain(alone, together, crossed)
        if context.relatives and rng.random() < 2 * CROSSOVER_SHARE * bandit.score(Arm("crossover"), 0.5, rng):
            return itertools.chain(crossed, alone, together)
        gather_share = GATHER_SHARE / GATHER_PRIOR * bandit.score(Arm("gather"), GATHER_PRIOR, rng)
        if surface is not None and rng.random() < gather_share:
            return itertools.chain(_gathered(singles, context.program, surface, rng), *first, crossed)
        return itertools.chain(*first, crossed)


def _edits(program: str) -> list[Move]:
    tree = parse(program)
    moves = []
    for edit in edits_of(knobs_of(program, tree, constants_of(tree))):
        name, old = edit.knob.name, edit.knob.value
        direction = 0
        if not isinstance(edit.value, str) and not isinstance(old, str):
            direction = (edit.value > old) - (edit.value < old)
        prior = FIRST_KEPT if FIRST_WORDS & set(name.split("_")) else KEPT_SHARE
        arm = Arm(f"constant:{name}", direction)
        moves.append(Move(arm, hypothesis([edit]), None, prior, _editing(edit)))
    return moves


def _editing(edit: Edit) -> Callable[[str], str | None]:
    return lambda text: _edited(text, edit.knob.name, edit.knob.value, edit.value)


@functools.lru_cache(maxsize=4096, typed=True)  # the same edits of one parent at every call
def _edited(program: str, name: str, old: Value, new: Value) -> str | None:
    """The edit made to a program in which other moves may have moved or changed the constant."""
    tree = parse(program)
    for knob in knobs_of(program, tree, constants_of(tree)):
        if knob.name == name and knob.value == old:
            return apply_edits(program, [Edit(knob, new)])
    return None


def _recipe_move(recipe: Recipe) -> Move:
    return Move(
        Arm(recipe.operator),
        recipe.hypothesis,
        recipe.expected,
        prior_kept(recipe.expected),
        lambda text: apply(recipe, text),
    )


def _crossings(context: Context) -> Iterator[Move]:
    """Merges with relatives, the most promising one first."""
    for relative in sorted(context.relatives, key=lambda relative: relative.effect):
        why = (
            f"the changes of another confirmed program, {relative.effect:+.4f} bpb against the common ancestor, "
            "may add to those of this one"
        )
        yield Move(Arm("crossover"), why, None, KEPT_SHARE, _merging(relative))


def _merging(relative: Relative) -> Callable[[str], str | None]:
    return lambda text: merge(text, relative.ancestor, relative.program)


def _surface(singles: Sequence[Move], context: Context) -> Surface | None:
    """None where nothing can be told from noise yet."""
    if context.noise <= 0 or not singles:
        return None
    constants = constants_of(parse(context.program))
    return Surface([move.hypothesis for move in singles], constants, context.outcomes, context.noise)


def _score(
    move: Move, bandit: Bandit, surface: Surface | None, words: set[str], structure: float, rng: random.Random
) -> float:
    if surface is not None and surface.measured(move.hypothesis):
        score = bandit.score_known(surface.belief(move.hypothesis), rng)
    else:
        score = bandit.score(move.arm, move.prior, rng)
    if move.structural:
        score *= 1 + (STRUCTURE_FACTOR - 1) * structure
    return score * (1 + SUGGESTED_FACTOR * _named(move, words)) if words else score


def _words(context: Context) -> set[str]:
    return set(_WORD.findall(context.suggestion.lower()))


def _named(move: Move, words: set[str]) -> int:
    """How many words of the operator a suggestion names."""
    return len(words & set(_WORD.findall(move.arm.operator.partition(":")[2].lower().replace("_", " "))))


def _drawn(singles: Sequence[Move], scores: Sequence[float], widen: float, rng: random.Random) -> Iterator[Together]:
    """Combinations of two or more moves with different operators, drawn by the scores."""
    if len(singles) < 2:
        return
    for _ in range(COMBINATIONS_TRIED_MAX):
        count = 2 + sum(rng.random() < widen / 2 for _ in range(MOVES_MAX - 2))
        moves = rng.choices(singles, scores, k=count)
        if len({move.arm.operator for move in moves}) == count:
            yield Together(_structure_first(moves))


def _structure_first(moves: Iterable[Move]) -> tuple[Move, ...]:
    """An edit finds its constant in a changed program, a recipe may need it as it was."""
    return tuple(sorted(moves, key=lambda move: not move.structural))


def _gathered(singles: Sequence[Move], program: str, surface: Surface, rng: random.Random) -> Iterator[Together]:
    """All that a draw from the surface finds good, each on top of the better ones that fit.

    Steps of constants are drawn unmeasured as well, since together they teach most; of recipes and choices there are
    many, and an outcome has to say something of them.
    """
    known = [move for move in singles if surface.on_a_scale(move.hypothesis) or surface.measured(move.hypothesis)]
    for _ in range(GATHERINGS_TRIED_MAX):
        effect = surface.draw(rng)
        drawn = {move: effect(move.hypothesis) for move in known}
        chosen: dict[str, Move] = {}  # one for each operator: a constant has one value
        text = program
        for move in sorted(known, key=drawn.__getitem__):
            if drawn[move] >= 0 or len(chosen) == GATHERED_MAX:
                break
            made = None if move.arm.operator in chosen else _made([move], text)
            if made is not None:
                text = made
                chosen[move.arm.operator] = move
        if chosen:
            yield Together(tuple(chosen.values()), "gather")


def _made(moves: Sequence[Move], program: str) -> str | None:
    """The program with all moves made, in a form that parses and keeps its asserts; None where one does not fit."""
    text = program
    for move in moves:
        made = move.make(text)
        if made is None:
            return None
        text = made
    try:
        return text if keeps_asserts(text) else None
    except ProgramUnreadable:
        return None


def _proposal(moves: Sequence[Move], together: str, text: str, name: str) -> Proposal:
    known = [move.expected for move in moves if move.expected is not None]
    return Proposal(
        program=text,
        hypothesis=PARTS_JOINED_BY.join(move.hypothesis for move in moves)[:HYPOTHESIS_CHARACTERS],
        proposer=name,
        operator=moves[0].arm.operator if len(moves) == 1 else together,
        expected=sum(known) if known else None,
    )
