"""A response surface: what each constant's place and each other change is worth, by all outcomes so far.

One change at a time is the slow way to learn about many: a trial of several says something of each (Fisher 1935, ch. 6;
Box and Wilson 1951). And most changes that help gain less than a run's noise: alone they are discarded, rightly,
because nobody could tell, but what they measured is known. In standard deviations of a run, an outcome's effect is
taken to be

    sum over its constants of  a (x_new - x_old) + b (x_new² - x_old²)   +   sum over its other changes of  e

where x is the place of a constant in octaves, 0 where the program has it (`place`), and a, b and e have normal priors.
Their posterior is that of a Bayesian linear regression (Bishop 2006, 3.3). A draw from it says what to try next
(Thompson sampling; Russo et al. 2018, 7.2): what is known to be good, and now and then what may be.

Of a flag or a choice, e is that of the new value less that of the old one. Only what can be changed in the program at
hand has a coefficient, and only moves within REACH octaves of it count as steps. Whatever else an outcome changed adds
to its variance, so that a stranger's words have no more effect than their author's standing.
"""

import functools
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.proposers.asserts import Value
from trainer.proposers.proposal import Outcome

PARTS_JOINED_BY = "; "  # hypotheses of changes that were tried together
SLOPE_SD = 1.5  # of a, per octave
CURVE_MEAN, CURVE_SD = 0.5, 0.4  # of b, per squared octave: too far either way is worse
OTHER_SD = 1.5  # of e
DISCARDED_VARIANCE = 1.3  # of a measured effect, in variances of a run: mostly one run against the incumbent's level
KEPT_VARIANCE = 0.6  # of several
MISFIT_VARIANCE = 0.1  # more for each coefficient: effects do not quite add up
FADING = 0.99  # of an outcome's weight for each later one: effects differ from parent to parent
EFFECT_MAX = 8.0  # standard deviations: what crashes nearly says no more about the others
REACH = 4.0  # octaves from here, past which a curve through here says nothing, and one outcome would tilt all
OUTCOMES_MAX = 2000  # the latest
WEIGHT_MIN = 1e-6  # of an outcome that is heard at all
UNTOLD = ("crossover", "optuna:", "elite:")  # operators whose hypotheses do not say all that changed in the parent

FloatArray = npt.NDArray[np.float64]
MOVE = re.compile(r"([A-Z][A-Z0-9_]{0,47}) from (\S{1,40}) to (\S{1,40}):")


class Belief(NamedTuple):
    """In a change's effect, in standard deviations of a run; negative is better."""

    mean: float
    variance: float


