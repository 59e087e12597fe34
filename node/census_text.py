"""Answers about many entries as a person reads them: search, the best, statistics, peers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ledger.queries import Hit, Peers, Ranked, Stats
from node.story import ID_SHOWN, facts, in_brackets, plain, short, table


def hits(found: Iterable[Hit]) -> Iterator[Text]:
    """Each entry in one line, with the surroundings of the words."""
    for hit in found:
        line = Text(
            plain(f"{hit.id[:ID_SHOWN]}  {short(hit.author)}  {hit.kind:<11}  "), no_wrap=True, overflow="ellipsis"
        )
        yield line.append_text(in_brackets(hit.marks)).append(plain(" ".join(hit.snippet.split())))


def ranking(tracks: Mapping[str, Sequence[Ranked]]) -> Iterator[RenderableType]:
    """For each track what others confirmed, then what nobody has checked."""
    for track, ranked in tracks.items():
        yield Text(plain(f"track {track}"), style="bold")
        for verified, title in ((True, "verified by others"), (False, "merely claimed")):
            rows = [one for one in ranked if one.verified == verified]
            yield Text(f"{title}:{'' if rows else ' none'}")
            if rows:
                yield _ranked(rows)


def _ranked(rows: Iterable[Ranked]) -> Table:
    ranked = table("id", "by", "claimed bpb", "others' bpb", "confirmed", "refuted", "adopted", "what")
    for one in rows:
        row = one.discovery
        standing = (str(number) for number in (row.confirmed, row.refuted, row.adopted))
        measured = "" if one.remeasured is None else f"{one.remeasured:+.4f}"
        what = in_brackets(one.marks).append(plain(row.hypothesis))
        what.no_wrap, what.overflow = True, "ellipsis"
        ranked.add_row(row.id[:ID_SHOWN], short(row.author), f"{row.mean:+.4f}", measured, *standing, what)
    return ranked


def statistics(stats: Stats) -> Table:
    """One number, or a few of a kind, in a line."""
    error = "not known: nobody measured again" if stats.claim_error is None else f"{stats.claim_error:.4f} bpb"
    counted = (stats.discoveries, stats.confirmed, stats.refuted, stats.retracted)
    return facts(
        [
            ("challenge", stats.challenge),
            ("entries", f"{sum(stats.entries.values())}: {_several(stats.entries)}"),
            ("authors", f"{stats.authors}, of whom {stats.banned} banned for signing two histories"),
            ("discoveries", "{} claimed, {} confirmed, {} refuted, {} retracted".format(*counted)),
            ("trials", _several(stats.trials)),
            ("claims off by", f"{error} (median of the difference to what others measured)"),
            ("clock", "none yet" if stats.first_clock is None else f"{stats.first_clock} to {stats.last_clock}"),
            ("on disk", f"{stats.bytes_on_disk / 1e6:.1f} MB"),
        ]
    )


def _several(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in numbers.items()) or "none"


_COUNTED = ("discoveries", "confirmed", "refuted", "attestations", "adoptions")


def peers(found: Peers) -> Iterator[RenderableType]:
    """Authors, and where others can be reached."""
    rows = table("author", "entries", *_COUNTED, "last clock", "", "hardware")
    for one in found.authors:
        marks = [word for word, holds in (("banned", one.banned), ("key revoked", one.revoked)) if holds]
        numbers = (one.entries, *(getattr(one, name) for name in _COUNTED), one.last_clock)
        marked, hardware = Text(", ".join(marks), style="red"), Text(plain("; ".join(one.hardware)))
        rows.add_row(short(one.author), *map(str, numbers), marked, hardware)
    yield rows
    yield Text("\nlast reached at", style="bold")
    if not found.addresses:
        yield Text("no other")
    for address in found.addresses.values():
        yield Text(plain(address))
