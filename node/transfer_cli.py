"""`waggle ledger transfers`: what was carried from one track to another, and how much of it held there."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ledger.envelope import peer_id
from ledger.store import readable
from node.home import Home
from node.options import console, echo_json, home_option, json_option
from node.story import ID_SHOWN, ROWS_SHOWN, bpb, plain, short, table
from node.transfers import Carried, Carrying, Transfers, transfers
from policy.transfer import Direction, Interval


@click.command("transfers")
@home_option
@json_option
def transfers_command(home_path: Path, as_json: bool) -> None:
    """What of one track was tried in another: how often it was kept, and how much of the effect carried over."""
    home = Home(home_path)
    with readable(home.ledger_file):
        store = home.store(home.challenge())
        try:
            store.db.execute("PRAGMA query_only = ON")
            store.db.execute("BEGIN")
            found = transfers(store, peer_id(home.key().public_key()))
        finally:
            store.close()
    if as_json:
        echo_json(found)
    else:
        console().print(Group(*shown(found)))


def shown(found: Transfers) -> Iterator[RenderableType]:
    """For people: each direction, the same by class of hardware, then the discoveries that were tried elsewhere."""
    if not found.discoveries:
        yield Text("nothing of one track has been tried in another yet")
        return
    if found.directions:
        yield _directions(found.directions)
        yield Text("carried over: effect in the track over effect where it was found; 95 % intervals", style="dim")
    else:
        yield Text("none that was tried has been decided yet")
    if found.by_hardware:
        yield Text("\nby hardware", style="bold")
        yield _directions(found.by_hardware)
    yield Text("\ndiscoveries", style="bold")
    for one in found.discoveries[-ROWS_SHOWN:]:
        yield from _discovery(one)
    if len(found.discoveries) > ROWS_SHOWN:
        yield Text(f"… {len(found.discoveries) - ROWS_SHOWN} earlier ones; --json has all")


def _directions(rows: Sequence[Direction]) -> Table:
    placed = any(row.hardware is not None for row in rows)
    made = table("from", "to", *(("on",) if placed else ()), "tried", "kept", "failed", "share kept", "carried over")
    for row in rows:
        place = (plain(row.hardware or ""),) if placed else ()
        counts = (str(row.tried), str(row.kept), str(row.failed))
        ratio = "not measured" if row.ratio is None else f"{_interval(row.ratio)} of {row.measured}"
        made.add_row(
            plain(row.source_track), plain(row.track), *place, *counts, _interval(row.share, percent=True), ratio
        )
    return made


def _interval(said: Interval, *, percent: bool = False) -> str:
    def number(value: float) -> str:
        return f"{value:.0%}" if percent else f"{value:.2f}"

    if said.low is None or said.high is None:
        return f"{number(said.value)} [no finite interval]"
    return f"{number(said.value)} [{number(said.low)}, {number(said.high)}]"


def _discovery(one: Carrying) -> Iterator[Text]:
    row = one.discovery
    taken = " (retracted)" if row.retracted else ""
    yield Text(plain(f"{row.id[:ID_SHOWN]}  {row.track}{taken}: {row.hypothesis}"), no_wrap=True, overflow="ellipsis")
    for measured in one.effects[:ROWS_SHOWN]:
        what = measured.verdict or measured.how
        effect = bpb(measured.mean, measured.low, measured.high)
        place = "" if measured.hardware is None else f", {measured.hardware}"
        yield Text(plain(f"    {what} by {short(measured.author)}: {effect}, n {measured.n}{place}"))
    yield from _attempts(one.attempts)


def _attempts(attempts: Sequence[Carried]) -> Iterable[Text]:
    for one in attempts[-ROWS_SHOWN:]:
        tried, parts = one.attempt, []
        if tried.effect is not None:
            parts.append(f"{bpb(tried.effect.mean, tried.effect.low, tried.effect.high)}, n {tried.effect.n}")
        if one.ratio is not None:
            parts.append(f"carried over {_interval(one.ratio)}")
        parts += [place.hardware for place in tried.places]
        told = "; ".join(parts)
        yield Text(plain(f"    -> {tried.track}: {tried.fate} by {short(tried.author)}{': ' * bool(told)}{told}"))
    if len(attempts) > ROWS_SHOWN:
        yield Text(f"    … {len(attempts) - ROWS_SHOWN} earlier tries; --json has all")
