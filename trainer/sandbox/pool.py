"""Sandboxes that are ready before they are wanted: importing torch takes longer than many a program's first steps.

Each is used once: `take` gives it away and starts its successor, which imports while the trial runs. It waits for its
header with nothing secret in it, and no program has run in it. What it used while it waited counts for nobody: the
limits of a sandbox count from `Sandbox.limit` on, and memory over its own tree.

`take` spawns, so call it in a thread that outlives the sandboxes, such as the runner's main thread: the kernel kills
a sandbox when the *thread* that spawned it ends.
"""

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from trainer.sandbox.process import Sandbox


class Pool:
    """`size` sandboxes that `make` has started. One pool for each kind of sandbox: its limits are in `make`.

    Raises what `make` raises. The caller of `take` owns what it gets, and closes it.
    """

    def __init__(self, make: Callable[[], Sandbox], size: int) -> None:
        if size < 1:
            raise ValueError(f"a pool of {size} sandboxes has none to give")
        self._make = make
        self._size = size
        self._waiting: deque[Sandbox] = deque()
        self._fill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def take(self) -> Sandbox:
        """The sandbox that has waited longest; one that died meanwhile is replaced by a fresh one."""
        for sandbox in [sandbox for sandbox in self._waiting if not sandbox.alive()]:
            self._waiting.remove(sandbox)
            sandbox.close()
        taken = self._waiting.popleft() if self._waiting else self._make()
        try:
            self._fill()
        except BaseException:
            taken.close()
            raise
        return taken

    def close(self) -> None:
        """End those that wait. Safe to call again."""
        while self._waiting:
            self._waiting.popleft().close()

    def _fill(self) -> None:
        try:
            while len(self._waiting) < self._size:
                self._waiting.append(self._make())
        except BaseException:
            self.close()
            raise
