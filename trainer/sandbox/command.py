"""The command line of a sandbox: who drops what, in which order.

1. As root only: a private mount namespace, in which the Python prefixes are bound below a folder that everybody can
   traverse (they may lie in root's home), then a change to an unprivileged user. Without the change the program would
   be the host's root to every file of /proc/sys that checks the uid, and RLIMIT_NPROC would not hold. The binds live
   and die with that namespace; the host's mount table never sees them.
2. bubblewrap: new namespaces, named one by one so that a missing one is an error; no network; an empty environment;
   a root of our own with a read-only system, the Python prefixes and nothing else of ours but the one file asked for;
   and, last before it starts the rest, the system-call filter (syscalls.py).
3. prlimit inside, because bubblewrap itself needs more than the program may have.
4. Python, isolated (-I), without writing byte code (-B) and with an unbuffered log (-u), so that a killed program's
   last words are in it, in their order.

bubblewrap has to be *spawned* with an empty environment: its own first process stays in the namespace, and
/proc/1/environ would show what --clearenv removed. Source of the options: bwrap(1), setpriv(1), prlimit(1).

For CUDA the device nodes of the NVIDIA driver and /sys (read-only; the runtime looks for the bus addresses there) are
shown, and the address space is not limited, because CUDA reserves more of it than there is memory.
"""

import functools
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

UNPRIVILEGED_ID = 65534
TMPFS_BYTES = {"/tmp": 2**30, "/dev/shm": 256 * 2**20, "/scratch": 256 * 2**20}
# Otherwise glibc gives the memory of each training step back to the kernel and takes it again: a program that frees no
# large block before it trains, as none does inside, then faults twice as often, 4 % of its budget (docs/bench.md).
_MALLOC = (
    *("--setenv", "MALLOC_TRIM_THRESHOLD_", str(512 * 2**20)),
    *("--setenv", "MALLOC_MMAP_THRESHOLD_", str(32 * 2**20)),
)
FILE_BYTES_MAX = 256 * 2**20
OPEN_FILES_MAX = 256
PROCESSES_MAX = 64  # processes and threads together, besides two for each compute thread
TOOL_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
BUBBLEWRAP_MIN = (0, 8)  # the first with --disable-userns
NVIDIA_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")  # besides nvidia0, nvidia1 … themselves
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
    nvidia: bool = False  # pass in the NVIDIA devices; the address space of a process is unlimited then


