"""The program that the node builds on, as a git working tree with one commit per adoption.

`git log` in the folder reads as the research diary. The ledger is the truth: what the tree shows is written from it,
and written again at the start if a crash came between the two.
"""

import os
import subprocess
from pathlib import Path

from node.errors import UserError

FILE = "train.py"
_IDENTITY = ("-c", "user.name=waggle", "-c", "user.email=waggle@localhost", "-c", "commit.gpgsign=false")


class IncumbentTree:
    """The working tree at `path`, made on the first commit."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def commit(self, program: bytes, message: str) -> bool:
        """Make `program` the tree's `train.py`, one commit with `message`; False if it is that already.

        Raises `UserError` if git is missing or refuses.
        """
        if not (self._path / ".git").exists():
            self._path.mkdir(parents=True, exist_ok=True)
            self._git("init", "--quiet", "--initial-branch=main")
        file = self._path / FILE
        file.write_bytes(program)
        self._git("add", FILE)
        if not self._git("status", "--porcelain", "--", FILE):
            return False
        self._git(*_IDENTITY, "commit", "--quiet", "--no-verify", "-m", message)
        return True

    def _git(self, *arguments: str) -> str:
        # Only PATH: the caller's GIT_DIR, hooks and templates must not steer a repository of ours.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "GIT_CONFIG_GLOBAL": os.devnull}
        try:
            done = subprocess.run(
                ("git", "-C", str(self._path), *arguments), env=environment, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise UserError("git is not installed. Install it (Debian: apt install git).") from None
        if done.returncode != 0:
            raise UserError(f"git {arguments[0]} failed in {self._path}: {done.stderr.strip()}")
        return done.stdout
