"""Attacks on the kernel's doors: namespaces, mounts, rare system calls, devices, settings, terminals."""

import platform
import signal
from pathlib import Path

import pytest
from attack import AS_ROOT, exit_status, inside, number, outside

from trainer.sandbox.syscalls import CONDITIONAL_RULES, FIRST_UNREVIEWED, LAST_UNREVIEWED, RULES

NAMESPACES = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the processor has no such entry to the kernel")


def test_user_namespaces(tmp_path: Path) -> None:
    code = f"say(call({number('unshare')}, {NAMESPACES['user']}))"
    assert outside(code, tmp_path) == "done"
    assert inside(code) == "EPERM"


@pytest.mark.parametrize("flag", NAMESPACES.values(), ids=NAMESPACES)
def test_namespaces_by_clone(flag: int, tmp_path: Path) -> None:
    """With a user namespace beside it, anybody outside may make each of them."""
    code = f"""
child = libc.syscall({number("clone")}, ctypes.c_long({flag} | {{extra}} | signal.SIGCHLD), 0, 0, 0, 0)
if child == 0:
    os._exit(0)
say("done" if child > 0 else errno.errorcode[ctypes.get_errno()])
"""
    assert outside(code.format(extra=NAMESPACES["user"]), tmp_path) == "done"
    assert inside(code.format(extra=0)) == "EPERM"


