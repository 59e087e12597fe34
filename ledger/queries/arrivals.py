"""What has arrived since a node last looked: claims, verdicts, what was taken back. For who keeps answers in memory.

Entries are numbered in the order of their arrival. A revocation removes some, and frees their numbers where they were
the last; so whoever reads on from a number begins anew once `refused` has changed.
"""

import json
from collections.abc import Collection
from typing import Any, TypeVar

from msgspec import Struct

from ledger.predicates import Verdict
from ledger.store import Store


class ClaimRow(Struct, frozen=True):
    """A discovery as claimed."""

    number: int  # of its arrival
    id: str
    author: str
    track: str
    parent: str  # program, SHA-256
    child: str
    hypothesis: str
    mean: float  # bits per byte, child - parent; negative is better
    low: float  # 95 % interval
    high: float


class VerdictRow(Struct, frozen=True):
    """Somebody's verdict on a discovery, which may not be here."""

    number: int
    lamport: int
    id: str
    author: str
    discovery: str
    verdict: Verdict
    reason: str
    mean: float | None
    low: float | None
    high: float | None


class TakenBack(Struct, frozen=True):
    """Somebody's retraction of a discovery, which may not be here."""

    number: int
    lamport: int
    id: str
    author: str
    discovery: str
    reason: str


class OwnAdoption(Struct, frozen=True):
    """What an author built on from a Lamport time on."""

    lamport: int
    id: str
    program: str
    discovery: str | None
    reason: str


class Spent(Struct, frozen=True):
    """What one run took."""

    budget_s: float  # in the track's unit
    split: str


Row = TypeVar("Row", ClaimRow, VerdictRow, TakenBack)


def newest(store: Store) -> int:
    """The number of the entry that arrived last; 0 in an empty ledger."""
    return int(store.db.execute("SELECT coalesce(max(number), 0) FROM entries").fetchone()[0])


def refused(store: Store) -> int:
    """How many entries are signed and not believed: it changes whenever entries are removed."""
    return int(store.db.execute("SELECT count(*) FROM refused").fetchone()[0])


def claims_since(store: Store, number: int) -> list[ClaimRow]:
    """Discoveries that arrived after an entry's number, in that order."""
    columns = "e.number, x.id, x.author, x.track, x.parent, x.child, x.hypothesis, x.mean, x.low, x.high"
    return _since(store, ClaimRow, columns, "discoveries", number)


def verdicts_since(store: Store, number: int) -> list[VerdictRow]:
    """Attestations that arrived after an entry's number, in that order."""
    columns = "e.number, e.lamport, x.id, x.author, x.discovery, x.verdict, x.reason, x.mean, x.low, x.high"
    return _since(store, VerdictRow, columns, "attestations", number)


def taken_back_since(store: Store, number: int) -> list[TakenBack]:
    """Retractions that arrived after an entry's number, in that order."""
    columns = "e.number, e.lamport, x.id, x.author, x.discovery, x.reason"
    return _since(store, TakenBack, columns, "retractions", number)


def _since(store: Store, kind: type[Row], columns: str, table: str, number: int) -> list[Row]:
    # "CROSS" fixes which is read first: all rows of the table at the start, later the few entries that are new.
    joined = f"{table} AS x CROSS JOIN entries AS e" if number <= 0 else f"entries AS e CROSS JOIN {table} AS x"
    sql = f"SELECT {columns} FROM {joined} ON e.id = x.id WHERE e.number > ? ORDER BY e.number"
    return [kind(*row) for row in store.db.execute(sql, (number,))]


def equivocations(store: Store) -> dict[str, tuple[str, ...]]:
    """Who signed two histories, with the ids of the entries that prove it."""
    found: dict[str, tuple[str, ...]] = {}
    sql = "SELECT author, id FROM refused WHERE reason = 'equivocation' ORDER BY author, id"
    for author, entry_id in store.db.execute(sql):
        found[author] = (*found.get(author, ()), entry_id)
    return found


def own_adoptions(store: Store, author: str, track: str) -> list[OwnAdoption]:
    """Everything that an author adopted in a track, oldest first."""
    sql = """SELECT e.lamport, a.id, a.program, a.discovery, a.reason FROM adoptions AS a JOIN entries AS e USING (id)
             WHERE a.author = ? AND a.track = ? ORDER BY e.lamport, a.id"""
    return [OwnAdoption(*row) for row in store.db.execute(sql, (author, track))]


def last_spent(store: Store, author: str, runs: int) -> list[Spent]:
    """What an author's last runs took, the latest first."""
    sql = """SELECT t.budget_used_s, t.split FROM entries AS e CROSS JOIN trial_results AS t ON t.entry = e.number
             WHERE e.author = ? ORDER BY e.lamport DESC LIMIT ?"""
    return [Spent(*row) for row in store.db.execute(sql, (author, runs))]


def entries_here(store: Store, ids: Collection[str]) -> set[str]:
    """Those of the ids whose entries are in the ledger."""
    return _here(store, "SELECT value FROM json_each(?) WHERE value IN (SELECT id FROM entries)", ids)


def blobs_here(store: Store, digests: Collection[str]) -> set[str]:
    """Those of the digests whose bytes are in the ledger."""
    return _here(store, "SELECT value FROM json_each(?) WHERE value IN (SELECT digest FROM blobs)", digests)


def _here(store: Store, sql: str, names: Collection[str]) -> set[str]:
    if not names:
        return set()
    found: Any = store.db.execute(sql, (json.dumps(list(names)),))
    return {str(row[0]) for row in found}
