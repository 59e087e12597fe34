"""The ledger on disk: one SQLite file, one writer at a time, many readers.

`entries` holds the exact envelopes and `blobs` the bytes that they name; what else is queried derives from the
envelopes when they are added, in the same transaction. An append is on the disk (`synchronous=FULL`, write-ahead log)
before `add` returns. What peers would send again may be kept without waiting for the disk (`Store.batch`); an own
append that is acknowledged later takes it along, because both are in one log. This module knows no network and judges
no claim; signatures have been checked by whoever made the `Signed` that comes in.

Two kinds of signed entries are kept apart, in `refused`, and believed by no query: the second of two that their author
signed for one place, the proof that ends belief in whatever it signs next; and what a revoked key signed beyond what
its revocation vouches for.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
from sqlite_utils import Database

from ledger import schema, tables
from ledger.blobs import Blobs
from ledger.envelope import Signed, open_kept
from ledger.errors import (
    AuthorBanned,
    BadStatement,
    BrokenChain,
    Equivocation,
    KeyRevoked,
    LedgerDamaged,
    LedgerError,
)
from ledger.feed import Head, check_extends
from ledger.predicates import FEED_ENTRIES_MAX, FEEDS_MAX, Entry, Revocation

BUSY_TIMEOUT_S = 30.0
CLOCK_MAX = 2**52
PEERS_REMEMBERED_MAX = 64
PAGE_CACHE_KIB = 64 * 1024  # ids are random: an entry added to a large ledger touches pages all over its indexes
LOG_PAGES = 4000  # written ahead before they are moved to the file: pages that change often are moved less often
PRAGMAS = (  # of every connection; what a file keeps itself is in schema.py
    "foreign_keys = ON",
    "synchronous = FULL",
    f"cache_size = -{PAGE_CACHE_KIB}",
    f"wal_autocheckpoint = {LOG_PAGES}",
)


class Proof(NamedTuple):
    """Two envelopes that one author signed for one place of a feed."""

    author: str
    first: bytes  # the one that this ledger heard of first and believes
    second: bytes


class Vouching(NamedTuple):
    """Of a revocation: where it stands, and which entries of the author's other feeds still hold."""

    id: str
    feed: str
    seq: int
    heads: str  # JSON: {feed: [seq, id]}


class _Standing(NamedTuple):
    """What adding an entry asks of its author."""

    heads: dict[str, Head]  # by feed
    longer: set[str]  # feeds whose new heads are still to be written
    banned: bool
    revocations: list[Vouching]


def vouches(revocation: Vouching, feed: str, seq: int, entry_id: str) -> bool:
    """Whether an entry still holds after its author's revocation."""
    heads = {**msgspec.json.decode(revocation.heads), revocation.feed: (revocation.seq, revocation.id)}
    last, last_id = heads.get(feed, (-1, None))
    return bool(seq < last or (seq == last and entry_id == last_id))


def _check_believed(known: _Standing, entry: Entry, entry_id: str) -> None:
    if known.banned:
        raise AuthorBanned(f"{entry.author} has signed two histories; `waggle ledger fsck` lists the proof")
    if not all(vouches(row, entry.feed, entry.seq, entry_id) for row in known.revocations):
        raise KeyRevoked(f"{entry.author} has revoked its key, and does not vouch for {entry.feed}/{entry.seq}")


_REMEDIES = {  # by SQLite's primary result code, where the file is not at fault
    "SQLITE_FULL": "make room on its disk; nothing that was acknowledged is lost",
    "SQLITE_IOERR": "the disk or its file system fails: see the system's log",
    "SQLITE_READONLY": "it can be read and not written: allow this user to write the file and its folder",
    "SQLITE_CANTOPEN": "allow this user to read and write the file and its folder",
    "SQLITE_BUSY": f"another process has kept it for {BUSY_TIMEOUT_S:g} s: try again, or stop that one",
}


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns SQLite's complaint about the file at `path` into a `LedgerError` that says what to do.

    It is a `LedgerDamaged` where the file is at fault.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        primary_code = "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
        if primary_code in _REMEDIES:
            raise LedgerError(f"{path}: {error} ({_REMEDIES[primary_code]})") from error
        raise LedgerDamaged(
            f"{path} is damaged ({error}). Nothing was changed. If it can be opened at all, `waggle ledger fsck` says "
            "what is lost, and with --salvage writes the rest to a new file. Or put a backup in its place; or move the "
            "whole home away and join the swarm afresh, which fetches everything that peers hold."
        ) from error


