"""One page for people: what was found, by whom, who checked it, and the patch of each step.

The page is a single file without scripts, links or anything from elsewhere, and forbids itself all of that by its
Content-Security-Policy. Peers' text is escaped in `markup.tag`.

It trusts nobody in particular: each author's verdict counts alike, though never one on its own discovery. Whom a node
believes is policy's to say.
"""

import difflib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ledger import queries
from ledger.export.markup import Markup, escaped_lines, tag
from ledger.export.plots import Effect, Point, forest, progress
from ledger.export.selection import Selection
from ledger.queries import DiscoveryRow
from ledger.store import Store

DISCOVERIES_MAX = 300  # shown; the confirmed ones first, then the latest
TRACKS_MAX = 8
PEERS_MAX = 100
EFFECTS_MAX = 80  # rows of one forest plot
PROGRAM_LINES_MAX = 1500  # past that difflib may take seconds
_ID_SHOWN = 16
_PEER_SHOWN = 8

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --good: #2a9d5c; --bad: #d1495b; --dim: #8a8a8a; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0; overflow-wrap: anywhere; }
th { border-bottom: 1px solid var(--dim); }
pre { overflow-x: auto; font-size: 13px; }
svg { width: 100%; font-size: 12px; fill: currentColor; }
line { stroke: currentColor; }
circle.unverified { fill: none; stroke: var(--dim); }
.axis { stroke: var(--dim); stroke-dasharray: 3 3; }
.best { fill: none; stroke: var(--good); stroke-width: 2; }
.confirmed { fill: var(--good); stroke: var(--good); }
.refuted { fill: var(--bad); stroke: var(--bad); }
.inconclusive { fill: var(--dim); stroke: var(--dim); }
text { stroke: none !important; }
</style>
"""
_LEGEND = (
    "Effects are differences in bits per byte, child minus parent: below zero is better. Authors are shown by the end "
    "of their peer id. The verdicts of all peers count alike here."
)


class _Facts(NamedTuple):
    """What the report is about."""

    rows: list[DiscoveryRow]  # in causal order
    left_out: int
    verified: frozenset[str]  # more others confirm than refute it, and its author stands by it
    retracted: frozenset[str]  # by its author
    totals: dict[str, float]  # bits per byte from the baseline to the discovery, as claimed along its lineage


def export(store: Store, selection: Selection, *, title: str) -> Iterator[str]:
    """The page, about the discoveries in the selection; `title` is the challenge's name."""
    facts = _facts(store, selection)
    title = f"Waggle: {title}"
    yield _HEAD + tag("title", title) + "\n</head>\n<body>\n"
    yield from _lines(tag("h1", title), tag("p", f"Challenge {store.challenge}."), tag("p", _statistics(store)))
    if facts.left_out:
        yield from _lines(tag("p", f"{len(facts.rows)} discoveries are shown, {facts.left_out} are left out."))
    yield from _lines(tag("p", _LEGEND))
    counts = Counter(row.track for row in facts.rows if row.id in facts.verified)
    counts.update(row.track for row in facts.rows)
    for track, _ in counts.most_common(TRACKS_MAX):
        yield from _lines(*_track(store, facts, track))
    yield from _lines(tag("h2", "Peers"), _peers(store, facts))
    yield "</body>\n</html>\n"


def _lines(*parts: Markup) -> Iterator[str]:
    return (part + "\n" for part in parts)


def _facts(store: Store, selection: Selection) -> _Facts:
    rows = queries.discoveries(store)
    if not selection.whole:
        chosen = {signed.id for signed in selection}
        rows = [row for row in rows if row.id in chosen]
    sql = "SELECT id FROM discoveries AS d WHERE id IN (SELECT discovery FROM retractions WHERE author = d.author)"
    retracted = frozenset(row[0] for row in store.db.execute(sql))
    verified = frozenset(row.id for row in rows if row.confirmed > row.refuted and row.id not in retracted)
    first = sorted(rows, key=lambda row: (row.id not in verified, -row.lamport))
    shown = {row.id for row in first[:DISCOVERIES_MAX]}
    kept = [row for row in rows if row.id in shown]
    return _Facts(kept, len(rows) - len(kept), verified, retracted, _totals(store, kept))


