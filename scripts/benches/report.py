"""What a benchmark's parts give, and how it is shown.

Figures are of one machine at one time: ratios travel, seconds do not.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from msgspec import Struct
from rich.table import Table


class Row(Struct, frozen=True, kw_only=True):
    """A figure beside its reference, both medians over `repetitions`."""

    what: str
    figure: float
    unit: str
    against: str = ""  # what the reference is; empty without one
    reference: float | None = None
    ratio: float | None = None  # median of the ratios of pairs where there are pairs, else figure / reference
    repetitions: int


class Goal(Struct, frozen=True, kw_only=True):
    what: str
    figure: float
    bound: Literal["at least", "at most"]
    goal: float
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.figure >= self.goal if self.bound == "at least" else self.figure <= self.goal

    def line(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"{'met' if self.met else 'short':<6}{self.what}: {self.figure:.4g}{unit}, {self.bound} {self.goal:g}{unit}"
        )


class Outcome(Struct, frozen=True):
    """What one part gives."""

    rows: Sequence[Row]
    goals: Sequence[Goal] = ()


class Effort(Struct, frozen=True):
    """How much to measure, and where to say what is going on."""

    full: bool
    say: Callable[[str], None]

    def repeat(self, default: int, full: int) -> range:
        return range(full if self.full else default)


Part = Callable[[Effort], Outcome]
Parts = Mapping[str, Part]


def row(
    what: str,
    figures: Sequence[float],
    unit: str,
    against: str = "",
    references: Sequence[float] = (),
    paired: bool = False,
) -> Row:
    """Medians of repeated figures and references, `paired` if equal places belong together."""
    figure = statistics.median(figures)
    reference = statistics.median(references) if references else None
    ratio = figure / reference if reference else None  # nothing is no measure
    if paired:
        ratio = statistics.median(a / b for a, b in zip(figures, references, strict=True))
    return Row(
        what=what,
        figure=figure,
        unit=unit,
        against=against,
        reference=reference,
        ratio=ratio,
        repetitions=len(figures),
    )


def table(rows: Sequence[Row]) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("what", "figure", "against", "reference", "ratio", "n"):
        shown.add_column(heading, justify="right" if heading in ("figure", "reference", "ratio", "n") else "left")
    for one in rows:
        reference = "" if one.reference is None else f"{one.reference:.4g} {one.unit}"
        ratio = "" if one.ratio is None else f"{one.ratio:.3f}"
        shown.add_row(one.what, f"{one.figure:.4g} {one.unit}", one.against, reference, ratio, str(one.repetitions))
    return shown
