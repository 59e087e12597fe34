"""Rows of the ledger's tables as records, and the questions that a node asks while it works.

What a statement says is its author's word. Two counts go beyond it: a discovery is *confirmed* by every other node
whose verdict says so and which has not retracted since, and *retracted* if its own author took it back. Anybody else's
retraction changes nothing, or a stranger could mark what is not theirs.
"""

import json
from collections.abc import Collection
from typing import Any

from msgspec import Struct

from ledger.predicates import Claim, Trial, Verdict
from ledger.store import Store


class DiscoveryRow(Struct, frozen=True):
    """A discovery as claimed, and what became of it in this ledger."""

    id: str
    author: str
    track: str
    parent: str  # program, SHA-256
    child: str
    hypothesis: str
    proposer: str
    pairs: int
    mean: float  # bits per byte, child - parent; negative is better
    low: float  # 95 % interval
    high: float
    lamport: int
    recorded_at: str
    confirmed: int  # by how many nodes other than the author that have not retracted since
    refuted: int  # by how many nodes other than the author
    adopted: int  # by how many nodes, the author among them
    retracted: bool  # by its author


class AttestationRow(Struct, frozen=True):
    """Somebody's verdict on a discovery."""

    id: str
    author: str
    verdict: Verdict
    reason: str
    pairs: int
    mean: float | None
    low: float | None
    high: float | None
    hardware: str | None  # None while the trial that tells has not arrived
    lamport: int
    recorded_at: str


class AdoptionRow(Struct, frozen=True):
    """Somebody's decision to build on a program."""

    id: str
    author: str
    program: str
    previous: str | None
    discovery: str | None
    reason: str
    recorded_at: str


class RetractionRow(Struct, frozen=True):
    """Somebody believes a discovery no more."""

    id: str
    author: str
    reason: str
    mean: float | None
    low: float | None
    high: float | None
    lamport: int
    recorded_at: str


class TrialRow(Struct, frozen=True):
    """One run of a program, as its author recorded it."""

    id: str
    author: str
    program: str
    track: str
    seed: int
    split: str
    status: str
    val_bpb: float | None
    budget_used_s: float
    hardware: str
    lamport: int


_CONFIRMED = """SELECT count(DISTINCT a.author) FROM attestations AS a
    WHERE a.discovery = d.id AND a.verdict = 'confirmed' AND a.author <> d.author AND NOT EXISTS
        (SELECT 1 FROM retractions AS r WHERE r.discovery = d.id AND r.author = a.author)"""
_REFUTED = """SELECT count(DISTINCT author) FROM attestations
    WHERE discovery = d.id AND verdict = 'refuted' AND author <> d.author"""
_RETRACTED = "SELECT 1 FROM retractions WHERE discovery = d.id AND author = d.author"

DISCOVERIES = f"""
    SELECT d.id, d.author, d.track, d.parent, d.child, d.hypothesis, d.proposer, d.pairs, d.mean, d.low, d.high,
        e.lamport, e.recorded_at, ({_CONFIRMED}) AS confirmed, ({_REFUTED}) AS refuted,
        (SELECT count(DISTINCT author) FROM adoptions WHERE discovery = d.id) AS adopted,
        EXISTS ({_RETRACTED}) AS retracted
    FROM discoveries AS d JOIN entries AS e USING (id)"""
"""SQL for the columns of `DiscoveryRow`; what follows can name `d` and `e`."""


def discovery_row(columns: dict[str, Any]) -> DiscoveryRow:
    """From a row of `DISCOVERIES`."""
    return DiscoveryRow(**{**columns, "retracted": bool(columns["retracted"])})


def discoveries(store: Store, where: str = "true", values: dict[str, Any] | None = None) -> list[DiscoveryRow]:
    """Discoveries that meet an SQL condition over the columns of `discoveries` (as `d`), in causal order."""
    sql = f"{DISCOVERIES} WHERE {where} ORDER BY e.lamport, d.id"
    return [discovery_row(row) for row in store.db.query(sql, values or {})]


def discovery(store: Store, discovery_id: str) -> DiscoveryRow | None:
    """One discovery by its full id."""
    return next(iter(discoveries(store, "d.id = :id", {"id": discovery_id})), None)


def attestations(store: Store, discovery_id: str) -> list[AttestationRow]:
    """Every verdict on a discovery, in causal order."""
    sql = """SELECT a.id, a.author, a.verdict, a.reason, a.pairs, a.mean, a.low, a.high,
                 (SELECT hardware FROM trials WHERE id = a.trial) AS hardware, e.lamport, e.recorded_at
             FROM attestations AS a JOIN entries AS e USING (id) WHERE discovery = ? ORDER BY e.lamport, a.id"""
    return [AttestationRow(**row) for row in store.db.query(sql, (discovery_id,))]


