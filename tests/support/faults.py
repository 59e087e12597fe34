"""Runs in which one system call goes wrong: the n-th write, sync, truncation, rename or removal, whichever it is.

The run is a thread under a filter that puts each of these calls before another thread of its process, which lets it
happen, or not (seccomp_unotify(2)). `python faults.py RUN LEDGER FOLDER FAULT N…` does one of the runs below once for
every n, each in a process and a folder of its own, and prints a line of JSON about each; n = 0 counts the calls.
"""

import ctypes
import errno
import functools
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

import examples
import pyseccomp

from ledger.envelope import Signed, open_envelope
from ledger.errors import Equivocation, LedgerError
from ledger.store import Store

FAULTS = {
    "error": "the call fails with EIO, and whatever comes after it succeeds",
    "full": "of a write only half finds room, and from then on nothing can be written",
    "kill": "the process dies before the call",
    "tear": "the process dies when half of a write is done",
    "power": "the power fails: of what no sync has made durable, some writes are lost and some are not",
}
UNSUPPORTED = 77  # exit status

_CALLS = ("pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "renameat", "renameat2", "unlink", "unlinkat")
_NUMBERS = {pyseccomp.resolve_syscall(pyseccomp.system_arch(), name): name for name in _CALLS}
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE


class _Unsynced(NamedTuple):
    """What a write replaced."""

    fd: int
    offset: int
    before: bytes


class Supervisor:
    """Decides about the calls of one run: all happen, but for the `at`-th."""

    def __init__(self, calls: pyseccomp.SyscallFilter, fault: str, at: int) -> None:
        self.seen = 0
        self._calls, self._fault, self._at = calls, fault, at
        self._unsynced: dict[int, list[_Unsynced]] = {}  # by inode
        self._random = random.Random(at)

    def watch(self) -> None:
        """Until the thread under the filter has ended."""
        while True:
            try:
                call = self._calls.receive_notify()
            except OSError as ended:
                if ended.errno == errno.EINTR:
                    continue
                return
            self.seen += 1
            error = self._decide(_NUMBERS[call.syscall], call.syscall_args)
            flags = 0 if error else _CONTINUE
            self._calls.respond_notify(pyseccomp.NotificationResponse(-error, flags, call.id, 0))

    def _decide(self, name: str, args: list[int]) -> int:
        """The errno with which the call fails; 0 lets it happen."""
        due = self.seen == self._at
        match self._fault:
            case "error" if due:
                return errno.EIO
            case "full" if 0 < self._at <= self.seen and name in ("pwrite64", "ftruncate"):
                if due and name == "pwrite64":
                    _half(args)
                return errno.ENOSPC
            case "kill" if due:
                os.kill(os.getpid(), signal.SIGKILL)
            case "tear" if due:
                if name == "pwrite64":
                    _half(args)
                os.kill(os.getpid(), signal.SIGKILL)
            case "power":
                if due:
                    self._lose()
                    os.kill(os.getpid(), signal.SIGKILL)
                self._note(name, args)
        return 0

    def _note(self, name: str, args: list[int]) -> None:
        fd = args[0]
        if name == "pwrite64":
            offset = args[3]
            before = os.pread(fd, args[2], offset)
            self._unsynced.setdefault(os.fstat(fd).st_ino, []).append(
                _Unsynced(os.dup(fd), offset, before.ljust(args[2], b"\0"))
            )
        elif name in ("fsync", "fdatasync"):
            self._unsynced.pop(os.fstat(fd).st_ino, None)

    def _lose(self) -> None:
        for writes in self._unsynced.values():
            for write in reversed(writes):
                if self._random.random() < 0.5:
                    os.pwrite(write.fd, write.before, write.offset)


def _half(args: list[int]) -> None:
    fd, address, count, offset = args[:4]
    os.pwrite(fd, ctypes.string_at(address, count)[: count // 2], offset)


Acknowledge = Callable[[str], object]
Run = Callable[[Path, Acknowledge], None]
"""In a new folder; acknowledges what is done by what can be asked for later, and passes over what fails."""


def append_much(other: Path) -> Run:
    """A new ledger: own entries, a blob, entries of `other` as sync adds them, a proof, a checkpoint, a revocation."""
    store = Store.open(other)
    foreign = [open_envelope(each) for each in store.envelopes(examples.author_id(2), "trials", 0, 2**20)]
    again = [open_envelope(each) for each in store.envelopes(examples.author_id(4), "trials", 0, 2**20)]
    store.close()
    return functools.partial(_append_much, foreign, again)


def migrate(old: Path) -> Run:
    """A copy of a ledger of an older version, opened."""
    return functools.partial(_migrate, old)


def _migrate(old: Path, folder: Path, acknowledge: Acknowledge) -> None:
    try:
        Store.open(Path(shutil.copy(old, folder / "ledger.db"))).close()
    except LedgerError:
        return
    acknowledge("migrated")


def _append_much(foreign: list[Signed], again: list[Signed], folder: Path, acknowledge: Acknowledge) -> None:
    try:
        store = Store.create(folder / "ledger.db", examples.CHALLENGE)
    except (LedgerError, OSError):
        return
    acknowledge("the ledger")
    by = examples.author(store)

    def entry(seed: int) -> None:
        acknowledge(examples.state_trial(by, "a" * 64, seed, 3.0).id)

    def blob(text: bytes) -> None:
        acknowledge(f"blob {store.blobs.put(text)}")

    def others(page: list[Signed]) -> None:
        with store.batch(refetchable=True):
            new = [signed.id for signed in page if store.add(signed)]
        for entry_id in new:
            acknowledge(f"refetchable {entry_id}")

    def proof() -> None:
        """Another history of the author of `again`, whose first entry stands here already."""
        with store.batch(refetchable=True):
            store.add(foreign[-1])
            with suppress(Equivocation):
                store.add(again[0])
        if store.is_banned(examples.author_id(4)):
            acknowledge(f"banned {examples.author_id(4)}")

    steps: list[Callable[[], None]] = [
        lambda: entry(0),
        lambda: blob(bytes(range(256)) * 40),
        lambda: others(foreign[:3]),
        lambda: acknowledge(examples.state_adoption(by, "b" * 64).id),
        lambda: others(foreign[3:-1]),
        lambda: acknowledge(examples.state_trial(examples.author(store, 4), "f" * 64, 0, 3.0).id),
        proof,
        lambda: acknowledge(by.checkpoint("main").id) if by.head("main") else None,
        lambda: store.remember_peer("somebody", "somewhere"),
        lambda: entry(1),
        lambda: acknowledge(by.revoke("the key was copied").id),
        lambda: others(foreign),
    ]
    for step in steps:
        try:
            step()
        except (sqlite3.Error, LedgerError, OSError):
            continue
    store.close()


def _in_this_process(run: Run, folder: Path, fault: str, at: int, acknowledge: Acknowledge) -> NoReturn:
    calls = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in _CALLS:
        calls.add_rule(pyseccomp.NOTIFY, name)
    filtered = threading.Event()
    supported = done = False

    def work() -> None:
        nonlocal supported, done
        try:
            calls.load()
            supported = True
        finally:
            filtered.set()
        run(folder, acknowledge)
        done = True

    worker = threading.Thread(target=work)
    worker.start()
    filtered.wait()
    if not supported:
        os._exit(UNSUPPORTED)
    supervisor = Supervisor(calls, fault, at)
    supervisor.watch()
    worker.join()
    acknowledge(f"calls {supervisor.seen}")
    os._exit(not done)


def _in_a_process(run: Run, folder: Path, fault: str, at: int) -> dict[str, object]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_this_process(run, folder, fault, at, lambda text: os.write(writing, text.encode() + b"\n"))
    os.close(writing)
    with os.fdopen(reading) as lines:
        acknowledged = lines.read().splitlines()
    _, status = os.waitpid(child, 0)
    return {"at": at, "exit": os.waitstatus_to_exitcode(status), "acknowledged": acknowledged}


def main(run: Run, folder: Path, fault: str, numbers: list[int]) -> None:
    for at in numbers:
        place = folder / f"{fault}-{at}"
        place.mkdir()
        print(json.dumps(_in_a_process(run, place, fault, at)), flush=True)


if __name__ == "__main__":
    chosen = {"append": append_much, "migrate": migrate}[sys.argv[1]](Path(sys.argv[2]))
    main(chosen, Path(sys.argv[3]), sys.argv[4], [int(number) for number in sys.argv[5:]])
