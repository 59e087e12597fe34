"""What became of transfers between tracks, with every measurement that the ledger has of them.

An attempt's fate is its author's word, and this node's own verdict where there is one. Effects are those that
`policy.transfer.settled` chooses, for an attempt as for its source. Attempts of everybody count, strangers' too: the
ledger's answers do not judge who is right; a node that weighs them for its own search does (population.py).
"""

from collections.abc import Iterable

from msgspec import Struct

from ledger import queries
from ledger.queries import AttestationRow, DiscoveryRow, TransferRow
from ledger.store import Store
from node.verdicts import Judged, judged
from policy.transfer import (
    Attempt,
    Direction,
    Fate,
    Interval,
    Measured,
    OnHardware,
    carried,
    difference,
    directions,
    directions_by_hardware,
    of_runs,
    settled,
)


class Carried(Struct, frozen=True):
    """An attempt, and what carried over."""

    attempt: Attempt
    ratio: Interval | None  # effect here over effect there; None where one of them was not measured
    difference: Interval | None  # effect here - effect there, bits per byte


class Carrying(Struct, frozen=True):
    """A discovery that was tried in other tracks."""

    discovery: DiscoveryRow
    effects: tuple[Measured, ...]  # in its own track: the claim, then each other node's
    attempts: tuple[Carried, ...]  # in causal order


class Transfers(Struct, frozen=True):
    """Everything about transfers in a ledger."""

    directions: tuple[Direction, ...]
    by_hardware: tuple[Direction, ...]
    discoveries: tuple[Carrying, ...]  # in causal order


def transfers(store: Store, me: str) -> Transfers:
    """What became of transfers; `me`: the peer id of whose own verdicts count first."""
    rows = queries.transfers(store)
    known = judged(store, {name for row in rows for name in (row.source, row.discovery) if name is not None})
    made = [_measured_attempt(store, row, known, me) for row in rows]
    of_source: dict[str, list[Attempt]] = {}
    for one in made:
        of_source.setdefault(one.source, []).append(one)
    found = [row for name in of_source if (row := queries.discovery(store, name)) is not None]
    found.sort(key=lambda row: (row.lamport, row.id))
    return Transfers(
        tuple(directions(made)),
        tuple(directions_by_hardware(made)),
        tuple(_carrying(store, row, known.get(row.id), of_source[row.id]) for row in found),
    )


def _carrying(store: Store, row: DiscoveryRow, source: Judged | None, tried: Iterable[Attempt]) -> Carrying:
    shown = []
    for one in tried:
        here, there = one.effect, one.source_effect
        apart = None if here is None or there is None else difference(here, there)
        shown.append(Carried(one, carried(one), apart))
    return Carrying(row, _measurements(store, source or Judged(row, {})), tuple(shown))


def _measured_attempt(store: Store, row: TransferRow, known: dict[str, Judged], me: str) -> Attempt:
    source, fate = known.get(row.source), row.fate
    found = None if row.discovery is None else known.get(row.discovery)
    measured: tuple[Measured, ...]
    runs = queries.transfer_runs(store, row)
    if found is None:
        effect = of_runs(row.author, runs.child, runs.parent, runs.hardware)
        measured = () if effect is None else (effect,)
    else:
        effect, measured = effect_of(found, me), _measurements(store, found)
        if me in found.said and found.said[me].verdict == "refuted":
            fate = "discarded"
    if fate not in ("kept", "discarded"):
        effect, measured = None, ()
    classes = {one.hardware for one in measured} | {runs.hardware}
    return attempt_of(
        row,
        fate,
        effect=effect,
        there=None if source is None else effect_of(source, me),
        places=tuple(_place(name, measured, me) for name in sorted(name for name in classes if name is not None)),
    )


def _place(hardware: str, measured: Iterable[Measured], me: str) -> OnHardware:
    here = [one for one in measured if one.hardware == hardware]
    claims, said = [[one for one in here if (one.how == "attested") is others] for others in (False, True)]
    first = (claims or said)[:1]
    return OnHardware(hardware, settled(me, first[0], said) if first else None)


def attempt_of(
    row: TransferRow,
    fate: Fate,
    weight: float = 1.0,
    *,
    effect: Measured | None = None,
    there: Measured | None = None,
    places: tuple[OnHardware, ...] = (),
) -> Attempt:
    """The attempt in a row, with what is known of its effects; `weight` of its author's word, 1 for this node's."""
    return Attempt(
        source=row.source,
        source_track=row.source_track,
        author=row.author,
        track=row.track,
        program=row.program,
        fate=fate,
        effect=effect,
        source_effect=there,
        weight=weight,
        places=places,
    )


def effect_of(found: Judged, me: str) -> Measured:
    """The measurement of a discovery to go by; without its hardware where that is the claim."""
    return settled(me, _claim(found.row, None), [one for row in found.said.values() if (one := _attested(row))])


def _measurements(store: Store, found: Judged) -> tuple[Measured, ...]:
    """Every effect of a discovery that was measured: the claim, then the last of each other node, in causal order."""
    sql = "SELECT t.hardware FROM discoveries AS d JOIN trials AS t ON t.id = d.trial WHERE d.id = ?"
    trial = store.db.execute(sql, (found.row.id,)).fetchone()
    others = (one for row in found.said.values() if (one := _attested(row)))
    return (_claim(found.row, None if trial is None else trial[0]), *others)


def _claim(discovery: DiscoveryRow, hardware: str | None) -> Measured:
    return Measured(
        author=discovery.author, how="claimed", n=discovery.pairs, mean=discovery.mean, low=discovery.low,
        high=discovery.high, hardware=hardware,
    )  # fmt: skip


def _attested(row: AttestationRow) -> Measured | None:
    if row.mean is None or row.low is None or row.high is None:
        return None
    return Measured(
        author=row.author, how="attested", n=row.pairs, mean=row.mean, low=row.low, high=row.high,
        hardware=row.hardware, verdict=row.verdict,
    )  # fmt: skip
