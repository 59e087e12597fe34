"""Everything that is signed, exactly as signed: what importing.py reads back into another ledger of the swarm.

The first line says what follows, each other line is an entry or, where asked for, the text of a program:

    {"format":"urn:waggle:ledger:v1","challenge":"c1…","whole":true,"entries":2,"blobs":1}
    {"id":"bafkrei…","envelope":"<base64 of the exact bytes>"}
    {"id":"bafkrei…","envelope":"…"}
    {"blob":"<SHA-256 of the bytes>","data":"<base64 of the bytes>"}

Entries come in causal order, so each feed from its start on, and a reader that stops anywhere has a ledger without
gaps. Programs follow all entries.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import Struct

from ledger.envelope import ENVELOPE_BYTES_MAX
from ledger.export.selection import Selection, named_programs
from ledger.predicates import PROGRAM_BYTES_MAX, Count, EntryId, Sha256
from ledger.store import Store

LINE_BYTES_MAX = max(ENVELOPE_BYTES_MAX, PROGRAM_BYTES_MAX) * 4 // 3 + 1024  # base64, and room for the rest


class Header(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The first line."""

    format: Literal["urn:waggle:ledger:v1"]
    challenge: Sha256
    whole: bool  # every feed from its start to its last; else some entries, mostly not those before them
    entries: Count
    blobs: Count


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """Any other line: an entry has the first two fields, a program the others."""

    id: EntryId | None = None
    envelope: str | None = None
    blob: Sha256 | None = None
    data: str | None = None


def export(store: Store, selection: Selection, *, programs: bool) -> Iterator[str]:
    """The lines; with `programs`, also the text of each program that an entry names and that is here."""
    texts = _programs(store, selection) if programs else []
    yield _line(
        Header(
            format="urn:waggle:ledger:v1",
            challenge=store.challenge,
            whole=selection.whole,
            entries=len(selection),
            blobs=len(texts),
        )
    )
    for signed in selection:
        yield _line({"id": signed.id, "envelope": signed.envelope})
    for digest in texts:
        yield _line({"blob": digest, "data": store.blobs.get(digest)})


def _line(content: object) -> str:
    return msgspec.json.encode(content).decode() + "\n"  # msgspec writes bytes in base64


def _programs(store: Store, selection: Selection) -> list[str]:
    """What is larger than a program may be is none, whatever an entry says."""
    named = {digest for signed in selection for digest in named_programs(signed.statement)}
    sql = "SELECT digest FROM blobs WHERE size <= ? ORDER BY digest"
    return [row[0] for row in store.db.execute(sql, (PROGRAM_BYTES_MAX,)) if row[0] in named]
