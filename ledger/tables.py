"""Keeping the derived tables: writing rows, making all of them anew from the envelopes, and comparing them."""

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from sqlite3 import complete_statement
from typing import Any

import msgspec
from sqlite_utils import Database

from ledger.derived import TABLES, derive
from ledger.envelope import Signed, read_unchecked
from ledger.feed import Head


def script(name: str) -> Iterator[str]:
    """The statements of an SQL file of this package one by one: `executescript` would commit between them."""
    statement = ""
    for line in files("ledger").joinpath(name).read_text().splitlines(keepends=True):
        statement += line
        if complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def transaction(database: Database) -> Iterator[None]:
    """One transaction, which takes the writer's lock at its start; inside another one, a part of that."""
    if database.conn.in_transaction:
        yield
        return
    database.conn.execute("BEGIN IMMEDIATE")  # a lock that is taken later, after reading, cannot be waited for
    try:
        yield
    except BaseException:
        database.conn.rollback()
        raise
    try:
        database.conn.commit()
    except BaseException:
        database.conn.rollback()
        raise


_COLUMNS_OF_ENTRIES = ("id", "author", "program")  # which the view `trials` takes from there


def insert(database: Database, table: str, values: dict[str, Any]) -> None:
    database.execute(_insertion(table, tuple(values)), tuple(values.values()))


@functools.cache
def _insertion(table: str, columns: tuple[str, ...]) -> str:
    # Plain SQL: sqlite-utils' insert looks the schema up again for every row.
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def add(database: Database, signed: Signed, number: int) -> None:
    """Write what derives from an entry besides the head of its feed; `number` is that of its own row."""
    for row in derive(signed):
        if row.table == "trials":
            own = {column: value for column, value in row.values.items() if column not in _COLUMNS_OF_ENTRIES}
            insert(database, "trial_results", {"entry": number} | own)
        else:
            insert(database, row.table, row.values)


UPSERT_HEAD = """INSERT INTO feeds VALUES (?, ?, ?, ?, ?) ON CONFLICT (author, feed)
          DO UPDATE SET seq = excluded.seq, id = excluded.id, lamport = excluded.lamport"""


def set_head(database: Database, author: str, feed: str, head: Head) -> None:
    database.execute(UPSERT_HEAD, (author, feed, *head))


def remove(database: Database, signed: Signed) -> None:
    """Take back what `add` wrote."""
    for row in derive(signed):
        if row.table == "trials":
            sql = "DELETE FROM trial_results WHERE entry = (SELECT number FROM entries WHERE id = ?)"
        else:
            sql = f"DELETE FROM {row.table} WHERE id = ?"
        database.execute(sql, (signed.id,))


def rebuild(database: Database) -> None:
    """Make every derived table anew from the envelopes, in the caller's transaction. Signatures are not checked.

    So is `kind`, which is more than a URN once this version can read a type that an older one could not.
    """
    drop(database)
    for statement in script("derived.sql"):
        database.execute(statement)
    # In the order of arrival, so that pages are read and written one after the other.
    heads: dict[tuple[str, str], Head] = {}
    for number, envelope, kind in database.execute("SELECT number, envelope, kind FROM entries ORDER BY number"):
        signed = read_unchecked(envelope)
        entry = signed.statement.entry
        head = Head(entry.seq, signed.id, entry.lamport)
        heads[entry.author, entry.feed] = max(head, heads.get((entry.author, entry.feed), head))
        add(database, signed, number)
        if signed.statement.kind != kind:
            database.execute("UPDATE entries SET kind = ? WHERE number = ?", (signed.statement.kind, number))
    for (author, feed), head in heads.items():
        set_head(database, author, feed, head)
    merge_search(database)


def merge_search(database: Database) -> None:
    """Make one of the parts in which the index for full-text search was written."""
    database.execute("INSERT INTO entry_text (entry_text) VALUES ('optimize')")


def drop(database: Database) -> None:
    """Remove all that truth.sql does not have, of whatever version."""
    kept = {"about", "entries", "refused", "blobs", "peers", "peer_records", "peer_rules"}
    for kind in ("view", "table"):
        sql = "SELECT name, sql FROM sqlite_master WHERE type = ? ORDER BY sql NOT LIKE 'CREATE VIRTUAL%'"
        for name, _ in database.execute(sql, (kind,)).fetchall():
            if name not in kept and not name.startswith("sqlite_"):
                quoted = name.replace('"', '""')
                database.execute(f'DROP {kind} IF EXISTS "{quoted}"')


def digest(database: Database) -> str:
    """SHA-256 (hex) over all derived rows: equal for equal sets of entries, in whatever order they came."""
    total = hashlib.sha256()
    for table in TABLES:
        rows = sorted(msgspec.json.encode(row) for row in database.execute(f"SELECT * FROM {table}"))
        total.update(msgspec.json.encode([table, len(rows)]) + b"\n")
        for row in rows:
            total.update(row + b"\n")
    return total.hexdigest()
