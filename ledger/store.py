"""The ledger on disk: one SQLite file, one writer, many readers.

`entries` holds the exact envelopes and `blobs` the bytes that they name; the other tables are derived from the
envelopes when they are added, in the same transaction, so that queries need no decoding. An append is on the disk
(`synchronous=FULL`, write-ahead log) before `add` returns. Blobs are compressed and named by the SHA-256 of their
plain bytes. This module knows no network and judges no claim; signatures have been checked by whoever made the
`Signed` that comes in.
"""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import zstandard
from sqlite_utils import Database

from ledger.envelope import Signed, open_envelope
from ledger.errors import BadStatement, LedgerDamaged, LedgerError, UnknownBlob
from ledger.feed import Head, check_extends
from ledger.statements import Adoption, Attestation, Discovery, Trial

SCHEMA_VERSION = 1
BLOB_BYTES_MAX = 64 * 2**20
BUSY_TIMEOUT_S = 30.0
CLOCK_MAX = 2**52
PEERS_REMEMBERED_MAX = 64


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns SQLite's complaint about the file at `path` into a `LedgerDamaged` that says what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise LedgerError(f"{path}: {error}") from error  # locked, full disk, no permission: not the file's fault
    except sqlite3.DatabaseError as error:
        raise LedgerDamaged(
            f"{path} is damaged ({error}). Nothing was changed. Put a backup in its place; or move the whole home "
            "away and join the swarm afresh, which fetches everything that peers hold."
        ) from error


