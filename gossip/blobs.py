"""Blobs by digest: fetching them into memory or a file, and serving them.

Small blobs (programs) live in the ledger and pass through memory. A corpus lies in a file: it is sent and received
block by block, ranges of it from several peers at once (ranges.py), and what a broken connection leaves is gone on
with, from the same peer or another. Bytes go to the file and into the hash in order.

SHA-256 says nothing of a part, so wrong bytes show only at the end. If one peer sent them all, it is at fault. If
several did, nobody can tell which, so the blob is begun anew and from then on taken whole from one peer: a liar costs
the honest bytes that were mixed with its own, once.
"""

import hashlib
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from gossip import limits
from gossip.errors import GossipError, MixedBlob, NotThere, PeerFault, StreamBroken
from gossip.events import Event, Kind, Observer
from gossip.protocols import within
from gossip.ranges import Ranges, Span
from gossip.transport import Stream, Transport
from gossip.wire import BLOB, BlobReply, BlobRequest, encode, read_exactly, receive
from ledger.blobs import Blobs
from ledger.errors import LedgerError, UnknownBlob

Progress = Callable[[int, int], None]
"""Bytes received, and bytes in all as the peer says."""

Failed = Callable[[str, GossipError], None]
"""A peer that could not go on, and why; others do."""

Find = Callable[[str], Path | None]
"""Digest (hex) → the file that holds those bytes, if there is one."""

_FORMER_RUN = "a former run"


def nowhere(digest: str) -> None:
    """A `Find` for nodes without files to serve."""


def unsaid(peer: str, error: GossipError) -> None:
    """A `Failed` for who does not want to know."""


def unheard(event: Event) -> None:
    """An `Observer` for who does not want to know."""


async def fetch_blob(
    transport: Transport, peer: str, digest: str, bytes_max: int, progress: Progress | None = None
) -> bytes:
    """The bytes with SHA-256 `digest` (hex) from a connected peer, in memory and checked.

    Raises `NotThere` if the peer does not have them, `PeerFault` if they are more than `bytes_max` or not what was
    asked for, `StreamBroken`.
    """
    with within(limits.BLOB_DEADLINE_S):
        async with transport.open(peer, BLOB) as stream:
            size = await _ask(stream, BlobRequest(digest), bytes_max)
            data = bytearray()
            while len(data) < size:
                part = await stream.read(size - len(data))
                if not part:
                    raise StreamBroken(f"blob {digest} ended after {len(data)} of {size} bytes")
                data += part
                if progress is not None:
                    progress(len(data), size)
    if hashlib.sha256(data).hexdigest() != digest:
        raise PeerFault(f"sent other bytes than those of blob {digest}")
    return bytes(data)


def part_of(path: Path) -> Path:
    """Where a file grows until it is whole."""
    return path.with_name(f"{path.name}.part")


