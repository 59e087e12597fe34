"""What can still be read of a damaged ledger, row by row, and a new ledger made of it."""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from sqlite_utils import Database

from ledger.envelope import Signed, open_kept
from ledger.errors import BadStatement, LedgerError
from ledger.store import Store

ROWS_SKIPPED_MAX = 2**20  # an inner page of a table leads to a few thousand rows, the one above it to a million

_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_IOERR")


class Salvaged(NamedTuple):
    """What a new ledger was made of, and what was read and could not be used."""

    entries: int
    entries_left: int  # they do not open, or follow one that is lost
    blobs: int
    blobs_left: int  # they are not the bytes that their digest names


def salvage(store: Store, path: Path) -> Salvaged:
    """Write a new ledger to `path`: every entry that still opens and extends its feed, sound blobs, proofs and peers.

    Raises `LedgerError` if the file exists or cannot be written. An author must begin new feeds in it (`Author.reset`)
    before it writes, because nobody can tell here whether the ends of its old ones are lost.
    """
    entries = entries_left = blobs = blobs_left = 0
    with closing(Store.create(path, store.challenge)) as copy, tolerant(store.db):
        with copy.batch():
            for _, envelope in readable_rows(store.db, "entries", ("envelope",)):
                try:
                    entries += copy.add(open_kept(envelope))
                except BadStatement:
                    entries_left += 1
            for _, envelope in readable_rows(store.db, "refused", ("envelope",)):
                with suppress(BadStatement):
                    _refuse_again(copy, open_kept(envelope))
        for _, digest in readable_rows(store.db, "blobs", ("digest",)):
            try:
                copy.blobs.put(store.blobs.get(digest))
            except (LedgerError, sqlite3.DatabaseError):
                blobs_left += 1
            else:
                blobs += 1
        for _, peer, address in readable_rows(store.db, "peers", ("peer", "address")):
            copy.remember_peer(peer, address)
    return Salvaged(entries, entries_left, blobs, blobs_left)


def _refuse_again(copy: Store, signed: Signed) -> None:
    """Keep the second of two entries for one place as proof, if the first was kept; it must never stand in for it."""
    entry = signed.statement.entry
    head = copy.head(entry.author, entry.feed)
    if head is not None and head.seq >= entry.seq:
        copy.add(signed)  # raises `Equivocation`, and keeps it


@contextmanager
def tolerant(database: Database) -> Iterator[None]:
    """Lets text that is no UTF-8 any more be read in the block; it then differs from what it should be."""
    before = database.conn.text_factory
    database.conn.text_factory = lambda data: data.decode(errors="replace")
    try:
        yield
    finally:
        database.conn.text_factory = before


def last_row(database: Database, table: str) -> int:
    """The number of the last row of a table, as its pages or one of its indexes have it; 0 if neither can be read."""
    return max(_number(database, f"SELECT max({rowid}) FROM {table}") for rowid in ("rowid", "+rowid"))


def _number(database: Database, query: str) -> int:
    try:
        return int(database.conn.execute(query).fetchone()[0] or 0)
    except sqlite3.DatabaseError:
        return 0


def readable_rows(database: Database, table: str, columns: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """`rowid` and `columns` of every row that can be read, in the order in which they were written.

    Indexes are not used, and pages that cannot be read are passed over. A table that is missing has no rows.
    """
    if table not in database.table_names():
        return
    selection = f"SELECT rowid, {', '.join(columns)} FROM {table} NOT INDEXED WHERE rowid"
    last = 0
    while True:
        try:
            for row in database.conn.execute(f"{selection} > ? ORDER BY rowid", (last,)):
                last = max(last, row[0])
                yield row
            return
        except sqlite3.DatabaseError as error:
            if not getattr(error, "sqlite_errorname", _DAMAGE[0]).startswith(_DAMAGE):
                raise
            end = min(last_row(database, table) or sys.maxsize, last + ROWS_SKIPPED_MAX)
            found = _next_readable(database, f"{selection} = ?", range(last + 1, end + 1))
        if found is None:
            return
        last = found[0]
        yield found


def _next_readable(database: Database, selection: str, numbers: range) -> tuple[Any, ...] | None:
    for number in numbers:
        try:
            row: tuple[Any, ...] | None = database.conn.execute(selection, (number,)).fetchone()
        except sqlite3.DatabaseError:
            continue
        if row is not None:
            return row
    return None
