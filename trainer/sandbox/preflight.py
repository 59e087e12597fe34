"""Whether the sandbox works on this machine, and what holds in it, found out by using it.

Refusals come in two steps. What can be seen beforehand (another system, bubblewrap or libseccomp missing or too old)
is refused by command.py and syscalls.py. Everything else shows when a trivial program does not come back; `remedy`
then looks at the settings that are known to forbid user namespaces, the likeliest cause first.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

from trainer.sandbox.command import Limits, SandboxUnavailable, bubblewrap
from trainer.sandbox.process import LimitExceeded, Sandbox
from trainer.sandbox.scope import tier

PREFLIGHT_TIMEOUT_S = 30.0

_PROGRAM = """
import importlib.util, json, os, sys, threading
if importlib.util.find_spec("torch") is None:
    raise SystemExit("torch is not installed where this Python looks for packages")
thread = threading.Thread(target=os.getpid)
thread.start()
thread.join()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
found = {
    "system calls filtered": int(status["Seccomp"]) == 2,
    "no new privileges": int(status["NoNewPrivs"]) == 1,
    "no capabilities": int(status["CapEff"], 16) == 0,
    "no network": len(open("/proc/net/dev").readlines()) == 3,  # two lines of headings, and loopback
}
os.write(int(sys.argv[1]), json.dumps(found).encode())
sys.stdin.read()
"""


class Facts(NamedTuple):
    """What holds in the sandboxes of this machine."""

    bubblewrap: str  # version
    dropped_from_root: bool
    tier: str  # who limits the memory of a tree: scope.Tier.name …
    tier_reason: str  # … and why not one that holds better
    counts_inside: bool  # what a program writes counts against its memory

    def summary(self) -> str:
        user = "an unprivileged user, dropped from root" if self.dropped_from_root else "this user, unprivileged inside"
        return (
            f"bubblewrap works ({self.bubblewrap}): no network, no home, read-only system, filtered system calls, "
            f"as {user}, memory held by: {self.tier}"
        )


def preflight(device: str = "cpu") -> str:
    """One line that describes the sandbox for tracks of this device. Raises `SandboxUnavailable`."""
    return examine(device).summary()


def examine(device: str = "cpu") -> Facts:
    """Run a trivial program in a sandbox and look at it from both sides. Raises `SandboxUnavailable`."""
    limits = Limits(memory_bytes=2**28, cpu_s=PREFLIGHT_TIMEOUT_S, threads=1, nvidia=device == "cuda")
    with Sandbox(["-c", _PROGRAM], limits, {}) as sandbox:
        sandbox.limit(wall_s=PREFLIGHT_TIMEOUT_S)
        try:
            answer = sandbox.read(2**16)
            sandbox.measure()
        except LimitExceeded as error:
            raise SandboxUnavailable(f"a trivial program in the sandbox was stopped: {error}") from error
        counts_inside = sandbox.counts_inside()
        status = sandbox.end()
        if not answer or status != 0:
            log = sandbox.log()
            raise SandboxUnavailable(f"the sandbox does not start (status {status}): {log}; {remedy(log)}")
    missing = [what for what, holds in json.loads(answer).items() if not holds]
    if missing:
        raise SandboxUnavailable(f"the sandbox starts, but inside it does not hold: {', '.join(missing)}; {remedy('')}")
    holder = tier()
    return Facts(bubblewrap()[1], os.geteuid() == 0, holder.name, holder.reason, counts_inside)


def remedy(log: str, root: Path = Path("/")) -> str:
    """What to do about a sandbox that said `log` and did not start. `root` is where /proc and the like are."""
    if "torch is not installed" in log:
        return "install waggle and torch in one environment"
    if _setting(root, "kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "AppArmor keeps user namespaces from programs without a profile, as Ubuntu 24.04 does: give bwrap one "
            "(/etc/apparmor.d/bwrap: abi <abi/4.0>, profile bwrap /usr/bin/bwrap flags=(unconfined) { userns, }; then "
            "apparmor_parser -r /etc/apparmor.d/bwrap), or sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        )
    if _setting(root, "kernel/unprivileged_userns_clone") == "0":
        return "unprivileged user namespaces are switched off: sysctl kernel.unprivileged_userns_clone=1"
    if _setting(root, "user/max_user_namespaces") == "0":
        return "the number of user namespaces is limited to 0: sysctl user.max_user_namespaces=10000"
    if any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv")):
        return (
            "this is a container that may not make namespaces: start it with --security-opt seccomp=unconfined "
            "--security-opt apparmor=unconfined --security-opt systempaths=unconfined and run the node as an ordinary "
            "user in it (as root it needs --cap-add SYS_ADMIN too), or run the node outside the container"
        )
    return (
        "a sandbox needs user, mount, process and network namespaces and seccomp: check that this system "
        "allows them, with bwrap --unshare-all --ro-bind / / true"
    )


def _setting(root: Path, name: str) -> str | None:
    try:
        return (root / "proc/sys" / name).read_text().strip()
    except OSError:  # a kernel without this setting
        return None