def test_mounts(tmp_path: Path) -> None:
    code = f"""
libc.unshare({NAMESPACES["user"] | NAMESPACES["mount"]})
os.makedirs("place", exist_ok=True)
done = libc.mount(b"tmpfs", b"place", b"tmpfs", 0, None)
say("mounted" if done == 0 else errno.errorcode[ctypes.get_errno()])
"""
    assert outside(code, tmp_path) == "mounted"
    assert inside(code) == "EPERM"
    calls = [number(name) for name in ("umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "setns")]
    assert inside(f"say({{call(number, 0, 0, 0, 0, 0) for number in {calls}}})") == "{'EPERM'}"


def test_remounting_the_system_writable() -> None:
    code = """
MS_REMOUNT, MS_BIND = 32, 4096
for place in (b"/", b"/usr", b"/proc", b"/dev"):
    if libc.mount(None, place, None, MS_REMOUNT | MS_BIND, None) == 0:
        say(place)
"""
    assert inside(code) == ""


@pytest.mark.parametrize(
    "name", ["keyctl", "add_key", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "memfd_create", "clone3"]
)
def test_risky_system_calls(name: str, tmp_path: Path) -> None:
    """Refused by the filter inside, before the kernel looks at the (senseless) arguments as it does outside."""
    code = f"say(call({number(name)}, 0, 0, 0, 0, 0, 0))"
    expected = "ENOSYS" if name in ("io_uring_setup", "memfd_create", "clone3") else "EPERM"
    if AS_ROOT or name in ("keyctl", "add_key", "io_uring_setup", "memfd_create", "clone3"):
        said = outside(code, tmp_path)
        if said == "ENOSYS":
            pytest.skip(f"the kernel here has no {name}, so the attack cannot succeed outside")
        assert said != expected
    assert inside(code) == expected


def test_every_rule_holds() -> None:
    answers = {number(call): rule.answer for rule in RULES for call in rule.calls.split()}
    answers = {call: answer for call, answer in answers.items() if call >= 0}
    assert len(answers) > 80
    code = f"""
for number, answer in {answers}.items():
    said = call(number, 0, 0, 0, 0, 0, 0)
    if said != errno.errorcode[answer]:
        say((number, said))
"""
    assert inside(code) == ""


def test_conditional_rules_hold_with_high_bits_set(tmp_path: Path) -> None:
    """The kernel reads an int and ignores the upper half of the register (CVE-2019-10063)."""
    high = 1 << 32
    attacks = []
    for rule, argument, mask, value in CONDITIONAL_RULES:
        refused = value if mask is not None else 16
        for call in rule.calls.split():
            for bits in (0, high):
                words = [0] * 6
                words[argument] = refused | bits
                attacks.append((number(call), *words))
    code = f"say([attack for attack in {attacks} if call(*attack) != 'EPERM'])"
    assert inside(code) == "[]"


def test_system_calls_newer_than_the_filter() -> None:
    code = f"say({{call(number, 0, 0, 0, 0, 0, 0) for number in range({FIRST_UNREVIEWED}, {LAST_UNREVIEWED + 1})}})"
    assert inside(code) == "{'ENOSYS'}"


@x86
@pytest.mark.parametrize("entry", ["int 0x80", "x32"])
def test_foreign_architectures(entry: str, tmp_path: Path) -> None:
    code = """
import mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid of i386); int 0x80; ret
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
say(ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid())
"""
    if entry == "x32":
        code = f"say(call({0x40000000 | number('getpid')}) in ('done', 'ENOSYS'))"
    assert outside(code, tmp_path) == "True"
    assert exit_status(code) == 128 + signal.SIGSYS


def test_core_pattern(tmp_path: Path) -> None:
    """Outside only opened, for it is the machine's own."""
    code = """
try:
    os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
    say("open")
except OSError as error:
    say(errno.errorcode[error.errno])
"""
    if AS_ROOT:  # outside it succeeds for nobody else
        assert outside(code, tmp_path) == "open"
    assert inside(code) in ("EROFS", "EACCES")


def test_core_handler_of_the_host() -> None:
    """A limit of exactly 1 byte keeps the kernel from writing a core file and from starting the host's handler."""
    assert inside("import resource\nsay(resource.getrlimit(resource.RLIMIT_CORE))") == "(1, 1)"
    assert exit_status("os.abort()") == 128 + signal.SIGABRT


def test_proc_sys_writes(tmp_path: Path) -> None:
    code = """
found = []
for folder, _, files in os.walk("/proc/sys"):
    for name in files + ["../../sysrq-trigger"] * (folder == "/proc/sys/kernel"):
        try:
            os.close(os.open(folder + "/" + name, os.O_WRONLY))
            found.append(name)
        except OSError:
            pass
say(len(found))
"""
    if AS_ROOT:  # outside it succeeds for nobody else
        assert int(outside(code, tmp_path)) > 100
    assert inside(code) == "0"


def test_process_settings_that_outlive_limits() -> None:
    code = """
found = []
for name in ("oom_score_adj", "oom_adj", "uid_map", "gid_map", "setgroups", "attr/current", "timerslack_ns"):
    for pid in (1, os.getppid()):
        try:
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write("0")
            found.append(name)
        except OSError:
            pass
say(found)
"""
    assert inside(code) == "[]"


def test_devices() -> None:
    known = {
        *("console", "core", "fd", "full", "null", "ptmx", "pts", "random", "shm"),
        *("stderr", "stdin", "stdout", "tty", "urandom", "zero"),
    }
    code = """
say(" ".join(os.listdir("/dev")))
for name in ("sda", "vda", "nvme0n1", "mem", "kmem", "kmsg", "kvm", "fuse", "net/tun", "loop0"):
    try:
        os.close(os.open("/dev/" + name, os.O_RDONLY))
        say(" " + name)
    except FileNotFoundError:
        pass
"""
    assert set(inside(code).split()) <= known


def test_making_device_nodes(tmp_path: Path) -> None:
    code = """
import stat
try:
    os.mknod("device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    say("made")
except OSError as error:
    say(errno.errorcode[error.errno])
"""
    if AS_ROOT:  # outside it succeeds for nobody else
        assert outside(code, tmp_path) == "made"
    assert inside(code) == "EPERM"


TERMINAL = """
import fcntl, pty, termios
def type_into(terminal, request):
    try:
        fcntl.ioctl(terminal, request, b"x")
        return "typed"
    except OSError as error:
        return errno.errorcode[error.errno]
"""


def test_terminal_injection(tmp_path: Path) -> None:
    """Into a terminal of its own, so that only the filter can be what refuses."""
    code = (
        TERMINAL
        + """
pid, terminal = pty.fork()
if pid == 0:
    say(type_into(0, termios.TIOCSTI))
    os._exit(0)
os.waitpid(pid, 0)
"""
    )
    if AS_ROOT:  # outside it succeeds for nobody else
        assert outside(code, tmp_path) == "typed"
    assert inside(code) == "EPERM"


def test_terminal_injection_with_high_bits_set() -> None:
    code = f"say(call({number('ioctl')}, 0, (1 << 32) | 0x5412, 0), )"
    assert inside(code.replace(", )", ")")) == "EPERM"


def test_terminal_of_the_node() -> None:
    code = """
try:
    os.open("/dev/tty", os.O_RDWR)
    say("open")
except OSError as error:
    say(errno.errorcode[error.errno])
"""
    assert inside(code) == "ENXIO"


def test_capabilities_and_privileges() -> None:
    code = """
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
say([int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")])
say([os.getuid(), os.getgid(), os.getgroups()])
"""
    assert inside(code).startswith("[0, 0, 0, 0, 0, 1, 2][65534, 65534, ")
