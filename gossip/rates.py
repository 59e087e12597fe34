"""Token buckets: how often something may happen. *Pure.*

A bucket holds up to `burst` tokens and gains `per_s` of them each second; an event takes one, or as many as it weighs.
Source: RFC 2697, section 3, with one colour. Time is an argument, in seconds of any clock that never goes back.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Rate(NamedTuple):
    """How much may happen: `per_s` for ever, and up to `burst` at once."""

    per_s: float
    burst: float


class Bucket:
    """One token bucket, full at first."""

    __slots__ = ("_at_s", "_rate", "_tokens")

    def __init__(self, rate: Rate, now_s: float) -> None:
        self._rate, self._tokens, self._at_s = rate, rate.burst, now_s

    def take(self, now_s: float, weight: float = 1.0) -> bool:
        """Whether an event of this weight may happen now; if so, it is counted."""
        self._refill(now_s)
        if weight > self._tokens:
            return False
        self._tokens -= weight
        return True

    def delay_s(self, now_s: float, weight: float = 1.0) -> float:
        """Count an event that happens in any case, and say for how long to wait so that the rate is kept."""
        self._refill(now_s)
        self._tokens -= weight
        return max(0.0, -self._tokens / self._rate.per_s)

    def _refill(self, now_s: float) -> None:
        self._tokens = min(self._rate.burst, self._tokens + (now_s - self._at_s) * self._rate.per_s)
        self._at_s = now_s


class Buckets(Generic[Key]):
    """One bucket for each key, for the `keys_max` keys that were used last.

    A key that is forgotten starts with a full bucket again, so `keys_max` must be more than can be of interest at once.
    """

    def __init__(self, rate: Rate, keys_max: int) -> None:
        self._rate, self._keys_max = rate, keys_max
        self._buckets: OrderedDict[Key, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Key, now_s: float, weight: float = 1.0) -> bool:
        """See `Bucket.take`."""
        return self._of(key, now_s).take(now_s, weight)

    def delay_s(self, key: Key, now_s: float, weight: float = 1.0) -> float:
        """See `Bucket.delay_s`."""
        return self._of(key, now_s).delay_s(now_s, weight)

    def _of(self, key: Key, now_s: float) -> Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._rate, now_s)
            if len(self._buckets) > self._keys_max:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket
