"""`waggle ledger export | import`: the ledger as files for other tools, and from other ledgers."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from ledger import queries
from ledger.envelope import peer_id
from ledger.export import FORMATS, html, intoto, jsonl, prov, tsv
from ledger.export.selection import Selection, snapshot
from ledger.importing import IMPORT_BYTES_MAX, Report, import_export
from ledger.store import readable
from node.errors import UserError
from node.home import Home
from node.options import home_option, json_option

EVERYBODY = "all"


@click.command("export")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@home_option
@click.option("--format", "form", type=click.Choice(FORMATS), required=True, help="What is written.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write. Default: standard output.")
@click.option("--blobs", is_flag=True, help="jsonl: also the text of each program that is here.")
@click.option("--author", metavar=f"PEER|{EVERYBODY}", help="tsv: whose trials.  [default: this node's]")
@click.option("--track", metavar="NAME", help="tsv: the trials of one track.  [default: all]")
def export_command(
    ids: tuple[str, ...],
    home_path: Path,
    form: str,
    out: Path | None,
    blobs: bool,
    author: str | None,
    track: str | None,
) -> None:
    """Write the ledger, or the entries ID with all that they name. ID: 8 or more characters of an id."""
    _check_options(form, blobs=blobs, author=author, track=track)
    home = Home(home_path)
    challenge = home.challenge()
    with readable(home.ledger_file):
        store = home.store(challenge)
        with snapshot(store):
            selection = Selection(store, [queries.resolve(store, entry_id) for entry_id in ids])
            match form:
                case "jsonl":
                    text = jsonl.export(store, selection, programs=blobs)
                case "intoto":
                    text = intoto.export(selection)
                case "prov":
                    text = prov.export(selection)
                case "tsv":
                    text = tsv.export(selection, author=_author(home, author), track=track)
                case _:
                    text = html.export(store, selection, title=challenge.name)
            _write(text, out)


def _check_options(form: str, *, blobs: bool, author: str | None, track: str | None) -> None:
    for option, given, wanted in (
        ("--blobs", blobs, "jsonl"),
        ("--author", author, "tsv"),
        ("--track", track, "tsv"),
    ):
        if given and form != wanted:
            raise UserError(f"{option} goes with --format {wanted} only.")


def _author(home: Home, given: str | None) -> str | None:
    """Whose trials: this node's by default, None for everybody's."""
    if given is None:
        return peer_id(home.key().public_key())
    return None if given == EVERYBODY else given


def _write(text: Iterator[str], out: Path | None) -> None:
    """Write to standard output, or to a file that appears whole or not at all."""
    if out is None:
        _write_all(text, sys.stdout.buffer)
        return
    if out.exists() and not out.is_file():
        raise UserError(f"{out} is not a regular file: leave --out away, and redirect the output.")
    unfinished = out.with_name(f"{out.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            _write_all(text, file)
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_all(text: Iterator[str], file: BinaryIO) -> None:
    for part in text:
        file.write(part.encode())


@click.command("import")
@click.argument("file", type=click.File("rb"), metavar="FILE")
@home_option
@click.option("--strict", is_flag=True, help="Stop at the first line that is refused.")
@click.option(
    "--bytes-max",
    type=click.IntRange(min=1),
    default=IMPORT_BYTES_MAX,
    show_default=True,
    help="Read no more than this.",
)
@json_option
def import_command(file: BinaryIO, home_path: Path, strict: bool, bytes_max: int, as_json: bool) -> None:
    """Add what `export --format jsonl` wrote to a ledger of the same challenge; - reads standard input.

    Everything is checked as if it came from a stranger. The exit code is 1 if anything was refused.
    """
    home = Home(home_path)
    with readable(home.ledger_file):
        store = home.store(home.challenge())
        report = import_export(store, file, strict=strict, bytes_max=bytes_max)
    click.echo(msgspec.json.encode(report) if as_json else "\n".join(_lines(report)))
    sys.exit(1 if report.refused else 0)


def _lines(report: Report) -> Iterator[str]:
    yield f"entries   {report.entries_new} new, {report.entries_known} already there"
    yield f"programs  {report.programs_new} new, {report.programs_known} already there"
    if report.refused:
        yield f"refused   {report.refused}"
    for refusal in report.refusals:
        where = "" if refusal.line is None else f"line {refusal.line}: "
        yield f"          {where}{refusal.reason}"
    if report.refused > len(report.refusals):
        yield f"          and {report.refused - len(report.refusals)} more"
