"""The plots of the report, as inline SVG. *Pure.*

Scales follow the bulk of the values and those beyond are drawn at the edge: one absurd claim must not flatten what
everybody else found.
"""

import math
import statistics
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from ledger.export.markup import Markup, tag

_WIDTH, _ROW, _LABELS, _MARGIN = 900, 20, 330, 40  # pixels
_HEIGHT = 300  # of the progress plot
_BULK = 4.0  # medians


class Effect(NamedTuple):
    """One row of a forest plot: an effect with its 95 % interval, bits per byte."""

    label: str
    mean: float
    low: float
    high: float
    style: str  # CSS class


class Point(NamedTuple):
    """A discovery in the progress plot."""

    label: str
    total: float  # bits per byte from the baseline on
    verified: bool


class _Scale(NamedTuple):
    """From values to pixels, clipped to the ends."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.first + share * (self.last - self.first)


def forest(rows: Sequence[Effect]) -> Markup:
    """Effects with their intervals, one below the other, around a line at zero."""
    extent = _extent([max(abs(row.low), abs(row.high)) for row in rows])
    x = _Scale(-extent, extent, _LABELS, _WIDTH - _MARGIN)
    bottom = _ROW * (len(rows) + 1)
    parts = [_line(x(0), _ROW / 2, x(0), bottom, "axis")]
    for number, row in enumerate(rows, start=1):
        y = number * _ROW
        parts.append(tag("text", row.label, x=0, y=y + 4, class_=row.style))
        parts.append(_line(x(row.low), y, x(row.high), y, row.style))
        parts.append(tag("circle", cx=x(row.mean), cy=y, r=4, class_=row.style))
    for tick in (-extent, -extent / 2, 0.0, extent / 2, extent):
        parts.append(tag("text", f"{tick:+.4f}", x=x(tick), y=bottom + 14, text_anchor="middle"))
    return _svg("Effects with 95 % intervals, bits per byte; left of the line is better", bottom + _ROW, parts)


def progress(points: Sequence[Point]) -> Markup:
    """Cumulative effect over discoveries in causal order, and the best verified so far as a line."""
    extent = _extent([abs(point.total) for point in points if point.verified] or [abs(point.total) for point in points])
    y = _Scale(-extent * 1.1, extent * 0.1, _HEIGHT - _MARGIN, _MARGIN)
    x = _Scale(0, max(len(points) - 1, 1), 2 * _MARGIN, _WIDTH - _MARGIN)
    parts = [_line(2 * _MARGIN, y(0), _WIDTH - _MARGIN, y(0), "axis")]
    best = [0.0, *accumulate((min(point.total, 0.0) if point.verified else 0.0 for point in points), min)]
    steps = ((x(number), y(total)) for number in range(len(points)) for total in best[number : number + 2])
    parts.append(tag("polyline", points=" ".join(f"{left:.1f},{top:.1f}" for left, top in steps), class_="best"))
    for number, point in enumerate(points):
        style = "confirmed" if point.verified else "unverified"
        title = tag("title", f"{point.total:+.4f} bpb: {point.label}")
        parts.append(tag("circle", title, cx=x(number), cy=y(point.total), r=4, class_=style))
    for tick in (-extent, -extent / 2, 0.0):
        parts.append(tag("text", f"{tick:+.4f}", x=0, y=y(tick) + 4))
    return _svg("Cumulative effect, bits per byte, over discoveries in causal order", _HEIGHT, parts)


def _extent(magnitudes: Sequence[float]) -> float:
    """How far a scale goes: to the greatest of all or to `_BULK` medians, rounded up to 1, 2 or 5 at some decimal."""
    enough = max(min(max(magnitudes), _BULK * statistics.median(magnitudes)), 1e-4)
    power = 10.0 ** math.floor(math.log10(enough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= enough)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=style)


def _svg(title: str, height: float, parts: Sequence[Markup]) -> Markup:
    return tag("svg", tag("title", title), *parts, viewBox=f"0 0 {_WIDTH} {height:g}", role="img")
