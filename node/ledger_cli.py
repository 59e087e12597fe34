"""`waggle ledger …`: the questions. They write nothing, and work while a node is running on the home.

Every answer is also there as JSON, which docs/queries.md describes.
"""

import math
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from ledger import queries
from ledger.predicates import Status, Verdict
from ledger.queries import LogFilter, LogLine
from ledger.statements import KINDS
from ledger.store import Store, readable
from node import census_text, lineage_text, story
from node.errors import UserError
from node.home import Home
from node.options import console, echo_json, home_option, json_option

POLL_S = 0.5
id_argument = click.argument("entry_id", metavar="ID")


@click.group()
def ledger() -> None:
    """Ask the ledger what was claimed, by whom, and what became of it.

    An ID is 8 or more characters of an id, as `log` shows them.
    """


@contextmanager
def _reading(home: Home) -> Iterator[Store]:
    """The home's ledger, for reading, in the state that it is in now.

    Other processes may write meanwhile; a command that asks twice gets answers that agree.
    """
    with readable(home.ledger_file):
        store = home.store(home.challenge())
        try:
            store.db.execute("PRAGMA query_only = ON")
            store.db.execute("BEGIN")
            yield store
        finally:
            store.close()


def _answer(value: Any, shown: RenderableType, as_json: bool) -> None:
    if as_json:
        echo_json(value)
    else:
        console().print(shown)


# Conditions of the log


