"""The log: entries in causal order, filtered, and as they arrive.

A filter is answered from its rarest condition: what meets it is looked up in that condition's own index, and sorted.
Where no condition is rare, the log is walked backwards in causal order until enough entries meet all of them, which is
soon, as they are common. SQLite cannot make this choice itself: it keeps no statistics of the file.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from ledger.predicates import Status, Verdict
from ledger.queries.lineage import Mark, entry_marks
from ledger.statements import TYPES
from ledger.store import Store

RARE_MAX = 5000  # entries that meet a condition and are still sorted rather than met on a walk
ARRIVALS_MAX = 1000  # entries that one step of `follow` looks at


class LogFilter(Struct, frozen=True, kw_only=True):
    """Which entries to list: those that meet every condition given."""

    author: str | None = None  # full peer id
    kind: str | None = None
    subject: str | None = None  # beginning of a SHA-256
    status: Status | None = None  # of trials
    verdict: Verdict | None = None  # of attestations
    better_than: float | None = None  # bits per byte: mean effect below this, of discoveries and attestations
    worse_than: float | None = None  # the same, above this
    since: str | None = None  # RFC 3339, of the recorded time, which is its author's word and no more
    until: str | None = None


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
    marks: tuple[Mark, ...]  # of a discovery; of other kinds `author_banned` at most


class _Condition(NamedTuple):
    rows: str  # SQL for FROM: a row with an `id` for each entry that meets it
    holds: str  # SQL that is true of an entry `e` that meets it
    in_order: bool = False  # whether its index gives the entries in causal order


def _conditions(wanted: LogFilter) -> list[_Condition]:
    """The conditions that have an index, or a small table of their own."""
    found = []
    if wanted.author is not None:
        found.append(_Condition("entries WHERE author = :author", "e.author = :author", in_order=True))
    if wanted.kind is not None:
        found.append(_Condition("entries WHERE kind = :kind", "e.kind = :kind", in_order=True))
    if wanted.subject is not None:
        within = "subject BETWEEN :subject AND :subject || '~'"  # hex digits are below "~"
        found.append(_Condition(f"entries WHERE {within}", f"e.{within}"))
    if wanted.status is not None:
        holds = "EXISTS (SELECT 1 FROM trial_results WHERE entry = e.number AND +status = :status)"
        found.append(_Condition("trials WHERE status = :status", holds))
    if wanted.verdict is not None:
        holds = "EXISTS (SELECT 1 FROM attestations WHERE id = e.id AND verdict = :verdict)"
        found.append(_Condition("attestations WHERE verdict = :verdict", holds))
    if bounds := _given(_BOUNDS, wanted):
        rows = f"(SELECT id, mean FROM discoveries UNION ALL SELECT id, mean FROM attestations) WHERE {_all(bounds)}"
        tables = (
            f"SELECT 1 FROM {name} WHERE id = e.id AND {_all(bounds)}" for name in ("discoveries", "attestations")
        )
        found.append(_Condition(rows, f"EXISTS ({' UNION ALL '.join(tables)})"))
    return found


_BOUNDS = {"mean < :better_than": "better_than", "mean > :worse_than": "worse_than"}
# SQLite takes "now" and plain numbers for times as well. What is no time gives null, which meets no condition.
_RECORDED = "CASE WHEN e.recorded_at GLOB '[0-9][0-9][0-9][0-9]-*' THEN julianday(e.recorded_at) END"
_TIMES = {f"{_RECORDED} >= julianday(:since)": "since", f"{_RECORDED} <= julianday(:until)": "until"}


def _given(conditions: dict[str, str], wanted: LogFilter) -> list[str]:
    """The SQL, of a table by the field that it needs, for those fields that are set."""
    return [sql for sql, field in conditions.items() if getattr(wanted, field) is not None]


def _all(conditions: list[str]) -> str:
    return " AND ".join(conditions)


_SUMMARIES = {
    "trial": "SELECT status || coalesce(printf(' %.4f bpb', val_bpb), '') || ', seed ' || seed FROM trials",
    "discovery": "SELECT printf('%+.4f bpb: ', mean) || hypothesis FROM discoveries",
    "attestation": "SELECT verdict || coalesce(printf(' %+.4f bpb', mean), '') || ': ' || substr(discovery, 1, 16)"
    " FROM attestations",
    "adoption": "SELECT reason FROM adoptions",
    "retraction": "SELECT substr(discovery, 1, 16) || ': ' || reason FROM retractions",
    "claim": "SELECT 'about to try: ' || hypothesis FROM claims",
    "skill": "SELECT CASE retired WHEN 1 THEN 'retired: ' ELSE '' END || title FROM skills",
    "gate": "SELECT coalesce(previous || ' to ', '') || state || ': ' || reason FROM gates",
    "amendment": "SELECT CASE WHEN proposal IS NULL THEN 'proposed: ' ELSE 'ratified: ' END || reason FROM amendments",
    "checkpoint": "SELECT size || ' entries of ' || feed FROM checkpoints",
    "revocation": "SELECT 'the key is void from here on' || coalesce('; successor ' || successor, '') FROM revocations",
}
"""By kind, SQL for one line about an entry, to be completed by its id."""

SUMMARY = f"""CASE e.kind
    {" ".join(f"WHEN '{kind}' THEN ({sql} WHERE id = e.id)" for kind, sql in _SUMMARIES.items())}
    WHEN 'feed-reset' THEN 'begins new feeds'
    WHEN 'lesson' THEN 'a change that fails: ' || substr(e.subject, 1, 16)
    WHEN 'reveal' THEN 'opens the private split ' || substr(e.subject, 1, 16)
    {" ".join(f"WHEN '{urn}' THEN 'unreadable: no {urn.split(':')[2]} as this version knows them'" for urn in TYPES)}
    ELSE 'of a type that this version does not know' END"""
"""SQL for one line about an entry `e`, of whatever kind."""

_COLUMNS = f"e.id, e.author, e.feed, e.seq, e.lamport, e.kind, e.subject, e.recorded_at, {SUMMARY} AS summary"


def log(store: Store, wanted: LogFilter | None = None, *, limit: int = 50) -> list[LogLine]:
    """The last `limit` entries that meet `wanted`, in causal order (Lamport time, then id), oldest first."""
    asked = _complete(wanted or LogFilter())
    values = msgspec.to_builtins(asked)
    conditions = _conditions(asked)
    counted = [(_count(store, condition, values), condition) for condition in conditions]
    number, driving = min(counted, key=lambda pair: pair[0], default=(RARE_MAX, None))
    if driving is not None and number < RARE_MAX:
        source = f"(SELECT id FROM {driving.rows}) AS rare CROSS JOIN entries AS e ON e.id = rare.id"
        chosen: list[str] = []
    else:
        source = "entries AS e"
        driving = next((condition for condition in conditions if condition.in_order), None)
        chosen = [] if driving is None else [driving.holds]
    # "+" keeps an index from being used for this condition: it would give the entries in another order.
    others = ["+" + condition.holds for condition in conditions if condition is not driving]
    sql = f"""SELECT {_COLUMNS} FROM {source} WHERE {_all([*chosen, *others, *_given(_TIMES, asked)]) or "true"}
              ORDER BY e.lamport DESC, e.id DESC LIMIT :limit"""
    return _lines(store, sql, values | {"limit": limit})[::-1]


def line(store: Store, entry_id: str) -> LogLine | None:
    """The log's line about one entry, by its full id."""
    return next(iter(_lines(store, f"SELECT {_COLUMNS} FROM entries AS e WHERE e.id = :id", {"id": entry_id})), None)


