"""What was tried in one track because it is a discovery in another, and what came of it.

An attempt is a claim or a discovery that names its source. What became of a claim follows from its author's later
statements: a discovery of the program, trials of it, an adoption of something else, the author's next claim. A source
that is not here, or is of the same track, makes no attempt: it would say nothing of a transfer.
"""

from typing import Any, Literal

from msgspec import Struct

from ledger.queries.records import trials
from ledger.store import Store

ATTEMPTS_MAX = 10_000  # that one question reads, the latest

AttemptFate = Literal["kept", "discarded", "failed", "given up", "open"]


class TransferRow(Struct, frozen=True):
    """One attempt, as its author's statements tell it."""

    source: str  # discovery
    source_track: str
    author: str
    track: str
    parent: str  # program, SHA-256
    program: str
    operator: str  # of the claim; empty where there is none
    fate: AttemptFate  # `kept`: a discovery that its author has not retracted
    discovery: str | None  # of the program, by the author in this track
    lamport: int


class TransferRuns(Struct, frozen=True):
    """The public runs of an attempt's author in its track, bits per byte, in the order in which they were made."""

    child: tuple[float, ...]
    parent: tuple[float, ...]
    hardware: str | None  # of the child's last; None without any


def transfers(store: Store, *, track: str | None = None, limit: int = ATTEMPTS_MAX) -> list[TransferRow]:
    """The latest attempts, into one track or all, in causal order; one for an author and a program.

    Those of authors who signed two histories are left out.
    """
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in reversed(list(store.db.query(_ATTEMPTS, {"track": track, "limit": limit}))):
        rows[row["author"], row["track"], row["program"]] = row
    return [_attempt(store, row) for row in rows.values()]


def transfer_runs(store: Store, attempt: TransferRow) -> TransferRuns:
    """What the author ran of an attempt's two programs."""
    child, parent = (
        [run for run in trials(store, attempt.author, program, "public") if run.track == attempt.track]
        for program in (attempt.program, attempt.parent)
    )
    return TransferRuns(
        tuple(run.val_bpb for run in child if run.val_bpb is not None),
        tuple(run.val_bpb for run in parent if run.val_bpb is not None),
        child[-1].hardware if child else None,
    )


_NAMED = """
    SELECT made.author, made.track, made.{program} AS program, made.parent, made.source, {operator} AS operator,
        s.track AS source_track, e.lamport, made.id
    FROM {table} AS made CROSS JOIN entries AS e USING (id) CROSS JOIN discoveries AS s ON s.id = made.source
    WHERE made.source IS NOT NULL AND s.track <> made.track AND (:track IS NULL OR made.track = :track)
        AND made.author NOT IN (SELECT author FROM refused WHERE reason = 'equivocation')"""
_CLAIMS = _NAMED.format(program="program", operator="made.operator", table="claims")
_FOUND = _NAMED.format(program="child", operator="''", table="discoveries")
_RUNS = """SELECT {counted} FROM entries AS t CROSS JOIN trial_results AS r ON r.entry = t.number
    WHERE t.subject = m.program AND +t.author = m.author AND r.track = m.track AND r.split = 'public'"""
_ATTEMPTS = f"""
    SELECT m.*, d.id AS discovery, d.parent AS found_parent,
        EXISTS (SELECT 1 FROM retractions WHERE discovery = d.id AND author = d.author) AS retracted,
        ({_RUNS.format(counted="count(*)")}) AS runs, ({_RUNS.format(counted="count(r.val_bpb)")}) AS scored
    FROM (SELECT * FROM ({_CLAIMS} UNION ALL {_FOUND} AND NOT EXISTS (
        SELECT 1 FROM claims AS c WHERE c.program = made.child AND c.author = made.author AND c.track = made.track
            AND c.source = made.source))
        ORDER BY lamport DESC, id DESC LIMIT :limit) AS m
    LEFT JOIN discoveries AS d ON d.id = (
        SELECT x.id FROM discoveries AS x JOIN entries AS at ON at.id = x.id
        WHERE x.child = m.program AND x.author = m.author AND x.track = m.track
        ORDER BY at.lamport DESC, x.id DESC LIMIT 1)
    ORDER BY m.lamport DESC, m.id DESC"""


def _attempt(store: Store, row: dict[str, Any]) -> TransferRow:
    return TransferRow(
        source=row["source"],
        source_track=row["source_track"],
        author=row["author"],
        track=row["track"],
        parent=row["found_parent"] or row["parent"],
        program=row["program"],
        operator=row["operator"],
        fate=_fate(store, row),
        discovery=row["discovery"],
        lamport=row["lamport"],
    )


def _fate(store: Store, row: dict[str, Any]) -> AttemptFate:
    if row["discovery"] is not None:
        return "discarded" if row["retracted"] else "kept"
    if row["scored"] < row["runs"]:
        return "failed"
    values = {name: row[name] for name in ("author", "track", "program", "lamport")}
    sql = """SELECT lamport FROM entries CROSS JOIN claims AS c USING (id)
             WHERE entries.author = :author AND lamport > :lamport AND kind = 'claim' AND c.track = :track
             ORDER BY lamport LIMIT 1"""
    following = store.db.execute(sql, values).fetchone()
    if following is None:
        return "open"
    sql = """SELECT 1 FROM entries CROSS JOIN adoptions AS a USING (id)
             WHERE entries.author = :author AND lamport > :lamport AND lamport < :following AND kind = 'adoption'
                 AND a.track = :track AND a.program <> :program"""
    adopted = store.db.execute(sql, values | {"following": following[0]}).fetchone()
    return "given up" if adopted is not None or not row["runs"] else "discarded"
