"""The ledger's answers as a person reads them. Peers' text is data: control characters never reach the terminal."""

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from ledger import queries
from ledger.envelope import Signed, payload_of
from ledger.errors import UnknownId
from ledger.predicates import PROGRAM_BYTES_MAX
from ledger.queries import AttestationRow, DiscoveryAccount, DiscoveryRow, HardwareEffects, LogLine, Mark, TrialRow
from ledger.store import Store
from node.errors import UserError

ID_SHOWN = 16  # characters: the common prefix "bafkrei" and 9 more, 45 bits
ROWS_SHOWN = 12  # of each part of a story; JSON has all
PATCH_LINES_MAX = 2000  # of one program; comparing takes quadratic time and more for some texts

MARKS: dict[Mark, str] = {
    "author_banned": "author banned",
    "retracted": "retracted",
    "built_on_retracted": "built on a retracted one",
}


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


def marks_text(marks: Iterable[Mark]) -> str:
    """What speaks against an entry, in words; empty if nothing does."""
    return ", ".join(MARKS[mark] for mark in marks)


def in_brackets(marks: Iterable[Mark]) -> Text:
    """The marks as they stand before a text, with a space after; empty without any."""
    words = marks_text(marks)
    return Text(f"[{words}] " if words else "", style="red")


# The log


def log_header() -> Text:
    return Text(_columns("id", "author", "clock", "time", "kind") + "what", style="bold")


def log_line(line: LogLine) -> Text:
    """One entry in one line, in columns of fixed width, because more may follow."""
    values = (line.id[:ID_SHOWN], short(line.author), str(line.lamport), line.recorded_at, line.kind)
    text = Text(_columns(*map(plain, values)), no_wrap=True, overflow="ellipsis")
    return text.append_text(in_brackets(line.marks)).append(plain(line.summary))


def _columns(entry_id: str, author: str, clock: str, time: str, kind: str) -> str:
    return f"{entry_id:<{ID_SHOWN}}  {author:<8}  {clock:>7}  {time:<20}  {kind:<11}  "


# Programs


def program_diff(store: Store, before: str, after: str) -> str:
    """The unified diff of two programs (SHA-256), as they are.

    Raises `UserError` where one is not here, or is too large to be a program.
    """
    old, new = (_program(store, digest) for digest in (before, after))
    return "\n".join(difflib.unified_diff(old, new, before[:12], after[:12], lineterm="", n=2))


def _program(store: Store, digest: str) -> list[str]:
    size = queries.program_size(store, digest)
    if size is None:
        raise UserError(f"program {digest[:12]} has not arrived")
    if size > PROGRAM_BYTES_MAX:  # a claim can name any blob, a corpus also
        raise UserError(f"{digest[:12]} is not a program: it has {size} bytes")
    lines = store.blobs.get(digest).decode(errors="replace").splitlines()
    if len(lines) > PATCH_LINES_MAX:
        raise UserError(f"program {digest[:12]} has {len(lines)} lines; up to {PATCH_LINES_MAX} are compared")
    return lines


def coloured(diff: str) -> RenderableType:
    """A unified diff, with colours where they are shown."""
    text = plain_lines("\n".join(line.expandtabs(4) for line in diff.splitlines()))
    return Syntax(text, "diff", background_color="default", word_wrap=True)


def _patch(store: Store, row: DiscoveryRow) -> RenderableType:
    try:
        return coloured(program_diff(store, row.parent, row.child))
    except UserError as error:
        return Text(f"({error})")


# A discovery


def discovery_story(store: Store, row: DiscoveryRow) -> RenderableType:
    """All that the ledger knows of a discovery: claim, patch, lineage, trials, effects, verdicts, adoptions.

    Raises `UnknownId` if it is not in this ledger.
    """
    traced = queries.trace(store, row.id)
    account = traced.account
    adopters = [_said(account, one.author, one.recorded_at, one.reason) for one in account.adoptions]
    return Group(
        _claim(account),
        _section("patch"),
        _patch(store, account.discovery),
        _section("lineage, from the baseline"),
        *_last([step(one.discovery, one.marks) for one in traced.chain]),
        _section("trials behind the claim"),
        _trials(account),
        _section("effects by hardware"),
        _effects(account.effects),
        _section("verdicts of others, each from their own runs"),
        *_last([_verdict(account, said) for said in account.attestations] or [Text("none yet")]),
        _section("adopted by"),
        *_last(adopters or [Text("nobody yet")]),
        *_retractions(account),
    )


def _section(title: str) -> Text:
    return Text(f"\n{title}", style="bold")


def _last(lines: Sequence[Text]) -> list[Text]:
    """The end of a list, and how much of it is left out."""
    left_out = len(lines) - ROWS_SHOWN
    return list(lines) if left_out <= 0 else [Text(f"… {left_out} before; --json has all"), *lines[left_out:]]


