"""The house itself: our packages are ours, the scripts are what the documents say, the documents name what exists."""

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from node.cli import waggle

CHECKOUT = Path(__file__).parents[1]
PACKAGES = ("gossip", "ledger", "node", "policy", "trainer")


@pytest.mark.parametrize("package", PACKAGES)
def test_generic_names_mean_our_packages(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__file__ is not None
    assert Path(module.__file__).is_relative_to(CHECKOUT)


def test_the_node_starts_without_what_takes_long_to_import() -> None:
    slow = {"anthropic", "optuna", "scipy.stats", "torch"}  # a second or more each
    code = f"import sys, node.app, node.cli, node.demo; print(*({slow} & sys.modules.keys()))"
    started = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert started.stdout.split() == []


def test_every_module_has_its_line_in_the_map() -> None:
    text = (CHECKOUT / "ARCHITECTURE.md").read_text()
    modules = [
        path for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py") if path.name != "__init__.py"
    ]
    assert len(modules) > 40
    assert [str(path) for path in modules if f"{path.name}`" not in text] == []


def test_commands_in_the_readme_exist() -> None:
    text = (CHECKOUT / "README.md").read_text()
    commands = set(re.findall(r"^(?:scripts/)?waggle ((?:ledger )?[a-z]+)", text, re.MULTILINE))
    assert {"demo", "init", "start", "ledger show"} <= commands
    for words in map(str.split, commands):
        command: click.Command = waggle
        for word in words:
            assert isinstance(command, click.Group), words
            command = command.commands[word]


def test_every_requirement_is_pinned() -> None:
    wanted = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    lines = (CHECKOUT / "requirements.lock").read_text().splitlines()
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines if "==" in line}
    assert len(pinned) == len(lines)
    for requirement in [*wanted["dependencies"], *wanted["optional-dependencies"]["dev"]]:
        name = re.match(r"[\w.-]+", requirement)
        assert name is not None
        assert re.sub(r"[-_.]+", "-", name[0]).lower() in pinned


def test_no_file_is_past_the_length_at_which_it_should_be_split() -> None:
    files = [path for package in (*PACKAGES, "tests") for path in (CHECKOUT / package).rglob("*.py")]
    assert {str(path): n for path in files if (n := len(path.read_text().splitlines())) > 700} == {}
