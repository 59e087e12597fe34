"""What a machine is told about its sandbox: what holds, or why there is none and what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from attack import AS_ROOT

from trainer.sandbox import command, scope
from trainer.sandbox.command import Limits, SandboxUnavailable, bubblewrap, nvidia_devices, nvidia_name, python_command
from trainer.sandbox.preflight import examine, preflight, remedy
from trainer.sandbox.scope import Scope, Tier, plain_tier, tier
from trainer.sandbox.syscalls import filter_program

as_root = pytest.mark.skipif(not AS_ROOT, reason="only root can set up such a machine")
LIMITS = Limits(memory_bytes=2**28, cpu_s=60, threads=1)
CHECKOUT = Path(__file__).parents[2]
PREFLIGHT = """
from trainer.sandbox.preflight import preflight
from trainer.sandbox.command import SandboxUnavailable
try:
    print(preflight())
except SandboxUnavailable as error:
    print(f"refused: {error}")
"""


def fresh(code: str = PREFLIGHT, *before: str) -> str:
    """What a new Python says that runs `code`, started by the command `before`."""
    done = subprocess.run(
        [*before, sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_facts_of_this_machine() -> None:
    facts = examine()
    assert facts.bubblewrap == bubblewrap()[1]
    assert facts.dropped_from_root == (os.geteuid() == 0)
    assert facts.tier == tier().name
    assert facts.counts_inside
    assert "filtered system calls" in preflight()


def test_other_systems_are_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxUnavailable, match="needs Linux"):
        preflight()


@pytest.mark.parametrize(("says", "reason"), [("bubblewrap 0.4.1", "too old"), ("", "of unknown version")])
def test_an_old_bubblewrap_is_refused(says: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "bwrap"
    old.write_text(f"#!/bin/sh\necho {says}\n")
    old.chmod(0o755)
    monkeypatch.setattr(command, "TOOL_PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match=reason):
        bubblewrap.__wrapped__()


def test_a_setuid_bubblewrap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "bwrap"
    old.write_text("#!/bin/sh\necho bubblewrap 0.11.0\n")
    old.chmod(0o4755)
    monkeypatch.setattr(command, "TOOL_PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match="chmod u-s"):
        bubblewrap.__wrapped__()


def test_a_missing_bubblewrap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "TOOL_PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match="apt install bubblewrap"):
        bubblewrap.__wrapped__()


def test_a_missing_libseccomp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    with pytest.raises(SandboxUnavailable, match="apt install libseccomp2"):
        filter_program.__wrapped__()


@as_root
def test_no_user_namespaces_is_refused_with_the_setting_at_fault() -> None:
    """In a user namespace that has all of root's rights but may make no others, as in a container."""
    lock = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    wait = 'echo mapped? && read answer && exec "$@"'  # the second exec is what gives a mapped root its capabilities
    command = ["unshare", "--user", "--mount", "/bin/sh", "-c", wait, "sh", "/bin/sh", "-c", lock, "sh"]
    command += [sys.executable, "-c", PREFLIGHT]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=CHECKOUT, text=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "mapped?\n"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{name}").write_text("0 0 65536")
        said, _ = process.communicate("yes\n", timeout=60)
    assert said.startswith("refused: the sandbox does not start")
    assert "sysctl user.max_user_namespaces" in said