def facts(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """A name and a value in each line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, value if isinstance(value, Text) else Text(plain(value)))
    return grid


def _claim(account: DiscoveryAccount) -> Table:
    row = account.discovery
    marked = [("marked", Text(marks_text(account.marks), style="red"))] if account.marks else []
    return facts(
        [
            ("discovery", row.id),
            *marked,
            ("by", f"{row.author}, {row.recorded_at}, proposed by {row.proposer}"),
            ("hypothesis", row.hypothesis),
            ("claimed", f"{bpb(row.mean, row.low, row.high)} over {row.pairs} pairs, {row.track}"),
            ("program", f"{row.child} on {row.parent}"),
        ]
    )


def step(row: DiscoveryRow, marks: Iterable[Mark]) -> Text:
    """A discovery in one line."""
    standing = f"confirmed {row.confirmed}, refuted {row.refuted}, adopted {row.adopted}"
    text = Text(f"{row.id[:ID_SHOWN]}  {row.mean:+.4f} bpb  {short(row.author)}  ({standing})  ")
    return text.append_text(in_brackets(marks)).append(plain(row.hypothesis))


def _trials(account: DiscoveryAccount) -> Table:
    rows = table("seed", "parent bpb", "child bpb", "difference", "on")
    for pair in account.pairs:
        scores = [_score(trial) for trial in (pair.parent, pair.child)]
        where = "" if pair.child is None else plain(pair.child.hardware)
        rows.add_row(str(pair.seed), *scores, f"{pair.difference:+.4f}", Text(where))
    return rows


def _score(trial: TrialRow | None) -> str:
    if trial is None:
        return "not here"
    return trial.status if trial.val_bpb is None else f"{trial.val_bpb:.4f}"


def _effects(effects: Iterable[HardwareEffects]) -> Table:
    rows = table("claimed", "median of others", "nodes", "on")
    for one in effects:
        claimed = "" if one.claimed is None else bpb(one.claimed.mean, one.claimed.low, one.claimed.high)
        median = "" if one.median is None else f"{one.median:+.4f} bpb"
        rows.add_row(claimed, median, str(one.nodes), Text(plain(one.hardware or "not known yet")))
    return rows


def _verdict(account: DiscoveryAccount, said: AttestationRow) -> Text:
    measured = f"{bpb(said.mean, said.low, said.high)}, {said.pairs} pairs, {said.hardware or 'hardware not known yet'}"
    own = " its own author," if said.author == account.discovery.author else ""
    line = f"{said.verdict:<12} {short(said.author)}  {own}{measured}  {said.reason}"
    return _by_banned(account, said.author, Text(plain(line), style=_VERDICT_STYLES[said.verdict]))


_VERDICT_STYLES = {"confirmed": "green", "refuted": "red", "inconclusive": "yellow"}


def _said(account: DiscoveryAccount, author: str, recorded_at: str, reason: str) -> Text:
    return _by_banned(account, author, Text(plain(f"{short(author)}  {recorded_at}  {reason}")))


def _by_banned(account: DiscoveryAccount, author: str, line: Text) -> Text:
    return in_brackets(["author_banned"] if author in account.banned else []).append_text(line)


def _retractions(account: DiscoveryAccount) -> list[Text]:
    lines = [
        _said(account, one.author, one.recorded_at, f"{bpb(one.mean, one.low, one.high)}  {one.reason}")
        for one in account.retractions
    ]
    return [_section("retracted by"), *_last(lines)] if lines else []


def table(*headers: str) -> Table:
    """A table without lines."""
    return Table(*headers, box=None, pad_edge=False, header_style="bold")


# Any statement


def statement(signed: Signed) -> Any:
    """The signed statement, as the JSON that it is."""
    return json.loads(payload_of(signed.envelope))


def entry_json(store: Store, entry_id: str) -> str:
    """Any statement, as signed, indented; in ASCII. Raises `UnknownId`."""
    return json.dumps(statement(_entry(store, entry_id)), indent=2)


def entry_story(store: Store, entry_id: str) -> RenderableType:
    """Who said what and when, for an entry of any kind. Raises `UnknownId`."""
    line, body = queries.line(store, entry_id), entry_json(store, entry_id)
    if line is None:
        raise UnknownId(f"no entry {entry_id}")
    marked = [("marked", Text(marks_text(line.marks), style="red"))] if line.marks else []
    head = facts(
        [
            (line.kind, line.id),
            *marked,
            ("by", f"{line.author}, {line.recorded_at}"),
            ("place", f"{line.feed} {line.seq}, clock {line.lamport}"),
            ("subject", line.subject),
            ("what", line.summary),
        ]
    )
    return Group(head, _section("as signed"), Text(body))


def discovery_json(store: Store, row: DiscoveryRow) -> str:
    """All of a discovery's account, with the signed statement; in ASCII. Raises `UnknownId`."""
    traced = queries.trace(store, row.id)
    return json.dumps(msgspec.to_builtins(traced.account) | {"statement": statement(traced.signed)}, indent=2)


def _entry(store: Store, entry_id: str) -> Signed:
    signed = store.entry(entry_id)
    if signed is None:
        raise UnknownId(f"no entry {entry_id}")
    return signed
