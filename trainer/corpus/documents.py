"""Documents and their packed form: the bytes that a corpus is named by, that travel, and that a runner maps.

    magic       16 bytes, `waggle corpus 2` and a newline
    documents   each: length of the name (u16) and of the text (u32), the name in UTF-8, the text
    end         a name and a text of length 0
    groups      u32 for each document: the lowest index of a document in its group of near duplicates

All numbers are big-endian. No count and no total stands at the beginning, so it can be written while the documents
arrive, in one pass and bounded memory, and digested on the way. Every corpus has one packed form only.

The groups come from similarity.py when a corpus is made, and are taken as they stand when it is read: whoever founds
a challenge chooses its text and so its groups, and all nodes have to split alike. `waggle corpus info` computes them
again and says if they differ.

Corpora packed before that, msgpack `[1, [[name, text], …]]`, are still read; they have no groups but of equal texts.
"""

import hashlib
import mmap
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, NamedTuple, overload

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from trainer.corpus import similarity
from trainer.corpus.errors import CorpusError

CORPUS_BYTES_MAX = 64 * 2**30  # of text, without names and packing
SHARED_BYTES_MAX = 8 * 2**30  # of the packed form: what peers pass on; 11 minutes at 100 Mbit/s
DOCUMENTS_MAX = 2**24  # an open corpus takes about 60 bytes of memory for each
DOCUMENT_BYTES_MAX = 2**20
NAME_CHARACTERS_MAX = 500

_MAGIC = b"waggle corpus 2\n"
_LENGTHS = struct.Struct(">HI")
_END = _LENGTHS.pack(0, 0)
_HASHED_AT_ONCE = 2**20
_FIRST_FORM_BYTES_MAX = 64 * 2**20
_FIRST_FORM_DOCUMENTS_MAX = 2**18


class Document(NamedTuple):
    name: Annotated[str, Meta(max_length=NAME_CHARACTERS_MAX)]  # for people; nothing is decided by it
    text: Annotated[bytes, Meta(min_length=1, max_length=_FIRST_FORM_BYTES_MAX)]


