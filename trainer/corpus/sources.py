"""Where text comes from: files, folders, records in JSON lines and Parquet, and the standard library.

What a file is, its name's end says: `.jsonl`, `.jsonl.gz` and `.jsonl.zst` hold a record a line, `.parquet` holds
columns, and all others are plain text. Of records one field is taken, and each is a text of its own. Files are read
in blocks, never as a whole, so their size is bounded by the disk only.
"""

import codecs
import gzip
import importlib
import os
import sys
import sysconfig
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import zstandard

from trainer.corpus.cutting import Text, cut
from trainer.corpus.documents import CORPUS_BYTES_MAX, Corpus, too_much
from trainer.corpus.errors import CorpusError

STANDARD_LIBRARY_BYTES_MAX = 8 * 2**20
FIELD_DEFAULT = "text"
BLOCK_BYTES = 2**20
RECORD_BYTES_MAX = 64 * 2**20  # of one line of JSON
ZSTD_BLOCK_BYTES = 4096  # compressed; a block of zeros can be 32 000 times as long when it is not
PARQUET_ROWS = 256  # read at once
FIELDS_NAMED_MAX = 20  # in a message

_GENERATED = frozenset({"encodings", "pydoc_data"})  # tables written by programs: they say nothing about language
_NOT_LIBRARY = frozenset({"idlelib", "turtledemo"})  # applications
_REMOVED = frozenset({"distutils", "lib2to3"})  # no longer part of newer releases
_TESTS = frozenset({"test", "tests", "idle_test"})

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how many bytes of it are done, and how many there are in all, if that is known."""


def silent(what: str, done: int, total: int | None) -> None:
    """A `Progress` that shows nothing."""


def standard_library() -> Corpus:
    """The default corpus: the sources of the running Python's standard library, about 8 MB, in an order given by paths.

    Without tests, generated tables, bundled applications and anything that a distribution or a user has added. Equal
    on every machine with the same Python release; across releases it differs, so nodes fetch the founder's by digest.

    Raises `CorpusError` where Python was installed without its sources.
    """
    return Corpus(tuple(cut(standard_library_texts())))


def standard_library_texts() -> Iterator[Text]:
    """The texts of `standard_library`, not yet cut."""
    root = Path(sysconfig.get_path("stdlib"))
    left_out = _GENERATED | _NOT_LIBRARY | _REMOVED
    total = 0
    for path in _walk(root, skipped_folders=_TESTS | {"site-packages", "dist-packages"}):
        relative = path.relative_to(root)
        top = relative.parts[0].removesuffix(".py")
        if path.suffix != ".py" or top in left_out or top not in sys.stdlib_module_names:
            continue
        if not _size(path) or not _is_text(path):
            continue
        if total + _size(path) > STANDARD_LIBRARY_BYTES_MAX:
            break
        total += _size(path)
        yield relative.as_posix(), _blocks(path)
    if not total:
        raise CorpusError(f"{root} holds no Python sources: name text files or folders for the corpus instead")


def from_paths(paths: Sequence[Path], field: str = FIELD_DEFAULT) -> Corpus:
    """A corpus, in memory, of what `texts_of` finds."""
    return Corpus(tuple(cut(texts_of(paths, field))))


def texts_of(paths: Sequence[Path], field: str = FIELD_DEFAULT, progress: Progress = silent) -> Iterator[Text]:
    """The texts of the named files, and of all files in the named folders (recursive, sorted by path).

    In a folder, hidden and empty files, and files that are not UTF-8 text, are skipped, and links to folders are not
    followed. Names are relative to what was named, so that no path of this machine travels to peers.

    Raises `CorpusError` for a path that is missing, unreadable, empty or binary, a folder without text, records
    without the field, and plain text above `CORPUS_BYTES_MAX` in all.
    """
    if not paths:
        raise CorpusError("no path was given: name at least one text file or folder")
    files = [(path, named) for named in paths for path in (_walk(named) if named.is_dir() else [named])]
    plain = [_size(path) for path, _ in files if _reader(path) is None]
    total = sum(plain) if len(plain) == len(files) else None  # how much text is in records shows when they are read
    done = shown = 0

    def counted(blocks: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal done, shown
        for block in blocks:
            yield block
            done += len(block)
            if done - shown >= BLOCK_BYTES:
                progress("reading text", done, total)
                shown = done

    for name, blocks in _texts(paths, files, field):
        yield name, counted(blocks)
    progress("reading text", done, done)


def _texts(paths: Sequence[Path], files: Iterable[tuple[Path, Path]], field: str) -> Iterator[Text]:
    """The texts of `files`, each of which comes with the path that was named for it."""
    plain = 0
    found: set[Path] = set()
    for path, named in files:
        name = path.relative_to(named.parent).as_posix()
        read = _reader(path)
        if read is not None:
            found.add(named)
            yield from read(path, name, field)
            continue
        plain += _size(path)
        if plain > CORPUS_BYTES_MAX:  # before reading it
            raise too_much(path)
        if _size(path) and _is_text(path):
            found.add(named)
            yield name, _blocks(path)
        elif path == named:
            what = "not UTF-8 text" if _size(path) else "an empty file"
            raise CorpusError(f"{path}: {what}: name a text file instead")
        else:
            plain -= _size(path)
    for named in paths:
        if named not in found:
            raise CorpusError(f"{named}: no text file in this folder: name one with UTF-8 text files")


def _reader(path: Path) -> Callable[[Path, str, str], Iterator[Text]] | None:
    """What reads a file of records; None for plain text."""
    name = path.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
        return _json_lines
    return _parquet if name.endswith(".parquet") else None


def _json_lines(path: Path, name: str, field: str) -> Iterator[Text]:
    """The field of each record of JSON lines, plain or compressed; empty ones and blank lines are left out."""
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = msgspec.json.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CorpusError(f"{path}, line {number}: not JSON ({error}): mend or remove that line") from error
        fields = record if isinstance(record, dict) else {}
        yield from _record(path, f"line {number}", f"{name}:{number}", fields.get(field), field, fields)


def _record(path: Path, where: str, name: str, text: object, field: str, fields: Iterable[str]) -> Iterator[Text]:
    if not isinstance(text, str):
        there = ", ".join(repr(one[:40]) for one in list(fields)[:FIELDS_NAMED_MAX]) or "none"
        raise CorpusError(
            f"{path}, {where}: no text in the field {field!r}: say with --field which of these holds it: {there}"
        )
    if text:
        yield name, [text.encode("utf-8", "replace")]  # JSON can hold half a surrogate pair, UTF-8 cannot


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, as they are when it is decompressed. Memory: one line and a block."""
    rest = bytearray()
    for block in _decompressed(path):
        start, newline = 0, block.find(b"\n")
        while newline >= 0:
            yield bytes(rest) + block[start:newline]
            rest.clear()
            start, newline = newline + 1, block.find(b"\n", newline + 1)
        rest += block[start:]
        if len(rest) > RECORD_BYTES_MAX:
            raise CorpusError(f"{path}: a line of over {RECORD_BYTES_MAX} bytes: it has to be JSON, one record a line")
    if rest:
        yield bytes(rest)


