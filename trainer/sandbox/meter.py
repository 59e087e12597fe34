"""What a process tree uses, seen from outside: CPU seconds, memory and files of a process and all descendants.

A process that daemonises inside a sandbox is adopted by the sandbox's own first process, so it stays a descendant.

CPU time is the greater of two sums, because each misses something: the living processes with the children that they
have reaped miss a child whose parent lets the kernel discard it (SIGCHLD ignored); every process ever seen, at the
time last seen, misses one that lived between two samples.

Memory is what the processes hold and what lies in the sandbox's writable places, which are memory too. The quick sum
counts shared pages several times; only when it passes the limit does `exact_bytes` decide, which divides them among
their users (PSS) and counts a mapped file once.

The inside is looked at through the root folder of a process in it, which the kernel shows to the owner of the user
namespace and to nobody else: its /proc, which lists the sandbox's processes, daemons too, and none of the machine's
others, so that a sample stays quick on a busy machine and under a fork bomb; its writable places; and the list of its
sockets, for their buffers are in nobody's account. All are opened once and held: no program can put something else in
the way. Until then, and where a security module forbids it, the tree is found by parent ids, and files and sockets
are not counted.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Usage(NamedTuple):
    cpu_s: float
    resident_bytes: int  # of the processes, shared pages several times
    file_bytes: int  # in the writable places
    files: int
    sockets: int


class _Stat(NamedTuple):
    """What proc_pid_stat(5) says of one process."""

    started: int  # clock ticks after boot; with the process id it names a process
    own_s: float
    reaped_s: float  # of children that it has waited for
    resident_bytes: int


class _Inside(NamedTuple):
    """Descriptors of the sandbox's own places."""

    processes: int  # /proc
    sockets: int
    places: tuple[int, ...]


class TreeMeter:
    """Samples the tree below `pid`, and `places` inside it. CPU time never goes backwards, even when all are gone."""

    def __init__(self, pid: int, places: Sequence[str]) -> None:
        self._pid = pid
        self._places = places
        self._outside = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        self._first = _stat(self._outside, pid)
        self._inside: _Inside | None = None
        self._own_cpu_s: dict[tuple[int, int, int], float] = {}  # by folder, process id and start
        self._cpu_s = 0.0

    def sample(self) -> Usage:
        if self._inside is None:
            self._look_inside()
        living_s = 0.0
        resident = 0
        for folder, pid in self._processes():
            if (found := _stat(folder, pid)) is not None:
                self._own_cpu_s[folder, pid, found.started] = found.own_s
                living_s += found.own_s + found.reaped_s
                resident += found.resident_bytes
        self._cpu_s = max(self._cpu_s, living_s, sum(self._own_cpu_s.values()))
        if self._inside is None:
            return Usage(self._cpu_s, resident, 0, 0, 0)
        held = [os.fstatvfs(place) for place in self._inside.places]
        file_bytes = sum((place.f_blocks - place.f_bfree) * place.f_frsize for place in held)
        files = sum(place.f_files - place.f_ffree for place in held)
        return Usage(self._cpu_s, resident, file_bytes, files, _count_sockets(self._inside.sockets))

    def exact_bytes(self, file_bytes: int) -> int:
        """Proportional memory of the tree, with `file_bytes` in place of as much of them as is mapped."""
        private, mapped = 0, 0
        for folder, pid in self._processes():
            proportional, shared = _proportional_bytes(folder, pid)
            private += proportional - shared
            mapped += shared
        return private + max(mapped, file_bytes)

    def sees_inside(self) -> bool:
        """Whether files and sockets are counted."""
        return self._inside is not None

    def close(self) -> None:
        os.close(self._outside)
        if self._inside is not None:
            for descriptor in (self._inside.processes, self._inside.sockets, *self._inside.places):
                os.close(descriptor)
            self._inside = None

    def _processes(self) -> Iterator[tuple[int, int]]:
        """The tree as pairs of a /proc folder's descriptor and a process id in it."""
        first = _stat(self._outside, self._pid)
        if first and self._first and first.started == self._first.started:  # once reaped, its id may name another
            yield self._outside, self._pid
        if self._inside is None:
            yield from ((self._outside, pid) for pid in self._descendants())
            return
        with contextlib.suppress(FileNotFoundError):  # the namespace has ended
            for name in os.listdir(self._inside.processes):  # noqa: PTH208 - a descriptor has no path
                if name.isdigit():
                    yield self._inside.processes, int(name)

    def _descendants(self) -> list[int]:
        try:
            return [process.pid for process in psutil.Process(self._pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _look_inside(self) -> None:
        """Open the inside through the first process that is in its final root folder, if there is one yet."""
        for pid in self._descendants():
            opened: list[int] = []
            try:
                for place in self._places:
                    opened.append(os.open(f"/proc/{pid}/root{place}", os.O_PATH | os.O_DIRECTORY))
                    if _same_file_system(opened[-1], place):
                        raise FileNotFoundError(place)
                opened.append(os.open(f"/proc/{pid}/net/unix", os.O_RDONLY))
                opened.append(os.open(f"/proc/{pid}/root/proc", os.O_RDONLY | os.O_DIRECTORY))
            except OSError:  # not ready, gone, or not allowed: `sees_inside` says so
                for descriptor in opened:
                    os.close(descriptor)
                continue
            *places, sockets, processes = opened
            self._inside = _Inside(processes, sockets, tuple(places))
            self._own_cpu_s.clear()  # the same processes have other ids from here on
            return


def _same_file_system(descriptor: int, place: str) -> bool:
    """Whether this is the host's own `place`: a process that is not inside yet still has the host's root folder."""
    try:
        return os.fstat(descriptor).st_dev == Path(place).stat().st_dev
    except FileNotFoundError:
        return False


def _read(folder: int, path: str) -> bytes | None:
    """A file of a process; None if the process is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY, dir_fd=folder)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        return os.read(descriptor, 2**16)
    except ProcessLookupError:
        return None
    finally:
        os.close(descriptor)


def _stat(folder: int, pid: int) -> _Stat | None:
    text = _read(folder, f"{pid}/stat")
    if not text:
        return None
    fields = text.rpartition(b")")[
        2
    ].split()  # the first of these is field 3 of the manual page, whose field 2 is a name
    user, system, user_reaped, system_reaped = map(int, fields[11:15])
    own_s, reaped_s = (user + system) / _TICKS_PER_S, (user_reaped + system_reaped) / _TICKS_PER_S
    return _Stat(int(fields[19]), own_s, reaped_s, int(fields[21]) * _PAGE_BYTES)


def _proportional_bytes(folder: int, pid: int) -> tuple[int, int]:
    """PSS of a process and how much of it is shared memory; resident bytes where the kernel refuses them."""
    try:
        text = _read(folder, f"{pid}/smaps_rollup")
    except PermissionError:
        found = _stat(folder, pid)
        return (found.resident_bytes if found else 0), 0
    if not text:
        return 0, 0
    kib = {line.split(b":")[0]: int(line.split()[1]) for line in text.splitlines() if line.endswith(b" kB")}
    return kib.get(b"Pss", 0) << 10, kib.get(b"Pss_Shmem", 0) << 10  # proc_pid_smaps(5)


def _count_sockets(listing: int) -> int:
    count, offset = -1, 0  # the first line is a heading
    while data := os.pread(listing, 2**16, offset):
        count += data.count(b"\n")
        offset += len(data)
    return count
