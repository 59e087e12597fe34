"""Which range of a blob is asked for next, and what waits for the bytes before it. *Pure.*

Several peers send ranges of one blob at once. A hash takes its bytes in order, so a block that arrives early waits in
memory, and no range is asked for that begins `ahead_bytes` or more beyond what is here. A slow peer would then hold up
all others: who has nothing to do asks for what everybody waits for a second time, and whichever comes first counts.
"""

from typing import NamedTuple


class Span(NamedTuple):
    """Bytes from `start` on and before `end`."""

    start: int
    end: int


class Ranges:
    """The ranges of one blob that are lacking, from the first lacking byte on."""

    def __init__(self, have: int, range_bytes: int, ahead_bytes: int) -> None:
        """`have` bytes, the first ones, are here. Whoever asks is given `range_bytes` at a time."""
        self.have = have
        self.size: int | None = None  # of the whole, once somebody has said so
        self._range_bytes, self._ahead_bytes = range_bytes, ahead_bytes
        self._next = have  # nobody was asked for what comes from here on
        self._returned: list[Span] = []
        self._doubled_end = have  # before it, what was asked for was asked for twice
        self._waiting: dict[int, bytes] = {}  # block by its start

    @property
    def is_complete(self) -> bool:
        return self.size is not None and self.have >= self.size

    @property
    def waiting_bytes(self) -> int:
        """In memory, for want of those before them."""
        return sum(map(len, self._waiting.values()))

    def learn(self, size: int) -> bool:
        """Take up what a peer says is the size of the whole. False if another peer said otherwise."""
        if self.size is None:
            self.size = size
        return self.size == size

    def take(self) -> Span | None:
        """What to ask of a peer that has nothing to do; None: nothing at the moment."""
        while self._returned:
            start, end = self._returned.pop(0)
            if not self.is_useless(Span(start, end)):
                return Span(max(start, self.have), end)
        end = self._next + self._range_bytes if self.size is None else min(self._next + self._range_bytes, self.size)
        if self._next < end and self._next - self.have < self._ahead_bytes:
            span = Span(self._next, end)
            self._next = end
            return span
        if self.is_complete or self.have < self._doubled_end:
            return None
        held = (start for start in self._waiting if start > self.have)
        self._doubled_end = min(self.have + self._range_bytes, self._next, min(held, default=self._next))
        return Span(self.have, self._doubled_end) if self._doubled_end > self.have else None

    def give_back(self, span: Span) -> None:
        """A peer did not send all of it: it is asked of another one."""
        self._returned.append(span)
        self._returned.sort()

    def is_useless(self, span: Span) -> bool:
        """Whether all of it is here, or past the end."""
        return span.end <= self.have or (self.size is not None and span.start >= self.size)

    def arrived(self, start: int, block: bytes) -> bool:
        """Take a block in, to wait for its turn. False if it is not of use: another peer was faster."""
        if start < self.have or start in self._waiting:
            return False
        self._waiting[start] = block
        return True

    def due(self) -> bytes | None:
        """The block that comes next, if it is here; `advance` once it is kept."""
        return self._waiting.get(self.have)

    def advance(self) -> None:
        """The block that was due is kept."""
        self.have += len(self._waiting.pop(self.have))
