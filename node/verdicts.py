"""Discoveries with what each node last said of them, kept in memory as the ledger grows.

For whoever asks about all of them before every proposal: after the first reading only what has arrived since is read.
"""

import json
from collections.abc import Collection
from typing import NamedTuple

from ledger import queries
from ledger.queries import AttestationRow, DiscoveryRow, arrivals
from ledger.store import Store

DISCOVERIES_MAX = 2_000  # the latest that this node made or judged, and as many of others', of all tracks


class Judged(NamedTuple):
    """A discovery that its author has not taken back, and the last word of each other node on it."""

    row: DiscoveryRow
    said: dict[str, AttestationRow]  # by author, in causal order; without those taken back


class Verdicts:
    """The latest discoveries of a ledger. Those of authors who signed two histories, and their words, are left out."""

    def __init__(self, store: Store, me: str) -> None:
        """`me`: this node's peer id."""
        self._store, self._me = store, me
        self._number = self._refused = -1
        self._known: dict[str, Judged] = {}

    def update(self) -> bool:
        """Read what is new; whether that is a discovery, a verdict on one, a retraction or an adoption."""
        number = arrivals.newest(self._store)
        refused = int(self._store.db.execute("SELECT count(*) FROM refused").fetchone()[0])
        before, self._number = self._number, number
        if before < 0 or refused != self._refused:  # a revocation removes entries, and frees their numbers
            self._refused = refused
            self._known = judged(self._store, _latest(self._store, self._me))
            return True
        if number == before:
            return False
        news = {row.id for row in arrivals.claims_since(self._store, before)}
        news |= {row.discovery for row in arrivals.verdicts_since(self._store, before)}
        news |= {row.discovery for row in arrivals.taken_back_since(self._store, before)}
        if news:
            fresh = judged(self._store, news)
            kept = {name: one for name, one in self._known.items() if name not in news} | fresh
            self._known = self._bounded(kept)
            return True
        sql = "SELECT 1 FROM entries WHERE number > ? AND kind = 'adoption' LIMIT 1"
        return self._store.db.execute(sql, (before,)).fetchone() is not None

    def _bounded(self, known: dict[str, Judged]) -> dict[str, Judged]:
        """A flood of others' discoveries does not push out what this node knows by own runs."""
        order = sorted(known.values(), key=lambda one: (one.row.lamport, one.row.id))
        near = [one for one in order if self._me == one.row.author or self._me in one.said][-DISCOVERIES_MAX:]
        mine = {one.row.id for one in near}
        others = {one.row.id for one in [one for one in order if one.row.id not in mine][-DISCOVERIES_MAX:]}
        return {one.row.id: one for one in order if one.row.id in mine | others}

    def all(self) -> Collection[Judged]:
        """In causal order, as of the last `update`."""
        return self._known.values()

    def get(self, discovery: str) -> Judged | None:
        """One by its id."""
        return self._known.get(discovery)


def _latest(store: Store, me: str) -> set[str]:
    values = {"me": me, "limit": DISCOVERIES_MAX}
    latest = "SELECT {} FROM entries AS e {} WHERE e.kind = '{}' {} ORDER BY e.lamport DESC, e.id DESC LIMIT :limit"
    by_me = "AND e.author = :me"
    asked = (
        latest.format("e.id", "", "discovery", ""),
        latest.format("e.id", "", "discovery", by_me),
        latest.format("a.discovery", "JOIN attestations AS a USING (id)", "attestation", by_me),
    )
    return {str(row[0]) for sql in asked for row in store.db.execute(sql, values)}


def judged(store: Store, ids: Collection[str]) -> dict[str, Judged]:
    """The named discoveries that stand, by id, in causal order."""
    where = "d.id IN (SELECT value FROM json_each(:ids))"
    values = {"ids": json.dumps(sorted(ids))}
    banned = arrivals.equivocations(store).keys()
    rows = [row for row in queries.discoveries(store, where, values) if not row.retracted and row.author not in banned]
    named = json.dumps([row.id for row in rows])
    sql = "SELECT r.discovery, r.author FROM json_each(?) AS n CROSS JOIN retractions AS r ON r.discovery = n.value"
    gone = {(row[0], row[1]) for row in store.db.execute(sql, (named,))}
    found = {row.id: Judged(row, {}) for row in rows}
    for columns in store.db.query(_SAID, (named,)):
        about = columns.pop("discovery")
        author = columns["author"]
        if author != found[about].row.author and author not in banned and (about, author) not in gone:
            found[about].said.pop(author, None)
            found[about].said[author] = AttestationRow(**columns)
    return found


_SAID = """
    SELECT a.discovery, a.id, a.author, a.verdict, a.reason, a.pairs, a.mean, a.low, a.high,
        (SELECT hardware FROM trials WHERE id = a.trial) AS hardware, e.lamport, e.recorded_at
    FROM json_each(?) AS n CROSS JOIN attestations AS a ON a.discovery = n.value JOIN entries AS e ON e.id = a.id
    ORDER BY e.lamport, a.id"""
