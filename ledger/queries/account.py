"""All that the ledger knows of one discovery."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

from ledger.envelope import Signed
from ledger.errors import UnknownId
from ledger.predicates import Comparison, Discovery, Verdict
from ledger.queries.lineage import Mark, Marked, ancestors, descendants, marked
from ledger.queries.records import (
    AdoptionRow,
    AttestationRow,
    DiscoveryRow,
    RetractionRow,
    TrialRow,
    adoptions,
    attestations,
    discovery,
    retractions,
    trials_by_id,
)
from ledger.store import Store


class Effect(Struct, frozen=True):
    """What one node measured, child - parent, in bits per byte, with its 95 % interval."""

    author: str
    verdict: Literal["claimed"] | Verdict
    pairs: int
    mean: float
    low: float
    high: float


class HardwareEffects(Struct, frozen=True):
    """The effects that were measured on one class of hardware.

    The intervals are not combined. Weighting by inverse variance would let whoever states the narrowest interval
    decide, and supposes one true effect and independent runs, which nobody has shown. The median over nodes needs
    neither, and one liar hardly moves it.
    """

    hardware: str | None  # None while the trials that tell have not arrived
    claimed: Effect | None  # by the discovery's author; not in the median: it was published because it was good
    measured: tuple[Effect, ...]  # the last of each other node, in causal order
    nodes: int  # how many others measured
    median: float | None  # of the others' means; None without any


class PairRow(Struct, frozen=True):
    """One pair of the comparison behind a claim; a trial is None while it has not arrived."""

    seed: int
    parent: TrialRow | None
    child: TrialRow | None
    difference: float  # as the claim states it, in bits per byte


class LineageIds(Struct, frozen=True):
    """Ids of discoveries, the oldest first; the discovery itself is in neither."""

    ancestors: tuple[str, ...]
    descendants: tuple[str, ...]


class DiscoveryAccount(Struct, frozen=True):
    """A discovery with its evidence and its consequences."""

    discovery: DiscoveryRow
    marks: tuple[Mark, ...]
    comparison: Comparison
    pairs: tuple[PairRow, ...]
    effects: tuple[HardwareEffects, ...]
    attestations: tuple[AttestationRow, ...]
    adoptions: tuple[AdoptionRow, ...]
    retractions: tuple[RetractionRow, ...]
    lineage: LineageIds
    banned: tuple[str, ...]  # those who signed two histories, of all the authors above


class Traced(Struct, frozen=True):
    """An account, with the rows of the chain that leads to the discovery, itself last."""

    account: DiscoveryAccount
    chain: tuple[Marked, ...]
    signed: Signed


def trace(store: Store, discovery_id: str) -> Traced:
    """All that is known of the discovery with this full id. Raises `UnknownId` if there is none."""
    row, signed = discovery(store, discovery_id), store.entry(discovery_id)
    if row is None or signed is None or not isinstance(signed.statement.body, Discovery):
        raise UnknownId(f"{discovery_id} is not a discovery; `ledger log --kind discovery` lists those")
    comparison = signed.statement.body.comparison
    pairs = _pairs(store, comparison)
    verdicts, adopted, retracted = attestations(store, row.id), adoptions(store, row.id), retractions(store, row.id)
    chain = marked(store, ancestors(store, row.id))
    below = descendants(store, row.id)[1:]
    first = next((pair.child for pair in pairs), None)
    account = DiscoveryAccount(
        discovery=row,
        marks=chain[-1].marks,
        comparison=comparison,
        pairs=pairs,
        effects=effects(row, None if first is None else first.hardware, verdicts),
        attestations=tuple(verdicts),
        adoptions=tuple(adopted),
        retractions=tuple(retracted),
        lineage=LineageIds(
            ancestors=tuple(step.discovery.id for step in chain[:-1]),
            descendants=tuple(step.discovery.id for step in below),
        ),
        banned=_banned(store, [row, *verdicts, *adopted, *retracted]),
    )
    return Traced(account, tuple(chain), signed)


def _pairs(store: Store, comparison: Comparison) -> tuple[PairRow, ...]:
    here = trials_by_id(store, {*comparison.parent_trials, *comparison.child_trials})
    columns = (comparison.seeds, comparison.parent_trials, comparison.child_trials, comparison.differences)
    return tuple(
        PairRow(seed, here.get(parent), here.get(child), difference)
        for seed, parent, child, difference in zip(*columns, strict=True)
    )


def _banned(
    store: Store, rows: Iterable[DiscoveryRow | AttestationRow | AdoptionRow | RetractionRow]
) -> tuple[str, ...]:
    return tuple(sorted(author for author in {row.author for row in rows} if store.is_banned(author)))


def effects(row: DiscoveryRow, hardware: str | None, verdicts: Sequence[AttestationRow]) -> tuple[HardwareEffects, ...]:
    """The claim, made on `hardware`, and the last measurement of each other node, by class of hardware.

    `verdicts` are in causal order. What the author measured again is not the word of another.
    """
    claimed = Effect(row.author, "claimed", row.pairs, row.mean, row.low, row.high)
    last: dict[tuple[str | None, str], Effect] = {}
    for said in verdicts:
        effect = _measured(said)
        if effect is not None and said.author != row.author:
            last[said.hardware, said.author] = effect
    found = []
    for where in dict.fromkeys([hardware, *(where for where, _ in last)]):
        measured = tuple(effect for (at, _), effect in last.items() if at == where)
        median = statistics.median(effect.mean for effect in measured) if measured else None
        found.append(HardwareEffects(where, claimed if where == hardware else None, measured, len(measured), median))
    return tuple(found)


def _measured(said: AttestationRow) -> Effect | None:
    if said.mean is None or said.low is None or said.high is None:
        return None
    return Effect(said.author, said.verdict, said.pairs, said.mean, said.low, said.high)