class Surface:
    """Of the outcomes, as seen from one program. A change is named by its hypothesis."""

    def __init__(
        self, changes: Sequence[str], constants: Mapping[str, Value], outcomes: Sequence[Outcome], noise: float
    ) -> None:
        """`changes`: single ones that can be made to the program; `constants`: of the program.

        `noise`: standard deviation of a run in bits per byte, above 0.
        """
        numbers = {name: value for name, value in constants.items() if not isinstance(value, str)}
        self._here = {name: value for name, value in numbers.items() if place(value, value) is not None}
        self._terms = {change: self._terms_of(change) for change in changes}
        names = sorted({name for terms in self._terms.values() for name in terms})
        self._columns = {name: column for column, name in enumerate(names)}
        rows, effects, variances = [], [], []
        for outcome, weight in faded(outcomes):
            terms = self._terms_of(outcome.hypothesis)
            effect = EFFECT_MAX if outcome.effect is None else outcome.effect / noise
            alone = PARTS_JOINED_BY not in outcome.hypothesis  # of several that failed together, nobody knows which did
            told = not outcome.operator.startswith(UNTOLD) and (alone or outcome.effect is not None)
            if not told or self._columns.keys().isdisjoint(terms):
                continue
            variance = (KEPT_VARIANCE if outcome.verdict == "kept" else DISCARDED_VARIANCE) / weight
            for name, amount in terms.items():
                variance += MISFIT_VARIANCE
                if name not in self._columns:
                    variance += (amount * self._prior(name)[1]) ** 2
            rows.append(self._row(terms))
            effects.append(max(-EFFECT_MAX, min(EFFECT_MAX, effect)))
            variances.append(variance)
        x = np.array(rows).reshape(-1, len(names))
        self._measured: npt.NDArray[np.bool_] = np.asarray(x.any(axis=0))
        mean, sd = np.array([self._prior(name) for name in names]).reshape(-1, 2).T
        weighted = (x / np.array(variances).reshape(-1, 1)).T
        self._covariance = np.linalg.inv(weighted @ x + np.diag(sd**-2))
        self._mean = self._covariance @ (weighted @ np.array(effects) + mean / sd**2)
        self._root = np.linalg.cholesky(self._covariance)

    def measured(self, change: str) -> bool:
        """Whether an outcome says anything of it, perhaps by another step of the same constant."""
        return any(self._measured[self._columns[name]] for name in self._terms[change])

    def on_a_scale(self, change: str) -> bool:
        """Whether it moves a constant that has a place."""
        return not self._here.keys().isdisjoint(self._terms[change])

    def belief(self, change: str) -> Belief:
        """In its effect, whatever else is changed."""
        row = self._row(self._terms[change])
        return Belief(float(row @ self._mean), float(row @ self._covariance @ row))

    def draw(self, rng: random.Random) -> Callable[[str], float]:
        """From a change to its effect in standard deviations, all by one draw of the coefficients."""
        drawn = self._mean + self._root @ np.array([rng.gauss(0.0, 1.0) for _ in self._columns])
        return lambda change: float(self._row(self._terms[change]) @ drawn)

    def _row(self, terms: Mapping[str, float]) -> FloatArray:
        row = np.zeros(len(self._columns))
        for name, amount in terms.items():
            if name in self._columns:
                row[self._columns[name]] = amount
        return row

    def _prior(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation of a coefficient."""
        if name in self._here:
            return 0.0, SLOPE_SD
        return (CURVE_MEAN, CURVE_SD) if name.removesuffix("²") in self._here else (0.0, OTHER_SD)

    def _terms_of(self, hypothesis: str) -> dict[str, float]:
        """What it says was changed: coefficients and what each is multiplied by."""
        found: dict[str, float] = {}
        for part in hypothesis.split(PARTS_JOINED_BY):
            move = MOVE.match(part)
            if move is None:
                found[part] = 1.0
                continue
            name, *values = move.groups()
            here = self._here.get(name, 0.0)
            at, old, new = (place(value, here) for value in (here, *map(_number, values)))
            if at is None or old is None or new is None or max(abs(old - at), abs(new - at)) > REACH:
                found |= {f"{name} = {values[0]}": -1.0, f"{name} = {values[1]}": 1.0}
            else:
                found |= {name: new - old, f"{name}²": (new - at) ** 2 - (old - at) ** 2}
        return found


def faded(outcomes: Sequence[Outcome]) -> Iterator[tuple[Outcome, float]]:
    """The latest first, each with what its weight has faded to; those with next to none are left out."""
    later = 0.0
    for outcome in reversed([one for one in outcomes if one.weight >= WEIGHT_MIN][-OUTCOMES_MAX:]):
        weight = min(1.0, outcome.weight)
        yield outcome, weight * FADING**later
        later += weight


def place(value: float, here: float) -> float | None:
    """Octaves on the scale on which proposers move a constant that is `here` now, or None where it has no place there.

    Of one that is between one half and 1 it is the distance to 1 that counts, and more is nearer. Zero, what is
    negative and flags have no place.
    """
    if isinstance(here, bool) or not 0 < here < math.inf or not 0 < value < math.inf:
        return None
    if 0.5 < here < 1:
        return -math.log2(1 - value) if value < 1 else None
    return math.log2(value)


@functools.lru_cache(maxsize=4096)
def _number(text: str) -> float:
    """nan for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
