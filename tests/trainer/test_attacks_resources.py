"""Attacks that use up the machine, each bounded outside and unbounded in the sandbox.

The fork bomb, the floods and the loops cannot be let loose outside: there, a small number of the same steps succeeds.
"""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from attack import LIMITS, PRELUDE, inside, number, outside, sandbox, stopped

from trainer.sandbox.command import PROCESSES_MAX, TMPFS_BYTES
from trainer.sandbox.process import FILES_MAX, SOCKETS_MAX


def test_fork_bomb(tmp_path: Path) -> None:
    bounded = """
children = [os.fork() for _ in range(3)]
if 0 in children:
    os._exit(0)
say(len(children))
"""
    assert outside(bounded, tmp_path).count("3") == 1
    bomb = """
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    others = set(psutil.Process().children(recursive=True))  # what an earlier test has not quite ended yet
    with sandbox(bomb) as box:
        box.limit(wall_s=30)
        before = set(psutil.Process().children(recursive=True)) - others
        while len(tree := set(psutil.Process().children(recursive=True)) - others) < PROCESSES_MAX:
            assert box.alive()
        assert len(tree) <= PROCESSES_MAX + 2 * LIMITS.threads + 4
    left = [process for process in before | tree if process.is_running() and process.status() != "zombie"]
    assert left == []


def test_fork_bomb_ends_by_its_cpu_time() -> None:
    assert stopped("while True:\n    try: os.fork()\n    except OSError: pass", cpu_s=2)[0] == "cpu"


def test_allocation_of_100_gb_in_one_process(tmp_path: Path) -> None:
    code = """
