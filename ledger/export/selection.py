"""Which entries an export holds: all, or some with what they name."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ledger.envelope import Signed
from ledger.predicates import (
    Adoption,
    Amendment,
    Attestation,
    Claim,
    Comparison,
    Discovery,
    Lesson,
    Retraction,
    Skill,
    Trial,
)
from ledger.statements import Body, Statement
from ledger.store import Store


@contextmanager
def snapshot(store: Store) -> Iterator[None]:
    """All reads of the block see one state of the ledger, whatever a running node appends meanwhile."""
    store.db.conn.execute("BEGIN")
    try:
        yield
    finally:
        store.db.conn.rollback()


class Selection:
    """The entries with the full ids `ids` and what these name, directly or not, as far as it is here; all without ids.

    They come in causal order, each checked again, as often as they are asked for. An id that the ledger does not have
    is passed over.
    """

    def __init__(self, store: Store, ids: Sequence[str] = ()) -> None:
        self._store = store
        self._some = _with_named(store, ids) if ids else None

    @property
    def whole(self) -> bool:
        """Whether this is the whole ledger, so that every feed is complete."""
        return self._some is None

    def __len__(self) -> int:
        if self._some is None:
            return int(self._store.db.execute("SELECT count(*) FROM entries").fetchone()[0])
        return len(self._some)

    def __iter__(self) -> Iterator[Signed]:
        return self._store.entries() if self._some is None else iter(self._some)


def named_entries(body: Body) -> tuple[str, ...]:
    """Ids of the entries that a statement rests on: the trials of its comparison, what it is about, its evidence."""
    match body:
        case Discovery(comparison=comparison):
            return _trials(comparison)
        case Attestation(discovery=discovery, comparison=comparison):
            return (discovery, *_trials(comparison))
        case Adoption(discovery=found, comparison=comparison):
            return (*_present(found), *_trials(comparison))
        case Retraction(discovery=discovery, comparison=comparison, evidence=evidence):
            return (discovery, *evidence, *_trials(comparison))
        case Skill(replaces=replaces, evidence=evidence) | Lesson(replaces=replaces, evidence=evidence):
            return (*_present(replaces), *evidence)
        case Amendment(proposal=proposal):
            return _present(proposal)
        case _:
            return ()


def named_programs(statement: Statement) -> tuple[str, ...]:
    """SHA-256 of the programs that a statement names."""
    match statement.body:
        case Discovery(parent=parent) | Claim(parent=parent):
            return (parent, statement.subject)
        case Adoption(previous=previous):
            return (*_present(previous), statement.subject)
        case Trial() | Attestation() | Retraction():
            return (statement.subject,)
        case _:
            return ()


def _with_named(store: Store, ids: Sequence[str]) -> tuple[Signed, ...]:
    found: dict[str, Signed] = {}
    wanted = list(ids)
    while wanted:
        entry_id = wanted.pop()
        signed = None if entry_id in found else store.entry(entry_id)
        if signed is not None:
            found[entry_id] = signed
            wanted.extend(named_entries(signed.statement.body))
    return tuple(sorted(found.values(), key=lambda signed: (signed.statement.entry.lamport, signed.id)))


def _trials(comparison: Comparison | None) -> tuple[str, ...]:
    return () if comparison is None else (*comparison.parent_trials, *comparison.child_trials)


def _present(value: str | None) -> tuple[str, ...]:
    return () if value is None else (value,)
