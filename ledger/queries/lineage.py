"""Where discoveries come from, what was built on them, and what is to be known before one is believed."""

import json
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from ledger.errors import UnknownId
from ledger.queries.records import DISCOVERIES, DiscoveryRow, discoveries, discovery, discovery_row
from ledger.store import Store

LINEAGE_STEPS_MAX = 10_000  # a bound on what one question may walk, far above any real lineage

Mark = Literal["author_banned", "retracted", "built_on_retracted"]
"""`author_banned`: there is proof that its author signed two histories. `retracted`: by its own author.
`built_on_retracted`: an ancestor of it is retracted."""


class Marked(Struct, frozen=True):
    """A discovery, and what speaks against it."""

    discovery: DiscoveryRow
    marks: tuple[Mark, ...]


class Descendant(Struct, frozen=True):
    """A discovery built, over `depth` steps, on another one."""

    depth: int
    discovery: DiscoveryRow


class Step(Struct, frozen=True):
    """A descendant, and what speaks against it."""

    depth: int
    discovery: DiscoveryRow
    marks: tuple[Mark, ...]


class Lineage(Struct, frozen=True):
    """The way to a discovery, and on from it."""

    ancestors: tuple[Marked, ...]  # oldest first, itself last
    descendants: tuple[Step, ...]  # itself first at depth 0, each before those built on it


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
    adopted = "EXISTS (SELECT 1 FROM adoptions WHERE discovery = d.id AND program = d.child AND author = :me)"
    sql = f"{DISCOVERIES} WHERE d.child = :parent ORDER BY {adopted} DESC, confirmed DESC, e.lamport, d.id LIMIT 1"
    return next(map(discovery_row, store.db.query(sql, {"parent": row.parent, "me": row.author})), None)


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


def marks(store: Store, rows: Sequence[DiscoveryRow]) -> dict[str, tuple[Mark, ...]]:
    """What speaks against each of the discoveries, by id; an empty tuple where nothing does."""
    banned = {author for author in {row.author for row in rows} if store.is_banned(author)}
    suspects = _programs_below_retracted(store)
    known: dict[str, bool] = {}
    found: dict[str, tuple[Mark, ...]] = {}
    for row in rows:
        own: list[Mark] = ["author_banned"] if row.author in banned else []
        if row.retracted:
            own.append("retracted")
        if row.parent in suspects and _built_on_retracted(store, row, known):
            own.append("built_on_retracted")
        found[row.id] = tuple(own)
    return found


def entry_marks(store: Store, entries: Sequence[tuple[str, str]]) -> dict[str, tuple[Mark, ...]]:
    """As `marks`, for entries of any kind as (id, author); what is no discovery can be by a banned author only."""
    ids = json.dumps([entry_id for entry_id, _ in entries])
    rows = discoveries(store, "d.id IN (SELECT value FROM json_each(:ids))", {"ids": ids})
    banned = {author for author in {author for _, author in entries} if store.is_banned(author)}
    found: dict[str, tuple[Mark, ...]] = {
        entry_id: ("author_banned",) if author in banned else () for entry_id, author in entries
    }
    return found | marks(store, rows)


def marked(store: Store, rows: Sequence[DiscoveryRow]) -> list[Marked]:
    """The discoveries with their marks, in the order given."""
    found = marks(store, rows)
    return [Marked(row, found[row.id]) for row in rows]


def lineage_of(store: Store, discovery_id: str) -> Lineage:
    """Ancestors and descendants of the discovery with this full id. Raises `UnknownId` if there is none."""
    chain, below = ancestors(store, discovery_id), descendants(store, discovery_id)
    if not chain:
        raise UnknownId(f"{discovery_id} is not a discovery; `ledger log --kind discovery` lists those")
    found = marks(store, [*chain, *(step.discovery for step in below)])
    return Lineage(
        tuple(Marked(row, found[row.id]) for row in chain),
        tuple(Step(step.depth, step.discovery, found[step.discovery.id]) for step in below),
    )


def _programs_below_retracted(store: Store) -> frozenset[str]:
    """Programs that some claim puts at or below a retracted discovery.

    It only spares the walk for all others. Which of these claims counts, `_source` says: otherwise who claims a
    program that others found, and retracts that claim, would mark what was built on theirs.
    """
    sql = """
        WITH RECURSIVE below (program) AS (
            SELECT d.child FROM retractions AS r JOIN discoveries AS d ON d.id = r.discovery AND d.author = r.author
            UNION SELECT d.child FROM below CROSS JOIN discoveries AS d ON d.parent = below.program
        ) SELECT program FROM below"""
    return frozenset(row[0] for row in store.db.execute(sql))


def _built_on_retracted(store: Store, row: DiscoveryRow, known: dict[str, bool]) -> bool:
    """Whether an ancestor of `row` is retracted; `known` has the answers for rows already met, and gets more."""
    walked: list[str] = []
    seen: set[str] = set()
    at: DiscoveryRow | None = row
    answer = False
    while at is not None and at.child not in seen and len(walked) < LINEAGE_STEPS_MAX:
        if at.id in known:
            answer = known[at.id]
            break
        walked.append(at.id)
        seen.add(at.child)
        at = _source(store, at)
        if at is not None and at.retracted:
            answer = True
            break
    known.update(dict.fromkeys(walked, answer))
    return answer
