"""The text that a challenge is about: documents, their packed form, and how they are split and drawn for evaluation.

The rules, in the order in which they apply:

1. A corpus is an ordered list of documents of bounded size. Its digest is the SHA-256 of its packed form.
2. A document's id is the SHA-256 of its text, so exact duplicates have one id and fall on one side of every split.
3. A keyed hash of the id, with the salt as key, assigns the document: who does not know the salt cannot know the split.
4. Evaluation rows are cut from the validation text with equal spacing, so that they stand for all of it.

What the split does not cover: near duplicates, and the neighbouring pieces of one long text, can fall on both sides.
This module imports neither torch nor trio, and reads files only in `from_paths` and `standard_library`.
"""

import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

CORPUS_BYTES_MAX = 64 * 2**20  # of text, without names and packing
DOCUMENTS_MAX = 2**18
NAME_CHARACTERS_MAX = 500
SALT_BYTES_MAX = 64  # the longest key that BLAKE2b takes
PIECE_BYTES_MAX = 16 * 1024
PIECE_BYTES_MIN = 1024
PIECES_WANTED = 256  # at a share of 0.1 this gives 26 validation documents, give or take 5
STANDARD_LIBRARY_BYTES_MAX = 8 * 2**20

_PACKED_BYTES_MAX = CORPUS_BYTES_MAX + DOCUMENTS_MAX * (4 * NAME_CHARACTERS_MAX + 16)
_GENERATED = frozenset({"encodings", "pydoc_data"})  # tables written by programs: they say nothing about language
_NOT_LIBRARY = frozenset({"idlelib", "turtledemo"})  # applications
_REMOVED = frozenset({"distutils", "lib2to3"})  # no longer part of newer releases
_TESTS = frozenset({"test", "tests", "idle_test"})


class CorpusError(ValueError):
    """Text that cannot serve as a corpus; the message says where, why and what to do."""


class Document(NamedTuple):
    name: Annotated[str, Meta(max_length=NAME_CHARACTERS_MAX)]  # for people; nothing is decided by it
    text: Annotated[bytes, Meta(min_length=1, max_length=CORPUS_BYTES_MAX)]


