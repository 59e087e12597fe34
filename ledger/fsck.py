"""Checking a ledger against itself: every signature, chain, index, table, blob and checkpoint.

findings.py says what errors, warnings and notes are, docs/integrity.md what each check means and what none can see.
Memory grows with the number of feeds, and with nothing else.
"""

import hashlib
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import IO, cast

import zstandard
from sqlite_utils import Database

from ledger import tables
from ledger.blobs import BLOB_BYTES_MAX
from ledger.checkpoint import open_checkpoint
from ledger.envelope import open_kept, payload_of, public_key
from ledger.errors import BadStatement
from ledger.export.selection import snapshot
from ledger.findings import (
    FINDINGS_MAX,
    PROGRESS_ROWS,
    REBUILD,
    SALVAGE,
    Check,
    Finding,
    Report,
    Severity,
    damage,
    note,
    silent,
    warning,
)
from ledger.fsck_entries import Entries, empty, place_of
from ledger.merkle import Frontier, leaf_hash
from ledger.salvage import last_row, readable_rows, tolerant
from ledger.store import Store, vouches

CHUNK_BYTES = 2**16


def fsck(store: Store, *, rebuild: bool = False, progress: Report = silent) -> Iterator[Finding]:
    """Check everything; with `rebuild`, mend before what follows from the envelopes alone, and drop spoilt blobs.

    `rebuild` makes derived tables and all indexes anew, in one transaction, and does not where entries are lost: then
    the old tables are the only trace of them. Nothing may be added to this `store` meanwhile; other processes may add.
    """
    findings: Counter[tuple[Severity, Check]] = Counter()
    for found in _checks(store, rebuild, progress):
        findings[found.severity, found.check] += 1
        if findings[found.severity, found.check] <= FINDINGS_MAX:
            yield found
    for (severity, check), count in findings.items():
        if count > FINDINGS_MAX:
            yield Finding(severity=severity, check=check, where="…", what=f"and {count - FINDINGS_MAX} more like these")


def _checks(store: Store, rebuild: bool, progress: Report) -> Iterator[Finding]:
    with tolerant(store.db):
        if rebuild:
            yield from _read("tables", _rebuild(store))
        yield from _read("entry_text", _search_index(store))
        yield from _read("blobs", _blobs(store, progress, remove=rebuild))
        with snapshot(store):
            yield from _read("pages", _file(store.db))
            yield from _read("sqlite_schema", _schema(store.db))
            entries = Entries(store, progress)
            yield from _read("entries", entries.check())
            yield from _read("refused", _refused(store))
            yield from _read("revocations", _revocations(store))
            if entries.sound:
                yield from _read("checkpoints", _checkpoints(store))


