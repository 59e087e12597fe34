"""What `waggle doctor` says about this machine, and about machines that lack something."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from node.doctor import EXIT_READY, EXIT_UNREADY, Finding, doctor, exit_status, lines
from trainer.sandbox import command


def finding(findings: list[Finding], word: str) -> Finding:
    return next(found for found in findings if word in found.what)


def test_this_machine_can_run_a_node(tmp_path: Path) -> None:
    findings = doctor(tmp_path / "new" / "home")
    assert exit_status(findings) == EXIT_READY, lines(findings)
    for word in ("sandbox: bubblewrap", "Python 3", "torch", "git version", "GiB free", "core", "of memory", "NVIDIA"):
        finding(findings, word)
    assert not (tmp_path / "new").exists()
    for line in lines(findings):
        assert line.split()[0] in ("ok", "warn", "fail")
    assert msgspec.json.decode(msgspec.json.encode(findings), type=list[Finding]) == findings


def test_torch_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, node.doctor as d; d.doctor(pathlib.Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


def test_without_a_sandbox_it_says_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "TOOL_PATH", str(tmp_path))
    command.bubblewrap.cache_clear()
    try:
        findings = doctor(tmp_path)
    finally:
        command.bubblewrap.cache_clear()
    failed = finding(findings, "bubblewrap")
    assert failed.level == "fail"
    assert "apt install bubblewrap" in failed.what
    assert "serve a ledger" in failed.remedy
    assert exit_status(findings) == EXIT_UNREADY


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.disk_usage(tmp_path)
    for free, level in ((2**20, "fail"), (2**30, "warn"), (2**40, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: real._replace(free=free))
        assert finding(doctor(tmp_path), "GiB free").level == level


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert finding(doctor(tmp_path), "git").level == "fail"
    broken = tmp_path / "git"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert finding(doctor(tmp_path), "git").level == "fail"


def test_ports_that_cannot_be_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(address: tuple[str, int]) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refused)
    failed = finding(doctor(tmp_path), "no TCP port")
    assert failed.level == "fail"
    assert "Permission denied" in failed.what


def test_remedies_follow_what_they_mend() -> None:
    shown = lines([Finding(level="warn", what="1 core", remedy="wait"), Finding(level="ok", what="git")])
    assert shown == ["warn  1 core  → wait", "ok    git"]
