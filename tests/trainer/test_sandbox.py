"""What a program in the sandbox can reach and use; every test runs real programs in the real sandbox."""

import os
from pathlib import Path

import psutil
import pytest

from trainer.sandbox.command import Limits
from trainer.sandbox.process import LOG_CHARACTERS_MAX, LimitExceeded, Sandbox

PRELUDE = "import os, socket, sys, time\nanswer = int(sys.argv[1])\n"
LIMITS = Limits(memory_bytes=2**28, cpu_s=60, threads=1)


def sandbox(code: str, limits: Limits = LIMITS) -> Sandbox:
    return Sandbox(["-c", PRELUDE + code], limits, {})


def answer_of(code: str) -> bytes:
    with sandbox(code) as box:
        box.limit(wall_s=30)
        answer = b"".join(iter(lambda: box.read(2**16), b""))
        assert box.end() == 0, box.log()
    return answer


def exceeded(code: str, *, wall_s: float = 30, cpu_s: float = 30, limits: Limits = LIMITS) -> str:
    """The limit that ends the program."""
    with sandbox(code, limits) as box:
        box.limit(wall_s=wall_s, cpu_s=cpu_s)
        with pytest.raises(LimitExceeded) as caught:
            box.read(1)
    return caught.value.limit


def test_no_home_no_checkout_and_no_files_of_the_host(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    checkout = Path(__file__).parents[2]
    hidden = [secret, checkout / "pyproject.toml", checkout / "trainer", Path("/etc/passwd"), Path("/var")]
    hidden += [path for path in Path.home().glob("*") if path.is_file()]
    assert (
        answer_of(f"os.write(answer, str([p for p in {list(map(str, hidden))} if os.path.exists(p)]).encode())")
        == b"[]"
    )


def test_programs_are_not_root_outside() -> None:
    with sandbox("os.write(answer, b'.')\nsys.stdin.read()") as box:
        box.limit(wall_s=30)
        assert box.read(1) == b"."
        inside = [process for process in psutil.Process().children(recursive=True) if "-I" in process.cmdline()]
        assert inside
        assert all(0 not in process.uids() for process in inside)


def test_mount_table_of_the_host_is_untouched() -> None:
    before = Path("/proc/self/mountinfo").read_text()
    with sandbox("os.write(answer, b'.')\nsys.stdin.read()") as box:
        box.limit(wall_s=30)
        assert box.read(1) == b"."
        assert Path("/proc/self/mountinfo").read_text() == before


def test_cpu_time_is_counted_over_all_children() -> None:
    assert exceeded("os.fork()\nwhile True: pass", cpu_s=0.5) == "cpu"


def test_cpu_time_of_discarded_children_is_counted() -> None:
    """Their parent ignores SIGCHLD, so the kernel adds their time to nobody's account."""
    code = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        end = time.process_time() + 0.2
        while time.process_time() < end: pass
        os._exit(0)
    try:
        os.wait()
    except ChildProcessError:
        pass
"""
    assert exceeded(code, cpu_s=0.6, wall_s=10) == "cpu"


def test_workers_of_a_data_loader_work() -> None:
    """They fork, and pass tensors through /dev/shm and descriptors through Unix sockets."""
    code = """
import torch
from torch.utils.data import DataLoader, TensorDataset
data = TensorDataset(torch.arange(512.0).view(-1, 2))
total = sum(batch.sum().item() for batch, in DataLoader(data, batch_size=16, num_workers=2))
os.write(answer, str(total).encode())
"""
    with sandbox("os.environ['TMPDIR'] = '/tmp'" + code, LIMITS._replace(memory_bytes=2**30)) as box:
        box.limit(wall_s=60)
        assert b"".join(iter(lambda: box.read(64), b"")) == b"130816.0"
        assert box.end() == 0, box.log()


@pytest.mark.parametrize("children", [0, 3])
def test_memory_is_limited_over_all_processes(children: int) -> None:
    code = f"""
for _ in range({children}):
    if os.fork() == 0:
        break
hog = b"x" * ({2**28 + 2**25} // max(1, {children}))
time.sleep(60)
"""
    assert exceeded(code, wall_s=20) == "memory"


def test_processes_are_limited() -> None:
    code = """
try:
    for _ in range(200):
        if os.fork() == 0:
            time.sleep(60)
except BlockingIOError:
    os.write(answer, b"refused")
"""
    with sandbox(code) as box:
        box.limit(wall_s=30)
        assert box.read(16) == b"refused"


def test_a_program_that_does_not_read_does_not_block_the_sender() -> None:
    with sandbox("time.sleep(60)") as box:
        box.limit(wall_s=0.5)
        box.send(bytes(2**24))
        with pytest.raises(LimitExceeded):
            box.read(1)


def test_a_closed_stdin_does_not_raise_in_the_sender() -> None:
    with sandbox("os.close(0)\nos.write(answer, b'closed')\ntime.sleep(0.1)") as box:
        box.limit(wall_s=10)
        box.send(bytes(2**24))
        assert b"".join(iter(lambda: box.read(16), b"")) == b"closed"


def test_bulk_goes_both_ways() -> None:
    code = f"""
data = sys.stdin.buffer.read({2**24})
view = memoryview(data)
while view:
    view = view[os.write(answer, view):]
"""
    data = os.urandom(2**16) * 2**8
    with sandbox(code) as box:
        box.limit(wall_s=30)
        box.send(data[: 2**20], data[2**20 :])
        assert b"".join(iter(lambda: box.read(2**20), b"")) == data


def test_a_flooded_log_is_bounded_and_does_not_stall() -> None:
    code = "while True: print('\\x1b[31m\\u202eboo' * 1000)"
    with sandbox(code) as box:
        box.limit(wall_s=1)
        with pytest.raises(LimitExceeded):
            box.read(1)
        log = box.log()
    assert "boo" in log
    assert "\x1b" not in log
    assert "\u202e" not in log
    assert len(log) <= LOG_CHARACTERS_MAX
    assert len(log.splitlines()) <= 50


def test_exit_status_and_log_tell_what_happened() -> None:
    with sandbox("raise SystemExit('no luck')") as box:
        box.limit(wall_s=30)
        assert box.read(1) == b""
        assert box.end() == 1
        assert box.log() == "no luck"
