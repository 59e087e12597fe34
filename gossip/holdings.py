"""What a ledger holds, kept in memory for comparing it with others: the shell around summary.py.

Reading all heads for every question of every peer would cost a large ledger more than everything else that it does. So
they are read once, and then only what has changed: entries are only ever added, apart from those that a revocation
takes back, which is itself an entry by the same author. Whoever wrote, this process or another, it shows in the
greatest row numbers.
"""

from collections.abc import Sequence

from gossip.summary import Summary
from ledger.feed import Head
from ledger.store import Store

_NOTHING = (0, 0)


class Holdings:
    """The feeds of `store`, from the thread that uses it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._summary = Summary()
        self._rows = _NOTHING  # greatest row numbers in `entries` and `refused` that the summary knows of

    def summary(self) -> Summary:
        """What the ledger holds now. The object is the same each time, and changes with the next call."""
        tables = ("entries", "refused")
        rows = tuple(self._query(f"SELECT coalesce(max(rowid), 0) FROM {table}")[0][0] for table in tables)
        if rows == self._rows:
            return self._summary
        if self._rows == _NOTHING or rows < self._rows:  # the first time; or the rows were numbered anew
            banned = self._query("SELECT author FROM refused WHERE reason = 'equivocation'")
            self._summary = Summary(self._store.heads(), {author for (author,) in banned})
        else:
            sql = "SELECT author FROM entries WHERE rowid > ? UNION SELECT author FROM refused WHERE rowid > ?"
            for (author,) in self._query(sql, *self._rows):
                feeds = self._query("SELECT feed, seq, id, lamport FROM feeds WHERE author = ?", author)
                heads = {feed: Head(*head) for feed, *head in feeds}
                self._summary.replace(author, heads, banned=self._store.is_banned(author))
        self._rows = rows
        return self._summary

    def envelopes(self, author: str, feed: str, from_seq: int, bytes_max: int) -> list[bytes]:
        """See `Store.envelopes`."""
        return self._store.envelopes(author, feed, from_seq, bytes_max)

    def proof(self, author: str) -> tuple[bytes, bytes] | None:
        """Two envelopes that `author` signed for one place, if the ledger has such."""
        sql = """SELECT e.envelope, r.envelope FROM refused AS r JOIN entries AS e USING (author, feed, seq)
                 WHERE r.author = ? AND reason = 'equivocation'"""
        found = self._query(sql, author)
        return (found[0][0], found[0][1]) if found else None

    def _query(self, sql: str, *values: object) -> Sequence[tuple]:  # type: ignore[type-arg]
        return self._store.db.execute(sql, values).fetchall()
