"""Whatever system call fails, and wherever the process ends, what was acknowledged is there and the ledger is whole.

What peers would send again may be gone when the power fails, but not once something own was acknowledged after it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import examples
import faults
import pytest
from integrity import ENVIRONMENT, count, errors, runs

from ledger.store import Store

APPEND_CALLS = range(200, 600)  # that one run makes; past it, choose other strides
STRIDES = {"error": 7, "full": 11, "kill": 9, "tear": 7, "power": 5}  # of the calls, each about 50 ms; 1 is all


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another ledger of the same swarm."""
    store = examples.new_store(tmp_path_factory.mktemp("other"))
    for seed in range(6):
        examples.state_trial(examples.author(store, 2), "b" * 64, seed, 3.0)
    examples.state_trial(examples.author(store, 4), "c" * 64, 0, 3.0)
    store.close()
    return store.path


def check(path: Path, acknowledged: Sequence[str], *, power_failed: bool = False) -> None:
    if not path.exists():
        assert not acknowledged
        Store.create(path, examples.CHALLENGE).close()  # whatever the attempt left behind
    store = Store.open(path, check=True)
    durable = max((place for place, line in enumerate(acknowledged) if not line.startswith("refetchable")), default=-1)
    for line in acknowledged if not power_failed else acknowledged[: durable + 1]:
        what, _, name = line.rpartition(" ")
        if what == "blob":
            assert store.blobs.get(name)
        elif what == "banned":
            assert store.is_banned(name)
            assert [proof.author for proof in store.proofs()] == [name]
        elif name.startswith("bafkrei"):
            assert store.entry(name) is not None
    assert errors(store) == []
    examples.state_trial(examples.author(store, 3), "a" * 64, 0, 3.0)  # and it can go on
    store.close()


@pytest.mark.parametrize("fault", faults.FAULTS)
def test_no_call_that_fails_loses_what_was_acknowledged(tmp_path: Path, other: Path, fault: str) -> None:
    calls = count("append", other, tmp_path)
    assert calls in APPEND_CALLS
    for ran in runs("append", other, tmp_path, fault, range(1, calls + 1, STRIDES[fault])):
        acknowledged = [line for line in ran.acknowledged if not line.startswith("calls ")]
        try:
            path = tmp_path / f"{fault}-{ran.at}" / "ledger.db"
            check(path, acknowledged, power_failed=fault == "power")
        except BaseException as error:
            error.add_note(f"{fault} at call {ran.at} of {calls}")
            raise


WRITER = """
import sys
from pathlib import Path
import examples
from ledger.store import Store
store = Store.open(Path(sys.argv[1]))
by = examples.author(store, int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
for seed in range(40):
    print(examples.state_trial(by, "a" * 64, seed, 3.0).id, flush=True)
"""


@pytest.mark.parametrize("keys", [(1, 2), (1, 1)])
def test_two_processes_may_write_at_once_even_with_one_key(tmp_path: Path, keys: tuple[int, int]) -> None:
    examples.new_store(tmp_path).close()
    command = [sys.executable, "-c", WRITER, str(tmp_path / "ledger.db")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    writers = [subprocess.Popen([*command, str(key)], **pipes, text=True, env=ENVIRONMENT) for key in keys]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    acknowledged = [line for writer in writers for line in writer.communicate()[0].splitlines()]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(set(acknowledged)) == 80
    check(tmp_path / "ledger.db", acknowledged)


def in_a_mount_namespace(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python script where it may mount in its own view of the file system."""
    command = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", script, str(folder), *arguments]
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    probe = subprocess.run([*command[:3], "mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("this user may not mount anything, not even in a namespace of its own")
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)


FULL_DISK = """
import subprocess, sys
from pathlib import Path
import examples
from ledger.errors import LedgerError
from ledger.fsck import fsck
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=True)
store = examples.new_store(folder)
by = examples.author(store)
acknowledged = []
try:
    while True:
        acknowledged.append(examples.state_trial(by, "a" * 64, len(acknowledged), 3.0).id)
except LedgerError as error:
    assert "make room on its disk" in str(error), error
for again in range(3):
    try:
        examples.state_trial(by, "b" * 64, again, 3.0)
    except LedgerError:
        continue
    raise SystemExit("there was room")
assert len(acknowledged) > 20
assert all(store.entry(each) for each in acknowledged)
subprocess.run(["mount", "-o", "remount,size=32m", folder], check=True)
acknowledged.append(examples.state_trial(by, "c" * 64, 0, 3.0).id)
store.close()
store = type(store).open(folder / "ledger.db", check=True)
assert all(store.entry(each) for each in acknowledged)
assert list(fsck(store)) == []
print("kept", len(acknowledged))
"""


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    done = in_a_mount_namespace(tmp_path, FULL_DISK)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("kept ")


READ_ONLY = """
import subprocess, sys
from pathlib import Path
import examples
from ledger.errors import LedgerError
from ledger.fsck import fsck
from ledger.store import Store
folder = Path(sys.argv[1])
subprocess.run(["mount", "--bind", folder, folder], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
try:
    store = Store.open(folder / "ledger.db")
    print(len(list(store.entries())), "entries")
    print(*(f"{found.severity} {found.check}" for found in fsck(store)))
    examples.state_trial(examples.author(store), "a" * 64, 0, 3.0)
except LedgerError as error:
    print(error)
"""


def left_open(folder: Path, keep: Sequence[str]) -> None:
    """A ledger of three entries as a process that is killed leaves it; of what lies beside it, only `keep` stays."""
    store = examples.new_store(folder, "whole.db")
    for seed in range(3):
        examples.state_trial(examples.author(store), "a" * 64, seed, 3.0)
    for suffix in ("", *keep):
        shutil.copy(folder / f"whole.db{suffix}", folder / f"ledger.db{suffix}")
    store.close()


@pytest.mark.parametrize("beside", [(), ("-wal", "-shm")], ids=["closed", "as a crash leaves it"])
def test_a_read_only_ledger_can_be_read_and_says_why_it_cannot_be_written(
    tmp_path: Path, beside: tuple[str, ...]
) -> None:
    left_open(tmp_path, beside)
    if not beside:
        Store.open(tmp_path / "whole.db").close()
        (tmp_path / "ledger.db").write_bytes((tmp_path / "whole.db").read_bytes())
    done = in_a_mount_namespace(tmp_path, READ_ONLY)
    assert done.returncode == 0, done.stderr
    entries, findings, refusal = done.stdout.splitlines()
    assert (entries, findings) == ("3 entries", "note search")
    assert "allow this user to write the file and its folder" in refusal


def test_a_log_that_cannot_be_read_without_writing_is_not_passed_over(tmp_path: Path) -> None:
    left_open(tmp_path, ("-wal",))
    done = in_a_mount_namespace(tmp_path, READ_ONLY)
    assert done.returncode == 0, done.stderr
    assert "allow this user to read and write the file and its folder" in done.stdout


def test_a_torn_end_of_the_log_costs_the_last_entry_only(tmp_path: Path) -> None:
    left_open(tmp_path, ("-wal",))
    log = tmp_path / "ledger.db-wal"
    os.truncate(log, log.stat().st_size - 100)
    store = Store.open(tmp_path / "ledger.db", check=True)
    assert len(list(store.entries())) == 2
    assert errors(store) == []
    store.close()
