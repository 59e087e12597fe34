"""Blobs by digest: fetching them into memory or a file, and serving them.

Small blobs (programs) live in the ledger and pass through memory. A corpus lies in a file: it is sent and received
block by block, and what a broken connection leaves is gone on with, from the same peer or another.

SHA-256 says nothing of a part, so wrong bytes show only at the end. If one peer sent them all, it is at fault. If
several did, nobody can tell which, so the blob is begun anew and from then on taken whole from one peer: a liar costs
the honest bytes that were mixed with its own, once.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import trio

from gossip import limits
from gossip.errors import MixedBlob, NotThere, PeerFault, StreamBroken
from gossip.protocols import within
from gossip.transport import Stream, Transport
from gossip.wire import BLOB, BlobReply, BlobRequest, encode, read_exactly, receive
from ledger.blobs import Blobs
from ledger.errors import UnknownBlob

Progress = Callable[[int, int], None]
"""Bytes received, and bytes in all as the peer says."""

Find = Callable[[str], Path | None]
"""Digest (hex) → the file that holds those bytes, if there is one."""

_FORMER_RUN = "a former run"


def nowhere(digest: str) -> None:
    """A `Find` for nodes without files to serve."""


async def fetch_blob(
    transport: Transport, peer: str, digest: str, bytes_max: int, progress: Progress | None = None
) -> bytes:
    """The bytes with SHA-256 `digest` (hex) from a connected peer, in memory and checked.

    Raises `NotThere` if the peer does not have them, `PeerFault` if they are more than `bytes_max` or not what was
    asked for, `StreamBroken`.
    """
    with within(limits.BLOB_DEADLINE_S):
        async with transport.open(peer, BLOB) as stream:
            size = await _ask(stream, digest, 0, bytes_max)
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
        if self._hash.hexdigest() != self._digest:
            await self._receive(transport, peer)
        if self._hash.hexdigest() != self._digest:
            senders, self._from_one = self._senders, True
            self._begin_anew()
            if senders == {peer}:
                raise PeerFault(f"sent other bytes than those of blob {self._digest}")
            raise MixedBlob(
                f"blob {self._digest}: the bytes from {', '.join(sorted(senders))} together are not those; "
                "beginning anew, from one peer at a time"
            )
        await trio.to_thread.run_sync(self._finish)

    async def _receive(self, transport: Transport, peer: str) -> None:
        with self._part.open("r+b" if self._have else "wb") as file:
            file.truncate(self._have)
            file.seek(self._have)
            async with transport.open(peer, BLOB) as stream:
                with within(limits.REQUEST_DEADLINE_S):
                    size = await _ask(stream, self._digest, self._have, self._bytes_max)
                if size < self._have:
                    self._senders.add(peer)  # it may be the one that is wrong

                def keep(block: bytes) -> None:
                    file.write(block)
                    self._hash.update(block)

                while self._have < size:
                    with within(limits.BLOB_BLOCK_DEADLINE_S):
                        block = await read_exactly(stream, min(limits.BLOB_BLOCK_BYTES, size - self._have))
                    await trio.to_thread.run_sync(keep, block)
                    self._senders.add(peer)
                    self._have += len(block)
                    if self._progress is not None:
                        self._progress(self._have, size)

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


class BlobServer:
    """Answers requests for blobs: from a file where `find` knows one, else from the ledger."""

    def __init__(self, transport: Transport, blobs: Blobs, find: Find) -> None:
        self._transport, self._blobs, self._find = transport, blobs, find
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
                await self._send_from_file(stream, path, request.offset)
            await stream.finish()
        finally:
            turn.release()

    async def _send_from_memory(self, stream: Stream, request: BlobRequest) -> None:
        try:
            data = self._blobs.get(request.digest)
        except UnknownBlob:
            await stream.write(encode(BlobReply(None)))
            return
        with within(limits.BLOB_DEADLINE_S):
            await stream.write(encode(BlobReply(len(data))))
            await stream.write(data[request.offset :])

    async def _send_from_file(self, stream: Stream, path: Path, offset: int) -> None:
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                await stream.write(encode(BlobReply(size)))
                file.seek(min(offset, size))
                while block := await trio.to_thread.run_sync(file.read, limits.BLOB_BLOCK_BYTES):
                    with within(limits.BLOB_BLOCK_DEADLINE_S):
                        await stream.write(block)
        except OSError as error:
            raise StreamBroken(f"{path} cannot be served: {error}") from error


async def _ask(stream: Stream, digest: str, offset: int, bytes_max: int) -> int:
    """Ask for a blob from `offset` on, and return the size of the whole, which is within `bytes_max`."""
    await stream.write(encode(BlobRequest(digest, offset)))
    await stream.finish()
    size = (await receive(stream, BlobReply, limits.STATUS_BYTES_MAX)).size
    if size is None:
        raise NotThere(f"{stream.peer} does not have blob {digest}")
    if size > bytes_max:
        raise PeerFault(f"offers blob {digest} with {size} bytes, over {bytes_max}")
    return size
