"""What the beginnings of names mean: ids of entries, peer ids, digests of programs."""

import re
from collections.abc import Sequence

from ledger.errors import AmbiguousId, UnknownId
from ledger.store import Store

ID_PREFIX_MIN = 8
AUTHOR_PART_MIN = 4


def resolve(store: Store, prefix: str) -> str:
    """The full id that `prefix` (8 characters or more) begins. Raises `UnknownId` or `AmbiguousId`."""
    if len(prefix) < ID_PREFIX_MIN:
        raise UnknownId(
            f"{prefix!r} is too short: give at least {ID_PREFIX_MIN} characters of an id (see `ledger log`)"
        )
    found = _beginning(store, "SELECT id FROM entries WHERE id >= ? AND id < ? ORDER BY id LIMIT 4", prefix)
    return _only(found, prefix, "entry of this ledger has an id that begins with", "see `ledger log`")


def resolve_author(store: Store, part: str) -> str:
    """The peer id that begins or ends with `part` (4 characters or more), among those with a feed here.

    All peer ids begin alike, so their ends are what is shown. Raises `UnknownId` or `AmbiguousId`.
    """
    if len(part) < AUTHOR_PART_MIN:
        raise UnknownId(f"{part!r} is too short: give at least {AUTHOR_PART_MIN} characters of a peer id")
    authors = [row[0] for row in store.db.execute("SELECT DISTINCT author FROM feeds ORDER BY author")]
    found = [author for author in authors if author.startswith(part) or author.endswith(part)]
    return _only(found, part, "author in this ledger has a peer id that begins or ends with", "see `ledger peers`")


def resolve_program(store: Store, prefix: str) -> str:
    """The SHA-256 of a program, from the beginning of itself or of the id of an entry about it.

    Raises `UnknownId` or `AmbiguousId`.
    """
    if prefix.startswith("bafkrei"):
        entry_id = resolve(store, prefix)
        return str(store.db.execute("SELECT subject FROM entries WHERE id = ?", (entry_id,)).fetchone()[0])
    if len(prefix) < ID_PREFIX_MIN:
        raise UnknownId(f"{prefix!r} is too short: give at least {ID_PREFIX_MIN} characters of a digest or an id")
    found = _beginning(
        store, "SELECT digest FROM blobs WHERE digest >= ? AND digest < ? ORDER BY digest LIMIT 4", prefix
    )
    return _only(found, prefix, "program here has a digest that begins with", "see `ledger log`")


def _beginning(store: Store, sql: str, prefix: str) -> list[str]:
    # A range, not LIKE: it uses the index and has no wildcards to escape. Ids and digests are below "~".
    if not re.fullmatch("[a-z0-9]+", prefix):
        return []
    return [row[0] for row in store.db.execute(sql, (prefix, prefix + "~"))]


def _only(found: Sequence[str], part: str, what: str, hint: str) -> str:
    if not found:
        raise UnknownId(f"no {what} {part!r} ({hint})")
    if len(found) > 1:
        listed = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        raise AmbiguousId(f"{part!r} is ambiguous: {listed}. Give more characters.")
    return found[0]
