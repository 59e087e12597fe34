"""Crossover: the changes of two programs since their nearest common ancestor, in one program.

A three-way merge by lines, with `git merge-file`: git is on every node, for its working tree. (The library merge3 is
under the GPL; three-merge merges single characters, which makes new numbers out of two edits of one literal.) Between
lines stand marks, so that edits of neighbouring lines merge as well. Texts are passed as files of a fresh folder, and
git reads no configuration. What does not merge cleanly, does not parse, or breaks an assert is no result.
"""

import os
import subprocess
import tempfile
from pathlib import Path

from trainer.proposers.constants import keeps_asserts
from trainer.proposers.proposal import ProgramUnreadable

MERGE_TIMEOUT_S = 10.0
CHARACTERS_MAX = 2**20

_MARK = "\x01"  # no program has it: Python refuses control characters outside of strings, and strings of it are odd


def merge(ours: str, ancestor: str, theirs: str) -> str | None:
    """The text with both changes, or None where they conflict or do not make a program that keeps its asserts.

    Raises `OSError` where git cannot be started.
    """
    texts = (ours, ancestor, theirs)
    if any(len(text) > CHARACTERS_MAX or _MARK in text for text in texts):
        return None
    try:
        marked = [text.replace("\n", f"\n{_MARK}\n").encode() for text in texts]
    except UnicodeEncodeError:
        return None
    with tempfile.TemporaryDirectory(prefix="waggle-merge-") as folder:
        for name, content in zip(("ours", "ancestor", "theirs"), marked, strict=True):
            (Path(folder) / name).write_bytes(content)
        try:
            done = subprocess.run(
                ["git", "merge-file", "--stdout", "ours", "ancestor", "theirs"],
                cwd=folder,
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "GIT_CONFIG_NOSYSTEM": "1",
                    "GIT_CONFIG_GLOBAL": os.devnull,
                    "GIT_CEILING_DIRECTORIES": folder,
                    "HOME": folder,
                },
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=MERGE_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None
    if done.returncode != 0:  # the number of conflicts, or 255
        return None
    merged = done.stdout.decode().replace(f"\n{_MARK}\n", "\n")
    try:
        return merged if _MARK not in merged and keeps_asserts(merged) else None
    except ProgramUnreadable:
        return None
