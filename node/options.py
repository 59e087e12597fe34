"""What several commands share: their options, and how their answers are written."""

import json
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

home_option = click.option(
    "--home",
    "home_path",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".waggle"),
    show_default=True,
    help="Folder of the node: key, ledger, challenge.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def console() -> Console:
    """Standard output for people."""
    # Piped output is for reading and searching: no cropping to an imagined terminal's 80 columns.
    found = Console(highlight=False)
    return found if found.is_terminal else Console(width=200, highlight=False)


def echo_json(value: Any, *, indent: int | None = None) -> None:
    """Print an answer as JSON, in ASCII: what peers wrote arrives at a terminal as escape sequences of JSON only."""
    click.echo(json.dumps(msgspec.to_builtins(value), indent=indent))
