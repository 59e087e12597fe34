"""Bytes named by their SHA-256: programs, corpora, challenges. Compressed on the disk, checked as they leave it."""

import hashlib
import io
from collections.abc import Collection
from typing import NamedTuple

import zstandard
from sqlite_utils import Database

from ledger.errors import LedgerDamaged, LedgerError, UnknownBlob
from ledger.tables import transaction

BLOB_BYTES_MAX = 64 * 2**20
_COMPRESSION_LEVEL = 3


class Garbage(NamedTuple):
    """A blob that nothing names any more."""

    digest: str
    size: int  # bytes, plain
    stored: int  # bytes, compressed


class Blobs:
    """The blobs of one ledger; made by `Store`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def put(self, data: bytes) -> str:
        """Keep bytes under their SHA-256, which it returns. Raises `LedgerError` over `BLOB_BYTES_MAX`."""
        if len(data) > BLOB_BYTES_MAX:
            raise LedgerError(f"a blob of {len(data)} bytes is over the limit of {BLOB_BYTES_MAX}")
        digest = hashlib.sha256(data).hexdigest()
        if not self.has(digest):
            row = (digest, len(data), zstandard.compress(data, _COMPRESSION_LEVEL))
            with transaction(self._db):
                self._db.execute("INSERT OR IGNORE INTO blobs (digest, size, data) VALUES (?, ?, ?)", row)
        return digest

    def has(self, digest: str) -> bool:
        return self._db.execute("SELECT 1 FROM blobs WHERE digest = ?", (digest,)).fetchone() is not None

    def get(self, digest: str) -> bytes:
        """The bytes with this SHA-256. Raises `UnknownBlob`, or `LedgerDamaged` if they do not have it any more."""
        row = self._db.execute("SELECT size, data FROM blobs WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            raise UnknownBlob(f"no blob {digest} in this ledger")
        try:
            # Not `decompress`, which believes a frame that says of itself how large it gets.
            size = min(row[0], BLOB_BYTES_MAX)
            data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(row[1])).read(size + 1)
        except (zstandard.ZstdError, ValueError) as error:
            raise LedgerDamaged(f"blob {digest} cannot be decompressed ({error}): see `waggle ledger fsck`") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise LedgerDamaged(f"the bytes kept for blob {digest} are not those: see `waggle ledger fsck`")
        return data

    def missing(self, limit: int) -> list[str]:
        """Digests of what discoveries and amendments name and that is not here, at most `limit`.

        Authors take turns, so that one who names thousands that nobody has does not hide the others'.
        """
        sql = """
            SELECT program FROM (
                SELECT program, row_number() OVER (PARTITION BY author ORDER BY place) AS turn FROM (
                    SELECT child AS program, author, rowid AS place FROM discoveries
                    UNION ALL SELECT parent, author, rowid FROM discoveries
                    UNION ALL SELECT constitution, author, rowid FROM amendments
                ) WHERE program NOT IN (SELECT digest FROM blobs)
            ) GROUP BY program ORDER BY min(turn) LIMIT ?"""
        return [row[0] for row in self._db.execute(sql, (limit,))]

    def garbage(self, keep: Collection[str]) -> list[Garbage]:
        """Blobs that no entry names and that are not among `keep`, the parts of the challenge."""
        sql = """
            SELECT digest, size, length(data) FROM blobs
            WHERE digest NOT IN (SELECT subject FROM entries) AND digest NOT IN (SELECT parent FROM discoveries)
                AND digest NOT IN (SELECT parent FROM claims) AND digest NOT IN (SELECT challenge FROM about)
                AND digest NOT IN (SELECT previous FROM adoptions WHERE previous IS NOT NULL)
                AND digest NOT IN (SELECT previous FROM amendments)
            ORDER BY digest"""
        found = (Garbage(*row) for row in self._db.execute(sql))
        return [blob for blob in found if blob.digest not in keep]

    def drop(self, blobs: Collection[Garbage]) -> None:
        """Remove blobs, all or none; the file shrinks with SQLite's VACUUM only."""
        with transaction(self._db):
            for blob in blobs:
                self._db.execute("DELETE FROM blobs WHERE digest = ?", (blob.digest,))