class Download:
    """A blob on its way to the file `path`, from as many peers as it takes; until it is whole, to `part_of(path)`.

    A `.part` of a former run is gone on with.
    """

    def __init__(self, path: Path, digest: str, bytes_max: int, progress: Progress | None = None) -> None:
        self._path, self._digest, self._bytes_max = path, digest, bytes_max
        self._progress = progress
        self._part = part_of(path)
        self._hash, self._have = hashlib.sha256(), 0
        self._senders: set[str] = set()  # of the bytes in the part
        self._from_one = False  # after a mixture that was wrong
        self._read = False

    async def from_peer(self, transport: Transport, peer: str) -> None:
        """Fetch what is lacking from a connected peer; when this returns, the file is there, whole and checked.

        Raises `NotThere` or `StreamBroken` (another peer can go on), `PeerFault` (this one sent all of the wrong
        bytes, or more than `bytes_max`), `MixedBlob` (one of several did), `OSError`.
        """
        if not self._read:
            await trio.to_thread.run_sync(self._read_part)
        if self._from_one and self._senders - {peer}:
            self._begin_anew()
        await self._fetch(transport, [peer])

    async def from_peers(self, transport: Transport, peers: Sequence[str], failed: Failed = unsaid) -> None:
        """Fetch what is lacking from connected peers, ranges of it from up to `BLOB_PEERS_MAX` of them at once.

        Who fails is not asked again while the others go on; `failed` is told at once. After a mixture that was wrong
        all is taken from one peer, the first that can give it. Raises as `from_peer` does, where none can.
        """
        if not self._from_one:
            if not self._read:
                await trio.to_thread.run_sync(self._read_part)
            await self._fetch(transport, peers[: limits.BLOB_PEERS_MAX], failed)
            return
        for place, peer in enumerate(peers):
            try:
                await self.from_peer(transport, peer)
            except (NotThere, StreamBroken, PeerFault) as error:
                if place + 1 == len(peers):
                    raise
                failed(peer, error)
            else:
                return

    async def _fetch(self, transport: Transport, peers: Sequence[str], failed: Failed = unsaid) -> None:
        if self._hash.hexdigest() != self._digest:
            await self._receive(transport, peers, failed)
        if self._hash.hexdigest() != self._digest:
            senders = self._give_up_mixture()
            if len(senders) == 1 and senders <= set(peers):
                raise PeerFault(f"sent other bytes than those of blob {self._digest}: {', '.join(senders)}")
            raise MixedBlob(
                f"blob {self._digest}: the bytes from {', '.join(sorted(senders))} together are not those; "
                "beginning anew, from one peer at a time"
            )
        await trio.to_thread.run_sync(self._finish)

    async def _receive(self, transport: Transport, peers: Sequence[str], failed: Failed) -> None:
        """Have all peers send until everything is here. Raises what failed at the last of them if none could go on."""
        range_bytes = limits.BLOB_RANGE_BYTES if len(peers) > 1 else self._bytes_max
        ranges = Ranges(self._have, range_bytes, limits.BLOB_AHEAD_BYTES_MAX)
        left = set(peers)
        ending: GossipError | OSError | None = None
        with self._part.open("r+b" if self._have else "wb") as file:
            file.truncate(self._have)
            file.seek(self._have)

            def write(block: bytes) -> None:
                file.write(block)
                self._hash.update(block)

            async def keep(block: bytes) -> None:
                await trio.to_thread.run_sync(write, block)
                self._have += len(block)
                if self._progress is not None:
                    self._progress(self._have, ranges.size or self._have)

            receiving = _Receiving(transport, self._digest, self._bytes_max, ranges, keep, self._senders.add)

            async def ask(peer: str) -> None:
                nonlocal ending
                try:
                    await receiving.from_peer(peer)
                except (NotThere, StreamBroken, PeerFault) as error:
                    left.discard(peer)
                    if left:
                        failed(peer, error)
                    elif not ranges.is_complete:
                        ending = error
                except (OSError, MixedBlob) as error:
                    ending = error
                    nursery.cancel_scope.cancel()

            async with trio.open_nursery() as nursery:
                for peer in peers:
                    nursery.start_soon(ask, peer)
        if isinstance(ending, MixedBlob):
            self._give_up_mixture()
        if ending is not None:
            raise ending

    def _give_up_mixture(self) -> set[str]:
        """Begin anew, from one peer at a time. Returns who sent what was here."""
        senders, self._from_one = self._senders, True
        self._begin_anew()
        return senders

    def _read_part(self) -> None:
        self._part.parent.mkdir(parents=True, exist_ok=True)
        if self._part.exists():
            with self._part.open("rb") as file:
                while block := file.read(limits.BLOB_BLOCK_BYTES):
                    self._hash.update(block)
                    self._have += len(block)
        if self._have:
            self._senders = {_FORMER_RUN}
        self._read = True

    def _begin_anew(self) -> None:
        self._part.unlink(missing_ok=True)
        self._hash, self._have, self._senders = hashlib.sha256(), 0, set()

    def _finish(self) -> None:
        with self._part.open("rb") as file:
            os.fsync(file.fileno())
        self._part.rename(self._path)


class _Superseded(Exception):
    """What a peer still has to send of a range came from another one meanwhile."""


class _Receiving:
    """One or several peers that send ranges of a blob, which are kept in order."""

    def __init__(
        self,
        transport: Transport,
        digest: str,
        bytes_max: int,
        ranges: Ranges,
        keep: Callable[[bytes], Awaitable[None]],
        credit: Callable[[str], None],
    ) -> None:
        """`credit` is told each peer on whose word rests what is here."""
        self._transport, self._digest, self._bytes_max = transport, digest, bytes_max
        self._ranges, self._keep, self._credit = ranges, keep, credit
        self._keeping = trio.Lock()
        self._news = trio.Event()

    async def from_peer(self, peer: str) -> None:
        """Have a peer send ranges until everything is here. Raises as `Download.from_peer` does."""
        while not self._ranges.is_complete:
            span = self._ranges.take()
            if span is None:
                await self._news.wait()
            else:
                await self._receive(peer, span)

    async def _receive(self, peer: str, span: Span) -> None:
        at = span.start
        try:
            async with self._transport.open(peer, BLOB) as stream:
                with within(limits.REQUEST_DEADLINE_S):
                    request = BlobRequest(self._digest, at, span.end - at)
                    size = await _ask(stream, request, self._bytes_max)
                if size <= self._ranges.have:
                    self._credit(peer)  # it may be the one that is wrong
                if not self._ranges.learn(size):
                    raise MixedBlob(
                        f"blob {self._digest}: {peer} says that it has {size} bytes, another peer {self._ranges.size}; "
                        "beginning anew, from one peer at a time"
                    )
                self._ring()
                end = min(span.end, size)
                while at < end:
                    with within(limits.BLOB_BLOCK_DEADLINE_S):
                        block = await read_exactly(stream, min(limits.BLOB_BLOCK_BYTES, end - at))
                    await self._take(peer, at, block)
                    at += len(block)
                    if at < end and self._ranges.is_useless(Span(at, end)):
                        raise _Superseded
        except _Superseded:
            return
        except GossipError:
            self._ranges.give_back(Span(at, span.end))
            self._ring()
            raise

    async def _take(self, peer: str, at: int, block: bytes) -> None:
        if not self._ranges.arrived(at, block):
            return
        self._credit(peer)
        async with self._keeping:
            while (due := self._ranges.due()) is not None:
                await self._keep(due)
                self._ranges.advance()
        self._ring()

    def _ring(self) -> None:
        self._news.set()
        self._news = trio.Event()