def _complete(wanted: LogFilter) -> LogFilter:
    """With the kind that the other conditions imply, which has an index."""
    implied = "trial" if wanted.status else "attestation" if wanted.verdict else None
    return wanted if wanted.kind or not implied else msgspec.structs.replace(wanted, kind=implied)


def _count(store: Store, condition: _Condition, values: dict[str, Any]) -> int:
    """How many entries meet the condition, counted up to `RARE_MAX`."""
    sql = f"SELECT count(*) FROM (SELECT 1 FROM {condition.rows} LIMIT {RARE_MAX})"
    return int(store.db.execute(sql, values).fetchone()[0])


def _lines(store: Store, sql: str, values: dict[str, Any]) -> list[LogLine]:
    rows = list(store.db.query(sql, values))
    found = entry_marks(store, [(row["id"], row["author"]) for row in rows])
    return [LogLine(**row, marks=found[row["id"]]) for row in rows]


def position(store: Store) -> int:
    """How far entries have been stored here; `follow` goes on from it."""
    return int(store.db.execute("SELECT coalesce(max(rowid), 0) FROM entries").fetchone()[0])


def follow(store: Store, wanted: LogFilter, after: int, wait: Callable[[], None]) -> Iterator[list[LogLine]]:
    """Entries that meet `wanted` as they are stored from position `after` on, in the order of their arrival.

    `wait` is called whenever there are no more; what it raises ends the iteration. No transaction is open meanwhile.
    """
    # Rows are numbered as they are inserted. A revocation, the only thing that removes some, is itself the last.
    values = msgspec.to_builtins(wanted)
    holds = _all(["+" + condition.holds for condition in _conditions(wanted)] + _given(_TIMES, wanted)) or "true"
    sql = f"""SELECT {_COLUMNS} FROM entries AS e
              WHERE e.rowid > :after AND e.rowid <= :upto AND {holds} ORDER BY e.rowid"""
    while True:
        newest = position(store)
        after = min(after, newest)  # VACUUM counts anew
        while after < newest:
            upto = min(newest, after + ARRIVALS_MAX)
            if lines := _lines(store, sql, values | {"after": after, "upto": upto}):
                yield lines
            after = upto
        wait()
