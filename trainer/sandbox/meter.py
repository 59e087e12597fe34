"""What a process tree uses, seen from outside: CPU seconds and resident memory of a process and all descendants.

A process that daemonises inside a sandbox is adopted by the sandbox's own first process, so it stays a descendant.

CPU time is the greater of two sums, because each misses something: the living processes with the children that they
have reaped miss a child whose parent lets the kernel discard it (SIGCHLD ignored); every process ever seen, at the
time last seen, misses one that lived between two samples. Memory is the sum of resident sets; shared pages count
several times in it, so only when it passes the limit the slower proportional sum (PSS) decides.
"""

import contextlib
from typing import NamedTuple

import psutil


class Usage(NamedTuple):
    cpu_s: float
    memory_bytes: int


class TreeMeter:
    """Samples the tree below `pid`. CPU time never goes backwards, even when all processes are gone."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._own_cpu_s: dict[psutil.Process, float] = {}
        self._cpu_s = 0.0

    def sample(self) -> Usage:
        living_s = 0.0
        resident = 0
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
                times = process.cpu_times()
                own_s = times.user + times.system
                self._own_cpu_s[process] = own_s
                living_s += own_s + times.children_user + times.children_system
                resident += process.memory_info().rss
        self._cpu_s = max(self._cpu_s, living_s, sum(self._own_cpu_s.values()))
        return Usage(self._cpu_s, resident)

    def proportional_bytes(self) -> int:
        """PSS of the tree: shared pages are divided among their users. Where the kernel refuses it, resident bytes."""
        total = 0
        for process in self._tree():
            try:
                total += process.memory_full_info().pss
            except psutil.AccessDenied:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
