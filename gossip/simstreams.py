"""Streams in memory, for simnet.py: in order, with latency and a window."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from gossip import limits
from gossip.errors import StreamBroken
from gossip.transport import Stream

WINDOW_BYTES = 256 * limits.KIB  # that a stream holds unread, as Yamux's


class Pipe:
    """One direction of a stream. What is put in arrives in order, each part after a delay."""

    def __init__(self) -> None:
        self._parts: deque[tuple[float, bytes]] = deque()  # when it arrives; no bytes at the end
        self._unread = 0
        self._broken = self._abandoned = False
        self._changed = trio.Event()

    def put(self, data: bytes, delay_s: float) -> None:
        last = self._parts[-1][0] if self._parts else 0.0
        self._parts.append((max(last, trio.current_time() + delay_s), data))
        self._unread += len(data)
        self._tell()

    def break_off(self) -> None:
        """Both ends fail from here on."""
        self._broken = True
        self._tell()

    def abandon(self) -> None:
        """Nobody reads any more; whoever writes does not notice."""
        self._abandoned = True
        self._tell()

    def check(self) -> None:
        if self._broken:
            raise StreamBroken("the stream was reset, or its connection lost")

    async def take(self, bytes_max: int) -> bytes:
        while True:
            self.check()
            arrives, data = self._parts[0] if self._parts else (float("inf"), b"")
            if arrives <= trio.current_time():
                break
            with trio.move_on_at(arrives):
                await self._changed.wait()
        taken, rest = data[:bytes_max], data[bytes_max:]
        if rest:
            self._parts[0] = (arrives, rest)
        elif data:
            self._parts.popleft()  # the end stays, to be read again
        self._unread -= len(taken)
        self._tell()
        return taken

    async def wait_for_room(self) -> None:
        while self._unread >= WINDOW_BYTES and not self._broken and not self._abandoned:
            await self._changed.wait()
        self.check()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class SimStream:
    """See `gossip.transport.Stream`."""

    def __init__(
        self, peer: str, incoming: Pipe, outgoing: Pipe, carry: Callable[[int], float], give_up: Callable[[], None]
    ) -> None:
        """`carry` is told how many bytes are sent, and gives their delay in s; `give_up` closes the connection."""
        self.peer = peer
        self._in, self._out, self._carry, self._give_up = incoming, outgoing, carry, give_up
        self._finished = False

    async def read(self, bytes_max: int) -> bytes:
        await trio.lowlevel.checkpoint()
        try:
            with trio.fail_after(limits.READ_DEADLINE_S):
                return await self._in.take(bytes_max)
        except trio.TooSlowError as error:
            raise StreamBroken(f"nothing came for {limits.READ_DEADLINE_S} s") from error

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), limits.BLOB_CHUNK_BYTES):
            try:
                with trio.fail_after(limits.WRITE_DEADLINE_S):
                    await self._out.wait_for_room()
            except trio.TooSlowError as error:
                self._give_up()
                raise StreamBroken(f"nothing was read for {limits.WRITE_DEADLINE_S} s") from error
            part = data[start : start + limits.BLOB_CHUNK_BYTES]
            self._out.put(part, self._carry(len(part)))
            await trio.lowlevel.checkpoint()

    async def finish(self) -> None:
        await trio.lowlevel.checkpoint()
        self._out.check()
        self._say_end()

    @asynccontextmanager
    async def ended(self) -> AsyncIterator[Stream]:
        """End the stream after the block, so that what was written arrives; reset it if the block raises."""
        done = False
        try:
            yield self
            done = True
        finally:
            if done:
                self._say_end()
                self._in.abandon()
            else:
                self.reset()

    def reset(self) -> None:
        self._in.break_off()
        self._out.break_off()

    def _say_end(self) -> None:
        if not self._finished:
            self._finished = True
            self._out.put(b"", self._carry(0))
