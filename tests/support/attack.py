"""Runs one attack twice: as an ordinary process of this user, where it has to succeed, and in the sandbox.

An attack is Python source that reports with `say(text)`. Outside it runs with limits of its own in a temporary folder.
"""

import os
import subprocess
import sys
from pathlib import Path

import pyseccomp
import pytest

from trainer.sandbox.command import Limits
from trainer.sandbox.process import LimitExceeded, Sandbox

LIMITS = Limits(memory_bytes=2**27, cpu_s=60, threads=1)
OUTSIDE_TIMEOUT_S = 20
PRELUDE = """
import ctypes, errno, os, signal, socket, sys, time
answer = int(sys.argv[-1])
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def say(text):
    os.write(answer, str(text).encode())
def call(number, *arguments):
    result = libc.syscall(*[ctypes.c_long(word) for word in (number, *arguments)])
    return errno.errorcode[ctypes.get_errno()] if result == -1 else "done"
"""
AS_ROOT = os.geteuid() == 0


def number(call: str) -> int:
    """The number of a system call on this machine."""
    found: int = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, call)
    return found


def sandbox(code: str, limits: Limits = LIMITS) -> Sandbox:
    return Sandbox(["-c", PRELUDE + code], limits, {})


def inside(code: str, *, wall_s: float = 20, limits: Limits = LIMITS) -> str:
    """What the attack says in the sandbox, where it ends by itself."""
    with sandbox(code, limits) as box:
        box.limit(wall_s=wall_s)
        said = b"".join(iter(lambda: box.read(2**16), b""))
        assert box.end() == 0, box.log()
    return said.decode()


def stopped(code: str, *, wall_s: float = 20, cpu_s: float = 20, limits: Limits = LIMITS) -> tuple[str, str]:
    """The limit that ends the attack in the sandbox, and what it said before."""
    said = b""
    with sandbox(code, limits) as box:
        box.limit(wall_s=wall_s, cpu_s=cpu_s)
        try:
            while piece := box.read(2**16):
                said = (said + piece)[-(2**16) :]
            box.measure()
        except LimitExceeded as error:
            return error.limit, said.decode()
        pytest.fail(f"nothing stopped the attack, which said {said!r} and wrote {box.log()!r}")


def exit_status(code: str) -> int | None:
    with sandbox(code) as box:
        box.limit(wall_s=20)
        while box.read(2**16):
            pass
        return box.end()


def outside(code: str, folder: Path, *, environment: dict[str, str] | None = None, close_fds: bool = True) -> str:
    """What the attack says as an ordinary process of this user, in `folder`."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    with os.fdopen(reading, "rb") as answer:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-B", "-c", PRELUDE + code, str(writing)],
                cwd=folder,
                env=environment or {},
                pass_fds=(writing,) if close_fds else (),
                close_fds=close_fds,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=OUTSIDE_TIMEOUT_S,
            )
        finally:
            os.close(writing)
        assert done.returncode == 0, done.stderr
        return answer.read().decode()
