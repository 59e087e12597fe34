"""Counters and gauges of the network, for status and monitoring. *Pure.*

Names follow Prometheus (https://prometheus.io/docs/practices/naming/): counters end in `_total`, units are in the name.
A label comes from our own code, never from a peer, so their number is bounded.
"""

from collections import Counter
from collections.abc import Callable

Gauge = Callable[[], float]


class Metrics:
    """What was counted since the process started, and what is measured when somebody looks."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._gauges: dict[str, Gauge] = {}

    def count(self, name: str, label: str = "", by: int = 1) -> None:
        """Add to the counter `name`, or to that of one of its labels."""
        self._counts[f'{name}{{of="{label}"}}' if label else name] += by

    def gauge(self, name: str, measure: Gauge) -> None:
        """Have `measure` called whenever somebody looks; asking again for a name replaces it."""
        self._gauges[name] = measure

    def snapshot(self) -> dict[str, float]:
        """All counters and gauges by name, in order."""
        measured = {name: measure() for name, measure in self._gauges.items()}
        return dict(sorted({**self._counts, **measured}.items()))
