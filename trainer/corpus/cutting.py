"""Cutting long texts into documents.

A split assigns whole documents. One book as one document would be all training or all validation, and a few long ones
would make the share of validation text a matter of luck. So a document has at most `PIECE_BYTES_MAX` bytes, and less
where the corpus is so small that it would have fewer than `PIECES_WANTED` of them. Pieces do not overlap, and each
counts as a document of its own.

A piece ends at the line whose last bytes have the lowest checksum, of the lines that end in its second half. Where to
cut is thus decided by the text around the cut: after an insertion two versions of a file soon are cut at the same
places again, and their pieces can be recognised as near duplicates.
"""

import zlib
from collections.abc import Iterable, Iterator
from itertools import chain

from trainer.corpus.documents import NAME_CHARACTERS_MAX, Document

PIECE_BYTES_MAX = 16 * 1024
PIECE_BYTES_MIN = 1024
PIECES_WANTED = 256  # at a share of 0.1 this gives 26 validation documents, give or take 5
_CONTEXT_BYTES = 64  # before a cut, which decide on it

Text = tuple[str, Iterable[bytes]]
"""A name, and the text in blocks."""


def cut(texts: Iterable[Text]) -> Iterator[Document]:
    """The texts as documents of bounded size, in order; empty ones are left out.

    Holds the first 4 MiB of text, to learn if there is more, and then one block.
    """
    coming = iter(texts)
    held: list[tuple[str, bytes]] = []
    size = 0
    for name, blocks in coming:
        remaining = iter(blocks)
        start = bytearray()
        for block in remaining:
            start += block
            size += len(block)
            if size >= PIECES_WANTED * PIECE_BYTES_MAX:
                whole_texts = ((one, [whole]) for one, whole in held)
                this: Text = (name, chain([bytes(start)], remaining))
                for text in chain(whole_texts, [this], coming):
                    yield from _documents(*text, PIECE_BYTES_MAX)
                return
        held.append((name, bytes(start)))
    limit = min(PIECE_BYTES_MAX, max(PIECE_BYTES_MIN, size // PIECES_WANTED))
    for name, whole in held:
        yield from _documents(name, [whole], limit)


def _documents(name: str, blocks: Iterable[bytes], limit: int) -> Iterator[Document]:
    """One text as documents; numbered if there are several."""
    pieces = _pieces(blocks, limit)
    first, second = next(pieces, None), next(pieces, None)
    if first is None:
        return
    if second is None:
        yield Document(_label(name), first)
        return
    for index, piece in enumerate(chain((first, second), pieces)):
        yield Document(_label(f"{name}#{index}"), piece)


def _pieces(blocks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """The text in pieces of at most `limit` bytes, none empty."""
    waiting = b""
    for block in blocks:
        waiting += block
        start = 0
        while len(waiting) - start > limit:
            end = _end(waiting, start, limit)
            yield waiting[start:end]
            start = end
        waiting = waiting[start:]
    if waiting:
        yield waiting


def _end(text: bytes, start: int, limit: int) -> int:
    """Where the piece from `start` on ends; there is more text than `limit`."""
    middle, last = start + limit // 2, start + limit
    best, lowest = 0, 2**32
    newline = text.find(b"\n", middle, last)
    while newline >= 0:
        end = newline + 1
        checksum = zlib.crc32(text[end - _CONTEXT_BYTES : end])
        if checksum <= lowest:
            best, lowest = end, checksum
        newline = text.find(b"\n", end, last)
    best = best or text.rfind(b"\n", start, middle) + 1
    if best:
        return best
    while text[last] & 0xC0 == 0x80:  # a continuation byte of UTF-8: the character has begun before
        last -= 1
    return last


def _label(name: str) -> str:
    """A name that every peer can decode: undecodable bytes of a file name are replaced, a long one keeps its end."""
    return name.encode("utf-8", "replace").decode()[-NAME_CHARACTERS_MAX:]
