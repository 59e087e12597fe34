"""A surrogate of the trainer: a program's score read off its text, fitted to recorded trials.

It replaces training where a comparison needs thousands of trials, for programs that come from the recorded baseline by
edits of constants and recipes. With d_k the distance of knob k from the baseline (in octaves where its scale is
logarithmic) and x_r whether recipe r is in the text,

    log(score - FLOOR) = c + sum_k (a_k d_k + b_k d_k^2) + sum_jk m_jk d_j d_k + sum_r e_r x_r

so that gains multiply and diminish towards FLOOR. The coefficients are a Bayesian linear regression (Bishop 2006, 3.3)
with the variances below as priors, b held positive, so that nothing is best at infinity; beyond what was recorded each
knob costs REACH_COST d^2 more. Noise is normal with the standard deviation of the repeated runs. A share of programs,
as large as that of the recorded ones and chosen by their digests, crashes.

What it leaves out: interactions of recipes, the drift of a machine, noise that grows with the score. `ranks` of the
benchmark `search` says how well it orders programs that it has not seen.
"""

import ast
import functools
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from policy.noise import FloatArray
from trainer.proposers.asserts import Value
from trainer.proposers.constants import constants_of
from trainer.proposers.proposal import fingerprint, parse
from trainer.proposers.recipes.recipe import apply
from trainer.proposers.recipes.table import RECIPES

RECORD = Path(__file__).with_name("search_trials.json")
FLOOR = 1.8  # bits per byte that no program gets to with the recorded budget
CEILING = 8.0  # of a model that knows nothing
MAIN = ("LEARNING_RATE", "BATCH", "CONTEXT", "WIDTH", "LAYERS", "WARMDOWN_SHARE")  # knobs with products
SLOPE_SD, CURVE_MEAN, CURVE_SD, PRODUCT_SD, RECIPE_SD = 0.15, 0.03, 0.03, 0.03, 0.08  # priors, of log(score - FLOOR)
CURVE_MIN = 0.005
REACH_COST = 0.1  # of log(score - FLOOR), per squared octave beyond what was recorded
MARKED_SHARE = 0.75  # of a recipe's own lines that a program must have
RESIDUAL_SD_START = 0.05


class Recorded(Struct, frozen=True, kw_only=True):
    """One real trial."""

    program: str  # SHA-256 of its text
    knobs: dict[str, Value]  # that differ from the baseline's, or that it has not
    recipes: tuple[str, ...]  # whose lines it has
    seed: int
    score: float | None  # bits per byte; None: it failed
    reason: str = ""


class Record(Struct, frozen=True, kw_only=True):
    """Recorded trials, with what is needed to read them."""

    made: str  # date
    machine: str
    command: str
    budget_s: float  # CPU seconds
    seq_len: int
    eval_bytes: int
    baseline: str  # the text
    best: tuple[tuple[float, str], ...]  # scores and texts from which the next ones are made
    trials: tuple[Recorded, ...]


class Reading(NamedTuple):
    """What the surrogate sees of a program."""

    knobs: dict[str, Value]
    recipes: tuple[str, ...]


def read_record(path: Path = RECORD) -> Record:
    """Raises `OSError` and `msgspec.DecodeError`."""
    return msgspec.json.decode(path.read_bytes(), type=Record)


def write_record(record: Record, path: Path = RECORD) -> None:
    """All of it or nothing: a record takes long to make."""
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(msgspec.to_builtins(record), indent=1) + "\n")
    unfinished.replace(path)


class Reader:
    """Reads knobs and recipes from the texts of programs that descend from one baseline."""

    def __init__(self, baseline: str) -> None:
        self.baseline = baseline
        self.knobs: dict[str, Value] = dict(constants_of(parse(baseline)))  # defaults, those of recipes as well
        self._before = _lines(parse(baseline))
        self._marks: dict[str, tuple[Counter[str], Counter[str]]] = {}
        for recipe in RECIPES:
            text = apply(recipe, baseline)
            if text is None:
                continue
            for name, value in constants_of(parse(text)).items():
                self.knobs.setdefault(name, value)
            lines = _lines(parse(text))
            marks = lines - self._before, self._before - lines
            if marks[0] or marks[1]:  # else it moves constants only
                self._marks[recipe.name] = marks

    def read(self, program: str) -> Reading:
        """Raises `ProgramUnreadable`."""
        tree = parse(program)
        knobs = {name: value for name, value in constants_of(tree).items() if value != self.knobs.get(name)}
        lines = _lines(tree)
        added, gone = lines - self._before, self._before - lines
        recipes = [
            name
            for name, (new, old) in self._marks.items()
            if (_share(new, added) >= MARKED_SHARE if new else _share(old, gone) >= MARKED_SHARE)
        ]
        return Reading(knobs, tuple(recipes))


