"""What the gate and the constitution are decided by: statements of their kinds, and what a node itself has done."""

import json
from collections.abc import Collection, Iterator

from msgspec import Struct

from ledger.envelope import read_unchecked
from ledger.predicates import GateState, Trial, Verdict
from ledger.store import Store


class GateRow(Struct, frozen=True):
    """What a node said last of its gate."""

    id: str
    state: GateState
    commanded: bool
    reason: str
    constitution: str  # whose rules say so, SHA-256
    recorded_at: str


class MotionRow(Struct, frozen=True):
    """An amendment, proposed or ratified."""

    lamport: int
    id: str
    author: str
    constitution: str
    previous: str
    proposal: str | None
    reason: str


class SuccessionRow(Struct, frozen=True):
    """A key that was revoked in favour of another."""

    lamport: int
    id: str
    author: str
    successor: str


class OwnTrial(Struct, frozen=True):
    """What a trial of one's own cost and came to."""

    recorded_at: str  # RFC 3339, UTC
    wall_s: float
    ok: bool


class VerdictPair(Struct, frozen=True):
    """Two verdicts on one discovery: one's own and that of another, who did not make the discovery."""

    discovery: str
    own: Verdict
    author: str
    other: Verdict


def last_gate(store: Store, author: str) -> GateRow | None:
    """The author's last statement of its gate's state."""
    sql = """SELECT g.id, g.state, g.commanded, g.reason, e.subject, e.recorded_at
             FROM entries AS e JOIN gates AS g USING (id)
             WHERE e.kind = 'gate' AND e.author = ? ORDER BY e.lamport DESC, e.id DESC LIMIT 1"""
    row = store.db.execute(sql, (author,)).fetchone()
    return None if row is None else GateRow(row[0], row[1], bool(row[2]), *row[3:])


def motions(store: Store, authors: Collection[str]) -> list[MotionRow]:
    """Every amendment by one of these authors, in causal order."""
    sql = """SELECT e.lamport, a.id, a.author, a.constitution, a.previous, a.proposal, a.reason
             FROM amendments AS a JOIN entries AS e USING (id)
             WHERE a.author IN (SELECT value FROM json_each(?)) ORDER BY e.lamport, a.id"""
    return [MotionRow(*row) for row in store.db.execute(sql, (json.dumps(sorted(authors)),))]


def successions(store: Store) -> list[SuccessionRow]:
    """Every key that was revoked in favour of another, in causal order."""
    sql = """SELECT e.lamport, r.id, r.author, r.successor FROM revocations AS r JOIN entries AS e USING (id)
             WHERE r.successor IS NOT NULL ORDER BY e.lamport, r.id"""
    return [SuccessionRow(*row) for row in store.db.execute(sql)]


def equivocators(store: Store) -> frozenset[str]:
    """Who signed two histories, by proof."""
    sql = "SELECT DISTINCT author FROM refused WHERE reason = 'equivocation'"
    return frozenset(row[0] for row in store.db.execute(sql))


def own_trials(store: Store, author: str, after_lamport: int, since: str) -> Iterator[tuple[int, OwnTrial]]:
    """With their Lamport times, the author's trials after one such time and recorded since a time, the latest first.

    For an author's own ledger: its signatures are not checked again.
    """
    sql = """SELECT lamport, recorded_at, envelope FROM entries
             WHERE author = ? AND lamport > ? AND kind = 'trial' ORDER BY lamport DESC"""
    for lamport, recorded_at, envelope in store.db.execute(sql, (author, after_lamport)):
        if recorded_at < since:
            return
        body = read_unchecked(envelope).statement.body
        if isinstance(body, Trial):
            yield lamport, OwnTrial(recorded_at, body.result.wall_s, body.result.status == "ok")


def adoptions_after(store: Store, author: str, lamport: int) -> int:
    """How many discoveries the author has adopted after a Lamport time."""
    sql = """SELECT count(*) FROM entries AS e JOIN adoptions AS a USING (id)
             WHERE e.author = ? AND e.lamport > ? AND a.discovery IS NOT NULL"""
    return int(store.db.execute(sql, (author, lamport)).fetchone()[0])


def verdict_pairs(store: Store, author: str, since: str) -> list[VerdictPair]:
    """The author's verdicts recorded since a time, each beside each verdict of others on the same discovery.

    Inconclusive ones contradict nothing and are left out; so is who judged a discovery of its own.
    """
    sql = """SELECT mine.discovery, mine.verdict, other.author, other.verdict
             FROM entries AS e JOIN attestations AS mine USING (id)
             JOIN attestations AS other ON other.discovery = mine.discovery AND other.author <> mine.author
             JOIN discoveries AS d ON d.id = mine.discovery AND d.author <> other.author
             WHERE e.author = ? AND e.kind = 'attestation' AND e.recorded_at >= ?
                 AND mine.verdict <> 'inconclusive' AND other.verdict <> 'inconclusive'
             ORDER BY mine.discovery, other.author"""
    return [VerdictPair(*row) for row in store.db.execute(sql, (author, since))]