class Corpus:
    """An ordered list of documents, in memory or in a file, and which of them are near duplicates.

    Corpora are compared by their digests.
    """

    def __init__(self, documents: Sequence[Document], groups: NDArray[np.uint32] | None = None) -> None:
        """`groups` (n,): the lowest index of a document in each one's group; computed when needed if not given."""
        self.documents = documents
        if groups is not None:
            self.groups = groups

    @cached_property
    def groups(self) -> NDArray[np.uint32]:
        """For each document the lowest index of one in its group: (n,)."""
        batches = list(similarity.signature_batches(document.text for document in self.documents))
        return similarity.groups(np.concatenate(batches))

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Bytes of each text: (n,)."""
        return np.array([len(document.text) for document in self.documents], dtype=np.int64)

    @cached_property
    def ids(self) -> NDArray[np.uint8]:
        """SHA-256 of each text: (n, 32)."""
        found = bytearray()
        for document in self.documents:
            found += hashlib.sha256(document.text).digest()
        return np.frombuffer(found, dtype=np.uint8).reshape(-1, 32)

    @cached_property
    def group_ids(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The id of each of g groups (g, 32), and for each of n documents the place of its group among them (n,).

        A group is named by the smallest id in it, so that its name does not depend on the order of the documents.
        """
        words = self.ids.view(">u8")  # (n, 4); compared from left to right, as bytes are
        labels, group_of, sizes = np.unique(self.groups, return_inverse=True, return_counts=True)
        named_by = labels.astype(np.int64)
        several = np.flatnonzero(sizes[group_of] > 1)
        order = several[np.lexsort((*words[several].T[::-1], group_of[several]))]
        first = np.insert(group_of[order[1:]] != group_of[order[:-1]], 0, True) if len(order) else np.zeros(0, bool)
        named_by[group_of[order[first]]] = order[first]
        return self.ids[named_by], group_of

    @property
    def text_bytes(self) -> int:
        """Bytes of text, without names and packing."""
        return int(self.lengths.sum())

    def packed(self) -> bytes:
        """The packed form, whole; `unpack` reads it. For a corpus that fits into memory."""
        frames = (frame for document in self.documents for frame in _framed(document))
        return b"".join((_MAGIC, *frames, _END, _packed_groups(self.groups)))

    def digest(self) -> str:
        """SHA-256 of the packed form, hex: what a challenge names its corpus by."""
        return hashlib.sha256(self.packed()).hexdigest()

    @staticmethod
    def unpack(data: bytes) -> "Corpus":
        """Read a packed form, as it comes from a peer. Check the digest first.

        Raises `CorpusError` for anything that `packed` would not have written, byte for byte.
        """
        return _MappedCorpus(data) if data[: len(_MAGIC)] == _MAGIC else _FirstForm.read(data)

    @staticmethod
    def open(path: Path) -> "Corpus":
        """Map the packed form in a file, of any size; texts are read from it as they are asked for.

        Raises `CorpusError` as `unpack` does, `OSError` if there is no such file.
        """
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                file.seek(0)
                return _FirstForm.read(file.read(_FIRST_FORM_PACKED_BYTES_MAX + 1))
            return _MappedCorpus(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


class Written(NamedTuple):
    """A corpus as it was written to a file."""

    digest: str
    documents: int
    text_bytes: int
    packed_bytes: int


def write_packed(documents: Iterable[Document], out: BinaryIO, scratch: BinaryIO) -> Written:
    """Write the packed form of `documents` as they come; `scratch` takes 256 bytes for each meanwhile.

    Memory: a batch, and about 60 bytes a document. Raises `CorpusError` past `CORPUS_BYTES_MAX` or `DOCUMENTS_MAX`,
    and if there is no document.
    """
    digest = hashlib.sha256()
    count = text_bytes = packed_bytes = 0

    def write(*parts: bytes) -> None:
        nonlocal packed_bytes
        for part in parts:
            out.write(part)
            digest.update(part)
            packed_bytes += len(part)

    def texts() -> Iterator[bytes]:
        nonlocal count, text_bytes
        for document in documents:
            count += 1
            text_bytes += len(document.text)
            if text_bytes > CORPUS_BYTES_MAX or count > DOCUMENTS_MAX:
                raise too_much(document.name)
            write(*_framed(document))
            yield document.text

    write(_MAGIC)
    for batch in similarity.signature_batches(texts()):
        scratch.write(batch.tobytes())
    if not count:
        raise CorpusError("there is no text: name at least one text file or folder with some")
    scratch.flush()
    signatures = np.memmap(scratch, dtype=np.uint16, mode="r", shape=(count, similarity.BINS))
    write(_END, _packed_groups(similarity.groups(signatures)))
    return Written(digest.hexdigest(), count, text_bytes, packed_bytes)


def packed_bytes_max(text_bytes: int, documents: int) -> int:
    """The most bytes that a corpus of this size can take in any packed form: a bound for what a peer may send."""
    return text_bytes + documents * (4 * NAME_CHARACTERS_MAX + 32) + 64


def too_much(where: object) -> CorpusError:
    """The refusal of a corpus past its limits; `where` they were met."""
    return CorpusError(
        f"{where}: the corpus would be over {CORPUS_BYTES_MAX} bytes of text or {DOCUMENTS_MAX} documents: "
        "name fewer files"
    )


def _framed(document: Document) -> tuple[bytes, bytes, bytes]:
    name = document.name.encode()
    if not 0 < len(document.text) <= DOCUMENT_BYTES_MAX or len(document.name) > NAME_CHARACTERS_MAX:
        raise CorpusError(
            f"{document.name[:80]}: a document has a name of up to {NAME_CHARACTERS_MAX} characters and a text of 1 to "
            f"{DOCUMENT_BYTES_MAX} bytes, not {len(document.name)} and {len(document.text)}: cut it"
        )
    return _LENGTHS.pack(len(name), len(document.text)), name, document.text


def _packed_groups(groups: NDArray[np.uint32]) -> bytes:
    return groups.astype(">u4").tobytes()


class _MappedDocuments(Sequence[Document]):
    """The documents in a packed form, each read when it is asked for."""

    def __init__(self, packed: bytes | mmap.mmap, starts: NDArray[np.int64]) -> None:
        self._packed, self._starts = packed, starts

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Document, ...]: ...
    def __getitem__(self, index: int | slice) -> Document | tuple[Document, ...]:
        if isinstance(index, slice):
            return tuple(self[one] for one in range(*index.indices(len(self))))
        start = int(self._starts[index])
        name_bytes, text_bytes = _LENGTHS.unpack_from(self._packed, start)
        middle = start + _LENGTHS.size + name_bytes
        return Document(
            self._packed[start + _LENGTHS.size : middle].decode(), self._packed[middle : middle + text_bytes]
        )