def _lines(tree: ast.Module) -> Counter[str]:
    """Lines of code in a normal form, without assignments of constants and docstrings."""
    constants = set(constants_of(tree))
    kept = ast.Module([node for node in tree.body if not _is_constant(node, constants)], [])
    return Counter(line.strip() for line in ast.unparse(kept).splitlines() if line.strip())


def _is_constant(node: ast.stmt, constants: set[str]) -> bool:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name in constants
        case ast.Expr(value=ast.Constant(value=str())):
            return True
    return False


def _share(wanted: Counter[str], there: Counter[str]) -> float:
    return sum((wanted & there).values()) / sum(wanted.values())


def distances(knobs: Mapping[str, Value], defaults: Mapping[str, Value]) -> dict[str, float]:
    """How far each knob that differs is from its default; of a word, 1 for each that is chosen instead."""
    found: dict[str, float] = {}
    for name, value in knobs.items():
        default = defaults.get(name)
        match default, value:
            case (None, _):
                continue
            case (str(), _):
                found[f"{name}={value}"] = 1.0
            case (bool(), _):
                found[name] = float(value != default)
            case (int() | float(), int() | float()):
                found[name] = _place(float(value), float(default)) - _place(float(default), float(default))
    return found


def _place(value: float, default: float) -> float:
    """On the scale that proposers move it: log2, of the distance to 1 above one half, tenths where the default is 0."""
    if default == 0:
        return 10 * value
    if isinstance(default, float) and 0.5 < default < 1:
        return -math.log2(max(1 - value, 1e-4))
    return math.log2(max(value, 1e-9))


class Surrogate:
    """True scores of programs; made by `fit`."""

    def __init__(
        self, reader: Reader, names: Sequence[str], weights: FloatArray, reach: Mapping[str, tuple[float, float]],
        noise: float, crash_share: float,
    ) -> None:  # fmt: skip
        """`weights` of `names` (n,); `reach`: of each knob, the least and largest distance recorded.

        `noise`: standard deviation of one run, bits per byte.
        """
        self.reader, self.noise = reader, noise
        self._names, self._weights, self._reach, self._crash_share = names, weights, reach, crash_share
        self._known: dict[str, float | None] = {}

    def score(self, program: str) -> float | None:
        """Expected bits per byte of a program; None where it crashes. Raises `ProgramUnreadable`."""
        found = fingerprint(program)
        if found not in self._known:
            self._known[found] = None if self._crashes(found, program) else self.of(self.reader.read(program))
        return self._known[found]

    def of(self, reading: Reading) -> float:
        """Expected bits per byte of what was read."""
        away = distances(reading.knobs, self.reader.knobs)
        log = float(_features(away, reading.recipes, self._names) @ self._weights)
        for name, distance in away.items():
            low, high = self._reach.get(name, (-1.0, 1.0))
            log += REACH_COST * max(low - distance, distance - high, 0.0) ** 2
        return min(CEILING, FLOOR + math.exp(min(log, 10.0)))

    def _crashes(self, found: str, program: str) -> bool:
        drawn = int.from_bytes(hashlib.sha256(found.encode()).digest()[:4], "big") / 2**32
        return drawn < self._crash_share and found != fingerprint(self.reader.baseline)


def _features(away: Mapping[str, float], recipes: Sequence[str], names: Sequence[str]) -> FloatArray:
    """(n,) for the names of `_names`."""
    values = {"": 1.0}
    for name, distance in away.items():
        values[name], values[f"{name}^2"] = distance, distance**2
    for a, b in combinations(MAIN, 2):
        values[f"{a}*{b}"] = away.get(a, 0.0) * away.get(b, 0.0)
    values |= {f"recipe:{name}": 1.0 for name in recipes}
    return np.array([values.get(name, 0.0) for name in names])


