"""Attacks on what is not the program's: files, secrets, other processes, the network."""

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from attack import inside, number, outside

SECRET = "correct-horse-battery"
READ = """
def read(path):
    try:
        return open(path).read()
    except OSError as error:
        return errno.errorcode[error.errno]
"""


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of this user with a secret in its environment."""
    with subprocess.Popen(["/bin/sleep", "600"], env={"API_KEY": SECRET}) as process:
        try:
            yield process
        finally:
            process.kill()


def test_etc_passwd(tmp_path: Path) -> None:
    code = READ + "say(read('/etc/passwd')[:5])"
    assert outside(code, tmp_path) == Path("/etc/passwd").read_text()[:5]
    assert inside(code) == "ENOEN"
    assert inside("say(os.listdir('/etc'))") in ("['ld.so.cache']", "[]")


def test_ssh_keys(tmp_path: Path) -> None:
    key = tmp_path / ".ssh" / "id_ed25519"
    key.parent.mkdir()
    key.write_text(SECRET)
    code = (
        READ
        + f"""
places = [{str(tmp_path)!r}, os.path.expanduser("~"), {str(Path.home())!r}, "/root", *os.environ.values()]
if os.path.isdir("/home"):
    places += ["/home/" + name for name in os.listdir("/home")]
say({{name: read(place + "/.ssh/" + name) for place in places for name in ("id_ed25519", "id_rsa", "authorized_keys")
      if os.path.exists(place + "/.ssh/" + name)}})
"""
    )
    assert SECRET in outside(code, tmp_path)
    assert inside(code) == "{}"


def test_home_folder_holds_nothing_but_the_way_to_python() -> None:
    shown = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()]
    code = f"""
found = []
for folder, folders, files in os.walk({str(Path.home())!r}):
    if folder in {[str(path) for path in shown]}:
        folders.clear()
        continue
    found += [folder + "/" + name for name in files]
say(found)
"""
    assert inside(code) == "[]"


def test_environment_of_other_processes(victim: subprocess.Popen[bytes], tmp_path: Path) -> None:
    code = """
found = []
for name in filter(str.isdigit, os.listdir("/proc")):
    for file in ("environ", "cmdline"):
        try:
            found.append(open(f"/proc/{name}/{file}").read())
        except OSError:
            pass
say("API_" + "KEY" in "".join(found))
say(len(found) > 0)
"""
    assert outside(code, tmp_path) == "TrueTrue"
    assert inside(code) == "FalseTrue"


def test_api_keys_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    code = "say('ANTHROPIC_API_KEY' in os.environ)"
    assert outside(code, tmp_path, environment=dict(os.environ)) == "True"
    assert inside(code) == "False"
    names = set(json.loads(inside("import json\nsay(json.dumps(dict(os.environ)))")))
    assert names <= {"PWD", "LC_CTYPE", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}


def test_loopback_tcp(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"""
try:
    socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), 2)
    say("connected")
except OSError as error:
    say(errno.errorcode[error.errno])
"""
        assert outside(code, tmp_path) == "connected"
        assert inside(code) == "EPERM"


@pytest.mark.parametrize("kind", ["abstract", "path"])
def test_unix_sockets(kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        address = f"\0waggle-attack-{os.getpid()}" if kind == "abstract" else f"{folder}/s"
        server.bind(address)
        server.listen()
        code = f"""
try:
    socket.socket(socket.AF_UNIX).connect({address!r})
    say("connected")
except OSError as error:
    say(errno.errorcode[error.errno])
"""
        assert outside(code, Path(folder)) == "connected"
        assert inside(code) == ("ECONNREFUSED" if kind == "abstract" else "ENOENT")


def test_odd_socket_families(tmp_path: Path) -> None:
    code = f"""
opened = []
for family in range(64):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        for high in (0, 1 << 32):
            if libc.syscall({number("socket")}, ctypes.c_long(family | high), kind, 0) >= 0:
                opened.append(family)
say(sorted(set(opened)))
"""
    assert {socket.AF_UNIX, socket.AF_INET, socket.AF_NETLINK} <= set(json.loads(outside(code, tmp_path)))
    assert inside(code) == "[1]"


def test_ptrace_of_the_parent(tmp_path: Path) -> None:
    """Outside a process may let its parent trace it; inside nobody may trace anybody, by whatever call."""
    code = f"""
TRACEME, SEIZE = 0, 0x4206
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
source, target = ctypes.create_string_buffer(b"secret"), ctypes.create_string_buffer(6)
pieces = Piece(ctypes.addressof(target), 6), Piece(ctypes.addressof(source), 6)
def peek(pid):
    return call({number("process_vm_readv")}, pid, ctypes.addressof(pieces[0]), 1, ctypes.addressof(pieces[1]), 1, 0)
