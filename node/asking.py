"""What the owner asks of a node about single discoveries: `waggle verify ID` and `waggle adopt ID`.

Each wish is an empty file in the home's folder `asked`, named for what is wanted. The command makes it and the node
removes it when it is done, so neither overwrites what the other writes, and a wish waits for the next start of a node
that does not run.
"""

import re
from pathlib import Path
from typing import Literal, Protocol

WISHES_MAX = 100  # read at once; the rest waits
Wish = Literal["verify", "adopt"]
_NAME = re.compile(r"(verify|adopt)-([a-z0-9]{1,100})")


class Asked(Protocol):
    """Where a node looks for its owner's wishes."""

    def to_verify(self) -> list[str]:
        """Ids of discoveries that are to be run before all others."""

    def to_adopt(self) -> list[str]:
        """Ids of discoveries that are to be adopted, once this node's own runs confirm them."""

    def done(self, discovery: str) -> None:
        """All wishes about a discovery are fulfilled, or cannot be."""


class Nobody:
    """An owner without wishes."""

    def to_verify(self) -> list[str]:
        return []

    def to_adopt(self) -> list[str]:
        return []

    def done(self, discovery: str) -> None:
        return None


class Folder:
    """Wishes as files in a folder, which need not exist. Names that are no wishes are left alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self, wish: Wish, discovery: str) -> None:
        """Wish it, once."""
        self._path.mkdir(parents=True, exist_ok=True)
        (self._path / f"{wish}-{discovery}").touch()

    def to_verify(self) -> list[str]:
        return self._wishes("verify")

    def to_adopt(self) -> list[str]:
        return self._wishes("adopt")

    def _wishes(self, wish: Wish) -> list[str]:
        if not self._path.is_dir():
            return []
        found = [_NAME.fullmatch(path.name) for path in self._path.iterdir()]
        return sorted(one[2] for one in found if one is not None and one[1] == wish)[:WISHES_MAX]

    def done(self, discovery: str) -> None:
        for wish in ("verify", "adopt"):
            (self._path / f"{wish}-{discovery}").unlink(missing_ok=True)