def _read(what: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings of a check, the last one that it could not read on, if that is so."""
    try:
        yield from findings
    except (sqlite3.DatabaseError, BadStatement) as error:
        yield damage("file", what, f"cannot be read ({error})", SALVAGE)


def _rebuild(store: Store) -> Iterator[Finding]:
    lost = """SELECT author, feed FROM feeds AS f WHERE id NOT IN (SELECT id FROM entries NOT INDEXED) AND NOT EXISTS
                  (SELECT 1 FROM entries NOT INDEXED WHERE author = f.author AND feed = f.feed AND seq >= f.seq)"""
    for author, feed in store.db.execute(lost):
        yield damage("feed", f"{author}/{feed}", "its end is lost, so nothing was rebuilt", SALVAGE)
        return
    with tables.transaction(store.db):
        tables.drop(store.db)
        for statement in tables.script("truth.sql"):
            store.db.execute(statement)
        store.db.execute("REINDEX")
        tables.rebuild(store.db)


def _search_index(store: Store) -> Iterator[Finding]:
    try:
        with tables.transaction(store.db):  # FTS5 has its check in the form of an insertion, which writes nothing
            store.db.execute("INSERT INTO entry_text (entry_text) VALUES ('integrity-check')")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname.startswith(("SQLITE_READONLY", "SQLITE_BUSY")):
            yield note("search", "entry_text", f"was not checked, which takes the right to write ({error})")
        else:
            yield damage("search", "entry_text", f"the index for full-text search is wrong ({error})", REBUILD)


def _file(database: Database) -> Iterator[Finding]:
    remedy = f"{REBUILD} mends indexes. If it is still found after that: {SALVAGE}"
    for (line,) in database.execute(f"PRAGMA integrity_check({FINDINGS_MAX})"):
        if line != "ok":
            yield damage("file", "pages", line, remedy)
    broken: Counter[tuple[str, str]] = Counter()
    for table, _, parent, _ in database.execute("PRAGMA foreign_key_check"):
        broken[table, parent] += 1
    for (table, parent), count in broken.items():
        yield damage("file", table, f"{count} rows name rows of {parent} that are not there", remedy)


def _schema(database: Database) -> Iterator[Finding]:
    """Whether tables, indexes and views are those that this version makes."""
    with closing(empty()) as fresh:
        expected, found = _definitions(fresh), _definitions(database)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            yield damage("schema", name, "is missing", REBUILD)
        elif name not in expected:
            what = "is nothing that Waggle makes; --rebuild removes tables and views that are not its own"
            yield note("schema", name, what)
        elif found[name] != expected[name]:
            yield damage("schema", name, "is defined in another way than this version does", f"{REBUILD}, or {SALVAGE}")


def _definitions(database: Database) -> dict[str, str]:
    """By name, without comments and layout, in which older versions differed."""
    sql = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
    return {name: " ".join(re.sub(r"--[^\n]*", "", text).split()) for name, text in database.execute(sql)}


def _refused(store: Store) -> Iterator[Finding]:
    columns = ("id", "author", "feed", "seq", "reason", "envelope")
    for rowid, *place, reason, envelope in readable_rows(store.db, "refused", columns):
        author, feed, seq = place[1:]
        where = f"{author}/{feed}/{seq}"
        try:
            signed = open_kept(envelope)
        except BadStatement as error:
            yield damage("refused", where, f"the refused envelope in row {rowid} does not open: {error}", SALVAGE)
            continue
        if list(place_of(signed)[:4]) != place:
            yield damage("refused", where, f"row {rowid} says another place than was signed", SALVAGE)
        elif reason == "revoked":
            if all(vouches(row, feed, seq, signed.id) for row in store.revocations(author)):
                what = f"{signed.id} is refused, and no revocation of its author that is here says so"
                yield warning("author", where, what)
        else:
            sql = "SELECT id FROM entries WHERE author = ? AND feed = ? AND seq = ?"
            believed = store.db.execute(sql, (author, feed, seq)).fetchone()
            if believed is None or believed[0] == signed.id:
                what = f"{signed.id} is refused as a second entry, and there is no first"
                yield damage("refused", where, what, SALVAGE)
            else:
                what = f"its author signed {believed[0]} and {signed.id} for one place, and nothing more of it is taken"
                yield warning("author", where, what)


def _revocations(store: Store) -> Iterator[Finding]:
    for (author,) in store.db.execute("SELECT DISTINCT author FROM revocations"):
        for feed in store.feeds(author):
            head = store.head(author, feed)
            if head and not all(vouches(row, feed, head.seq, head.id) for row in store.revocations(author)):
                what = f"entry {head.seq} is believed, and its author has revoked its key before it"
                yield damage("revocation", f"{author}/{feed}", what, SALVAGE)


def _checkpoints(store: Store) -> Iterator[Finding]:
    """Whether the trees that authors signed are those of their feeds."""
    for author, feed in store.db.execute("SELECT DISTINCT author, feed FROM checkpoints"):
        sql = "SELECT envelope FROM entries WHERE author = ? AND feed = ? ORDER BY seq"
        envelopes = store.db.execute(sql, (author, feed))
        tree = Frontier()
        sql = "SELECT id, size, note FROM checkpoints WHERE author = ? AND feed = ? ORDER BY size"
        for checkpoint_id, size, text in store.db.execute(sql, (author, feed)):
            while tree.size < size and (row := envelopes.fetchone()) is not None:
                tree = tree.append(leaf_hash(payload_of(row[0])))
            where = f"{author}/{feed}"
            if tree.size < size:
                yield note("reference", where, f"has {tree.size} entries here, and its author signed a tree of {size}")
                break
            if open_checkpoint(text, public_key(author)).root != tree.root():
                what = f"checkpoint {checkpoint_id} is not of this feed: its author has signed another history"
                yield warning("checkpoint", where, what)


def _blobs(store: Store, progress: Report, *, remove: bool) -> Iterator[Finding]:
    total = last_row(store.db, "blobs")
    for rowid, digest, size in readable_rows(store.db, "blobs", ("digest", "size")):
        if rowid % PROGRESS_ROWS == 0:
            progress("blobs", rowid, total)
        fault = _blob_fault(store.db, rowid, digest, size)
        if fault is not None and remove:
            with tables.transaction(store.db):
                store.db.execute("DELETE FROM blobs WHERE rowid = ?", (rowid,))
            yield note("blob", digest, f"{fault}: removed, peers may send it again")
        elif fault is not None:
            yield damage("blob", digest, fault, f"{REBUILD} removes it, and peers may send it again")


def _blob_fault(database: Database, rowid: int, digest: str, size: int) -> str | None:
    """What is wrong with a blob; at most CHUNK_BYTES of it are in memory."""
    total, length = hashlib.sha256(), 0
    try:
        with database.conn.blobopen("blobs", "data", rowid, readonly=True) as stored:
            reader = zstandard.ZstdDecompressor().stream_reader(cast(IO[bytes], stored))
            while length <= BLOB_BYTES_MAX and (chunk := reader.read(CHUNK_BYTES)):
                total.update(chunk)
                length += len(chunk)
    except (zstandard.ZstdError, sqlite3.DatabaseError) as error:
        return f"cannot be read ({error})"
    if length > BLOB_BYTES_MAX:
        return f"has more than {BLOB_BYTES_MAX} bytes"
    if total.hexdigest() != digest:
        return "is not the bytes that its digest names"
    return None if length == size else f"has {length} bytes, and its row says {size}"