child = os.fork()
if child == 0:
    say(call({number("ptrace")}, TRACEME, 0, 0, 0) + " ")
    os._exit(0)
os.wait()
say(peek(os.getpid()))
if len(sys.argv) == 3:
    say([call({number("ptrace")}, SEIZE, pid, 0, 0) + peek(pid) for pid in (1, os.getppid())])
"""
    assert outside(code, tmp_path) == "done done"
    attack = code.replace("len(sys.argv) == 3", "True")
    assert inside(attack) == "EPERM EPERM" + str(["EPERM" * 2] * 2)


def test_memory_of_the_first_process() -> None:
    code = READ + "say([read(f'/proc/{pid}/mem')[:6] for pid in (1, os.getppid())])"
    assert set(json.loads(inside(code).replace("'", '"'))) <= {"EACCES", "EPERM", "ENOENT", "EIO"}


def test_writing_site_packages(tmp_path: Path) -> None:
    place = Path(sysconfig.get_paths()["purelib"])
    code = """
try:
    open({!r}, "w").write("import os")
    say("written")
except OSError as error:
    say(errno.errorcode[error.errno])
"""
    copy = tmp_path / "site-packages"
    copy.mkdir()
    assert outside(code.format(str(copy / "x.pth")), tmp_path) == "written"
    for target in (place / "x.pth", place / "torch" / "__init__.py", Path(os.__file__), Path(sys.executable)):
        assert inside(code.format(str(target))) in ("EROFS", "EACCES"), target
    assert not (place / "x.pth").exists()


def test_symlink_escape(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    code = (
        READ
        + f"""
import tempfile
place = tempfile.mkdtemp(dir="/tmp")
secret = {str(secret)!r}
os.symlink(secret, place + "/link")
os.symlink("../" * 20 + secret.lstrip("/"), place + "/climb")
ways = [place + "/link", place + "/climb", "/proc/1/root" + secret, "/proc/self/cwd/" + "../" * 20 + secret]
ways += [f"/proc/{{os.getppid()}}/root" + secret, f"/proc/{{os.getppid()}}/cwd/" + secret]
say([read(way) for way in ways])
for name in ("link", "climb"):
    os.unlink(place + "/" + name)
os.rmdir(place)
"""
    )
    assert outside(code, tmp_path).count(SECRET) >= 3
    said = inside(code)
    assert SECRET not in said
    assert said.count("ENOENT") + said.count("EACCES") == 6


def test_signals_to_outside_processes(victim: subprocess.Popen[bytes], tmp_path: Path) -> None:
    code = """
try:
    os.kill({}, {})
    say("sent")
except OSError as error:
    say(errno.errorcode[error.errno])
"""
    assert outside(code.format(victim.pid, 0), tmp_path) == "sent"
    assert inside(code.format(2**22 - victim.pid, signal.SIGKILL)) == "ESRCH"
    everyone = """
for pid in range(2, 2**16):
    if pid != os.getpid():
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
try:
    os.kill(-1, signal.SIGKILL)
except OSError:
    pass
say("done")
"""
    assert inside(everyone) == "done"
    assert victim.poll() is None


def test_leaked_descriptors(tmp_path: Path) -> None:
    """A file that the node holds open, and has forgotten to mark as its own."""
    (tmp_path / "secret").write_text(SECRET)
    code = """
found = []
for process in ["self", *filter(str.isdigit, os.listdir("/proc"))]:
    try:
        names = os.listdir(f"/proc/{process}/fd")
    except OSError:
        continue
    for name in names:
        try:
            found.append(os.readlink(f"/proc/{process}/fd/{name}").split(":")[0])
        except OSError:
            pass
say(sorted(set(found) - {"/dev/null"}))
"""
    with (tmp_path / "secret").open() as file:
        os.set_inheritable(file.fileno(), True)
        assert "secret" in outside(code, tmp_path, close_fds=False)
        assert set(json.loads(inside(code).replace("'", '"'))) <= {"pipe", "anon_inode"}


def test_descriptors_of_the_program_are_its_pipes() -> None:
    code = """
names = sorted(os.listdir("/proc/self/fd"), key=int)
say([name for name in names if os.path.exists("/proc/self/fd/" + name)])
"""
    names = json.loads(inside(code).replace("'", '"'))
    assert names[:3] == ["0", "1", "2"]
    assert len(names) == 4  # and the answer


def test_reopening_pipes_through_proc() -> None:
    """A file or terminal of the host could be opened again with other rights; a pipe leads to nothing else."""
    assert inside("say([os.path.realpath(f'/proc/self/fd/{n}').count('/pipe:') for n in (0, 1, 2, answer)])") == str(
        [1] * 4
    )
