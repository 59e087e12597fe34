"""The node's private salts: which one is in use, how often it was, and which are spent and can be revealed.

A private split is worth something as long as nobody can fit a program to it. Each verdict that a node publishes says a
little about its split, to whoever sends it claims. So a salt serves a stated number of verifications; then another
one is drawn, and the old one is revealed, so that others can run again what its verdicts rest on. Before that they have
its SHA-256 only, in the name of the split (`ledger.statements.commit`).

One file of mode 0600 holds all of it, and is only ever appended to, a line at a time, on the disk before anything else
happens:

    waggle private salts 1      the first line
    salt HEX                    this salt is in use from here on
    use                         a verification asked for it
    revealed HEX                the ledger has the statement that reveals it

A line counts when its newline is there. What a crash leaves of one is dropped, and nothing was done on its account.
So a use may be counted whose verification never began, and a salt may be revealed twice: neither does harm.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

from node.errors import UserError
from node.identity import write_secret
from policy.splits import USES_MAX

SALT_BYTES = 16
_FIRST_LINE = b"waggle private salts 1\n"
_LINE = re.compile(rb"(?:(salt|revealed) ([0-9a-f]{%d})|use)\n" % (2 * SALT_BYTES))


class Salts:
    """The salts in a file. One process at a time may write; reading asks for no lock."""

    def __init__(self, path: Path, draw: Callable[[], bytes]) -> None:
        """Read the file; `draw` gives new salts of `SALT_BYTES`, when one is due.

        A file with nothing but a salt in it, as it was before salts rotated, is rewritten. Raises `UserError` if it is
        missing or damaged.
        """
        self._path, self._draw = path, draw
        self._salts: list[bytes] = []  # in the order of their use
        self._revealed: set[bytes] = set()
        self.uses = 0  # of the last
        self._read()

    @classmethod
    def create(cls, path: Path, salt: bytes) -> None:
        """A new file with its first salt; a file that is there already stays as it is."""
        if not path.exists():
            write_secret(path, _first_lines(salt))

    def current(self) -> bytes:
        """The salt in use; asking counts nothing."""
        return self._salts[-1]

    def use(self, uses_max: int = USES_MAX) -> bytes:
        """The salt for one more verification, which is counted; a new salt if the last has served `uses_max` of them.

        Call it between verifications only: from then on the salts before it are spent.
        """
        if self.uses >= uses_max:
            salt = self._draw()
            self._append(b"salt " + salt.hex().encode())
            self._salts.append(salt)
            self.uses = 0
        self._append(b"use")
        self.uses += 1
        return self.current()

    def unrevealed(self) -> list[bytes]:
        """The spent salts, oldest first, of which the ledger is not known to have the statement."""
        return [salt for salt in self._salts[:-1] if salt not in self._revealed]

    def mark_revealed(self, salt: bytes) -> None:
        """The ledger has the statement that reveals this salt."""
        self._append(b"revealed " + salt.hex().encode())
        self._revealed.add(salt)

    def _read(self) -> None:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            raise self._damaged("missing") from None
        if len(content) == SALT_BYTES:  # the form before there were several
            content = _first_lines(content)
            unfinished = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
            write_secret(unfinished, content)
            unfinished.replace(self._path)
        lines = content.splitlines(keepends=True)
        if not lines or lines[0] != _FIRST_LINE:
            raise self._damaged(f"damaged: {len(content)} bytes that do not begin as they should")
        for number, line in enumerate(lines[1:], start=2):
            if number == len(lines) and not line.endswith(b"\n"):
                break
            found = _LINE.fullmatch(line)
            if found is None or (found[1] != b"salt" and not self._salts):
                raise self._damaged(f"damaged in line {number}")
            if found[1] is None:
                self.uses += 1
            elif found[1] == b"salt":
                self._salts.append(bytes.fromhex(found[2].decode()))
                self.uses = 0
            else:
                self._revealed.add(bytes.fromhex(found[2].decode()))
        if not self._salts:
            raise self._damaged("damaged: it holds no salt")

    def _append(self, line: bytes) -> None:
        """Add a line behind the last whole one; it is on the disk when this returns."""
        with self._path.open("r+b") as file:
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)
            file.seek(whole)
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self._path} is {what}. Put its backup in its place, or use another --home.")


def _first_lines(salt: bytes) -> bytes:
    return _FIRST_LINE + b"salt " + salt.hex().encode() + b"\n"