def retractions(store: Store, discovery_id: str) -> list[RetractionRow]:
    """Every retraction of a discovery, whoever it is by, in causal order."""
    sql = """SELECT r.id, r.author, r.reason, r.mean, r.low, r.high, e.lamport, e.recorded_at
             FROM retractions AS r JOIN entries AS e USING (id) WHERE discovery = ? ORDER BY e.lamport, r.id"""
    return [RetractionRow(**row) for row in store.db.query(sql, (discovery_id,))]


def adoptions(store: Store, discovery_id: str) -> list[AdoptionRow]:
    """Who adopted a discovery, in causal order."""
    return _adoptions(store, "discovery = :id", {"id": discovery_id})


def last_adoption(store: Store, author: str, track: str) -> AdoptionRow | None:
    """What an author builds on in a track: its latest adoption."""
    made = _adoptions(store, "a.author = :author AND track = :track", {"author": author, "track": track})
    return made[-1] if made else None


def _adoptions(store: Store, where: str, values: dict[str, Any]) -> list[AdoptionRow]:
    sql = f"""SELECT a.id, a.author, program, previous, discovery, reason, recorded_at
              FROM adoptions AS a JOIN entries USING (id) WHERE {where} ORDER BY lamport, a.id"""
    return [AdoptionRow(**row) for row in store.db.query(sql, values)]


_TRIAL = """e.id, e.author, e.subject AS program, t.track, t.seed, t.split, t.status, t.val_bpb, t.budget_used_s,
    t.hardware, e.lamport"""


def trials(store: Store, author: str, program: str, split: str) -> list[TrialRow]:
    """An author's trials of a program on a split, in the order in which they were run."""
    # "+": an author has more trials than a program.
    sql = f"""SELECT {_TRIAL} FROM entries AS e CROSS JOIN trial_results AS t ON t.entry = e.number
              WHERE +e.author = ? AND e.subject = ? AND t.split = ? ORDER BY e.seq"""
    return [TrialRow(**row) for row in store.db.query(sql, (author, program, split))]


def runs_of(store: Store, author: str) -> list[TrialRow]:
    """All trials of an author, in the order in which they were run."""
    sql = f"""SELECT {_TRIAL} FROM entries AS e JOIN trial_results AS t ON t.entry = e.number
              WHERE e.author = ? ORDER BY e.lamport"""
    return [TrialRow(**row) for row in store.db.query(sql, (author,))]


def incumbents(store: Store, author: str, track: str) -> list[tuple[int, str]]:
    """What an author built on in a track: Lamport times of its adoptions, ascending, and their programs."""
    sql = """SELECT lamport, program FROM adoptions AS a JOIN entries USING (id)
             WHERE a.author = ? AND track = ? ORDER BY lamport"""
    return [(int(row[0]), str(row[1])) for row in store.db.execute(sql, (author, track))]


def claimed(store: Store, author: str, program: str) -> Claim | None:
    """What an author said of a program before trying it, the last if it did so more than once."""
    sql = """SELECT id FROM entries WHERE author = ? AND kind = 'claim' AND subject = ?
             ORDER BY lamport DESC LIMIT 1"""
    row = store.db.execute(sql, (author, program)).fetchone()
    signed = None if row is None else store.entry(str(row[0]))
    return signed.statement.body if signed is not None and isinstance(signed.statement.body, Claim) else None


def trials_by_id(store: Store, ids: Collection[str]) -> dict[str, TrialRow]:
    """Those of the trials that are here, by id."""
    sql = f"""SELECT {_TRIAL} FROM json_each(?) AS named CROSS JOIN entries AS e ON e.id = named.value
              CROSS JOIN trial_results AS t ON t.entry = e.number"""
    return {row["id"]: TrialRow(**row) for row in store.db.query(sql, (json.dumps(list(ids)),))}


def programs_tried(store: Store, track: str | None = None) -> list[str]:
    """Every program that a trial, in one track or any, is about and whose text is here."""
    in_track = "" if track is None else "AND track = :track"
    sql = f"SELECT digest FROM blobs WHERE EXISTS (SELECT 1 FROM trials WHERE program = digest {in_track})"
    return [row[0] for row in store.db.execute(sql, {"track": track})]


def program_size(store: Store, digest: str) -> int | None:
    """Bytes of the text with this SHA-256; None if it is not here."""
    row = store.db.execute("SELECT size FROM blobs WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else int(row[0])


def trial(store: Store, trial_id: str) -> tuple[str, Trial] | None:
    """The program and the full record of one trial; None if no such trial is here."""
    signed = store.entry(trial_id)
    if signed is None or not isinstance(signed.statement.body, Trial):
        return None
    return signed.statement.subject, signed.statement.body


def unattested(store: Store, author: str) -> list[DiscoveryRow]:
    """Discoveries of others on which `author` has given no verdict yet, in causal order."""
    where = "d.author <> :me AND NOT EXISTS (SELECT 1 FROM attestations WHERE discovery = d.id AND author = :me)"
    return discoveries(store, where, {"me": author})


def program_known(store: Store, program: str) -> bool:
    """Whether some discovery in the ledger has this program as its child."""
    return store.db.execute("SELECT 1 FROM discoveries WHERE child = ?", (program,)).fetchone() is not None
