"""`scripts/faults [NAME]...`: harms swarms of real processes; one line for each fault, what it took and what was lost.

Exit codes: 0 nothing was lost · 1 something was · 2 wrong usage. A fault that this machine does not allow is skipped by
name, with the reason, and decides nothing.
"""

import shutil
import signal
import sys
import tempfile
from pathlib import Path

import click
import trio
from msgspec.structs import replace

from benches.faults.runs import RUNS, carry_out
from benches.faults.sites import NoSites
from benches.faults.swarm import Lost


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--observers", type=click.IntRange(min=2), help="How many, instead of each fault's own number.")
def faults(names: tuple[str, ...], observers: int | None) -> None:
    """Inflict the faults NAME, or all, on swarms of real processes. Nothing else should be running on the machine."""
    if unknown := set(names) - set(RUNS):
        raise click.UsageError(f"no fault {', '.join(sorted(unknown))}: there is {', '.join(RUNS)}")
    # As Ctrl-C, which Trio takes in order, so that processes and namespaces are removed.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    lost = False
    for name in names or RUNS:
        _, size = RUNS[name]
        if observers is not None:
            size = replace(size, observers=observers)
        folder = Path(tempfile.mkdtemp(prefix=f"waggle-{name}-"))
        try:
            verdict, figures = "held", "; ".join(trio.run(carry_out, name, folder, size))
        except Lost as error:
            verdict, figures, lost = "lost", f"{error}; all logs and ledgers are in {folder}", True
        except NoSites as error:
            verdict, figures = "skipped", str(error)
        if verdict != "lost":
            shutil.rmtree(folder)
        click.echo(f"{verdict:<9}{name:<11}{figures}")
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    faults(prog_name="scripts/faults")