def python_command(
    arguments: Sequence[str], limits: Limits, files: Mapping[Path, str], filter_descriptor: int
) -> list[str]:
    """The command that runs this Python with `arguments` in a sandbox.

    The caller may append arguments. `files` are single files to show inside, host path to inside path.
    `filter_descriptor` is open, inherited, and at the start of the system-call filter.

    Raises `SandboxUnavailable`.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxUnavailable(f"bubblewrap needs Linux, and this is {sys.platform}: run the node in a Linux VM")
    bubblewrap()  # the likeliest to be missing, so the first to be named
    shown = {prefix: str(prefix) for prefix in python_prefixes()} | dict(files)
    if os.geteuid() != 0:
        return _bubblewrap(list(shown.items()), limits, arguments, filter_descriptor)
    place = _staging_place(list(shown))
    staged = [(Path(place, str(index)), inside) for index, inside in enumerate(shown.values())]
    return [
        *(_tool("unshare", "util-linux"), "--mount", "--propagation", "private"),
        *("/bin/sh", "-c", _STAGING_SCRIPT, "sh", place, *map(str, shown), "--"),
        *(_tool("setpriv", "util-linux"), f"--reuid={UNPRIVILEGED_ID}", f"--regid={UNPRIVILEGED_ID}"),
        *("--clear-groups", "--no-new-privs"),
        *_bubblewrap(staged, limits, arguments, filter_descriptor),
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


def nvidia_devices(folder: Path = Path("/dev")) -> list[Path]:
    """The device nodes that CUDA needs. Raises `SandboxUnavailable` if there are none."""
    cards = sorted(path for path in folder.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))
    nodes = [folder / name for name in NVIDIA_NODES]
    if not cards or not all(path.exists() for path in nodes[:2]):
        raise SandboxUnavailable(
            f"this track needs an NVIDIA GPU, and {folder} lacks its devices: install the driver and run nvidia-smi "
            "and nvidia-modprobe -u once, which create them; in a container, pass them in (docker run --gpus all)"
        )
    return [path for path in nodes if path.exists()] + cards


def nvidia_name(folder: Path = Path("/proc/driver/nvidia")) -> str:
    """Models of the GPUs and version of their driver, as the driver tells them; empty where there is none."""
    cards = sorted(folder.glob("gpus/*/information"))
    said = [line for path in cards for line in path.read_text(errors="replace").splitlines()]
    models = [line.partition(":")[2].strip() for line in said if line.startswith("Model:")]
    version = folder / "version"
    driver = re.search(r"\b\d+\.\d+(\.\d+)?\b", version.read_text(errors="replace")) if version.exists() else None
    return ", ".join([*models, *([f"driver {driver[0]}"] if driver else [])])


@functools.cache
def bubblewrap() -> tuple[str, str]:
    """Path and version of a bubblewrap that can do what is asked of it. Raises `SandboxUnavailable`."""
    path = _tool("bwrap", "bubblewrap")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, env={}).stdout
    version = said.strip().removeprefix("bubblewrap ")
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if numbers < BUBBLEWRAP_MIN:
        raise SandboxUnavailable(
            f"bubblewrap {version or 'of unknown version'} ({path}) is too old: 0.8 is the first that can forbid user "
            "namespaces inside (--disable-userns); upgrade the package, or build a newer one into /usr/local/bin"
        )
    if Path(path).stat().st_mode & stat.S_ISUID:
        raise SandboxUnavailable(
            f"{path} is setuid, and such a one cannot forbid user namespaces inside: chmod u-s {path}, and allow "
            "unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1)"
        )
    return path, version


def _bubblewrap(
    shown: Sequence[tuple[Path, str]], limits: Limits, arguments: Sequence[str], filter_descriptor: int
) -> list[str]:
    namespaces = [f"--unshare-{name}" for name in ("user", "pid", "net", "ipc", "uts", "cgroup-try")]
    system = ["--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            system += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            system += ["--ro-bind", str(path), str(path)]
    python = [word for path, inside in shown for word in ("--ro-bind", str(path), inside)]
    devices = ["--ro-bind", "/sys", "/sys"] if limits.nvidia else []
    devices += [
        word for path in (nvidia_devices() if limits.nvidia else ()) for word in ("--dev-bind", *[str(path)] * 2)
    ]
    writable = [word for place, size in TMPFS_BYTES.items() for word in ("--size", str(size), "--tmpfs", place)]
    return [
        bubblewrap()[0],
        *(*namespaces, "--disable-userns", "--assert-userns-disabled"),
        *("--uid", str(UNPRIVILEGED_ID), "--gid", str(UNPRIVILEGED_ID), "--cap-drop", "ALL"),
        *("--new-session", "--die-with-parent", "--clearenv", *_MALLOC),
        *("--seccomp", str(filter_descriptor)),
        # Python comes after the writable places, because it may lie below one of them: a checkout in /tmp.
        *(*system, "--proc", "/proc", "--dev", "/dev", *devices, *writable, *python),
        *("--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/scratch", "--"),
        *_limited(limits),
        *(sys.executable, "-I", "-B", "-u", *arguments),
    ]


def _limited(limits: Limits) -> list[str]:
    return [
        _tool("prlimit", "util-linux"),
        "--core=1",  # 0 would still start the host's core handler, 1 does not: core(5), fs/coredump.c
        f"--nproc={PROCESSES_MAX + 2 * limits.threads}",
        f"--fsize={FILE_BYTES_MAX}",
        f"--nofile={OPEN_FILES_MAX}",
        *([] if limits.nvidia else [f"--as={limits.memory_bytes + ADDRESS_SPACE_SLACK_BYTES}"]),
        f"--cpu={int(limits.cpu_s) + 1}",
        "--",
    ]


def _tool(name: str, package: str) -> str:
    path = shutil.which(name, path=TOOL_PATH)
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
