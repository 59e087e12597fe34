"""The check of all entries: signatures, places, feeds, and the tables that derive from them.

Entries are read in the order in which they were written, in which every feed has its own order, row by row and without
an index, so that what can be read is checked however damaged the rest is. Memory grows with the number of feeds only.
"""

import hashlib
import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import msgspec
from sqlite_utils import Database

from ledger import tables
from ledger.derived import TABLES, derive
from ledger.envelope import Signed, open_kept
from ledger.errors import BadStatement
from ledger.export.selection import named_entries
from ledger.feed import Head
from ledger.findings import PROGRESS_ROWS, REBUILD, SALVAGE, Finding, Report, damage, note
from ledger.opening import open_all
from ledger.predicates import Discovery
from ledger.salvage import last_row, readable_rows
from ledger.store import Store


def empty() -> Database:
    """A ledger's tables as this version makes them, in memory."""
    database = Database(memory=True, execute_plugins=False)
    for name in ("truth.sql", "derived.sql"):
        for statement in tables.script(name):
            database.execute(statement)
    return database


class _Rows:
    """A table as a number of rows and the sum of their SHA-256: equal for equal rows, in whatever order."""

    def __init__(self, columns: list[str]) -> None:
        self.columns = columns
        self.rows = self.total = 0

    def add(self, row: tuple[Any, ...]) -> None:
        # SQLite knows no negative zero.
        normal = [value + 0.0 if isinstance(value, float) else value for value in row]
        self.rows += 1
        self.total += int.from_bytes(hashlib.sha256(msgspec.json.encode(normal)).digest())

    def same(self, other: "_Rows") -> bool:
        return self.rows == other.rows and self.total == other.total


class Place(NamedTuple):
    """What the columns of an entry's row say, and what its envelope says of the same."""

    id: str
    author: str
    feed: str
    seq: int
    prev: str | None
    lamport: int
    kind: str
    subject: str
    recorded_at: str


def place_of(signed: Signed) -> Place:
    statement, entry = signed.statement, signed.statement.entry
    chain = (entry.author, entry.feed, entry.seq, entry.prev, entry.lamport)
    return Place(signed.id, *chain, statement.kind, statement.subject, entry.recorded_at)


class _Missing(NamedTuple):
    times: int
    first: str  # what is missing, and where it is named


class Entries:
    """The check of all entries, of the feeds that they make up, and of what derives from them."""

    def __init__(self, store: Store, progress: Report) -> None:
        self.sound = False  # once checked: all that were ever here are, as far as can be known
        self._store, self._progress = store, progress
        self._ends: dict[tuple[str, str], Head] = {}
        self._missing: dict[str, _Missing] = {}
        with closing(empty()) as fresh:
            columns = {table: [row[1] for row in fresh.execute(f"PRAGMA table_info({table})")] for table in TABLES}
        self._derived = {table: _Rows(names) for table, names in columns.items()}

    def check(self) -> Iterator[Finding]:
        """May be read once."""
        found: Finding | None = None
        for found in itertools.chain(self._rows(), self._heads()):
            yield found
        self.sound = found is None
        if self.sound:
            yield from self._tables()
        for what, missing in self._missing.items():
            yield note("reference", missing.first, f"{missing.times} {what} that are named are not here, or not yet")

    def _rows(self) -> Iterator[Finding]:
        total = last_row(self._store.db, "entries")
        kept, again = itertools.tee(readable_rows(self._store.db, "entries", ("envelope", *Place._fields)))
        opened = open_all((row[1] for row in again), open_kept)
        for (rowid, _, *columns), signed in zip(kept, opened, strict=True):
            if rowid % PROGRESS_ROWS == 0:
                self._progress("entries", rowid, total)
            place = Place(*columns)
            where = f"{place.author}/{place.feed}/{place.seq}"
            if isinstance(signed, BadStatement):
                yield damage("entry", where, f"the envelope in row {rowid} does not open: {signed}", SALVAGE)
                yield from self._follow(place)
                continue
            signed_place = place_of(signed)
            if signed_place != place:
                triples = zip(Place._fields, signed_place, place, strict=True)
                wrong = ", ".join(name for name, there, here in triples if there != here)
                remedy = REBUILD if wrong == "kind" else SALVAGE
                yield damage("entry", where, f"row {rowid} says another {wrong} than was signed", remedy)
            if signed.statement.entry.challenge != self._store.challenge:
                yield damage("entry", where, "belongs to another challenge than this ledger", SALVAGE)
            yield from self._follow(signed_place)
            for row in derive(signed):
                rows = self._derived[row.table]
                rows.add(tuple(row.values.get(column) for column in rows.columns))
            self._look_for(signed)

    def _follow(self, place: Place) -> Iterator[Finding]:
        name = (place.author, place.feed)
        end = self._ends.get(name)
        expected = 0 if end is None else end.seq + 1
        if place.seq > expected:
            yield damage("feed", "/".join(name), f"entries {expected} to {place.seq - 1} are lost", SALVAGE)
        elif place.seq < expected:
            yield damage("feed", "/".join(name), f"entry {place.seq} stands after entry {expected - 1}", SALVAGE)
        elif end is not None and (place.prev != end.id or place.lamport <= end.lamport):
            yield damage("feed", "/".join(name), f"entry {place.seq} does not follow {end.id}", SALVAGE)
        self._ends[name] = Head(place.seq, place.id, place.lamport)

    def _heads(self) -> Iterator[Finding]:
        """Ends of feeds that are lost: the table of feeds was written together with them."""
        for (author, feed), head in self._store.heads().items():
            end = self._ends.get((author, feed))
            last = -1 if end is None else end.seq
            if head.seq > last and (end is None or head.id != end.id):
                yield damage("feed", f"{author}/{feed}", f"entries {last + 1} to {head.seq} are lost", SALVAGE)

    def _tables(self) -> Iterator[Finding]:
        for (author, feed), end in self._ends.items():
            self._derived["feeds"].add((author, feed, *end))
        for done, (table, expected) in enumerate(self._derived.items()):
            self._progress("derived tables", done, len(self._derived))
            found = _Rows(expected.columns)
            try:
                for row in self._store.db.execute(f"SELECT {', '.join(expected.columns)} FROM {table}"):
                    found.add(row)
            except sqlite3.DatabaseError as error:
                yield damage("derived", table, f"cannot be read ({error})", REBUILD)
                continue
            if not found.same(expected):
                counts = f"{found.rows} rows, where the envelopes give {expected.rows}"
                what = counts if found.rows != expected.rows else "rows that the envelopes do not give"
                yield damage("derived", table, f"has {what}", REBUILD)

    def _look_for(self, signed: Signed) -> None:
        for entry_id in named_entries(signed.statement.body):
            if not self._is_here(entry_id):
                self._miss("entries", f"{entry_id}, named by {signed.id}")
        if isinstance(signed.statement.body, Discovery):
            for program in (signed.statement.body.parent, signed.statement.subject):
                if not self._store.blobs.has(program):
                    self._miss("programs of discoveries", f"{program}, named by {signed.id}")

    def _is_here(self, entry_id: str) -> bool:
        return self._store.db.execute("SELECT 1 FROM entries WHERE id = ?", (entry_id,)).fetchone() is not None

    def _miss(self, what: str, where: str) -> None:
        known = self._missing.get(what, _Missing(0, where))
        self._missing[what] = known._replace(times=known.times + 1)