class BlobServer:
    """Answers requests for blobs: from a file where `find` knows one, else from the ledger."""

    def __init__(self, transport: Transport, blobs: Blobs, find: Find, observe: Observer = unheard) -> None:
        self._transport, self._blobs, self._find, self._observe = transport, blobs, find, observe
        self._in_memory = trio.Semaphore(limits.BLOBS_SERVED_AT_ONCE_MAX)
        self._from_files = trio.Semaphore(limits.BLOB_FILES_SERVED_AT_ONCE_MAX)

    def serve(self) -> None:
        self._transport.handle(BLOB, self._answer)

    async def _answer(self, stream: Stream) -> None:
        with within(limits.REQUEST_DEADLINE_S):
            request = await receive(stream, BlobRequest, limits.STATUS_BYTES_MAX)
        path = self._find(request.digest)
        turn = self._in_memory if path is None else self._from_files
        with within(limits.REQUEST_DEADLINE_S):
            await turn.acquire()
        try:
            if path is None:
                await self._send_from_memory(stream, request)
            else:
                await self._send_from_file(stream, path, request)
            await stream.finish()
        finally:
            turn.release()

    async def _send_from_memory(self, stream: Stream, request: BlobRequest) -> None:
        try:
            data = self._blobs.get(request.digest)
        except UnknownBlob:
            await stream.write(encode(BlobReply(None)))
            return
        except (LedgerError, sqlite3.DatabaseError) as error:
            await self._withhold(stream, error)
            return
        end = len(data) if request.length is None else request.offset + request.length
        with within(limits.BLOB_DEADLINE_S):
            await stream.write(encode(BlobReply(len(data))))
            await stream.write(data[request.offset : end])

    async def _send_from_file(self, stream: Stream, path: Path, request: BlobRequest) -> None:
        try:
            file = path.open("rb")
        except OSError as error:
            await self._withhold(stream, error)
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            await stream.write(encode(BlobReply(size)))
            at = min(request.offset, size)
            end = size if request.length is None else min(size, at + request.length)
            file.seek(at)
            while at < end:
                try:
                    block = await trio.to_thread.run_sync(file.read, min(limits.BLOB_BLOCK_BYTES, end - at))
                except OSError as error:
                    self._tell(stream, error)
                    raise StreamBroken(f"{path} cannot be served: {error}") from error
                if not block:
                    raise StreamBroken(f"{path} has become shorter while it was served")
                with within(limits.BLOB_BLOCK_DEADLINE_S):
                    await stream.write(block)
                at += len(block)

    async def _withhold(self, stream: Stream, error: Exception) -> None:
        """What is spoilt here is not here: the asker goes to another peer, and the owner hears of it."""
        self._tell(stream, error)
        await stream.write(encode(BlobReply(None)))

    def _tell(self, stream: Stream, error: Exception) -> None:
        self._observe(Event(kind=Kind.BLOB_DAMAGED, peer=stream.peer, detail=f"not served: {error}"))


async def _ask(stream: Stream, request: BlobRequest, bytes_max: int) -> int:
    """Ask for a blob or a range of it, and return the size of the whole, which is within `bytes_max`."""
    await stream.write(encode(request))
    await stream.finish()
    size = (await receive(stream, BlobReply, limits.STATUS_BYTES_MAX)).size
    if size is None:
        raise NotThere(f"{stream.peer} does not have blob {request.digest}")
    if size > bytes_max:
        raise PeerFault(f"offers blob {request.digest} with {size} bytes, over {bytes_max}")
    return size
