"""The command line of a sandbox: who drops what, in which order.

1. As root only: a private mount namespace, in which the Python prefixes are bound below a folder that everybody can
   traverse (they may lie in root's home), then a change to an unprivileged user. Without the change the program would
   be the host's root to every file of /proc/sys that checks the uid, and RLIMIT_NPROC would not hold. The binds live
   and die with that namespace; the host's mount table never sees them.
2. bubblewrap: new namespaces, named one by one so that a missing one is an error; no network; an empty environment;
   a root of our own with a read-only system, the Python prefixes and nothing else of ours but the one file asked for.
3. prlimit inside, because bubblewrap itself needs more than the program may have.
4. Python, isolated (-I), without writing byte code (-B) and with an unbuffered log (-u), so that a killed program's
   last words are in it, in their order.

bubblewrap has to be *spawned* with an empty environment: its own first process stays in the namespace, and
/proc/1/environ would show what --clearenv removed. Source of the options: bwrap(1), setpriv(1), prlimit(1).
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

UNPRIVILEGED_ID = 65534
TMPFS_BYTES = {"/tmp": 256 * 2**20, "/dev/shm": 256 * 2**20, "/scratch": 256 * 2**20}
FILE_BYTES_MAX = 256 * 2**20
OPEN_FILES_MAX = 256
PROCESSES_MAX = 64  # processes and threads together, besides two for each compute thread
ADDRESS_SPACE_SLACK_BYTES = 4 * 2**30  # importing torch alone maps 0.7 GiB that never become resident

_STAGING_PLACES = ("/mnt", "/media", "/srv", "/opt", "/run")
_STAGING_SCRIPT = """
PATH=/usr/sbin:/usr/bin:/sbin:/bin
set -e
mount -t tmpfs -o mode=0755,size=64k tmpfs "$1"
cd "$1"
shift
n=0
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mkdir "$n"; else : > "$n"; fi
    mount --bind "$1" "$n"
    n=$((n + 1))
    shift
done
shift
exec "$@"
"""


class SandboxUnavailable(Exception):
    """This machine cannot run a sandbox; the message says why and what to do."""


class Limits(NamedTuple):
    """What one process of the sandbox may have; `meter` and `process` limit the tree."""

    memory_bytes: int
    cpu_s: float  # a backstop: the watcher acts first
    threads: int


def python_command(arguments: Sequence[str], limits: Limits, files: Mapping[Path, str]) -> list[str]:
    """The command that runs this Python with `arguments` in a sandbox.

    The caller may append arguments. `files` are single files to show inside, host path to inside path.

    Raises `SandboxUnavailable`.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxUnavailable(f"bubblewrap needs Linux, and this is {sys.platform}: run the node in a Linux VM")
    shown = {prefix: str(prefix) for prefix in python_prefixes()} | dict(files)
    if os.geteuid() != 0:
        return _bubblewrap(list(shown.items()), limits, arguments)
    place = _staging_place(list(shown))
    staged = [(Path(place, str(index)), inside) for index, inside in enumerate(shown.values())]
    return [
        *(_tool("unshare", "util-linux"), "--mount", "--propagation", "private"),
        *("/bin/sh", "-c", _STAGING_SCRIPT, "sh", place, *map(str, shown), "--"),
        *(_tool("setpriv", "util-linux"), f"--reuid={UNPRIVILEGED_ID}", f"--regid={UNPRIVILEGED_ID}"),
        *("--clear-groups", "--no-new-privs"),
        *_bubblewrap(staged, limits, arguments),
    ]


def python_prefixes() -> list[Path]:
    """The folders that this Python and its packages live in, outside /usr: venv and base installation.

    Both as spelled and with links resolved, for a venv's interpreter is often a chain of links through a home.
    """
    interpreter = Path(sys.executable).resolve().parent.parent
    spelled = [Path(sys.prefix).absolute(), Path(sys.base_prefix).absolute(), interpreter]
    found = {path for place in spelled for path in (place, place.resolve())}
    for path in found:
        if path in (Path("/"), Path.home(), Path.home().resolve()):
            raise SandboxUnavailable(
                f"Python is installed in {path} itself, and the sandbox would show all of it to the program: "
                "install waggle in a virtual environment with a folder of its own"
            )
    outermost = [path for path in found if not any(other in path.parents for other in found)]
    return sorted(path for path in outermost if not path.is_relative_to("/usr"))


def _bubblewrap(shown: Sequence[tuple[Path, str]], limits: Limits, arguments: Sequence[str]) -> list[str]:
    namespaces = [f"--unshare-{name}" for name in ("user", "pid", "net", "ipc", "uts", "cgroup-try")]
    system = ["--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            system += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            system += ["--ro-bind", str(path), str(path)]
    python = [word for path, inside in shown for word in ("--ro-bind", str(path), inside)]
    writable = [word for place, size in TMPFS_BYTES.items() for word in ("--size", str(size), "--tmpfs", place)]
    return [
        _tool("bwrap", "bubblewrap"),
        *(*namespaces, "--disable-userns", "--assert-userns-disabled"),
        *("--uid", str(UNPRIVILEGED_ID), "--gid", str(UNPRIVILEGED_ID), "--cap-drop", "ALL"),
        *("--new-session", "--die-with-parent", "--clearenv"),
        # A system-call filter belongs here: --seccomp FD, with FD among the descriptors that process.py passes on.
        # Python comes after the writable places, because it may lie below one of them: a checkout in /tmp.
        *(*system, "--proc", "/proc", "--dev", "/dev", *writable, *python),
        *("--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/scratch", "--"),
        *_limited(limits),
        *(sys.executable, "-I", "-B", "-u", *arguments),
    ]


def _limited(limits: Limits) -> list[str]:
    return [
        _tool("prlimit", "util-linux"),
        "--core=0",
        f"--nproc={PROCESSES_MAX + 2 * limits.threads}",
        f"--fsize={FILE_BYTES_MAX}",
        f"--nofile={OPEN_FILES_MAX}",
        f"--as={limits.memory_bytes + ADDRESS_SPACE_SLACK_BYTES}",
        f"--cpu={int(limits.cpu_s) + 1}",
        "--",
    ]


def _tool(name: str, package: str) -> str:
    path = shutil.which(name, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    if path is None:
        raise SandboxUnavailable(f"{name} is not installed: install the package {package} (apt install {package})")
    return path


def _staging_place(sources: Sequence[Path]) -> str:
    """An existing folder that can be covered, in our private namespace, without hiding a source."""
    for place in _STAGING_PLACES:
        if Path(place).is_dir() and not any(source.is_relative_to(place) for source in sources):
            return place
    raise SandboxUnavailable(
        f"as root, one of {', '.join(_STAGING_PLACES)} has to exist and hold no part of the Python installation: "
        "create one, or run the node as an ordinary user"
    )
