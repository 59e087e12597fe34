"""The kernel's own limit over a whole sandbox: a control group of its own, where this machine lets us have one.

Three tiers, found out once by trying:

* *systemd scope*: `systemd-run --scope`, of the user's manager or, as root, of the system's. It runs the command in
  its own place, so that process ids and descriptors stay what they are, and removes the group after the last process;
* *cgroup v2*: as root without systemd, a child of our own group. The kernel lets a group that holds processes hand on
  no controllers, so inside a container this mostly fails, and moving others' processes out of the way is not ours;
* *watcher only*: what `process.py` samples. Control groups of version 1 are left alone.

Where there is a group, the watcher still speaks first, with the track's exact limit and a reason; the group's limit
lies `SLACK_BYTES` above and catches what no sample sees: bursts between two of them, and what the kernel keeps for the
program (socket buffers, inodes, page tables). Source: cgroups(7), systemd-run(1), Documentation/admin-guide/cgroup-v2.
"""

import contextlib
import functools
import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal, NamedTuple

from trainer.sandbox.command import PROCESSES_MAX, Limits

SLACK_BYTES = 256 * 2**20
TASKS_OF_OURS = 8  # systemd-run, unshare, sh, bwrap twice, prlimit
DETECTION_TIMEOUT_S = 5.0
CONTROLLERS = ("memory", "pids")

_ROOT = Path("/sys/fs/cgroup")
_PROBE_BYTES = 64 * 2**20
_JOIN = 'echo 0 > "$1/cgroup.procs" && shift && exec "$@"'  # 0 means the writer; exec keeps its process id
_OWN_MEMORY_MAX = 'cat "/sys/fs/cgroup$(grep ^0:: /proc/self/cgroup | cut -c4-)/memory.max"'
_serial = itertools.count()


class Tier(NamedTuple):
    """Who holds the limits over a tree, and why it is not one that holds better."""

    name: Literal["systemd user scope", "systemd scope", "cgroup v2", "watcher only"]
    reason: str = ""
    folder: Path | None = None  # cgroup v2: where ours go
    runtime: str = ""  # systemd user scope: XDG_RUNTIME_DIR


class Scope:
    """The group of one sandbox: `prefix` goes before the command, which is spawned with `environment`.

    `close` once its processes are dead.
    """

    def __init__(self, limits: Limits, tier: Tier) -> None:
        bytes_max = limits.memory_bytes + SLACK_BYTES
        tasks_max = PROCESSES_MAX + 2 * limits.threads + TASKS_OF_OURS
        self.prefix: list[str] = []
        self.environment: dict[str, str] = {}
        self._folder: Path | None = None
        if tier.name in ("systemd user scope", "systemd scope"):
            self.prefix = _systemd_run(tier, bytes_max, tasks_max)
            self.environment = {"XDG_RUNTIME_DIR": tier.runtime} if tier.runtime else {}
        elif tier.folder is not None:
            self._folder = _make_group(tier.folder, bytes_max, tasks_max)
            self.prefix = ["/bin/sh", "-c", _JOIN, "sh", str(self._folder)]

    def close(self) -> None:
        if self._folder is not None:
            with contextlib.suppress(OSError):  # still busy: a later start removes it
                self._folder.rmdir()


@functools.cache
def tier() -> Tier:
    """The best tier that works here."""
    if not Path("/run/systemd/system").is_dir():  # sd_booted(3)
        return plain_tier() if os.geteuid() == 0 else Tier("watcher only", "systemd does not run here")
    if shutil.which("systemd-run") is None:
        return Tier("watcher only", "systemd-run is not installed")
    if os.geteuid() == 0:
        candidate = Tier("systemd scope")
    else:
        candidate = Tier("systemd user scope", runtime=os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}"))
    return candidate if _works(candidate) else Tier("watcher only", f"a {candidate.name} with limits cannot be made")


def _works(candidate: Tier) -> bool:
    """Whether a group of this tier comes with the limit that was asked for."""
    command = [*_systemd_run(candidate, _PROBE_BYTES, TASKS_OF_OURS), "/bin/sh", "-c", _OWN_MEMORY_MAX]
    environment = {"XDG_RUNTIME_DIR": candidate.runtime} if candidate.runtime else {}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=DETECTION_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() == str(_PROBE_BYTES)


def _systemd_run(tier: Tier, bytes_max: int, tasks_max: int) -> list[str]:
    """What follows starts with an empty environment: XDG_RUNTIME_DIR is for systemd-run alone."""
    return [
        *(shutil.which("systemd-run") or "systemd-run", *(["--user"] if tier.runtime else [])),
        *("--scope", "--quiet", "--collect", "-p", f"MemoryMax={bytes_max}", "-p", "MemorySwapMax=0"),
        *("-p", f"TasksMax={tasks_max}", "--", "/usr/bin/env", "-i"),
    ]


def plain_tier(root: Path = _ROOT, own: Path = Path("/proc/self/cgroup")) -> Tier:
    """As root: a place below our own group to which memory and process controllers are handed on."""
    if not (root / "cgroup.controllers").exists():
        return Tier("watcher only", f"no cgroup version 2 at {root}")
    lines = own.read_text().splitlines()
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if path is None:
        return Tier("watcher only", "this process is in no group of cgroup version 2")
    folder = root / path
    try:
        control = folder / "cgroup.subtree_control"
        missing = [name for name in CONTROLLERS if name not in control.read_text().split()]
        if missing:
            control.write_text(" ".join(f"+{name}" for name in missing))
        _remove_left_over(folder)
        _make_group(folder, _PROBE_BYTES, TASKS_OF_OURS).rmdir()
    except OSError as error:
        return Tier("watcher only", f"no groups below {folder}: {error.strerror}")
    return Tier("cgroup v2", folder=folder)


def _make_group(folder: Path, bytes_max: int, tasks_max: int) -> Path:
    group = folder / f"waggle-{os.getpid()}-{next(_serial)}"
    group.mkdir()
    try:
        (group / "memory.max").write_text(str(bytes_max))
        (group / "pids.max").write_text(str(tasks_max))
        if (group / "memory.swap.max").exists():  # not where the kernel does not account for swap
            (group / "memory.swap.max").write_text("0")
    except OSError:
        group.rmdir()
        raise
    return group


def _remove_left_over(folder: Path) -> None:
    """Groups of nodes that were killed; one with processes in it refuses."""
    for group in folder.glob("waggle-*"):
        with contextlib.suppress(OSError):
            group.rmdir()