def _decompressed(path: Path) -> Iterator[bytes]:
    name = path.name.lower()
    try:
        with path.open("rb") as file:
            if name.endswith(".zst"):
                yield from _zstd(path, file)
            elif name.endswith(".gz"):
                with gzip.open(file) as plain:
                    yield from iter(lambda: plain.read(BLOCK_BYTES), b"")
            else:
                yield from iter(lambda: file.read(BLOCK_BYTES), b"")
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise CorpusError(f"{path}: damaged or incomplete ({error}): fetch or compress it again") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _zstd(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """The frames of a zstd file; unlike the library's own stream reader, this sees when the last one is cut off."""
    frame = None
    while block := file.read(ZSTD_BLOCK_BYTES):
        while block:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(block)
            block = frame.unused_data
            if frame.eof:
                frame = None
    if frame is not None:
        raise EOFError("it ends within a frame")


def _parquet(path: Path, name: str, field: str) -> Iterator[Text]:
    """The column's text in each row of a Parquet file; missing and empty ones are left out."""
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
        arrow: Any = importlib.import_module("pyarrow")
    except ImportError as error:
        raise CorpusError(
            f"{path}: reading Parquet takes pyarrow, which is not installed: pip install 'waggledance[parquet]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if field not in columns:
                yield from _record(path, "its columns", name, None, field, columns)
            row = 0
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=[field]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    if text is not None:
                        yield from _record(path, f"row {row}", f"{name}:{row}", text, field, columns)
    except arrow.ArrowException as error:
        raise CorpusError(f"{path}: not a readable Parquet file ({error}): fetch or write it again") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _is_text(path: Path) -> bool:
    """Whether a whole file is UTF-8 without NULs."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for block in _blocks(path):
            if b"\0" in block:
                return False
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise unreadable(path, error) from error


def _walk(root: Path, skipped_folders: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Regular files below `root`, in an order that depends on their names only; hidden ones are left out."""

    def refuse(error: OSError) -> None:
        raise unreadable(Path(error.filename or root), error) from error

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
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> CorpusError:
    """The refusal of a path that the system does not let us read."""
    return CorpusError(f"{path}: {error.strerror or error}: check the path and its permissions")