class Store:
    """An open ledger. Not thread-safe: one thread, one store."""

    def __init__(self, path: Path, database: Database) -> None:
        self.path = path
        self.db = database
        self.challenge: str = next(iter(database.query("SELECT challenge FROM about")))["challenge"]

    @classmethod
    def create(cls, path: Path, challenge: str) -> Self:
        """A new, empty ledger of the swarm `challenge` (hex digest).

        The file appears under its name only when it is complete. Raises `LedgerError` if the name is taken.
        """
        if path.exists():
            raise LedgerError(f"{path} exists already")
        unfinished = path.with_name(path.name + ".new")
        unfinished.unlink(missing_ok=True)
        connection = sqlite3.connect(unfinished)
        schema = files("ledger").joinpath("schema.sql").read_text()
        connection.executescript(f"PRAGMA journal_mode = WAL; BEGIN; {schema} COMMIT;")
        with connection:
            connection.execute("INSERT INTO about VALUES (?)", (challenge,))
        connection.close()
        unfinished.rename(path)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, *, check: bool = False) -> Self:
        """Open an existing ledger; `check` also runs SQLite's own integrity check over the whole file.

        Raises `LedgerDamaged` if the file is missing, truncated, not a ledger, or of a newer version.
        """
        if not path.is_file() or path.stat().st_size == 0:
            what = "empty" if path.exists() else "missing"
            raise LedgerDamaged(f"{path} is {what}. Put a backup in its place, or join the swarm with a fresh home.")
        with readable(path):
            connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)
            database = Database(connection, execute_plugins=False)
            for pragma in ("foreign_keys = ON", "synchronous = FULL"):
                database.execute(f"PRAGMA {pragma}")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version != SCHEMA_VERSION:
                raise LedgerDamaged(
                    f"{path} has ledger version {version}; this Waggle reads {SCHEMA_VERSION}. Use a newer Waggle."
                )
            if check:
                findings = [row[0] for row in database.execute("PRAGMA quick_check(3)")]
                if findings != ["ok"]:
                    raise sqlite3.DatabaseError("; ".join(findings))
            return cls(path, database)

    def close(self) -> None:
        self.db.close()

    # Entries

    def heads(self) -> dict[tuple[str, str], Head]:
        """The last entry of every feed, by (author, feed)."""
        rows = self.db.query("SELECT author, feed, seq, id, lamport FROM feeds")
        return {(row["author"], row["feed"]): Head(row["seq"], row["id"], row["lamport"]) for row in rows}

    def head(self, author: str, feed: str) -> Head | None:
        """The last entry of one feed, if it has any."""
        sql = "SELECT seq, id, lamport FROM feeds WHERE author = ? AND feed = ?"
        return next((Head(**row) for row in self.db.query(sql, (author, feed))), None)

    def clock(self) -> int:
        """The greatest Lamport time in the ledger that can be counted on from; 0 if it is empty.

        Greater ones than CLOCK_MAX are nobody's honest count. Followed, a single one would leave no greater number
        for anybody's next statement.
        """
        sql = "SELECT coalesce(max(lamport), 0) FROM entries WHERE lamport <= ?"
        return int(self.db.execute(sql, (CLOCK_MAX,)).fetchone()[0])

    def envelopes(self, author: str, feed: str, from_seq: int, bytes_max: int) -> list[bytes]:
        """The envelopes of a feed from `from_seq` on, oldest first, about `bytes_max` in all but at least one."""
        page: list[bytes] = []
        size = 0
        sql = "SELECT envelope FROM entries WHERE author = ? AND feed = ? AND seq >= ? ORDER BY seq"
        for (envelope,) in self.db.execute(sql, (author, feed, from_seq)):
            size += len(envelope)
            if page and size > bytes_max:
                break
            page.append(envelope)
        return page

    def add(self, signed: Signed) -> bool:
        """Keep a checked entry; durable when it returns. True if it is new, False if it was there.

        Raises `BadStatement` for another swarm's entry, `BrokenChain` for one that does not follow its feed's last,
        `Equivocation` for a second one at a position. Nothing is written then.
        """
        entry = signed.statement.entry
        if entry.challenge != self.challenge:
            raise BadStatement(f"{signed.id} belongs to challenge {entry.challenge[:12]}, not to this ledger's")
        sql = "SELECT id FROM entries WHERE author = ? AND feed = ? AND seq = ?"
        row = self.db.execute(sql, (entry.author, entry.feed, entry.seq)).fetchone()
        if not check_extends(
            self.head(entry.author, entry.feed), entry, signed.id, present=row[0] if row is not None else None
        ):
            return False
        with self.db.atomic():
            self._insert("entries", {
                "id": signed.id, "author": entry.author, "feed": entry.feed, "seq": entry.seq, "prev": entry.prev,
                "lamport": entry.lamport, "kind": signed.statement.kind, "subject": signed.statement.subject,
                "recorded_at": entry.recorded_at, "envelope": signed.envelope,
            })  # fmt: skip
            place = (entry.author, entry.feed, entry.seq, signed.id, entry.lamport)
            self.db.execute("INSERT OR REPLACE INTO feeds VALUES (?, ?, ?, ?, ?)", place)
            self._derive(signed)
        return True

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Makes the `add`s of the block one transaction, durable together at its end: for entries of others.

        Nothing may be awaited inside: an own entry added by another task would wait for the block as well.
        """
        with self.db.atomic():
            yield

    def _derive(self, signed: Signed) -> None:
        """The derived row of an entry, for the types that have one."""
        program = signed.statement.subject
        row: dict[str, Any] = {"id": signed.id, "author": signed.statement.entry.author}
        match signed.statement.body:
            case Trial() as trial:
                row |= {"program": program, "track": trial.track, "seed": trial.seed, "split": trial.split}
                self._insert("trials", row | {"status": trial.result.status, "val_bpb": trial.result.val_bpb})
            case Discovery(comparison=comparison) as found:
                row |= {"track": found.track, "parent": found.parent, "child": program}
                row |= {"hypothesis": found.hypothesis, "proposer": found.proposer}
                row |= {"mean": comparison.mean, "low": comparison.low, "high": comparison.high}
                self._insert("discoveries", row)
            case Attestation(comparison=maybe) as attestation:
                row |= {"discovery": attestation.discovery, "verdict": attestation.verdict}
                row |= {"reason": attestation.reason}
                row |= {name: getattr(maybe, name, None) for name in ("mean", "low", "high")}
                self._insert("attestations", row)
            case Adoption() as adoption:
                row |= {"track": adoption.track, "program": program, "previous": adoption.previous}
                self._insert("adoptions", row | {"discovery": adoption.discovery, "reason": adoption.reason})

    def _insert(self, table: str, row: dict[str, Any]) -> None:
        # Plain SQL: sqlite-utils' insert looks the schema up again for every row.
        names = ", ".join(row)
        self.db.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", list(row.values()))

    def entry(self, entry_id: str) -> Signed | None:
        """The entry with this full id, checked again as it leaves the disk."""
        row = self.db.execute("SELECT envelope FROM entries WHERE id = ?", (entry_id,)).fetchone()
        return None if row is None else open_envelope(row[0])

    # Blobs

    def put_blob(self, data: bytes) -> str:
        """Keep bytes under their SHA-256, which it returns. Raises `LedgerError` over `BLOB_BYTES_MAX`."""
        if len(data) > BLOB_BYTES_MAX:
            raise LedgerError(f"a blob of {len(data)} bytes is over the limit of {BLOB_BYTES_MAX}")
        digest = hashlib.sha256(data).hexdigest()
        if not self.has_blob(digest):
            with self.db.atomic():
                row = {"digest": digest, "size": len(data), "data": zstandard.compress(data, 3)}
                self._insert("blobs", row)
        return digest

    def has_blob(self, digest: str) -> bool:
        return self.db.execute("SELECT 1 FROM blobs WHERE digest = ?", (digest,)).fetchone() is not None

    def blob(self, digest: str) -> bytes:
        """The bytes with this SHA-256. Raises `UnknownBlob`, or `LedgerDamaged` if they do not have it any more."""
        row = self.db.execute("SELECT size, data FROM blobs WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            raise UnknownBlob(f"no blob {digest} in {self.path}")
        try:
            data = zstandard.ZstdDecompressor().decompress(row[1], max_output_size=row[0])
        except zstandard.ZstdError as error:
            raise LedgerDamaged(f"{self.path}: blob {digest} cannot be decompressed ({error})") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise LedgerDamaged(f"{self.path}: the bytes kept for blob {digest} are not those")
        return data

    def missing_blobs(self, limit: int) -> list[str]:
        """Digests of programs that discoveries name and that are not here, at most `limit`.

        Authors take turns, so that one who names thousands that nobody has does not hide the others'.
        """
        sql = """
            SELECT program FROM (
                SELECT program, row_number() OVER (PARTITION BY author ORDER BY place) AS turn FROM (
                    SELECT child AS program, author, rowid AS place FROM discoveries
                    UNION ALL SELECT parent, author, rowid FROM discoveries
                ) WHERE program NOT IN (SELECT digest FROM blobs)
            ) GROUP BY program ORDER BY min(turn) LIMIT ?"""
        return [row[0] for row in self.db.execute(sql, (limit,))]

    # Peers

    def peers(self) -> dict[str, str]:
        """Peer id to the address where it was last reached."""
        return {row["peer"]: row["address"] for row in self.db.query("SELECT peer, address FROM peers")}

    def remember_peer(self, peer: str, address: str) -> None:
        """Keep where a peer can be dialled; of more than PEERS_REMEMBERED_MAX, those heard of last."""
        with self.db.atomic():
            self.db.execute("INSERT OR REPLACE INTO peers VALUES (?, ?)", (peer, address))
            kept = "SELECT rowid FROM peers ORDER BY rowid DESC LIMIT ?"
            self.db.execute(f"DELETE FROM peers WHERE rowid NOT IN ({kept})", (PEERS_REMEMBERED_MAX,))
