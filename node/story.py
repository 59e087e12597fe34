"""The ledger's answers as a person reads them. Peers' text is data: control characters never reach the terminal."""

import difflib
import json
from collections.abc import Collection

import msgspec
from rich.console import Group, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from ledger import queries
from ledger.predicates import Comparison, Discovery, Hardware
from ledger.queries import DiscoveryRow
from ledger.store import Store

ID_SHOWN = 16  # characters: the common prefix "bafkrei" and 9 more, 45 bits


def plain(text: str) -> str:
    """Text of unknown origin with everything a terminal could act on replaced."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def plain_lines(text: str) -> str:
    """As `plain`, but for text of several lines."""
    return "\n".join(plain(line) for line in text.splitlines())


def short(author: str) -> str:
    """The end of a peer id: all of them begin alike."""
    return author[-8:]


def bpb(mean: float | None, low: float | None, high: float | None) -> str:
    """An effect with its interval."""
    if mean is None or low is None or high is None:
        return "no effect measured"
    return f"{mean:+.4f} bpb [{low:+.4f}, {high:+.4f}]"


def log_table(lines: list[queries.LogLine]) -> Table:
    table = Table("id", "author", "clock", "time", "kind", "what", box=None, pad_edge=False, header_style="bold")
    for line in lines:
        what = Text(plain(line.summary), no_wrap=True, overflow="ellipsis")
        facts = (line.id[:ID_SHOWN], short(line.author), str(line.lamport), line.recorded_at, line.kind)
        table.add_row(*(Text(plain(fact)) for fact in facts), what)
    return table


def patch(store: Store, parent: str, child: str) -> str:
    """The unified diff between two programs in the store; says so where one has not arrived."""
    for digest in (parent, child):
        if not store.blobs.has(digest):
            return f"(program {digest[:12]} has not arrived)\n"
    before, after = (store.blobs.get(digest).decode(errors="replace").splitlines() for digest in (parent, child))
    lines = difflib.unified_diff(before, after, parent[:12], child[:12], lineterm="", n=2)
    return plain_lines("\n".join(line.expandtabs(4) for line in lines)) + "\n"


def discovery_story(store: Store, row: DiscoveryRow) -> RenderableType:
    """Everything the ledger knows of a discovery: claim, patch, lineage, trials, verdicts, adoptions."""
    signed = store.entry(row.id)
    if signed is None or not isinstance(signed.statement.body, Discovery):
        raise LookupError(f"{row.id} is listed as a discovery and is none")
    comparison = signed.statement.body.comparison
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    facts.add_row("discovery", row.id)
    facts.add_row("by", Text(plain(f"{row.author}, {row.recorded_at}, proposed by {row.proposer}")))
    facts.add_row("hypothesis", Text(plain(row.hypothesis)))
    claimed = f"{bpb(row.mean, row.low, row.high)} over {len(comparison.seeds)} pairs, {row.track}"
    facts.add_row("claimed", Text(plain(claimed)))
    facts.add_row("program", f"{row.child} on {row.parent}")
    verdicts = [
        Text(f"{a.verdict:<12} {short(a.author)}  {plain(a.reason)}", style=_VERDICT_STYLES[a.verdict])
        for a in queries.attestations(store, row.id)
    ]
    adopters = [
        Text(f"{short(a.author)}  {plain(a.recorded_at)}  {plain(a.reason)}") for a in queries.adoptions(store, row.id)
    ]
    return Group(
        facts,
        _section("patch"),
        Syntax(patch(store, row.parent, row.child), "diff", background_color="default", word_wrap=True),
        _section("lineage, from the baseline"),
        *(_step(step) for step in queries.ancestors(store, row.id)),
        _section("trials behind the claim"),
        _trials(store, comparison),
        _section("verdicts of others, each from their own runs"),
        *(verdicts or [Text("none yet")]),
        _section("adopted by"),
        *(adopters or [Text("nobody yet")]),
    )


_VERDICT_STYLES = {"confirmed": "green", "refuted": "red", "inconclusive": "yellow"}


def _section(title: str) -> Text:
    return Text(f"\n{title}", style="bold")


def _step(row: DiscoveryRow) -> Text:
    what = f"{row.id[:ID_SHOWN]}  {row.mean:+.4f} bpb  {short(row.author)}  {plain(row.hypothesis)}"
    return Text(f"{what}  (confirmed {row.confirmed}, refuted {row.refuted}, adopted {row.adopted})")


def _trials(store: Store, comparison: Comparison) -> Table:
    table = Table("seed", "parent bpb", "child bpb", "difference", "on", box=None, pad_edge=False, header_style="bold")
    pairs = zip(
        comparison.seeds, comparison.parent_trials, comparison.child_trials, comparison.differences, strict=True
    )
    for seed, parent_id, child_id, difference in pairs:
        ran = [queries.trial(store, trial_id) for trial_id in (parent_id, child_id)]
        scores = ["not here" if r is None or r[1].result.val_bpb is None else f"{r[1].result.val_bpb:.4f}" for r in ran]
        hardware = "" if ran[1] is None else _machine(ran[1][1].result.hardware)
        table.add_row(str(seed), *scores, f"{difference:+.4f}", Text(hardware))
    return table


def _machine(hardware: Hardware) -> str:
    return plain(f"{hardware.cpu}, {hardware.cores} cores, torch {hardware.torch}")


def lineage(store: Store, discovery_id: str, baselines: Collection[str]) -> RenderableType:
    """The steps from the baseline to a discovery, one below the other, then what was built on it as a tree.

    `baselines`: the programs (SHA-256) with which the challenge's tracks begin.
    """
    chain = queries.ancestors(store, discovery_id)
    first = chain[0].parent
    what = "baseline" if first in baselines else "program of unknown origin"
    itself = _step(chain[-1])
    itself.stylize("bold")
    branches = [Tree(itself)]  # the open branch at each depth
    for below in queries.descendants(store, discovery_id)[1:]:
        del branches[below.depth :]
        branches.append(branches[-1].add(_step(below.discovery)))
    return Group(Text(f"{what} {first[:12]}"), *(_step(step) for step in chain[:-1]), branches[0])


def entry_json(store: Store, entry_id: str) -> str:
    """Any statement, as signed, indented."""
    signed = store.entry(entry_id)
    if signed is None:
        raise LookupError(entry_id)
    payload = msgspec.msgpack.decode(signed.envelope)["payload"]
    return json.dumps(json.loads(payload), indent=2)
