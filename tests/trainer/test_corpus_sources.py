"""Where text comes from: records, compressed files, columns, and how long texts are cut; and in how much memory."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from trainer.corpus import PIECE_BYTES_MAX, Corpus, CorpusError, from_paths, prepare, standard_library
from trainer.corpus import documents as documents_module
from trainer.corpus import sources as sources_module

RECORDS = [{"id": 1, "text": "erstes, schön\n", "body": "x"}, {"text": "", "body": "y"}, {"text": "third", "body": "z"}]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


def zstd_frames(data: bytes) -> bytes:
    """Two frames, as `cat a.zst b.zst` gives."""
    half = data.index(b"\n") // 2
    return zstandard.compress(data[:half]) + zstandard.compress(data[half:])


KINDS: dict[str, Callable[[bytes], bytes]] = {
    "records.jsonl": bytes,
    "records.jsonl.gz": gzip.compress,
    "records.jsonl.zst": zstd_frames,
    "RECORDS.JSONL.GZ": lambda data: gzip.compress(data[:40]) + gzip.compress(data[40:]),
}


@pytest.mark.parametrize("name", KINDS)
def test_json_lines_give_a_document_for_each_record(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(KINDS[name](LINES))
    documents = from_paths([path]).documents
    assert [document.name for document in documents] == [f"{name}:1", f"{name}:3"]
    assert [document.text.decode() for document in documents] == ["erstes, schön\n", "third"]
    assert [document.text for document in from_paths([path], "body").documents] == [b"x", b"y", b"z"]
    assert from_paths([tmp_path]).documents[0].name == f"{tmp_path.name}/{name}:1"


def test_lines_are_whole_whatever_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "BLOCK_BYTES", 7)
    monkeypatch.setattr(sources_module, "ZSTD_BLOCK_BYTES", 3)
    for name, compress in KINDS.items():
        (tmp_path / name).write_bytes(compress(LINES.replace(b"}\n", b"}\r\n\n")[:-3]))  # no newline at the end
        assert [document.text for document in from_paths([tmp_path / name], "body").documents] == [b"x", b"y", b"z"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
        (b'{"text": "a"}\n\n{"body": "b", "id": 7}\n', r"line 3: no text in the field 'text': .*--field.*'body', 'id'"),
        (b'{"text": 7}\n', "line 1: no text in the field"),
        (b'["text"]\n', "line 1: no text in the field 'text': .* none"),
        (b'{"text": "\xff"}\n', "line 1: not JSON"),
        (b"[" * 100_000, "line 1: not JSON"),
        (b"\n\n", "no text"),
    ],
)
def test_records_that_cannot_be_used_are_refused_with_their_place(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=complaint):
        prepare([path], tmp_path / "out")


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "RECORD_BYTES_MAX", 2 * 2**20)
    (tmp_path / "long.jsonl").write_bytes(b"[" * (5 * 2**20))
    with pytest.raises(CorpusError, match="a line of over"):
        from_paths([tmp_path / "long.jsonl"])


@pytest.mark.parametrize("name", ["records.jsonl.gz", "records.jsonl.zst"])
def test_an_incomplete_or_damaged_compressed_file_is_refused(tmp_path: Path, name: str) -> None:
    whole = KINDS[name](LINES * 50)
    path = tmp_path / name
    for content in (whole[:-9], whole[: len(whole) // 2], b"\x00" * 100, whole[:-20] + bytes(20)):
        path.write_bytes(content)
        with pytest.raises(CorpusError, match="damaged or incomplete"):
            from_paths([path])


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorpusError, match=r"pip install 'waggledance\[parquet\]'"):
        from_paths([tmp_path / "a.parquet"])


def test_parquet_by_column(tmp_path: Path) -> None:
    arrow: Any = pytest.importorskip("pyarrow", reason="pyarrow is an optional extra")
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"text": ["one", None, "", "schön"], "n": [1, 2, 3, 4]}), path)
    assert from_paths([path]).documents == (("a.parquet:1", b"one"), ("a.parquet:4", "schön".encode()))
    with pytest.raises(CorpusError, match=r"no text in the field 'body': .*'text', 'n'"):
        from_paths([path], "body")
    with pytest.raises(CorpusError, match="row 1: no text"):
        from_paths([path], "n")
    path.write_bytes(b"PAR1" * 10)
    with pytest.raises(CorpusError, match="not a readable Parquet file"):
        from_paths([path])


def test_a_large_file_is_cut_as_if_it_were_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across blocks, and on both sides of what is held to learn the size."""
    text = b"".join(b"%d: line of a file that is longer than what is held\n" % (n * 7919) for n in range(90_000))
    path = tmp_path / "long.txt"
    path.write_bytes(text)
    whole = from_paths([path])
    monkeypatch.setattr(sources_module, "BLOCK_BYTES", 10_007)
    assert from_paths([path]).digest() == whole.digest()
    assert b"".join(document.text for document in whole.documents) == text
    lengths = [len(document.text) for document in whole.documents]
    assert all(PIECE_BYTES_MAX // 2 <= length <= PIECE_BYTES_MAX for length in lengths[:-1])
    assert [document.name for document in whole.documents[:2]] == ["long.txt#0", "long.txt#1"]


def test_what_is_binary_after_the_first_block_is_not_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "BLOCK_BYTES", 1000)
    (tmp_path / "good.txt").write_text("ö" * 1501)  # characters across blocks
    for name, end in (("nul", b"\0"), ("latin1", b"\xf6"), ("cut", "ö".encode()[:1])):
        (tmp_path / name).write_bytes(b"a" * 5000 + end)
    assert [document.name for document in from_paths([tmp_path]).documents] == [
        f"{tmp_path.name}/good.txt#0",
        f"{tmp_path.name}/good.txt#1",
        f"{tmp_path.name}/good.txt#2",
    ]


