"""Whether the sandbox works on this machine, found out by using it."""

import os

from trainer.sandbox.command import Limits, SandboxUnavailable
from trainer.sandbox.process import LimitExceeded, Sandbox

PREFLIGHT_TIMEOUT_S = 30.0

_PROGRAM = """
import importlib.util, os, sys, threading
if importlib.util.find_spec("torch") is None:
    raise SystemExit("torch is not installed where this Python looks for packages")
thread = threading.Thread(target=os.getpid)
thread.start()
thread.join()
os.write(int(sys.argv[1]), b"works")
"""
_REMEDY = (
    "if user namespaces are refused, allow them (sysctl kernel.unprivileged_userns_clone=1, or on Ubuntu "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container, a seccomp profile that allows them)"
)


def preflight() -> str:
    """Run a trivial program in a sandbox; one line that describes it. Raises `SandboxUnavailable`."""
    with Sandbox(["-c", _PROGRAM], Limits(memory_bytes=2**28, cpu_s=PREFLIGHT_TIMEOUT_S, threads=1), {}) as sandbox:
        sandbox.limit(wall_s=PREFLIGHT_TIMEOUT_S)
        try:
            answer = sandbox.read(16)
        except LimitExceeded as error:
            raise SandboxUnavailable(f"a trivial program in the sandbox was stopped: {error}") from error
        status = sandbox.end()
        if answer != b"works" or status != 0:
            raise SandboxUnavailable(f"the sandbox does not start (status {status}): {sandbox.log()}; {_REMEDY}")
    user = "an unprivileged user, dropped from root" if os.geteuid() == 0 else "this user, unprivileged inside"
    return f"bubblewrap works: no network, no home, read-only system, as {user}"