def _finite(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("is not a finite number")
    return value


def _time(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{value!r} is not a time as 2026-01-31T12:00:00Z, or a date") from None


def _matching(pattern: str, what: str) -> Any:
    def check(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(pattern, value):
            raise click.BadParameter(f"{value!r} is not {what}")
        return value

    return check


_KIND = f"{'|'.join(KINDS)}|urn:waggle:[a-z-]+:v[0-9]+"
_BPB = partial(click.option, type=float, callback=_finite, metavar="BPB")
_WHEN = partial(click.option, callback=_time, metavar="TIME")


@ledger.command("log")
@home_option
@click.option("--author", metavar="PEER", help="Only entries by this peer: the beginning or end of its id.")
@click.option(
    "--kind",
    callback=_matching(_KIND, f"one of {', '.join(KINDS)}, or a whole URN"),
    help=f"Only entries of this kind: {', '.join(KINDS)}, or a whole URN.",
)
@click.option(
    "--subject",
    callback=_matching("[0-9a-f]{1,64}", "the beginning of a SHA-256 in lower-case hex"),
    metavar="SHA256",
    help="Only entries about what has this digest, or one that begins so.",
)
@click.option("--status", type=click.Choice(get_args(Status)), help="Only trials with this status.")
@click.option("--verdict", type=click.Choice(get_args(Verdict)), help="Only attestations with this verdict.")
@_BPB("--better-than", help="Only discoveries and attestations with a mean effect below this; negative is better.")
@_BPB("--worse-than", help="The same, above this.")
@_WHEN("--since", help="Only entries recorded then or later, by their authors' clocks.")
@_WHEN("--until", help="Only entries recorded then or earlier.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--follow", is_flag=True, help="Go on with entries as they arrive, until Ctrl-C.")
@json_option
def ledger_log(home_path: Path, author: str | None, limit: int, follow: bool, as_json: bool, **conditions: Any) -> None:
    """The latest entries that meet all conditions, oldest first."""
    for name, kind in (("status", "trial"), ("verdict", "attestation")):
        if conditions[name] is not None and conditions["kind"] not in (None, kind):
            raise click.UsageError(f"--{name} is of a kind {kind}: leave --kind out")
    with _reading(Home(home_path)) as store:
        wanted = LogFilter(author=None if author is None else queries.resolve_author(store, author), **conditions)
        at = queries.position(store)
        lines = queries.log(store, wanted, limit=limit)
        if not follow:
            _answer(lines, Group(story.log_header(), *map(story.log_line, lines)), as_json)
            return
        store.db.conn.rollback()  # from here on every question sees what is new
        try:
            _print_lines(lines, as_json)
            for news in queries.follow(store, wanted, at, partial(time.sleep, POLL_S)):
                _print_lines(news, as_json)
        except KeyboardInterrupt:
            sys.exit(130)


def _print_lines(lines: list[LogLine], as_json: bool) -> None:
    for line in lines:
        if as_json:
            echo_json(line)
        else:
            console().print(story.log_line(line))


# One entry


@ledger.command("show")
@id_argument
@home_option
@json_option
def ledger_show(entry_id: str, home_path: Path, as_json: bool) -> None:
    """A discovery's whole story, or who said what and when in any other entry."""
    with _reading(Home(home_path)) as store:
        entry_id = queries.resolve(store, entry_id)
        row = queries.discovery(store, entry_id)
        if as_json:
            click.echo(story.entry_json(store, entry_id) if row is None else story.discovery_json(store, row))
        else:
            console().print(story.entry_story(store, entry_id) if row is None else story.discovery_story(store, row))


@ledger.command("lineage")
@id_argument
@home_option
@click.option(
    "--format", "form", type=click.Choice(("tree", "json", "dot", "mermaid")), default="tree", show_default=True
)
@json_option
def ledger_lineage(entry_id: str, home_path: Path, form: str, as_json: bool) -> None:
    """Where a discovery came from and what was built on it; as text, or for Graphviz or Mermaid."""
    home = Home(home_path)
    with _reading(home) as store:
        found = queries.lineage_of(store, queries.resolve(store, entry_id))
    first = found.ancestors[0].discovery.parent
    baseline = first in {track.baseline for track in home.challenge().tracks.values()}
    origin = f"{'baseline' if baseline else 'program of unknown origin'} {first[:12]}"
    if as_json or form == "json":
        echo_json({"origin": first, "origin_is_baseline": baseline} | msgspec.to_builtins(found))
    elif form == "tree":
        console().print(Group(*lineage_text.tree(found, origin)))
    else:
        click.echo(lineage_text.dot(found, origin) if form == "dot" else lineage_text.mermaid(found, origin))


@ledger.command("diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@home_option
@json_option
def ledger_diff(a: str, b: str, home_path: Path, as_json: bool) -> None:
    """The difference between two programs: A and B are digests, or ids of entries about them, or how these begin."""
    with _reading(Home(home_path)) as store:
        a, b = queries.resolve_program(store, a), queries.resolve_program(store, b)
        diff = story.program_diff(store, a, b)
    if as_json:
        echo_json({"a": a, "b": b, "diff": diff})
    elif console().is_terminal:
        console().print(story.coloured(diff))
    else:
        click.echo(story.plain_lines(diff))


# Many entries


@ledger.command("search")
@click.argument("words", nargs=-1, required=True)
@home_option
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@json_option
def ledger_search(words: tuple[str, ...], home_path: Path, limit: int, as_json: bool) -> None:
    """Entries whose hypothesis, reason or lesson has all WORDS, the best match first."""
    with _reading(Home(home_path)) as store:
        found = queries.search(store, " ".join(words), limit=limit)
    _answer(found, Group(*census_text.hits(found)) if found else Text("no entry has all these words"), as_json)


@ledger.command("best")
@home_option
@click.option("--track", metavar="NAME", help="Only this track of the challenge.")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Of each sort, in each track.")
@json_option
def ledger_best(home_path: Path, track: str | None, limit: int, as_json: bool) -> None:
    """The best discoveries that others confirmed, and the best that nobody has checked."""
    home = Home(home_path)
    tracks = home.challenge().tracks
    if track is not None and track not in tracks:
        raise UserError(f"the challenge has no track {track!r}; it has {', '.join(tracks)}")
    with _reading(home) as store:
        found = {name: queries.best(store, name, limit=limit) for name in ([track] if track else tracks)}
    _answer(found, Group(*census_text.ranking(found)), as_json)


@ledger.command("stats")
@home_option
@json_option
def ledger_stats(home_path: Path, as_json: bool) -> None:
    """The ledger in numbers."""
    with _reading(Home(home_path)) as store:
        found = queries.stats(store)
    _answer(found, census_text.statistics(found), as_json)


@ledger.command("peers")
@home_option
@json_option
def ledger_peers(home_path: Path, as_json: bool) -> None:
    """Who has stated what, on what hardware, and where others were last reached."""
    with _reading(Home(home_path)) as store:
        found = queries.peers(store)
    _answer(found, Group(*census_text.peers(found)), as_json)