def test_what_is_prepared_lies_under_its_digest_and_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES * 100)
    (tmp_path / "b.txt").write_text("Some text.\n" * 500)
    named = [tmp_path / "a.jsonl", str(tmp_path / "b.txt")]
    prepared = prepare(named, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [prepared.written.digest]
    corpus = Corpus.open(prepared.path)
    assert corpus.digest() == prepared.written.digest == from_paths([Path(name) for name in named]).digest()
    assert (len(corpus.documents), corpus.text_bytes) == prepared.written[1:3]
    assert prepared.path.stat().st_size == prepared.written.packed_bytes
    assert prepare([], tmp_path / "out").written.digest == standard_library().digest()


def test_a_failed_preparation_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES + b"no JSON\n")
    with pytest.raises(CorpusError, match="line 4"):
        prepare([tmp_path / "a.jsonl"], tmp_path / "out")
    (tmp_path / "a.jsonl").write_bytes(LINES)
    monkeypatch.setattr(documents_module, "CORPUS_BYTES_MAX", 5)
    with pytest.raises(CorpusError, match="name fewer files"):
        prepare([tmp_path / "a.jsonl"], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


PREPARE = """
import re, sys
from pathlib import Path
from trainer.corpus import prepare
written = prepare(sys.argv[1:], Path(sys.argv[1]).parent / "out").written
peak_kib = re.search("VmHWM:\\s*([0-9]+)", Path("/proc/self/status").read_text())[1]
print(written.text_bytes, int(peak_kib) * 1024)
"""


def test_preparing_takes_little_memory_however_large_the_text(tmp_path: Path) -> None:
    """50 MB from one long file and from records; an interpreter with numpy takes 37 MiB of it.

    The peak is the kernel's VmHWM: what getrusage gives includes the parent's at the fork.
    """
    words = (b"".join(b"%x " % (n * n * 7919) for n in range(40_000)))[: 2**18]
    with (tmp_path / "long.txt").open("wb") as long, zstandard.open(tmp_path / "records.jsonl.zst", "wb") as records:
        for number in range(95):
            turned = words[number * 1000 :] + words[: number * 1000]
            long.write(turned.replace(b"0 ", b"\n"))
            for start in range(0, len(turned), 2**14):
                records.write(json.dumps({"text": turned[start : start + 2**14].decode()}).encode() + b"\n")
    command = [sys.executable, "-c", PREPARE, tmp_path / "long.txt", tmp_path / "records.jsonl.zst"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text_bytes, peak_bytes = map(int, done.stdout.split())
    assert text_bytes > 45e6
    assert peak_bytes < 90 * 2**20