@as_root
def test_a_container_without_mounts_is_refused() -> None:
    said = fresh(PREFLIGHT, "setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    assert said.startswith("refused: the sandbox does not start")
    assert "namespaces" in said


@pytest.mark.parametrize(
    ("file", "content", "advice"),
    [
        ("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "apparmor_parser"),
        ("proc/sys/kernel/unprivileged_userns_clone", "0", "unprivileged_userns_clone=1"),
        ("proc/sys/user/max_user_namespaces", "0", "max_user_namespaces="),
        (".dockerenv", "", "systempaths=unconfined"),
        ("run/.containerenv", "", "systempaths=unconfined"),
        ("nothing", "", "bwrap --unshare-all"),
    ],
)
def test_remedies(file: str, content: str, advice: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(content + "\n")
    assert advice in remedy("bwrap: No permissions to create a new namespace", tmp_path)


def test_settings_that_allow_are_no_cause(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/apparmor_restrict_unprivileged_userns").write_text("0\n")
    (tmp_path / "proc/sys/kernel/unprivileged_userns_clone").write_text("1\n")
    assert "bwrap --unshare-all" in remedy("", tmp_path)


def test_nvidia_devices_are_passed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"):
        (tmp_path / name).touch()
    found = nvidia_devices(tmp_path)
    assert [path.name for path in found] == ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia0", "nvidia1"]
    monkeypatch.setattr(command, "nvidia_devices", lambda: found)
    line = python_command([], LIMITS._replace(nvidia=True), {}, 3)
    for path in found:
        at = line.index(str(path))
        assert line[at - 1 : at + 2] == ["--dev-bind", str(path), str(path)]
        assert line.index("--dev") < at < line.index("--remount-ro")
    assert "/sys" in line
    assert not any(word.startswith("--as=") for word in line)


def test_nvidia_devices_are_not_passed_in_unless_asked_for() -> None:
    line = python_command([], LIMITS, {}, 3)
    assert "--dev-bind" not in line
    assert "/sys" not in line
    assert any(word.startswith("--as=") for word in line)


def test_without_nvidia_devices_a_cuda_track_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nvidiactl").touch()
    with pytest.raises(SandboxUnavailable, match="docker run --gpus all"):
        nvidia_devices(tmp_path)


def test_the_driver_names_its_gpus(tmp_path: Path) -> None:
    assert nvidia_name(tmp_path) == ""
    for number in range(2):
        card = tmp_path / "gpus" / f"0000:0{number}:00.0" / "information"
        card.parent.mkdir(parents=True)
        card.write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 18\n")
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
        "GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)\n"
    )
    assert nvidia_name(tmp_path) == "NVIDIA H100 80GB HBM3, NVIDIA H100 80GB HBM3, driver 550.54.15"


def test_a_scope_of_systemd_limits_memory_and_tasks() -> None:
    made = Scope(LIMITS, Tier("systemd user scope", runtime="/run/user/7"))
    line = " ".join(made.prefix)
    assert "--user --scope" in line
    assert f"MemoryMax={LIMITS.memory_bytes + scope.SLACK_BYTES}" in line
    assert "MemorySwapMax=0" in line
    assert line.endswith("-- /usr/bin/env -i")  # nothing of systemd-run's environment goes on
    assert made.environment == {"XDG_RUNTIME_DIR": "/run/user/7"}


def test_a_group_of_version_2_is_joined_before_anything_runs(tmp_path: Path) -> None:
    """In a folder that stands for the hierarchy: a kernel's would hand on the controllers."""
    made = Scope(LIMITS, Tier("cgroup v2", folder=tmp_path))
    (group,) = tmp_path.iterdir()
    assert (group / "memory.max").read_text() == str(LIMITS.memory_bytes + scope.SLACK_BYTES)
    assert int((group / "pids.max").read_text()) > command.PROCESSES_MAX
    said = subprocess.run([*made.prefix, "/bin/echo", "a b"], capture_output=True, text=True, check=True).stdout
    assert said == "a b\n"
    assert (group / "cgroup.procs").read_text() == "0\n"


def test_where_no_controllers_are_handed_on_the_watcher_holds(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/x\n0::/\n")
    assert "no cgroup version 2" in plain_tier(tmp_path, own).reason
    (tmp_path / "cgroup.controllers").write_text("memory pids\n")
    assert plain_tier(tmp_path, own) == Tier("watcher only", f"no groups below {tmp_path}: No such file or directory")
    own.write_text("4:memory:/x\n")
    assert "in no group" in plain_tier(tmp_path, own).reason