class _MappedCorpus(Corpus):
    """A corpus read from its packed form, which stays where it is."""

    def __init__(self, packed: bytes | mmap.mmap) -> None:
        starts, lengths, end = _scan(packed)
        super().__init__(_MappedDocuments(packed, starts), _read_groups(packed, end, len(starts)))
        self.lengths = lengths
        self._packed = packed

    def packed(self) -> bytes:
        return self._packed[:]

    def digest(self) -> str:
        found = hashlib.sha256()
        for start in range(0, len(self._packed), _HASHED_AT_ONCE):
            found.update(self._packed[start : start + _HASHED_AT_ONCE])
        return found.hexdigest()


def _scan(packed: bytes | mmap.mmap) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Where each of n documents starts (n,), how long its text is (n,), and where the end mark is. Strict."""
    starts, lengths = array("q"), array("q")
    position, text_bytes = len(_MAGIC), 0
    try:
        while (found := _LENGTHS.unpack_from(packed, position)) != (0, 0):
            name_bytes, length = found
            text_start = position + _LENGTHS.size + name_bytes
            name = packed[text_start - name_bytes : text_start].decode()
            text_bytes += length
            if not 0 < length <= DOCUMENT_BYTES_MAX or len(name) > NAME_CHARACTERS_MAX:
                raise CorpusError(f"malformed corpus: the name or text of document {len(starts)} is too long or empty")
            if len(starts) == DOCUMENTS_MAX or text_bytes > CORPUS_BYTES_MAX:
                raise CorpusError(f"malformed corpus: over {DOCUMENTS_MAX} documents or {CORPUS_BYTES_MAX} bytes")
            starts.append(position)
            lengths.append(length)
            position = text_start + length
    except (struct.error, UnicodeDecodeError) as error:
        raise CorpusError(f"malformed corpus: document {len(starts)}: {error}") from error
    if not starts:
        raise CorpusError("malformed corpus: it has no document")
    return np.frombuffer(starts, dtype=np.int64), np.frombuffer(lengths, dtype=np.int64), position


def _read_groups(packed: bytes | mmap.mmap, end: int, count: int) -> NDArray[np.uint32]:
    """The groups (n,) behind the end mark. Strict: each is named by its first member."""
    table = packed[end + len(_END) :]
    if len(table) != 4 * count:
        raise CorpusError(f"malformed corpus: groups of {len(table)} bytes for {count} documents")
    groups = np.frombuffer(table, dtype=">u4").astype(np.uint32)
    if (groups > np.arange(count)).any() or (groups[groups] != groups).any():
        raise CorpusError("malformed corpus: a group that is not named by its first document")
    return groups


_FIRST_FORM_PACKED_BYTES_MAX = _FIRST_FORM_BYTES_MAX + _FIRST_FORM_DOCUMENTS_MAX * (4 * NAME_CHARACTERS_MAX + 16)


class _Msgpack(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The packed form before there were groups: msgpack `[1, [[name, text], …]]`."""

    version: Literal[1]
    documents: Annotated[tuple[Document, ...], Meta(min_length=1, max_length=_FIRST_FORM_DOCUMENTS_MAX)]


class _FirstForm(Corpus):
    """A corpus in the packed form before there were groups, for homes and challenges that were made with it."""

    @classmethod
    def read(cls, data: bytes) -> "_FirstForm":
        if len(data) > _FIRST_FORM_PACKED_BYTES_MAX:
            raise CorpusError(f"packed corpus of {len(data)} bytes is over the limit of {_FIRST_FORM_PACKED_BYTES_MAX}")
        try:
            documents = msgspec.msgpack.decode(data, type=_Msgpack).documents
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CorpusError(f"malformed corpus: {error}") from error
        corpus = cls(documents, np.arange(len(documents), dtype=np.uint32))
        if corpus.text_bytes > _FIRST_FORM_BYTES_MAX:
            raise CorpusError(f"corpus of {corpus.text_bytes} bytes is over the limit of {_FIRST_FORM_BYTES_MAX}")
        if corpus.packed() != data:
            raise CorpusError("malformed corpus: not in its one canonical form")
        return corpus

    def packed(self) -> bytes:
        return msgspec.msgpack.encode(_Msgpack(1, tuple(self.documents)))