import mmap
MAP_NORESERVE = 0x4000  # mmap has no name for it yet
try:
    mmap.mmap(-1, 100 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    say("allocated")
except OSError as error:
    say(errno.errorcode[error.errno])
"""
    assert outside(code, tmp_path) == "allocated"
    assert inside(code) == "ENOMEM"


def test_allocation_of_100_gb_in_many_processes(tmp_path: Path) -> None:
    def hogs(children: int) -> str:
        return f"""
ready, done = os.pipe()
children = []
for _ in range({children}):
    children.append(os.fork())
    if children[-1] == 0:
        hog = b"x" * (20 << 20)
        os.write(done, b".")
        time.sleep(60)
for _ in children:
    os.read(ready, 1)
say("allocated")
for child in children:
    os.kill(child, signal.SIGKILL)
"""

    assert outside(hogs(8), tmp_path) == "allocated"
    assert stopped(hogs(60)) == ("memory", "")


def test_allocation_as_shared_memory(tmp_path: Path) -> None:
    def hog(mib: int) -> str:
        return (
            f"import mmap\nshared = mmap.mmap(-1, {mib} << 20)\nfor at in range(0, len(shared), 4096): shared[at] = 1\n"
        )

    assert outside(hog(160) + "say('held')", tmp_path) == "held"
    assert stopped(hog(512) + "time.sleep(60)")[0] == "memory"


def test_writable_places_are_the_known_ones() -> None:
    code = """
found = []
for folder, folders, files in os.walk("/"):
    if folder == "/proc":
        folders[:] = ["sys", "self"]
    if folder in ("/usr", "/proc/self") or folder == sys.prefix:
        folders.clear()
    try:
        os.close(os.open(folder + "/x", os.O_CREAT | os.O_WRONLY))
        found.append(folder)
    except OSError:
        pass
say(sorted(found))
"""
    found = ast.literal_eval(inside(code))
    # Python's own folder may lie below one of them; bubblewrap makes the way to it there, with the same limit on size.
    assert {place for place in found if not any(place.startswith(f"{known}/") for known in TMPFS_BYTES)} == set(
        TMPFS_BYTES
    )


@pytest.mark.parametrize("place", TMPFS_BYTES)
def test_disk_fill_in_every_writable_place(place: str, tmp_path: Path) -> None:
    def fill(folder: str, blocks: int) -> str:
        return f"""
try:
    for n in range({blocks}):
        with open("{folder}/" + str(n), "wb") as file:
            file.write(bytes(1 << 20))
except OSError:  # faster than the watcher looks: the place is full, and stays so until it does
    while True:
        pass
say("filled")
"""

    assert outside(fill(str(tmp_path), 16), tmp_path) == "filled"
    assert stopped(fill(place, 100_000)) == ("memory", "")


def test_disk_fill_with_deleted_files(tmp_path: Path) -> None:
    """They have no name, and take memory as long as they are open."""

    def fill(folder: str, blocks: int) -> str:
        return f"""
held = []
for n in range({blocks}):
    held.append(open("{folder}/x", "wb", buffering=0))
    os.unlink("{folder}/x")
    held[-1].write(bytes(1 << 20))
say("filled")
"""

    assert outside(fill(str(tmp_path), 16), tmp_path) == "filled"
    assert stopped(fill("/scratch", 200) + "time.sleep(60)")[0] == "memory"


def test_memfd_flood(tmp_path: Path) -> None:
    code = """
try:
    for n in range(4):
        os.write(os.memfd_create(str(n)), bytes(8 << 20))
    say("flooded")
except OSError as error:
    say(errno.errorcode[error.errno])
"""
    assert outside(code, tmp_path) == "flooded"
    assert inside(code) == "ENOSYS"


def test_inode_flood(tmp_path: Path) -> None:
    def flood(files: int) -> str:
        return f"for n in range({files}):\n    os.close(os.open(str(n), os.O_CREAT | os.O_WRONLY))\nsay('flooded')"

    assert outside(flood(1000), tmp_path) == "flooded"
    assert stopped(flood(20 * FILES_MAX)) == ("memory", "")


def test_socket_buffer_flood(tmp_path: Path) -> None:
    def flood(processes: int, pairs: int) -> str:
        return f"""
for _ in range({processes}):
    if os.fork() == 0:
        break
pairs = [socket.socketpair() for _ in range({pairs})]
for sender, _ in pairs:
    sender.setblocking(False)
    try:
        while True:
            sender.send(bytes(2**16))
    except BlockingIOError:
        pass
"""

    assert outside(flood(0, 100) + "say('flooded')", tmp_path) == "flooded"
    assert stopped(flood(SOCKETS_MAX // 100, 100) + "time.sleep(60)") == ("memory", "")


def test_socket_buffers_made_larger(tmp_path: Path) -> None:
    code = """
left, right = socket.socketpair()
try:
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
    say("larger")
except OSError as error:
    say(errno.errorcode[error.errno])
"""
    assert outside(code, tmp_path) == "larger"
    assert inside(code) == "EPERM"


def test_pages_pinned_in_pipes(tmp_path: Path) -> None:
    """A pipe keeps a page that no process maps any more."""
    code = f"""
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
page = ctypes.create_string_buffer(4096)
reading, writing = os.pipe()
piece = Piece(ctypes.addressof(page), 4096)
say(call({number("vmsplice")}, writing, ctypes.addressof(piece), 1, 0))
"""
    assert outside(code, tmp_path) == "done"
    assert inside(code) == "EPERM"


def test_endless_output(tmp_path: Path) -> None:
    """Who reads decides how much: neither the answer nor the log takes more of the parent than its bounds."""
    assert len(outside("for _ in range(3): say('x' * 20000)", tmp_path)) == 60_000
    flood = "while True:\n    say('x' * 2**16)\n    os.write(1, b'y' * 2**16)"
    before = psutil.Process().memory_info().rss
    assert stopped(flood, wall_s=1)[0] == "wall"
    assert psutil.Process().memory_info().rss - before < 2**25


def test_endless_loop() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", "while True: pass"], timeout=0.3, check=False)
    assert stopped("while True: pass", cpu_s=0.3)[0] == "cpu"


def test_endless_sleep() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.3, check=False)
    assert stopped("time.sleep(60)", wall_s=0.3)[0] == "wall"


def test_sigterm_ignored_with_double_fork(tmp_path: Path) -> None:
    daemon = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(name, signal.SIG_IGN)
        os.closerange(0, answer)
        say(os.getpid())
        os.closerange(0, 256)
        signal.sigwait(signal.valid_signals() - {signal.SIGTERM})
        time.sleep(60)
    os._exit(0)
os.wait()
"""
    outsider = psutil.Process(int(outside(daemon, tmp_path)))
    try:
        os.kill(outsider.pid, signal.SIGTERM)
        assert outsider.is_running()
        assert PRELUDE + daemon in outsider.cmdline()
    finally:
        outsider.kill()
    with sandbox(daemon + "sys.stdin.read()") as box:
        box.limit(wall_s=20)
        assert box.read(16)
        insiders = [process for process in psutil.Process().children(recursive=True) if "-I" in process.cmdline()]
        assert len(insiders) >= 2
    assert [process for process in insiders if process.is_running() and process.status() != "zombie"] == []


def test_sparse_file(tmp_path: Path) -> None:
    code = """
try:
    with open("sparse", "wb") as file:
        file.truncate(1 << 40)
    say(os.path.getsize("sparse"))
except OSError as error:
    say(errno.errorcode[error.errno])
"""
    assert outside(code, tmp_path) == str(1 << 40)
    assert inside(code) == "EFBIG"


def test_raised_limits(tmp_path: Path) -> None:
    def raise_them(names: str) -> str:
        return f"""
import resource
raised = []
for name in "{names}".split():
    soft, hard = resource.getrlimit(getattr(resource, name))
    if soft == resource.RLIM_INFINITY:
        raised.append(name)
    for limits in ((soft + 1, hard), (soft + 1, soft + 1)):
        try:
            resource.setrlimit(getattr(resource, name), limits)
            raised.append(name)
        except (ValueError, OSError):
            pass
say(raised)
"""

    lowered = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))"
    assert "RLIMIT_NOFILE" in outside(lowered + raise_them("RLIMIT_NOFILE"), tmp_path)
    assert inside(raise_them("RLIMIT_AS RLIMIT_CPU RLIMIT_CORE RLIMIT_FSIZE RLIMIT_NOFILE RLIMIT_NPROC")) == "[]"
