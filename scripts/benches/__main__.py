"""`scripts/bench NAME`: measures, prints a table and one line per goal, writes `bench-NAME.json`.

Exit codes: 0 every goal met · 1 one is short · 2 wrong usage.
"""

import importlib
import json
import sys
import time
from pathlib import Path

import click
import msgspec
from rich.console import Console

from benches.report import Effort, Goal, Parts, Row, table
from trainer.trial import hardware

BENCHES = {  # name: module with PARTS
    "gossip": "benches.gossip",
    "ledger": "benches.ledger",
    "policy": "benches.policy",
    "search": "benches.search",
    "trainer": "benches.trainer",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name")
@click.option("--full", is_flag=True, help="More repetitions; the default takes at most ten minutes.")
@click.option("--only", "chosen", multiple=True, metavar="PART", help="Only this part; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Folder for the JSON.")
def bench(name: str, full: bool, chosen: tuple[str, ...], out: Path) -> None:
    """Measure NAME. Nothing else should be running on the machine."""
    if name not in BENCHES:
        raise click.UsageError(f"no benchmark {name}: there is {', '.join(sorted(BENCHES))}")
    parts: Parts = importlib.import_module(BENCHES[name]).PARTS
    if unknown := set(chosen) - set(parts):
        raise click.UsageError(f"no part {', '.join(sorted(unknown))} in {name}: it has {', '.join(parts)}")
    started = time.monotonic()
    effort = Effort(full, lambda line: click.echo(f"{time.monotonic() - started:6.0f} s  {line}", err=True))
    rows: list[Row] = []
    goals: list[Goal] = []
    for part in chosen or parts:
        outcome = parts[part](effort)
        rows += outcome.rows
        goals += outcome.goals
        for one in outcome.rows:  # now: a part that fails later must not take it along
            effort.say(f"{one.what}: {one.figure:.4g} {one.unit}")
    Console(width=160, highlight=False).print(table(rows))
    for goal in goals:
        click.echo(goal.line())
    out.mkdir(parents=True, exist_ok=True)
    written = {
        "bench": name,
        "parts": list(chosen or parts),
        "full": full,
        "seconds": round(time.monotonic() - started, 1),
        "hardware": msgspec.to_builtins(hardware("cpu")),
        "rows": msgspec.to_builtins(rows),
        "goals": [{**msgspec.to_builtins(goal), "met": goal.met} for goal in goals],
    }
    (out / f"bench-{name}.json").write_text(json.dumps(written, indent=2) + "\n")
    sys.exit(0 if all(goal.met for goal in goals) else 1)


if __name__ == "__main__":
    bench(prog_name="scripts/bench")
