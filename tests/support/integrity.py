"""Asking whether a ledger is whole, and running faults.py."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import faults
import msgspec
import pytest
from msgspec import Struct

from ledger.findings import Finding
from ledger.fsck import fsck
from ledger.store import Store

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class Ran(Struct, frozen=True):
    """A line of faults.py."""

    at: int
    exit: int
    acknowledged: list[str]


def errors(store: Store) -> list[Finding]:
    return [found for found in fsck(store) if found.severity == "error"]


def runs(run: str, ledger: Path, folder: Path, fault: str, numbers: Sequence[int]) -> list[Ran]:
    command = [sys.executable, faults.__file__, run, str(ledger), str(folder), fault, *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    found = [msgspec.json.decode(line, type=Ran) for line in done.stdout.splitlines()]
    if any(ran.exit == faults.UNSUPPORTED for ran in found):
        pytest.skip("no system call can be put before another thread here (seccomp_unotify)")
    dies = fault in ("kill", "tear", "power")
    assert [(ran.at, ran.exit) for ran in found] == [(at, -signal.SIGKILL if dies and at else 0) for at in numbers]
    return found


def count(run: str, ledger: Path, folder: Path) -> int:
    """How many writes, syncs, renames and so on a run makes."""
    (ran,) = runs(run, ledger, folder, "error", [0])
    return int(ran.acknowledged[-1].removeprefix("calls "))
