"""Processes to measure: started, told what to do in JSON lines on their stdin, and ended.

Imports nothing of what is measured, so that a process that runs a bare library runs nothing else.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import trio

ANSWER_DEADLINE_S = 120.0  # beyond the time that a command takes by itself
END_DEADLINE_S = 10.0

Command = Callable[..., Awaitable[object]]


class Child:
    """A running `python -m MODULE ARGUMENTS`, which obeys (`obey`)."""

    def __init__(self, module: str, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._held = b""

    def ask(self, command: str, **arguments: object) -> Any:
        """Send a command and wait for its answer. Raises `RuntimeError` if there is none."""
        self.send(command, **arguments)
        return self.answer()

    def send(self, command: str, **arguments: object) -> None:
        assert self._process.stdin is not None, "opened above"
        self._process.stdin.write(json.dumps([command, arguments]).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The answer to the oldest command that has none yet."""
        assert self._process.stdout is not None, "opened above"
        deadline_s = time.monotonic() + ANSWER_DEADLINE_S
        while b"\n" not in self._held:
            left_s = deadline_s - time.monotonic()
            readable, _, _ = select.select([self._process.stdout], [], [], max(0.0, left_s))
            part = os.read(self._process.stdout.fileno(), 1 << 20) if readable else b""
            if not part:
                why = "ended" if readable else f"said nothing for {ANSWER_DEADLINE_S:g} s"
                raise RuntimeError(f"{self._module} {why}; what it wrote to stderr says more")
            self._held += part
        line, _, self._held = self._held.partition(b"\n")
        return json.loads(line)

    def kill(self) -> None:
        """At once, as a crash does."""
        self._process.kill()
        self._close()

    def end(self) -> None:
        """In order, and by force if that takes too long."""
        assert self._process.stdin is not None, "opened above"
        self._process.stdin.close()
        try:
            self._process.wait(END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._close()

    def _close(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def ask_all(children: Sequence[Child], command: str, **arguments: object) -> list[Any]:
    """Send all a command, then wait for all answers: they work at the same time."""
    for child in children:
        child.send(command, **arguments)
    return [child.answer() for child in children]


@contextmanager
def started(module: str, arguments: Sequence[Sequence[str]]) -> Iterator[list[Child]]:
    """Several children at once, one for each list of arguments; ended with the block."""
    children: list[Child] = []
    try:
        children.extend(Child(module, *each) for each in arguments)
        yield children
    finally:
        for child in children:
            child.end()


# In the child


async def obey(commands: Mapping[str, Command]) -> None:
    """Do as the lines on stdin say, one after the other, until it ends; each gets one line in answer."""
    held = b""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as lines_in:
        async for part in lines_in:
            *lines, held = (held + part).split(b"\n")
            for line in lines:
                command, arguments = json.loads(line)
                print(json.dumps(await commands[command](**arguments)), flush=True)


class Window:
    """What one node publishes and receives between `begin` and `report`, when, and with how much CPU time.

    Times are of the clock that all processes of one machine share.
    """

    def __init__(self) -> None:
        self._published: dict[str, int] = {}  # message → ns
        self._received: dict[str, int] = {}
        self._began_cpu_s = self._aside_s = 0.0
        self._news = trio.Event()

    def commands(self, publish: Callable[[int], Awaitable[None]]) -> dict[str, Command]:
        """`publish` publishes the message of that number; it calls `publishing` right before."""

        async def begin() -> None:
            self._published, self._received, self._aside_s = {}, {}, 0.0
            self._began_cpu_s = time.process_time()

        async def paced(count: int, interval_s: float, delay_s: float) -> None:
            began_s = trio.current_time() + delay_s
            for number in range(count):
                await trio.sleep_until(began_s + number * interval_s)
                await publish(number)

        async def expect(count: int, deadline_s: float) -> int:
            with trio.move_on_after(deadline_s):
                while len(self._received) < count:
                    await self._news.wait()
            return len(self._received)

        async def report() -> dict[str, object]:
            cpu_s = time.process_time() - self._began_cpu_s - self._aside_s
            return {"cpu_s": cpu_s, "published": self._published, "received": self._received}

        return {"begin": begin, "publish": paced, "expect": expect, "report": report}

    @contextmanager
    def aside(self) -> Iterator[None]:
        """CPU time in the block, which must not wait, is not that of delivery."""
        began_s = time.process_time()
        yield
        self._aside_s += time.process_time() - began_s

    def publishing(self, message: str) -> None:
        self._published[message] = time.monotonic_ns()

    def received(self, message: str) -> None:
        self._received.setdefault(message, time.monotonic_ns())
        self._news.set()
        self._news = trio.Event()
