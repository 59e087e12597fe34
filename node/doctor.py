"""What this machine has of what a node needs, each with a remedy: `waggle doctor`.

`fail` is for what a node cannot do without; `warn` for what makes it weaker or slower. Nothing is installed, changed
or reached over the network, and torch is not imported.
"""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil
from msgspec import Struct

from trainer.sandbox.command import SandboxUnavailable, nvidia_devices, nvidia_name
from trainer.sandbox.preflight import examine

PYTHON_MIN = (3, 11)
DISK_BYTES_MIN = 200 * 2**20
DISK_BYTES_WISE = 2 * 2**30
MEMORY_BYTES_WISE = 3 * 2**30  # the default track's 2 GiB for a trial, the node and the runner
GIT_TIMEOUT_S = 10.0
EXIT_READY = 0
EXIT_UNREADY = 2


class Finding(Struct, frozen=True, kw_only=True):
    """One line of the answer."""

    level: Literal["ok", "warn", "fail"]
    what: str
    remedy: str = ""


def doctor(home: Path) -> list[Finding]:
    """Look at everything that a node in the folder `home` needs. `home` need not exist."""
    return [
        *_sandbox(),
        _python(),
        _torch(),
        _git(),
        _disk(home),
        _cores(),
        _memory(),
        _nvidia(),
        _ports(),
    ]


def exit_status(findings: list[Finding]) -> int:
    return EXIT_UNREADY if any(finding.level == "fail" for finding in findings) else EXIT_READY


def lines(findings: list[Finding]) -> list[str]:
    """For people: level, what is so, and what to do about it."""
    return [f"{found.level:<4}  {found.what}" + (f"  → {found.remedy}" * bool(found.remedy)) for found in findings]


def _sandbox() -> Iterator[Finding]:
    try:
        facts = examine()
    except SandboxUnavailable as error:
        yield Finding(
            level="fail",
            what=f"no sandbox: {error}",
            remedy="until then this node can hold and serve a ledger, and run no program",
        )
        return
    yield Finding(level="ok", what=f"sandbox: {facts.summary()}")
    if facts.tier == "watcher only":
        yield Finding(
            level="warn",
            what=f"memory of a sandbox is sampled every 50 ms, and no control group holds it ({facts.tier_reason})",
            remedy="run the node where systemd --user, or as root cgroup v2, can limit it",
        )
    if not facts.counts_inside:
        yield Finding(
            level="warn",
            what="what a program writes to its tmpfs is not counted against its memory",
            remedy="allow this user to see /proc/PID/root of its own processes (a security module forbids it)",
        )


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info < PYTHON_MIN:
        return Finding(level="fail", what=f"Python {version} is too old", remedy="install Python 3.11 or newer")
    return Finding(level="ok", what=f"Python {version} in {sys.prefix}")


def _torch() -> Finding:
    try:
        return Finding(level="ok", what=f"torch {importlib.metadata.version('torch')}")
    except importlib.metadata.PackageNotFoundError:
        return Finding(level="fail", what="torch is not installed", remedy=f"{sys.executable} -m pip install torch")


def _git() -> Finding:
    missing = Finding(level="fail", what="git does not work", remedy="install the package git (apt install git)")
    path = shutil.which("git")
    if path is None:
        return missing
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=GIT_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return missing
    return missing if done.returncode else Finding(level="ok", what=done.stdout.strip())


def _disk(home: Path) -> Finding:
    place = next(path for path in (home.absolute(), *home.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    what = f"{free / 2**30:.1f} GiB free for {home}"
    if not os.access(place, os.W_OK):
        return Finding(level="fail", what=f"{place} cannot be written", remedy="choose another place with --home")
    if free < DISK_BYTES_MIN:
        return Finding(level="fail", what=what, remedy="make room, or choose another disk with --home")
    if free < DISK_BYTES_WISE:
        return Finding(level="warn", what=what, remedy="a ledger and its programs grow: make room")
    return Finding(level="ok", what=what)


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores == 1:
        return Finding(
            level="warn", what="1 core", remedy="node and trials take turns; budgets in CPU seconds still hold"
        )
    return Finding(level="ok", what=f"{cores} cores")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    what = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB of memory available"
    if memory.available < MEMORY_BYTES_WISE:
        return Finding(level="warn", what=what, remedy="a trial of the default track may use 2 GiB: end something else")
    return Finding(level="ok", what=what)


def _nvidia() -> Finding:
    try:
        cards = [path.name for path in nvidia_devices() if path.name[-1].isdigit()]
    except SandboxUnavailable as error:
        if any(Path("/dev").glob("nvidia*")):
            return Finding(level="warn", what=f"no CUDA tracks: {error}")
        return Finding(level="ok", what="no NVIDIA device: tracks for the CPU only")
    return Finding(level="ok", what=f"NVIDIA devices: {', '.join(cards)} ({nvidia_name() or 'no name'})")


def _ports() -> Finding:
    try:
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))):
            return Finding(level="ok", what="TCP ports can be listened on")
    except OSError as error:
        return Finding(
            level="fail",
            what=f"no TCP port can be listened on: {error.strerror}",
            remedy="allow this user to bind ports on 127.0.0.1 (a container's or security module's rule forbids it)",
        )
