"""New ledger files, and older ones brought to the present schema.

`truth.sql` is migrated step by step; the tables of `derived.sql` are dropped and made anew from the envelopes. Either
all of it happens, in one transaction, or the file stays as it was. A change of either file raises the version, and
tests/ledger/schemas/ keeps the schema of every older one.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlite_utils import Database

from ledger import tables

SCHEMA_VERSION = 3

# From version n to n + 1; what is missing afterwards is made by truth.sql, whose statements leave alone what is there.
_STEPS: dict[int, tuple[str, ...]] = {
    1: ("DROP INDEX entries_by_clock", "DROP INDEX entries_by_subject"),
    2: (
        "ALTER TABLE entries RENAME TO entries_of_2",
        """CREATE TABLE entries (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            author TEXT NOT NULL,
            feed TEXT NOT NULL,
            seq INTEGER NOT NULL,
            prev TEXT,
            lamport INTEGER NOT NULL,
            kind TEXT NOT NULL,
            subject TEXT NOT NULL,
            recorded_at TEXT NOT NULL,
            envelope BLOB NOT NULL,
            UNIQUE (author, feed, seq)
        ) STRICT""",
        """INSERT INTO entries
           SELECT rowid, id, author, feed, seq, prev, lamport, kind, subject, recorded_at, envelope
           FROM entries_of_2 ORDER BY rowid""",
        "DROP TABLE entries_of_2",
    ),
}


def create(path: Path, challenge: str) -> None:
    """Write an empty ledger of the swarm `challenge` (hex digest) to a new file.

    It is whole in that file before there is a write-ahead log, which would stay behind when the file is renamed.
    """
    with closing(Database(sqlite3.connect(path), execute_plugins=False)) as database:
        with tables.transaction(database):
            for name in ("truth.sql", "derived.sql"):
                for statement in tables.script(name):
                    database.execute(statement)
            database.execute("INSERT INTO about VALUES (?)", (challenge,))
            database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        database.execute("PRAGMA journal_mode = WAL")


def version(database: Database) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def migrate(database: Database) -> None:
    """Bring a ledger of an older version to the present one; several processes may try at once."""
    # Where references are enforced, a table to which others refer cannot be replaced (https://sqlite.org/lang_altertable.html,
    # section 7), and this setting cannot be changed within the transaction.
    database.execute("PRAGMA foreign_keys = OFF")
    try:
        with tables.transaction(database):
            tables.drop(database)
            for step in range(version(database), SCHEMA_VERSION):
                for statement in _STEPS[step]:
                    database.execute(statement)
            for statement in tables.script("truth.sql"):
                database.execute(statement)
            tables.rebuild(database)
            database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    finally:
        database.execute("PRAGMA foreign_keys = ON")
