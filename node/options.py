"""Options that several commands share."""

from pathlib import Path

import click

home_option = click.option(
    "--home",
    "home_path",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".waggle"),
    show_default=True,
    help="Folder of the node: key, ledger, challenge.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
