"""Reading an export in `jsonl` back, every line as if it came from a stranger.

1. The header is of our format and of this ledger's challenge; otherwise nothing more is read.
2. A line is no longer than any of ours can be; a longer one is passed over without being held.
3. An entry's envelope opens, as one from the network must, and its id is the one that the line says.
4. The ledger takes it: it extends its feed, and its author is believed.
5. A program's bytes have the digest that the line says, are no more than a program may have, and an entry names them.
6. In the end there were as many lines as the header says.

A line that fails is counted and passed over. Lines are added by the page, and a page is durable as a whole or not at
all. While one is read the ledger is not locked, so a slow pipe keeps no running node waiting.

Not this module's duty: whether what the entries claim is true (policy).
"""

import hashlib
import itertools
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import msgspec
from msgspec import Struct

from ledger.checkpoint import decode_base64
from ledger.envelope import Signed, open_envelope
from ledger.errors import BadStatement, BrokenChain
from ledger.export.jsonl import LINE_BYTES_MAX, Header, Line
from ledger.export.text import plain
from ledger.opening import open_all
from ledger.predicates import PROGRAM_BYTES_MAX
from ledger.store import Store

IMPORT_BYTES_MAX = 16 * 2**30
REFUSALS_KEPT_MAX = 5
_REASON_CHARS_MAX = 300
_PAGE_LINES = 128  # 12 MiB at most


class Refusal(Struct, frozen=True):
    """Why a line was not taken."""

    line: int | None  # from 1, the header; None where it is about the whole file
    reason: str  # printable


class Report(Struct, kw_only=True):
    """What became of an import."""

    entries_new: int = 0
    entries_known: int = 0
    programs_new: int = 0
    programs_known: int = 0
    refused: int = 0
    refusals: list[Refusal] = []  # the first few

    def refuse(self, line: int | None, reason: str) -> None:
        self.refused += 1
        if len(self.refusals) < REFUSALS_KEPT_MAX:
            self.refusals.append(Refusal(line, _shown(reason)))


def import_export(store: Store, file: BinaryIO, *, strict: bool = False, bytes_max: int = IMPORT_BYTES_MAX) -> Report:
    """Add what `jsonl.export` wrote to a ledger of the same swarm.

    With `strict`, it stops at the first line that is refused; what stands before that is kept. Raises `BadStatement`
    for a file without our header or of another challenge, of which nothing is kept.
    """
    lines = _Lines(file, bytes_max)
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    # 1
    header = _header(next(numbered, (1, b""))[1], store.challenge)
    report, seen = Report(), 0
    while page := list(itertools.islice(numbered, _PAGE_LINES)):
        seen += len(page)
        contents = list(open_all((line for _, line in page), _read))
        with store.batch():
            for (number, _), content in zip(page, contents, strict=True):
                _add(store, header, number, content, report)
                if strict and report.refused:
                    return report
    store.tidy()
    # 6
    if lines.bytes_left < 0:
        report.refuse(None, f"the file is larger than {bytes_max} bytes, and the rest of it was not read")
    elif seen != header.entries + header.blobs:
        announced = header.entries + header.blobs
        report.refuse(None, f"the file announces {announced} lines and has {seen}: get a complete copy")
    return report


class _Program(NamedTuple):
    digest: str
    data: bytes


class _Lines:
    """The lines of a file up to `bytes_max` bytes; of one over LINE_BYTES_MAX only the first LINE_BYTES_MAX + 1."""

    def __init__(self, file: BinaryIO, bytes_max: int) -> None:
        self._file = file
        self.bytes_left = bytes_max  # negative: the end was not reached

    def __iter__(self) -> Iterator[bytes]:
        while line := self._part():
            part = line
            while len(part) > LINE_BYTES_MAX and not part.endswith(b"\n") and self.bytes_left >= 0:
                part = self._part()
            if self.bytes_left < 0:
                return
            yield line

    def _part(self) -> bytes:
        part = self._file.readline(LINE_BYTES_MAX + 1)
        self.bytes_left -= len(part)
        return part


def _header(line: bytes, challenge: str) -> Header:
    try:
        header = msgspec.json.decode(line, type=Header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = _shown(str(error))
        raise BadStatement(
            f"not an export that can be imported; `waggle ledger export` makes them: {reason}"
        ) from error
    if header.challenge != challenge:
        raise BadStatement(
            f"the export is of challenge {header.challenge[:12]} and this ledger of {challenge[:12]}: give the --home "
            "of a node of that challenge"
        )
    return header


def _read(line: bytes) -> Signed | _Program:
    """What is in a line, after all checks that need no ledger. Raises `BadStatement`."""
    # 2
    if len(line) > LINE_BYTES_MAX:
        raise BadStatement(f"the line is longer than {LINE_BYTES_MAX} bytes")
    try:
        found = msgspec.json.decode(line, type=Line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadStatement(f"malformed line: {error}") from error
    match found:
        # 3
        case Line(id=str(entry_id), envelope=str(envelope), blob=None, data=None):
            signed = open_envelope(decode_base64(envelope))
            if signed.id != entry_id:
                raise BadStatement(f"the line says {entry_id}, and what it holds is {signed.id}")
            return signed
        # 5
        case Line(id=None, envelope=None, blob=str(digest), data=str(data)):
            program = decode_base64(data)
            if len(program) > PROGRAM_BYTES_MAX:
                raise BadStatement(f"a program of {len(program)} bytes is over the limit of {PROGRAM_BYTES_MAX}")
            if hashlib.sha256(program).hexdigest() != digest:
                raise BadStatement(f"the bytes in the line are not those with digest {digest}")
            return _Program(digest, program)
        case _:
            raise BadStatement("the line is neither an entry (id, envelope) nor a program (blob, data)")


def _add(store: Store, header: Header, number: int, content: Signed | _Program | BadStatement, report: Report) -> None:
    match content:
        case BadStatement():
            report.refuse(number, str(content))
        # 4
        case Signed():
            try:
                new = store.add(content)
            except BadStatement as error:
                chosen = isinstance(error, BrokenChain) and not header.whole
                why = " (the export holds chosen entries, not those before them: import a whole one, or sync)"
                report.refuse(number, f"{error}{why if chosen else ''}")
            else:
                report.entries_new += new
                report.entries_known += not new
        # 5
        case _Program(digest=digest, data=data):
            if not _is_named(store, digest):
                report.refuse(number, f"no entry of this ledger names the program {digest}")
            elif store.blobs.has(digest):
                report.programs_known += 1
            else:
                store.blobs.put(data)
                report.programs_new += 1


def _is_named(store: Store, digest: str) -> bool:
    # The last two have no index, and are asked only where the others say no.
    sql = """
        SELECT EXISTS (SELECT 1 FROM entries WHERE subject = :digest)
            OR EXISTS (SELECT 1 FROM discoveries WHERE parent = :digest)
            OR EXISTS (SELECT 1 FROM claims WHERE parent = :digest)
            OR EXISTS (SELECT 1 FROM adoptions WHERE previous = :digest)"""
    return bool(store.db.execute(sql, {"digest": digest}).fetchone()[0])


def _shown(reason: str) -> str:
    """A reason, which may quote what a stranger wrote, as a line for a terminal."""
    return plain(reason if len(reason) <= _REASON_CHARS_MAX else reason[:_REASON_CHARS_MAX] + "…")
