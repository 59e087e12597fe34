"""Questions to the ledger: what came of a discovery, where it came from, what was built on it.

Everything here reads; nothing judges. Answers are plain records that a terminal, a JSON writer or a page can show.
"""

from typing import Any

from msgspec import Struct

from ledger.errors import AmbiguousId, UnknownId
from ledger.predicates import Trial
from ledger.store import Store

ID_PREFIX_MIN = 8
LINEAGE_STEPS_MAX = 10_000  # a bound on what one question may walk, far above any real lineage


class LogLine(Struct, frozen=True):
    """One entry of the log."""

    id: str
    author: str
    feed: str
    seq: int
    lamport: int
    kind: str
    subject: str
    recorded_at: str
    summary: str


class DiscoveryRow(Struct, frozen=True):
    """A discovery as claimed, and what became of it in this ledger."""

    id: str
    author: str
    track: str
    parent: str
    child: str
    hypothesis: str
    proposer: str
    mean: float  # bits per byte, child - parent; negative is better
    low: float
    high: float
    lamport: int
    recorded_at: str
    confirmed: int  # by how many attestations of others
    refuted: int
    adopted: int  # by how many nodes, the author among them


class AttestationRow(Struct, frozen=True):
    """Somebody's verdict on a discovery."""

    id: str
    author: str
    verdict: str
    reason: str
    mean: float | None
    low: float | None
    high: float | None
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
    lamport: int


class Descendant(Struct, frozen=True):
    """A discovery built, over `depth` steps, on another one."""

    depth: int
    discovery: DiscoveryRow


def resolve(store: Store, prefix: str) -> str:
    """The full id that `prefix` (8 characters or more) begins. Raises `UnknownId` or `AmbiguousId`."""
    if len(prefix) < ID_PREFIX_MIN:
        raise UnknownId(
            f"{prefix!r} is too short: give at least {ID_PREFIX_MIN} characters of an id (see `ledger log`)"
        )
    # A range, not LIKE: it uses the index and has no wildcards to escape. Ids are lower-case base32, below "~".
    sql = "SELECT id FROM entries WHERE id >= ? AND id < ? ORDER BY id LIMIT 4"
    found = [row[0] for row in store.db.execute(sql, (prefix, prefix + "~"))]
    if not found:
        raise UnknownId(f"no entry of this ledger has an id that begins with {prefix!r} (see `ledger log`)")
    if len(found) > 1:
        listed = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        raise AmbiguousId(f"{prefix!r} is ambiguous: {listed}. Give more characters.")
    return str(found[0])


def log(store: Store, *, kind: str | None = None, author: str | None = None, limit: int = 50) -> list[LogLine]:
    """The last `limit` entries in causal order (Lamport time, then id), oldest first."""
    sql = """
        SELECT e.id, e.author, e.feed, e.seq, e.lamport, e.kind, e.subject, e.recorded_at,
            CASE e.kind
                WHEN 'trial' THEN t.status || coalesce(printf(' %.4f bpb', t.val_bpb), '') || ', seed ' || t.seed
                WHEN 'discovery' THEN printf('%+.4f bpb: ', d.mean) || d.hypothesis
                WHEN 'attestation' THEN a.verdict || coalesce(printf(' %+.4f bpb', a.mean), '')
                    || ': ' || substr(a.discovery, 1, 16)
                WHEN 'adoption' THEN o.reason
                ELSE 'of a type that this version does not know'
            END AS summary
        FROM (SELECT * FROM entries
              WHERE kind = coalesce(:kind, kind) AND author = coalesce(:author, author)
              ORDER BY lamport DESC, id DESC LIMIT :limit) AS e
            LEFT JOIN trials AS t USING (id) LEFT JOIN discoveries AS d USING (id)
            LEFT JOIN attestations AS a USING (id) LEFT JOIN adoptions AS o USING (id)
        ORDER BY e.lamport, e.id"""
    return [LogLine(**row) for row in store.db.query(sql, {"kind": kind, "author": author, "limit": limit})]


