"""Ordinary tuning as a proposer: Optuna over a program's constants, the baseline that a search has to beat.

TPE (Bergstra et al. 2011; Watanabe 2023, arXiv:2304.11127) or CMA-ES (Hansen 2016, arXiv:1604.00772). The search space
is that of the first program proposed from, whatever the parents after it: an eighth to eight times of a float, a
quarter to four times of an integer, both on a log scale, the distance to 1 for a float between one half and 1; both
values of a boolean; all choices of a choice. What a combination was worth is told by `tell`, in absolute scores: a node
that starts tells what its ledger has. The study is in memory, and needs nothing but what was told; it hears of it at
the next proposal, in the thread that asks for one.
"""

import random
import threading
from collections import deque
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from trainer.proposers.asserts import Value
from trainer.proposers.constants import Edit, Knob, apply_edits, constants_of, keeps_asserts, knobs_of
from trainer.proposers.hypotheses import hypothesis
from trainer.proposers.proposal import Context, NothingNew, ProgramUnreadable, Proposal, fingerprint, parse

Method = Literal["tpe", "cma-es"]

TOLD_MAX = 10_000
ASKED_MAX = 200  # combinations for one proposal, most of them refused by asserts or tried before
FLOAT_FACTOR = 8.0
INTEGER_FACTOR = 4
HYPOTHESIS_CHARACTERS = 1000

optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line for each trial is not for a node's log


class Optuna:
    """Proposes combinations of constants; see the module's text. Ask and tell from any thread."""

    def __init__(self, method: Method = "tpe") -> None:
        self.name = "optuna"
        self._method: Method = method
        self._study: optuna.Study | None = None
        self._space: dict[str, BaseDistribution] = {}
        self._base = ""  # the program whose constants are tuned
        self._asked: dict[str, optuna.Trial] = {}  # by fingerprint, not told yet
        self._told: deque[tuple[str, float | None]] = deque(maxlen=TOLD_MAX)  # not heard by the study yet
        self._lock = threading.Lock()  # of the study and what belongs to it

    def propose(self, context: Context, rng: random.Random) -> Proposal:
        """The next combination that Optuna asks for; its seed is drawn at the first call.

        Raises `ProgramUnreadable`, or `NothingNew` where there is nothing to tune or Optuna asks for what was tried.
        """
        with self._lock:
            return self._propose(context, rng)

    def tell(self, program: str, bits_per_byte: float | None) -> None:
        """What a trial of `program` gave, lower is better, or None where it failed; before or after any proposal.

        A program that differs from the tuned one in more than its constants says nothing here and is left out.
        Returns at once. Raises `ProgramUnreadable`.
        """
        fingerprint(program)
        self._told.append((program, bits_per_byte))

    def _propose(self, context: Context, rng: random.Random) -> Proposal:
        study = self._begin(context.program, rng)
        while self._told:
            self._hear(study, *self._told.popleft())
        knobs = {knob.name: knob for knob in _knobs(self._base)}
        parent = fingerprint(context.program)
        for _ in range(ASKED_MAX if self._space else 0):
            trial = study.ask(self._space)
            edits = [
                Edit(knobs[name], value)
                for name, drawn in trial.params.items()
                if (value := _value(knobs[name], drawn)) != knobs[name].value
            ]
            text = apply_edits(self._base, edits)
            found = fingerprint(text)
            tried = found in context.seen or found in context.claimed or found in self._asked or found == parent
            if tried or not keeps_asserts(text):
                study.tell(trial, state=TrialState.FAIL)
                continue
            self._asked[found] = trial
            return Proposal(
                program=text,
                hypothesis=hypothesis(edits)[:HYPOTHESIS_CHARACTERS],
                proposer=self.name,
                operator=f"optuna:{self._method}",
            )
        raise NothingNew(f"{self._method} asked for nothing new in {ASKED_MAX} draws: add constants to the program")

    def _hear(self, study: optuna.Study, program: str, bits_per_byte: float | None) -> None:
        found = fingerprint(program)
        trial = self._asked.pop(found, None)
        if trial is not None:
            state = TrialState.FAIL if bits_per_byte is None else TrialState.COMPLETE
            study.tell(trial, bits_per_byte, state=state)
        elif bits_per_byte is not None and (params := self._params(program, found)) is not None:
            study.add_trial(optuna.trial.create_trial(params=params, distributions=self._space, value=bits_per_byte))

    def _begin(self, program: str, rng: random.Random) -> optuna.Study:
        if self._study is None:
            self._space = {knob.name: space for knob in _knobs(program) if (space := _space(knob)) is not None}
            self._base = program
            seed = rng.getrandbits(32)
            sampler: optuna.samplers.BaseSampler
            if self._method == "tpe":
                sampler = optuna.samplers.TPESampler(seed=seed)
            else:
                sampler = optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
            self._study = optuna.create_study(sampler=sampler)
        return self._study

    def _params(self, program: str, found: str) -> dict[str, Value] | None:
        """Its place in the search space, or None where it has none."""
        values = constants_of(parse(program))
        knobs = {knob.name: knob for knob in _knobs(self._base)}
        edits = [Edit(knob, values[name]) for name, knob in knobs.items() if values.get(name, knob.value) != knob.value]
        try:
            if fingerprint(apply_edits(self._base, edits)) != found:
                return None
        except (AssertionError, ProgramUnreadable):
            return None
        params = {name: _drawn(knobs[name], values[name]) for name in self._space}
        return params if all(_inside(space, params[name]) for name, space in self._space.items()) else None


def _knobs(program: str) -> list[Knob]:
    tree = parse(program)
    return knobs_of(program, tree, constants_of(tree))


def _by_distance(knob: Knob) -> bool:
    return isinstance(knob.value, float) and 0.5 < knob.value < 1


def _space(knob: Knob) -> BaseDistribution | None:
    match knob.value:
        case bool():
            return CategoricalDistribution([False, True])
        case int(number) if 1 <= number <= 2**28:
            return IntDistribution(max(1, number // INTEGER_FACTOR), number * INTEGER_FACTOR, log=True)
        case float(number) if 0 < number < 2**31:
            size = 1 - number if _by_distance(knob) else number
            high = min(1.0, size * FLOAT_FACTOR) if number < 1 else size * FLOAT_FACTOR
            return FloatDistribution(size / FLOAT_FACTOR, max(size, high), log=True)
        case str(word) if word in knob.choices:
            return CategoricalDistribution(list(dict.fromkeys(knob.choices)))
    return None


def _inside(space: BaseDistribution, drawn: Value) -> bool:
    if isinstance(space, CategoricalDistribution):
        return drawn in space.choices
    assert isinstance(space, IntDistribution | FloatDistribution), "spaces are made here"
    return not isinstance(drawn, str) and space.low <= drawn <= space.high


def _value(knob: Knob, drawn: Value) -> Value:
    """A draw as the constant's value, floats to three significant digits."""
    if not isinstance(knob.value, float):
        return drawn
    size = float(f"{drawn:.3g}")
    return float(f"{1 - size:.12g}") if _by_distance(knob) else size


def _drawn(knob: Knob, value: Value) -> Value:
    """The draw that gives a value."""
    return float(f"{1 - value:.12g}") if _by_distance(knob) and isinstance(value, float) else value