def _totals(store: Store, rows: Sequence[DiscoveryRow]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for row in reversed(rows):  # the way to a late one passes through many earlier ones
        total = 0.0
        for step in queries.ancestors(store, row.id) if row.id not in totals else ():
            total += step.mean
            totals[step.id] = total
    return totals


def _statistics(store: Store) -> str:
    sql = "SELECT iif(kind GLOB 'urn:*', 'of unknown type', kind) AS known, count(*) FROM entries GROUP BY known"
    kinds = store.db.execute(sql).fetchall()
    authors = store.db.execute("SELECT count(DISTINCT author) FROM feeds").fetchone()[0]
    listed = ", ".join(f"{kind}: {count}" for kind, count in kinds)
    return f"The ledger holds {sum(count for _, count in kinds)} entries by {authors} peers ({listed or 'none'})."


def _track(store: Store, facts: _Facts, track: str) -> Iterator[Markup]:
    rows = [row for row in facts.rows if row.track == track]
    latest_first = rows[::-1]
    yield tag("h2", f"Track {track}")
    yield tag("h3", "Cumulative effect, in causal order; the line is the best that others confirmed")
    yield progress([Point(row.hypothesis, facts.totals[row.id], row.id in facts.verified) for row in rows])
    yield tag("h3", "Lineage of the best")
    yield _best(store, facts, rows)
    yield tag("h3", "Discoveries")
    yield _table(_COLUMNS, (_cells(facts, row) for row in latest_first))
    yield tag("h3", "Effects, as claimed and as others measured them")
    effects = (effect for row in latest_first for effect in _effects(store, facts, row))
    yield forest(list(itertools.islice(effects, EFFECTS_MAX)))
    yield tag("h3", "Patches")
    for row in latest_first:
        summary = tag("summary", f"{row.id[:_ID_SHOWN]} {row.hypothesis}")
        yield tag("details", summary, tag("pre", escaped_lines(_patch(store, row))))


_COLUMNS = ("id", "by", "hypothesis", "claimed effect", "in all", "what became of it")


def _cells(facts: _Facts, row: DiscoveryRow) -> tuple[str, ...]:
    effect = f"{row.mean:+.4f} [{row.low:+.4f}, {row.high:+.4f}]"
    total = f"{facts.totals[row.id]:+.4f}"
    return (row.id[:_ID_SHOWN], row.author[-_PEER_SHOWN:], row.hypothesis, effect, total, _fate(facts, row))


def _fate(facts: _Facts, row: DiscoveryRow) -> str:
    counts = f"confirmed {row.confirmed}, refuted {row.refuted}, adopted {row.adopted}"
    return f"retracted; {counts}" if row.id in facts.retracted else counts


def _best(store: Store, facts: _Facts, rows: Sequence[DiscoveryRow]) -> Markup:
    verified = [row for row in rows if row.id in facts.verified]
    if not verified:
        return tag("p", "Nobody has confirmed a discovery of somebody else yet.")
    best = min(verified, key=lambda row: facts.totals[row.id])
    steps = [
        tag("li", f"{step.mean:+.4f} bpb, {step.author[-_PEER_SHOWN:]}: {step.hypothesis} ({_fate(facts, step)})")
        for step in queries.ancestors(store, best.id)[-DISCOVERIES_MAX:]
    ]
    return tag("ol", *steps)


def _effects(store: Store, facts: _Facts, row: DiscoveryRow) -> Iterator[Effect]:
    """The claimed effect, then what others measured."""
    style = "confirmed" if row.id in facts.verified else "unverified"
    yield Effect(f"{row.id[:_ID_SHOWN]} {row.hypothesis}"[:46], row.mean, row.low, row.high, style)
    for verdict in queries.attestations(store, row.id):
        if verdict.mean is not None and verdict.low is not None and verdict.high is not None:
            label = f"\N{EM DASH} {verdict.verdict} by {verdict.author[-_PEER_SHOWN:]}"
            yield Effect(label, verdict.mean, verdict.low, verdict.high, verdict.verdict)


def _patch(store: Store, row: DiscoveryRow) -> str:
    """The unified diff from parent to child, or why there is none."""
    for digest in (row.parent, row.child):
        if not store.blobs.has(digest):
            return f"(program {digest[:12]} has not arrived)"
    before, after = (store.blobs.get(each).decode(errors="replace").splitlines() for each in (row.parent, row.child))
    if max(len(before), len(after)) > PROGRAM_LINES_MAX:
        return f"(a program of more than {PROGRAM_LINES_MAX} lines)"
    lines = difflib.unified_diff(before, after, row.parent[:12], row.child[:12], lineterm="", n=2)
    return "\n".join(line.expandtabs(4) for line in lines)


def _peers(store: Store, facts: _Facts) -> Markup:
    """Per author: what it found and what others said of that, and which verdicts it gave."""
    given: defaultdict[str, Counter[str]] = defaultdict(Counter)
    sql = "SELECT author, verdict, count(*) FROM attestations GROUP BY author, verdict"
    for author, verdict, count in store.db.execute(sql):
        given[author][verdict] = count
    found = Counter(row.author for row in facts.rows)
    held = Counter(row.author for row in facts.rows if row.id in facts.verified)
    authors = sorted(found.keys() | given.keys(), key=lambda author: (-held[author], -given[author].total(), author))
    verdicts = ("confirmed", "refuted", "inconclusive")
    rows = (
        (author, str(found[author]), str(held[author]), *(str(given[author][verdict]) for verdict in verdicts))
        for author in authors[:PEERS_MAX]
    )
    return _table(
        ("peer", "discoveries shown", "of these confirmed", *(f"gave: {verdict}" for verdict in verdicts)), rows
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    head = tag("tr", *(tag("th", name) for name in header))
    return tag("table", head, *(tag("tr", *(tag("td", cell) for cell in row)) for row in rows))