def _names(readings: Sequence[Reading], defaults: Mapping[str, Value]) -> list[str]:
    knobs = sorted({name for reading in readings for name in distances(reading.knobs, defaults)})
    single = {name for name in knobs if "=" in name or isinstance(defaults[name], bool)}  # on or off: no curve
    recipes = sorted({name for reading in readings for name in reading.recipes})
    return [
        "",
        *knobs,
        *(f"{name}^2" for name in knobs if name not in single),
        *(f"{a}*{b}" for a, b in combinations(MAIN, 2)),
        *(f"recipe:{name}" for name in recipes),
    ]


def _prior(name: str, centre: float) -> tuple[float, float]:
    """Mean and standard deviation of a coefficient."""
    if name == "":
        return centre, 1.0
    if name.startswith("recipe:"):
        return 0.0, RECIPE_SD
    if name.endswith("^2"):
        return CURVE_MEAN, CURVE_SD
    return 0.0, PRODUCT_SD if "*" in name else SLOPE_SD


class Fit(NamedTuple):
    """The posterior of the coefficients, normal; `surrogate` makes a landscape of it."""

    reader: Reader
    names: list[str]
    mean: FloatArray  # (n,)
    covariance: FloatArray  # (n, n)
    reach: dict[str, tuple[float, float]]
    noise: float  # bits per byte
    crash_share: float

    def surrogate(self, seed: int | None = None) -> Surrogate:
        """With the most likely coefficients, or drawn from their posterior."""
        weights = self.mean
        if seed is not None:
            weights = np.random.default_rng((seed, 4)).multivariate_normal(self.mean, self.covariance)
        curves = np.array([name.endswith("^2") for name in self.names])
        weights = np.where(curves, np.maximum(weights, CURVE_MIN), weights)
        return Surrogate(self.reader, self.names, weights, self.reach, self.noise, self.crash_share)


def fit(record: Record) -> Fit:
    """The surrogate of recorded trials. Raises `ValueError` where no program ran more than once."""
    reader = _reader(record.baseline)
    ran = [(Reading(one.knobs, one.recipes), one.score) for one in record.trials if one.score is not None]
    readings = [reading for reading, _ in ran]
    names = _names(readings, reader.knobs)
    x = np.stack([_features(distances(one.knobs, reader.knobs), one.recipes, names) for one in readings])
    y = np.array([math.log(max(score - FLOOR, 0.01)) for _, score in ran])
    prior = np.array([_prior(name, float(np.median(y))) for name in names])  # (n, 2)
    variance = RESIDUAL_SD_START**2
    for _ in range(20):  # the residual variance by fixed point (MacKay 1992); it holds what the form cannot say
        precision = x.T @ x / variance + np.diag(prior[:, 1] ** -2)
        covariance: FloatArray = np.asarray(np.linalg.inv(precision), dtype=np.float64)
        mean = covariance @ (x.T @ y / variance + prior[:, 0] / prior[:, 1] ** 2)
        used = len(names) - float(np.sum(np.diag(covariance) / prior[:, 1] ** 2))
        variance = max(1e-6, float(np.sum((y - x @ mean) ** 2)) / max(1.0, len(y) - used))
    reach: dict[str, tuple[float, float]] = {}
    for reading in readings:
        for name, distance in distances(reading.knobs, reader.knobs).items():
            low, high = reach.get(name, (0.0, 0.0))
            reach[name] = min(low, distance), max(high, distance)
    return Fit(reader, names, mean, covariance, reach, noise_of(record), crash_share(record))


def noise_of(record: Record) -> float:
    """Standard deviation of one run in bits per byte, pooled over programs that ran more than once."""
    runs: dict[str, list[float]] = {}
    for one in record.trials:
        if one.score is not None:
            runs.setdefault(one.program, []).append(one.score)
    squares = sum(float(np.var(scores)) * len(scores) for scores in runs.values())
    freedom = sum(len(scores) - 1 for scores in runs.values())
    if freedom == 0:
        raise ValueError("no recorded program ran more than once, so the noise is unknown: record more trials")
    return math.sqrt(squares / freedom)


def crash_share(record: Record) -> float:
    """Share of the recorded programs that failed."""
    failed = {one.program: one.score is None for one in record.trials}
    return sum(failed.values()) / len(failed)


@functools.lru_cache(maxsize=4)
def _reader(baseline: str) -> Reader:
    return Reader(baseline)
