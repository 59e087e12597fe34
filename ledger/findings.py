"""What a check of the ledger can find, and what is to be done about it. *Pure.*

An *error* is damage: something that was kept is lost or altered, and its remedy says what to do. A *warning* is about
what an author signed, with which nothing here is wrong: two histories, or a checkpoint of another one. A *note* needs
nothing: entries may name what has not arrived yet. docs/integrity.md says what each check means.
"""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

Severity = Literal["error", "warning", "note"]
Check = Literal[
    "file", "schema", "entry", "feed", "refused", "revocation", "derived", "search", "blob", "checkpoint", "author",
    "reference",
]  # fmt: skip
Report = Callable[[str, int, int], None]
"""What is being checked, how many of it are done, and how many there are."""

FINDINGS_MAX = 100  # of one check and severity; then they are counted
PROGRESS_ROWS = 256  # between two reports
REBUILD = "`waggle ledger fsck --rebuild`"
SALVAGE = (
    "`waggle ledger fsck --salvage FILE` writes a ledger of what is left; peers send the rest. Or put a backup in place"
)


class Finding(Struct, frozen=True, kw_only=True):
    """Something that a check saw. Texts may quote a peer."""

    severity: Severity
    check: Check
    where: str
    what: str
    remedy: str = ""


def damage(check: Check, where: str, what: str, remedy: str) -> Finding:
    return Finding(severity="error", check=check, where=where, what=what, remedy=remedy)


def warning(check: Check, where: str, what: str) -> Finding:
    return Finding(severity="warning", check=check, where=where, what=what)


def note(check: Check, where: str, what: str) -> Finding:
    return Finding(severity="note", check=check, where=where, what=what)


def silent(what: str, done: int, total: int) -> None:
    """No progress is shown."""