def _connect(path: Path) -> Database:
    """A connection to an existing ledger file, for reading at least.

    SQLite reads a write-ahead log with the help of a file that it makes beside it. Where it cannot make that, but the
    log is empty or gone, nobody is writing and the ledger can be read without.
    """
    database = Database(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S), execute_plugins=False)
    try:
        schema.version(database)
    except sqlite3.DatabaseError as error:
        database.close()
        log = path.with_name(path.name + "-wal")
        if error.sqlite_errorname != "SQLITE_CANTOPEN" or (log.exists() and log.stat().st_size > 0):
            raise
        uri = path.absolute().as_uri() + "?immutable=1"
        database = Database(sqlite3.connect(uri, uri=True), execute_plugins=False)
    for pragma in PRAGMAS:
        database.execute(f"PRAGMA {pragma}")
    return database


def _sync_folder(path: Path) -> None:
    """Make a rename in the folder survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Store:
    """An open ledger. Not thread-safe: one thread, one store."""

    def __init__(self, path: Path, database: Database) -> None:
        self.path = path
        self.db = database
        self.blobs = Blobs(database)
        self._standings: dict[str, _Standing] | None = None  # by author, as a batch met them: nobody else writes then
        self._owes_sync = False  # in a batch that does not wait for the disk: something that has to be on it
        about = database.execute("SELECT challenge FROM about").fetchone()
        if about is None:
            raise LedgerDamaged(f"{path} does not say which swarm's ledger it is. Put a backup in its place.")
        self.challenge: str = about[0]

    @classmethod
    def create(cls, path: Path, challenge: str) -> Self:
        """A new, empty ledger of the swarm `challenge` (hex digest).

        The file appears under its name only when it is complete. Raises `LedgerError` if the name is taken, or the
        file cannot be written.
        """
        if path.exists():
            raise LedgerError(f"{path} exists already")
        unfinished = path.with_name(path.name + ".new")
        unfinished.unlink(missing_ok=True)
        with readable(path):
            schema.create(unfinished, challenge)
        unfinished.rename(path)
        _sync_folder(path.parent)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, *, check: bool = False) -> Self:
        """Open an existing ledger, of this version or an older one; `check` also has SQLite check the whole file.

        One that this user cannot write is opened for reading. Raises `LedgerDamaged` if the file is missing,
        truncated, not a ledger, or of a newer version, and `LedgerError` if it cannot be opened.
        """
        if not path.is_file() or path.stat().st_size == 0:
            what = "empty" if path.exists() else "missing"
            raise LedgerDamaged(f"{path} is {what}. Put a backup in its place, or join the swarm with a fresh home.")
        with readable(path), ExitStack() as if_it_fails:
            database = _connect(path)
            if_it_fails.callback(database.close)
            found = schema.version(database)
            if not 1 <= found <= schema.SCHEMA_VERSION:
                raise LedgerDamaged(
                    f"{path} has ledger version {found}; this Waggle reads {schema.SCHEMA_VERSION} and older ones. "
                    "Use a newer Waggle."
                )
            if check:
                findings = [row[0] for row in database.execute("PRAGMA quick_check(3)")]
                if findings != ["ok"]:
                    raise sqlite3.DatabaseError("; ".join(findings))
            if found < schema.SCHEMA_VERSION:
                try:
                    schema.migrate(database)
                except BadStatement as error:
                    raise LedgerDamaged(
                        f"{path} is of version {found}, and an entry in it cannot be read ({error}). Nothing was "
                        "changed. Put a backup in its place, or join the swarm with a fresh home."
                    ) from error
            store = cls(path, database)
            if_it_fails.pop_all()
            return store

    def close(self) -> None:
        self.db.close()

    # Feeds

    def heads(self) -> dict[tuple[str, str], Head]:
        """The last entry of every feed, by (author, feed)."""
        self._write_heads()
        rows = self.db.query("SELECT author, feed, seq, id, lamport FROM feeds")
        return {(row["author"], row["feed"]): Head(row["seq"], row["id"], row["lamport"]) for row in rows}

    def head(self, author: str, feed: str) -> Head | None:
        """The last entry of one feed, if it has any."""
        return self._heads(author).get(feed)

    def feeds(self, author: str) -> list[str]:
        """The feeds of an author, those of the latest incarnation last."""
        return sorted(self._heads(author), key=lambda name: int(name.partition(".")[2] or 0))

    def _heads(self, author: str) -> dict[str, Head]:
        """The last entry of each feed of an author; there are at most FEEDS_MAX."""
        if self._standings is not None:
            return self._standing(author).heads
        return self._heads_kept(author)

    def _heads_kept(self, author: str) -> dict[str, Head]:
        rows = self.db.execute("SELECT feed, seq, id, lamport FROM feeds WHERE author = ?", (author,))
        return {feed: Head(seq, entry_id, lamport) for feed, seq, entry_id, lamport in rows}

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

    def ids(self, author: str, feed: str, size: int) -> list[str]:
        """The ids of the first `size` entries of a feed, or of all if it has fewer: the leaves of its Merkle tree."""
        sql = "SELECT id FROM entries WHERE author = ? AND feed = ? AND seq < ? ORDER BY seq"
        return [row[0] for row in self.db.execute(sql, (author, feed, size))]

    # Entries

    def add(self, signed: Signed) -> bool:
        """Keep a checked entry, durable when it returns or as its `batch` is. True if it is new, False if it was there.

        Raises `BadStatement` for another swarm's entry, `BrokenChain` for one that does not follow its feed's last,
        `Equivocation` for a second one at a position, which is kept as proof, `AuthorBanned` for any other entry of
        such an author, `KeyRevoked` for one that its author's revocation does not vouch for.
        """
        entry = signed.statement.entry
        if entry.challenge != self.challenge:
            raise BadStatement(f"{signed.id} belongs to challenge {entry.challenge[:12]}, not to this ledger's")
        try:
            if self._standings is not None:
                return self._append(signed)
            with self.batch():
                return self._append(signed)
        except Equivocation:
            if not self.is_banned(entry.author):  # one proof is enough
                self._refuse(signed, "equivocation")
            raise

    @contextmanager
    def batch(self, *, refetchable: bool = False) -> Iterator[None]:
        """Makes the `add`s of the block one transaction, durable together at its end.

        With `refetchable` they are kept together but not waited for (`synchronous=NORMAL`): a killed process loses
        nothing, and a loss of power at most what came last, for what peers would send again. Whatever is durable later
        makes them durable too. A block within that is not `refetchable`, and a proof of equivocation, which nobody
        else may have, make the whole durable. Nothing may be awaited inside: an own entry added by another task would
        wait for the block as well.
        """
        if self._standings is not None:
            self._owes_sync |= not refetchable
            yield
            return
        with readable(self.path), self._waiting_for_the_disk(not refetchable), tables.transaction(self.db):
            self._standings, self._owes_sync = {}, False
            try:
                yield
                self._write_heads()
            finally:
                self._standings = None
        if refetchable and self._owes_sync:
            self._sync()

    @contextmanager
    def _waiting_for_the_disk(self, waits: bool) -> Iterator[None]:
        """Around a transaction, because within one the setting cannot be changed."""
        if waits:
            yield
            return
        self.db.execute("PRAGMA synchronous = NORMAL")
        try:
            yield
        finally:
            self.db.execute("PRAGMA synchronous = FULL")

    def _sync(self) -> None:
        """Make all that was committed durable, by a durable transaction that changes nothing."""
        with readable(self.path), tables.transaction(self.db):
            self.db.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")  # SQLite writes its page in any case

    def _write_heads(self) -> None:
        """Write the heads that a batch has moved on: once, not for each entry."""
        for author, known in (self._standings or {}).items():
            for feed in known.longer:
                tables.set_head(self.db, author, feed, known.heads[feed])
            known.longer.clear()

    def _standing(self, author: str) -> _Standing:
        """What is known of an author within a batch, asked once."""
        assert self._standings is not None, "only the writer's lock keeps this true"
        known = self._standings.get(author)
        if known is None:
            known = _Standing(self._heads_kept(author), set(), self.is_banned(author), self.revocations(author))
            self._standings[author] = known
        return known

    def _append(self, signed: Signed) -> bool:
        entry = signed.statement.entry
        known = self._standing(entry.author)
        head = known.heads.get(entry.feed)
        present = None if head is None or entry.seq > head.seq else self._id_at(entry)
        try:
            if not check_extends(head, entry, signed.id, present=present):
                return False
        except BrokenChain:
            _check_believed(known, entry, signed.id)  # what came before it may have been refused: the better reason
            raise
        if head is None and len(known.heads) >= FEEDS_MAX:
            raise BrokenChain(f"{entry.author} has {FEEDS_MAX} feeds already, which is all that an author may have")
        if entry.seq >= FEED_ENTRIES_MAX and not isinstance(signed.statement.body, Revocation):
            raise BrokenChain(
                f"{entry.author}/{entry.feed} has {FEED_ENTRIES_MAX} entries already, which is all that a feed may "
                "have; its author goes on with a new key (`waggle key rotate`)"
            )
        _check_believed(known, entry, signed.id)
        place = (entry.author, entry.feed, entry.seq, entry.prev, entry.lamport)
        about = (signed.statement.kind, signed.statement.subject, entry.recorded_at, signed.envelope)
        sql = "INSERT INTO entries VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        number = self.db.execute(sql, (signed.id, *place, *about)).lastrowid
        assert number is not None, "a row was inserted"
        tables.add(self.db, signed, number)
        known.heads[entry.feed] = Head(entry.seq, signed.id, entry.lamport)
        known.longer.add(entry.feed)
        if isinstance(signed.statement.body, Revocation):
            self._revoke(signed.statement.body)
        return True

    def _id_at(self, place: Entry) -> str | None:
        sql = "SELECT id FROM entries WHERE author = ? AND feed = ? AND seq = ?"
        row = self.db.execute(sql, (place.author, place.feed, place.seq)).fetchone()
        return None if row is None else row[0]

    def entry(self, entry_id: str) -> Signed | None:
        """The entry with this full id, checked again as it leaves the disk."""
        row = self.db.execute("SELECT envelope FROM entries WHERE id = ?", (entry_id,)).fetchone()
        return None if row is None else open_kept(row[0])

    def entries(self) -> Iterator[Signed]:
        """All entries, checked again, in causal order: an author's in their order, and causes before effects.

        Nothing may be added meanwhile.
        """
        for (envelope,) in self.db.execute("SELECT envelope FROM entries ORDER BY lamport, id"):
            yield open_kept(envelope)

    def tidy(self) -> None:
        """Merge the parts in which full-text search was written, since each question visits all of them.

        To be called now and then, as a node does when it starts: with 12,000 texts it took 0.02 s.
        """
        with self.batch(refetchable=True):
            tables.merge_search(self.db)

    # What is signed and yet not believed

    def is_banned(self, author: str) -> bool:
        """Whether there is proof that the author signed two histories."""
        sql = "SELECT 1 FROM refused WHERE author = ? AND reason = 'equivocation'"
        return self.db.execute(sql, (author,)).fetchone() is not None

    def proofs(self) -> list[Proof]:
        """What shows that authors signed two histories: anybody can check it without this ledger."""
        sql = """SELECT r.author, e.envelope, r.envelope FROM refused AS r
                 JOIN entries AS e USING (author, feed, seq) WHERE reason = 'equivocation' ORDER BY r.author"""
        return [Proof(*row) for row in self.db.execute(sql)]

    def revocation(self, author: str, successor: str | None) -> str | None:
        """The id of the author's revocation in favour of `successor`, if it has stated one."""
        sql = "SELECT id FROM revocations WHERE author = ? AND successor IS ?"
        row = self.db.execute(sql, (author, successor)).fetchone()
        return None if row is None else str(row[0])

    def revocations(self, author: str) -> list[Vouching]:
        """What the author's revocations let stand of its feeds."""
        sql = "SELECT id, feed, seq, heads FROM revocations WHERE author = ?"
        return [Vouching(*row) for row in self.db.execute(sql, (author,))]

    def _refuse(self, signed: Signed, reason: str) -> None:
        entry = signed.statement.entry
        row = (signed.id, entry.author, entry.feed, entry.seq, reason, signed.envelope)
        self._owes_sync |= reason == "equivocation"
        with tables.transaction(self.db):
            self.db.execute("INSERT OR IGNORE INTO refused VALUES (?, ?, ?, ?, ?, ?)", row)
        self._forget(entry.author)

    def _forget(self, author: str) -> None:
        """Ask again: more has changed than a feed's end."""
        if self._standings is not None:
            self._write_heads()
            self._standings.pop(author, None)

    def _revoke(self, revocation: Revocation) -> None:
        """Move what the author's revocation does not vouch for from its other feeds to `refused`, the last first."""
        self._write_heads()
        entry = revocation.entry
        vouched = {head.feed: head for head in revocation.heads}
        for feed in self.feeds(entry.author):
            if feed == entry.feed:
                continue
            last = vouched.get(feed)
            kept = -1 if last is None else last.seq
            if last is not None:
                sql = "SELECT id FROM entries WHERE author = ? AND feed = ? AND seq = ?"
                row = self.db.execute(sql, (entry.author, feed, last.seq)).fetchone()
                kept -= row is not None and row[0] != last.id
            sql = "SELECT envelope FROM entries WHERE author = ? AND feed = ? AND seq > ? ORDER BY seq DESC LIMIT 1"
            while row := self.db.execute(sql, (entry.author, feed, kept)).fetchone():
                signed = open_kept(row[0])
                self._refuse(signed, "revoked")
                tables.remove(self.db, signed)
                self.db.execute("DELETE FROM feeds WHERE author = ? AND feed = ?", (entry.author, feed))
                self.db.execute("DELETE FROM entries WHERE id = ?", (signed.id,))
                if signed.statement.entry.prev is not None:
                    before = self.entry(signed.statement.entry.prev)
                    assert before is not None, "a feed has no gaps"
                    place = before.statement.entry
                    tables.set_head(self.db, entry.author, feed, Head(place.seq, before.id, place.lamport))
        self._forget(entry.author)

    # Peers

    def peers(self) -> dict[str, str]:
        """Peer id to the address where it was last reached."""
        return {row["peer"]: row["address"] for row in self.db.query("SELECT peer, address FROM peers")}

    def remember_peer(self, peer: str, address: str) -> None:
        """Keep where a peer can be dialled; of more than PEERS_REMEMBERED_MAX, those heard of last."""
        with self.batch(refetchable=True):
            self.db.execute("INSERT OR REPLACE INTO peers VALUES (?, ?)", (peer, address))
            kept = "SELECT rowid FROM peers ORDER BY rowid DESC LIMIT ?"
            self.db.execute(f"DELETE FROM peers WHERE rowid NOT IN ({kept})", (PEERS_REMEMBERED_MAX,))