class _Packed(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The packed form: msgpack `[1, [[name, text], …]]`."""

    version: Literal[1]
    documents: Annotated[tuple[Document, ...], Meta(min_length=1, max_length=DOCUMENTS_MAX)]


class Corpus(Struct, frozen=True):
    documents: tuple[Document, ...]

    @property
    def text_bytes(self) -> int:
        """Bytes of text, without names and packing."""
        return sum(len(document.text) for document in self.documents)

    def packed(self) -> bytes:
        """The bytes that travel and are digested; `unpack` reads them."""
        return msgspec.msgpack.encode(_Packed(1, self.documents))

    def digest(self) -> str:
        """SHA-256 of the packed form, hex."""
        return hashlib.sha256(self.packed()).hexdigest()

    @classmethod
    def unpack(cls, data: bytes) -> "Corpus":
        """Read what `packed` wrote, as it comes from a peer. Check the digest first.

        Raises `CorpusError` for anything that `packed` would not have written, byte for byte.
        """
        if len(data) > _PACKED_BYTES_MAX:
            raise CorpusError(f"packed corpus of {len(data)} bytes is over the limit of {_PACKED_BYTES_MAX}")
        try:
            corpus = cls(msgspec.msgpack.decode(data, type=_Packed).documents)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CorpusError(f"malformed corpus: {error}") from error
        if corpus.text_bytes > CORPUS_BYTES_MAX:
            raise CorpusError(f"corpus of {corpus.text_bytes} bytes of text is over the limit of {CORPUS_BYTES_MAX}")
        if corpus.packed() != data:
            raise CorpusError("malformed corpus: not in its one canonical form")
        return corpus


def split(corpus: Corpus, salt: bytes, validation_share: float) -> tuple[list[bytes], list[bytes]]:
    """Training texts and validation texts, each in the order of the corpus.

    A document validates if its keyed hash, read as a fraction of one, is below `validation_share`; the share of
    documents is therefore nominal and the share of bytes varies with the salt.

    Raises `CorpusError` if one side stays empty, `ValueError` for a salt or share out of range.
    """
    if not 0 < validation_share < 1:
        raise ValueError(f"the validation share is {validation_share}, not between 0 and 1")
    if not 1 <= len(salt) <= SALT_BYTES_MAX:  # an empty key would make BLAKE2b an unkeyed hash
        raise ValueError(f"a salt has 1 to {SALT_BYTES_MAX} bytes, not {len(salt)}")
    threshold = int(validation_share * 2**64)
    training: list[bytes] = []
    validation: list[bytes] = []
    for _, text in corpus.documents:
        identifier = hashlib.sha256(text).digest()
        place = hashlib.blake2b(identifier, key=salt, digest_size=8, person=b"waggle-split-v1").digest()
        (validation if int.from_bytes(place) < threshold else training).append(text)
    if not training or not validation:
        side = "validation" if training else "training"
        raise CorpusError(
            f"no document of {len(corpus.documents)} falls to {side} at a validation share of {validation_share}: "
            "add more text to the corpus"
        )
    return training, validation


def validation_rows(texts: list[bytes], seq_len: int, eval_bytes: int) -> list[bytes]:
    """Rows to evaluate: each has `seq_len + 1` bytes, of which all but the first are targets.

    The texts are laid end to end, cut so that no byte is a target twice, and about `eval_bytes / seq_len` of the cuts
    are taken at equal distances; where there is less text, all of them. Raises `ValueError` if there is not one row.
    """
    stream = b"".join(texts)
    available = (len(stream) - 1) // seq_len
    if available < 1:
        raise ValueError(
            f"{len(stream)} bytes of validation text do not fill one row of {seq_len + 1}: add text to the corpus, "
            "raise the validation share or shorten seq_len"
        )
    wanted = min(available, max(1, eval_bytes // seq_len))
    starts = ((2 * row + 1) * available // (2 * wanted) * seq_len for row in range(wanted))
    return [stream[start : start + seq_len + 1] for start in starts]


def standard_library() -> Corpus:
    """The default corpus: the sources of the running Python's standard library, about 8 MB, in an order given by paths.

    Without tests, generated tables, bundled applications and anything that a distribution or a user has added. Equal
    on every machine with the same Python release; across releases it differs, so nodes fetch the founder's by digest.

    Raises `CorpusError` where Python was installed without its sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    left_out = _GENERATED | _NOT_LIBRARY | _REMOVED
    found: list[tuple[str, bytes]] = []
    total = 0
    for path in _walk(root, skipped_folders=_TESTS | {"site-packages", "dist-packages"}):
        relative = path.relative_to(root)
        top = relative.parts[0].removesuffix(".py")
        if path.suffix != ".py" or top in left_out or top not in sys.stdlib_module_names:
            continue
        text = _read(path)
        if not text or not _is_text(text):
            continue
        if total + len(text) > STANDARD_LIBRARY_BYTES_MAX:
            break
        total += len(text)
        found.append((relative.as_posix(), text))
    if not found:
        raise CorpusError(f"{root} holds no Python sources: name text files or folders for the corpus instead")
    return _cut(found)


def from_paths(paths: Sequence[Path]) -> Corpus:
    """A corpus of the named text files, and of all text files in the named folders (recursive, sorted by path).

    In a folder, hidden and empty files, and files that are not UTF-8 text, are skipped, and links to folders are not
    followed. Names are relative to what was named, so that no path of this machine travels to peers.

    Raises `CorpusError` for a path that is missing, unreadable, empty or binary, a folder without text, and a total
    above `CORPUS_BYTES_MAX`.
    """
    if not paths:
        raise CorpusError("no path was given: name at least one text file or folder")
    found: list[tuple[str, bytes]] = []
    total = 0
    for named in paths:
        before = len(found)
        for path in _walk(named) if named.is_dir() else [named]:
            total += _size(path)  # before reading: a file of 100 GB must not be read in order to be refused
            if total > CORPUS_BYTES_MAX:
                raise CorpusError(f"{path}: the corpus would be over {CORPUS_BYTES_MAX} bytes: name fewer files")
            text = _read(path)
            if text and _is_text(text):
                found.append((path.relative_to(named.parent).as_posix(), text))
            elif path == named:
                raise CorpusError(f"{path}: {'not UTF-8 text' if text else 'an empty file'}: name a text file instead")
            else:
                total -= len(text)
        if len(found) == before:
            raise CorpusError(f"{named}: no text file in this folder: name one with UTF-8 text files")
    corpus = _cut(found)
    if len(corpus.documents) > DOCUMENTS_MAX:
        raise CorpusError(f"{len(corpus.documents)} documents are over the limit of {DOCUMENTS_MAX}: name fewer files")
    return corpus


def _cut(found: list[tuple[str, bytes]]) -> Corpus:
    """Cut long texts into documents.

    A split assigns whole documents. One book as one document would be all training or all validation, and a few long
    ones would make the share of validation text a matter of luck. So a document has at most `PIECE_BYTES_MAX` bytes,
    and less where the corpus is so small that it would have fewer than `PIECES_WANTED` of them.
    """
    total = sum(len(text) for _, text in found)
    limit = min(PIECE_BYTES_MAX, max(PIECE_BYTES_MIN, total // PIECES_WANTED))
    documents: list[Document] = []
    for name, text in found:
        pieces = list(_pieces(text, limit))
        for index, piece in enumerate(pieces):
            label = _label(name if len(pieces) == 1 else f"{name}#{index}")
            documents.append(Document(label, piece))
    return Corpus(tuple(documents))


def _pieces(text: bytes, limit: int) -> Iterator[bytes]:
    """`text` in pieces of at most `limit` bytes, cut after the last newline that fits, else between characters."""
    start = 0
    while len(text) - start > limit:
        end = text.rfind(b"\n", start, start + limit) + 1
        if end == 0:
            end = start + limit
            while text[end] & 0xC0 == 0x80:  # a continuation byte of UTF-8: the character has begun before
                end -= 1
        yield text[start:end]
        start = end
    yield text[start:]


def _label(name: str) -> str:
    """A name that every peer can decode: undecodable bytes of a file name are replaced, a long one keeps its end."""
    return name.encode("utf-8", "replace").decode()[-NAME_CHARACTERS_MAX:]


def _is_text(data: bytes) -> bool:
    if b"\0" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _walk(root: Path, skipped_folders: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Regular files below `root`, in an order that depends on their names only; hidden ones are left out."""

    def refuse(error: OSError) -> None:
        raise _unreadable(Path(error.filename or root), error) from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in skipped_folders)
        for name in sorted(files):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():  # a FIFO or device would block or never end
                yield path


def _size(path: Path) -> int:
    try:
        if not path.is_file() and path.exists():
            raise CorpusError(f"{path}: neither a file nor a folder: name a text file or a folder instead")
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> CorpusError:
    return CorpusError(f"{path}: {error.strerror or error}: check the path and its permissions")