def discoveries(store: Store, where: str = "true", values: dict[str, Any] | None = None) -> list[DiscoveryRow]:
    """Discoveries that meet an SQL condition over the columns of `discoveries` (as `d`), in causal order."""
    sql = f"""
        SELECT d.id, d.author, d.track, d.parent, d.child, d.hypothesis, d.proposer, d.mean, d.low, d.high,
            e.lamport, e.recorded_at,
            (SELECT count(DISTINCT author) FROM attestations
             WHERE discovery = d.id AND verdict = 'confirmed' AND author <> d.author) AS confirmed,
            (SELECT count(DISTINCT author) FROM attestations
             WHERE discovery = d.id AND verdict = 'refuted' AND author <> d.author) AS refuted,
            (SELECT count(DISTINCT author) FROM adoptions WHERE discovery = d.id) AS adopted
        FROM discoveries AS d JOIN entries AS e USING (id) WHERE {where} ORDER BY e.lamport, d.id"""
    return [DiscoveryRow(**row) for row in store.db.query(sql, values or {})]


def discovery(store: Store, discovery_id: str) -> DiscoveryRow | None:
    """One discovery by its full id."""
    return next(iter(discoveries(store, "d.id = :id", {"id": discovery_id})), None)


def attestations(store: Store, discovery_id: str) -> list[AttestationRow]:
    """Every verdict on a discovery, in causal order."""
    sql = """SELECT a.id, a.author, verdict, reason, mean, low, high, recorded_at
             FROM attestations AS a JOIN entries USING (id) WHERE discovery = ? ORDER BY lamport, a.id"""
    return [AttestationRow(**row) for row in store.db.query(sql, (discovery_id,))]


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


def trials(store: Store, author: str, program: str, split: str) -> list[TrialRow]:
    """An author's trials of a program on a split, in the order in which they were run."""
    sql = """SELECT t.id, t.author, program, track, t.seed, split, status, val_bpb, lamport
             FROM trials AS t JOIN entries AS e USING (id)
             WHERE t.author = ? AND program = ? AND split = ? ORDER BY e.seq"""
    return [TrialRow(**row) for row in store.db.query(sql, (author, program, split))]


def programs_tried(store: Store) -> list[str]:
    """Every program that a trial is about and whose text is here."""
    sql = "SELECT DISTINCT program FROM trials WHERE program IN (SELECT digest FROM blobs)"
    return [row[0] for row in store.db.execute(sql)]


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


def ancestors(store: Store, discovery_id: str) -> list[DiscoveryRow]:
    """The chain of discoveries that leads from the baseline to this one, oldest first, itself last.

    Where several claims have the same program as their child, the chain follows the one that the next author
    adopted, else the one that most others confirmed, else the earliest: so nobody becomes an ancestor by claiming it.
    A cycle can be claimed, though not earned; it ends the walk.
    """
    found = discovery(store, discovery_id)
    chain: list[DiscoveryRow] = []
    seen: set[str] = set()
    while found is not None and found.child not in seen and len(chain) < LINEAGE_STEPS_MAX:
        chain.append(found)
        seen.add(found.child)
        found = _source(store, found)
    return chain[::-1]


def _source(store: Store, row: DiscoveryRow) -> DiscoveryRow | None:
    """The discovery through which the author of `row` came to its parent program."""
    made = discoveries(store, "d.child = :parent", {"parent": row.parent})
    if not made:
        return None
    adopted = _adoptions(store, "a.author = :me AND program = :parent", {"me": row.author, "parent": row.parent})
    own = {adoption.discovery for adoption in adopted}
    return min(made, key=lambda claim: (claim.id not in own, -claim.confirmed))


def descendants(store: Store, discovery_id: str) -> list[Descendant]:
    """Every discovery built on this one, itself first at depth 0, each before those built on it."""
    root = discovery(store, discovery_id)
    stack = [] if root is None else [Descendant(0, root)]
    seen = {discovery_id}
    found: list[Descendant] = []
    while stack and len(found) < LINEAGE_STEPS_MAX:
        step = stack.pop()
        found.append(step)
        rows = discoveries(store, "d.parent = :child", {"child": step.discovery.child})
        below = [row for row in rows if row.id not in seen]
        seen.update(row.id for row in below)
        stack.extend(Descendant(step.depth + 1, row) for row in reversed(below))
    return found


def counts(store: Store) -> dict[str, int]:
    """How many entries of each kind."""
    rows = store.db.query("SELECT kind, count(*) AS n FROM entries GROUP BY kind ORDER BY kind")
    return {row["kind"]: row["n"] for row in rows}
