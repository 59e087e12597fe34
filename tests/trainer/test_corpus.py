"""The text: packing, splitting, drawing of evaluation rows, and where corpora come from."""

import hashlib
import io
import itertools
import os
import struct
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import corpus as corpus_module
from trainer.corpus import (
    DOCUMENT_BYTES_MAX,
    PIECE_BYTES_MAX,
    STANDARD_LIBRARY_BYTES_MAX,
    Corpus,
    CorpusError,
    Document,
    divide,
    from_paths,
    split,
    standard_library,
    validation_rows,
)
from trainer.corpus.documents import write_packed

DOCUMENTS = st.lists(
    st.builds(Document, st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.binary(min_size=1)),
    min_size=1,
    max_size=8,
)


def numbered(count: int) -> Corpus:
    return Corpus(tuple(Document(f"{n}", b"document %d\n" % n) for n in range(count)))


@pytest.fixture(scope="module")
def library() -> Corpus:
    return standard_library()


# Packing


@given(DOCUMENTS)
def test_what_is_packed_unpacks_to_the_same(documents: list[Document]) -> None:
    corpus = Corpus(tuple(documents))
    again = Corpus.unpack(corpus.packed())
    assert tuple(again.documents) == corpus.documents
    assert again.groups.tolist() == corpus.groups.tolist()
    assert again.digest() == corpus.digest() == hashlib.sha256(corpus.packed()).hexdigest()


@given(DOCUMENTS, st.data())
def test_any_changed_bit_of_the_packed_form_is_refused_or_changes_the_digest(
    documents: list[Document], data: st.DataObject
) -> None:
    corpus = Corpus(tuple(documents))
    packed = bytearray(corpus.packed())
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        changed = Corpus.unpack(bytes(packed))
    except CorpusError:
        return
    assert changed.digest() != corpus.digest()


@given(st.binary(max_size=200))
def test_unpacking_strange_bytes_raises_nothing_but_a_corpus_error(data: bytes) -> None:
    try:
        corpus = Corpus.unpack(data)
    except CorpusError:
        return
    assert corpus.packed() == data


@pytest.mark.parametrize(
    "document",
    [
        [2, [["a", b"text"]]],
        [1, []],
        [1, [["a", b""]]],
        [1, [["a" * 501, b"text"]]],
        [1, [["a", b"text", 0]]],
        [1, [["a", b"text"]], "more"],
        {"version": 1, "documents": [["a", b"text"]]},
    ],
    ids=["version", "no documents", "empty text", "long name", "wide document", "more fields", "a map"],
)
def test_a_packed_form_of_another_shape_is_refused(document: object) -> None:
    with pytest.raises(CorpusError, match="malformed corpus"):
        Corpus.unpack(msgspec.msgpack.encode(document))


def first_form(corpus: Corpus) -> bytes:
    return msgspec.msgpack.encode([1, list(corpus.documents)])


def test_a_corpus_in_the_first_form_is_read_and_split_as_ever() -> None:
    corpus = Corpus.unpack(first_form(numbered(300)))
    assert corpus.digest() == "ad385c59814e82322dccecc519b014da16d8d3472691868aa052b3ac6d9a9588"
    assert hashlib.sha256(b"".join(split(corpus, b"salt", 0.1)[1])).hexdigest() == (
        "e2ca29ddf39216d206eb24c60d4e31b4e142e3f12ecc6a7cb112f4e0d66a97aa"
    )


def test_a_longer_encoding_of_the_same_corpus_is_refused() -> None:
    packed = first_form(numbered(2))
    assert packed.startswith(b"\x92\x01")
    with pytest.raises(CorpusError, match="canonical"):
        Corpus.unpack(b"\x92\xcc\x01" + packed[2:])  # the version as two bytes instead of one


def test_a_header_that_promises_too_many_documents_is_refused() -> None:
    with pytest.raises(CorpusError, match="malformed corpus"):
        Corpus.unpack(b"\x92\x01\xdd\xff\xff\xff\xff")


def packed_by_hand(documents: list[tuple[bytes, bytes]], groups: list[int]) -> bytes:
    frames = [struct.pack(">HI", len(name), len(text)) + name + text for name, text in documents]
    return b"".join([b"waggle corpus 2\n", *frames, bytes(6), *(group.to_bytes(4, "big") for group in groups)])


def test_the_packed_form_is_what_the_documentation_says() -> None:
    corpus = numbered(2)
    assert corpus.packed() == packed_by_hand([(b"0", b"document 0\n"), (b"1", b"document 1\n")], [0, 1])
    assert corpus.digest() == "e0da42d428da4cb6241dba6f9fd0a9e73f8e925af1c355d5e5bf364fa071146e"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (packed_by_hand([], []), "no document"),
        (packed_by_hand([(b"a", b"")], [0]), "too long or empty"),
        (packed_by_hand([(b"a" * 501, b"text")], [0]), "too long or empty"),
        (packed_by_hand([(b"a", b"x" * (DOCUMENT_BYTES_MAX + 1))], [0]), "too long or empty"),
        (packed_by_hand([(b"\xff", b"text")], [0]), "decode"),
        (packed_by_hand([(b"a", b"text")], []), "groups"),
        (packed_by_hand([(b"a", b"text")], [0, 0]), "groups"),
        (packed_by_hand([(b"a", b"text")], [1]), "named by its first"),
        (packed_by_hand([(b"a", b"text"), (b"b", b"text"), (b"c", b"text")], [0, 0, 1]), "named by its first"),
        (packed_by_hand([(b"a", b"text")], [0]) + b"\0", "groups"),
        (packed_by_hand([(b"a", b"text")], [0])[:-1], "groups"),
        (packed_by_hand([(b"a", b"text")], [0])[:-5], "document 1"),
        (packed_by_hand([(b"a", b"text")], [0])[:24], "document 1"),
        (b"waggle corpus 2\n", "document 0"),
        (b"waggle corpus 2\n\xff\xff\xff\xff\xff\xff", "malformed"),
    ],
)
def test_a_packed_form_that_nobody_writes_is_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(CorpusError, match=complaint):
        Corpus.unpack(data)


def test_a_document_that_is_too_long_is_not_packed() -> None:
    for document in (Document("a", b""), Document("a", bytes(DOCUMENT_BYTES_MAX + 1)), Document("a" * 501, b"text")):
        with pytest.raises(CorpusError, match="cut it"):
            Corpus((document,)).packed()


@given(DOCUMENTS)
def test_a_mapped_corpus_is_the_one_in_memory(documents: list[Document]) -> None:
    corpus = Corpus(tuple(documents))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "corpus")
        path.write_bytes(corpus.packed())
        mapped = Corpus.open(path)
        Path(folder, "first").write_bytes(first_form(corpus))
        first = Corpus.open(Path(folder, "first"))
    assert mapped.digest() == corpus.digest()
    assert mapped.documents[:] == first.documents[:] == corpus.documents
    assert mapped.documents[-1] == corpus.documents[-1]
    assert mapped.lengths.tolist() == corpus.lengths.tolist()
    assert mapped.ids.tobytes() == corpus.ids.tobytes()


@given(DOCUMENTS)
def test_writing_as_documents_come_gives_the_packed_form(documents: list[Document]) -> None:
    out, corpus = io.BytesIO(), Corpus(tuple(documents))
    with tempfile.TemporaryFile() as scratch:
        written = write_packed(iter(documents), out, scratch)
    assert out.getvalue() == corpus.packed()
    assert written == (corpus.digest(), len(documents), corpus.text_bytes, len(corpus.packed()))


# Splitting


def test_exact_duplicates_fall_on_one_side() -> None:
    texts = [b"text %d" % n for n in range(200)]
    corpus = Corpus(tuple(Document(f"{n}", text) for n, text in enumerate(texts + texts)))
    training, validation = split(corpus, b"salt", 0.3)
    assert not set(training) & set(validation)
    assert len(training) + len(validation) == 400
    assert sorted(set(training) | set(validation)) == sorted(texts)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_is_near_the_nominal_one(share: float) -> None:
    _, validation = split(numbered(4000), b"salt", share)
    sigma = (4000 * share * (1 - share)) ** 0.5
    assert abs(len(validation) - 4000 * share) < 4 * sigma


def test_the_salt_decides_and_nothing_else() -> None:
    corpus = numbered(1000)
    one, other = set(split(corpus, b"one", 0.1)[1]), set(split(corpus, b"other", 0.1)[1])
    assert split(corpus, b"one", 0.1) == split(corpus, b"one", 0.1)
    reordered = Corpus(corpus.documents[::-1])
    assert set(split(reordered, b"one", 0.1)[1]) == one
    assert len(one & other) < len(one) / 3  # independent draws share a tenth


def test_a_larger_share_only_adds_documents() -> None:
    corpus = numbered(1000)
    assert set(split(corpus, b"salt", 0.1)[1]) < set(split(corpus, b"salt", 0.2)[1])


def test_a_split_with_an_empty_side_is_refused() -> None:
    with pytest.raises(CorpusError, match="falls to validation"):
        split(numbered(1), b"salt", 1e-9)
    with pytest.raises(CorpusError, match="falls to training"):
        split(numbered(1), b"salt", 1 - 1e-9)


@pytest.mark.parametrize(("salt", "share"), [(b"", 0.1), (b"x" * 65, 0.1), (b"salt", 0.0), (b"salt", 1.0)])
def test_a_salt_or_share_out_of_range_is_refused(salt: bytes, share: float) -> None:
    with pytest.raises(ValueError, match=r"salt|share"):
        split(numbered(10), salt, share)


def test_of_more_text_than_is_wanted_a_sample_is_taken() -> None:
    corpus = numbered(4000)
    training, validation = split(corpus, b"salt", 0.5)
    some_training, some_validation = split(
        corpus, b"salt", 0.5, training_bytes_max=6000, validation_bytes_max=3000
    )  # fmt: skip
    assert 5900 < sum(map(len, some_training)) <= 6000
    assert 2900 < sum(map(len, some_validation)) <= 3000
    remaining = iter(training)
    assert all(text in remaining for text in some_training)  # in the same order
    assert set(some_validation) < set(validation)
    third = len(some_training) / 3
    assert third / 2 < sum(text in training[: len(training) // 3] for text in some_training) < third * 2
    assert some_training != split(corpus, b"other", 0.5, training_bytes_max=6000)[0]


def test_a_document_is_on_one_side_whatever_the_salt() -> None:
    corpus = numbered(500)
    for salt in (b"one", b"two", b"three"):
        training, validation = divide(corpus, salt, 0.2)
        assert sorted([*training.tolist(), *validation.tolist()]) == list(range(500))


# Evaluation rows


@given(
    st.lists(st.binary(max_size=400), min_size=1, max_size=5),
    st.integers(1, 60),
    st.integers(1, 2000),
)
def test_rows_never_share_a_target_and_keep_to_the_size(texts: list[bytes], seq_len: int, eval_bytes: int) -> None:
    stream = b"".join(texts)
    if len(stream) < seq_len + 1:
        with pytest.raises(ValueError, match="do not fill one row"):
            validation_rows(texts, seq_len, eval_bytes)
        return
    rows = validation_rows(texts, seq_len, eval_bytes)
    available = [stream[n : n + seq_len + 1] for n in range(0, len(stream) - seq_len, seq_len)]
    assert len(rows) == min(len(available), max(1, eval_bytes // seq_len))
    remaining = iter(available)
    assert all(row in remaining for row in rows)  # in order, and none twice


def test_rows_are_drawn_from_all_of_the_text() -> None:
    stream = b"".join(n.to_bytes(2) for n in range(32_000))
    rows = validation_rows([stream], 64, 6400)
    places = [int.from_bytes(row[:2]) / 32_000 for row in rows]
    gaps = [later - earlier for earlier, later in itertools.pairwise(places)]
    assert len(rows) == 100
    assert places[0] < 0.01
    assert places[-1] > 0.98
    assert max(gaps) - min(gaps) <= 32 / 32_000 + 1e-9


def test_all_text_is_used_where_there_is_little() -> None:
    assert validation_rows([b"abc", b"defg"], 2, 10**6) == [b"abc", b"cde", b"efg"]


# The standard library


def test_the_standard_library_is_deterministic_and_bounded(library: Corpus) -> None:
    assert library.digest() == standard_library().digest()
    assert 2**22 < library.text_bytes <= STANDARD_LIBRARY_BYTES_MAX
    assert max(len(document.text) for document in library.documents) <= PIECE_BYTES_MAX
    assert tuple(Corpus.unpack(library.packed()).documents) == library.documents


def test_the_standard_library_is_only_that(library: Corpus) -> None:
    names = [document.name for document in library.documents]
    assert any(name.startswith("argparse.py") for name in names)
    assert any(name.startswith("xml/") for name in names)  # the end of the alphabet is there as well
    folders = {part for name in names for part in name.split("/")[:-1]}
    assert not folders & {"test", "tests", "site-packages", "dist-packages", "encodings", "pydoc_data"}
    assert not any(name.startswith(("/", "_sysconfigdata", "sitecustomize")) for name in names)


def test_the_standard_library_gives_a_usable_split(library: Corpus) -> None:
    for salt in (b"one", b"two", b"three"):
        _, validation = split(library, salt, 0.1)
        assert 0.05 < sum(map(len, validation)) / library.text_bytes < 0.16
        assert len(validation_rows(validation, 128, 64 * 1024)) == 512


# Files


def test_a_folder_is_read_in_order_without_hidden_and_binary_files(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name, content in {
        "b.txt": b"second\n",
        "a.txt": b"first\n",
        "sub/c.txt": "dritter, schön\n".encode(),
        ".hidden": b"hidden\n",
        ".git/config": b"hidden\n",
        "image.bin": b"\x00\x01",
        "latin1.txt": b"sch\xf6n",
        "empty.txt": b"",
    }.items():
        (folder / name).write_bytes(content)
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")  # opening it would block for ever
    corpus = from_paths([folder])
    assert [document.name for document in corpus.documents] == ["texts/a.txt", "texts/b.txt", "texts/sub/c.txt"]
    assert corpus.documents[0].text == b"first\n"
    assert corpus.digest() == from_paths([folder]).digest()


def test_a_single_book_gives_a_usable_split(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    text = b"".join(b"Line %d of a long book.\n" % n for n in range(40_000))
    book.write_bytes(text)
    corpus = from_paths([book])
    assert b"".join(document.text for document in corpus.documents) == text
    assert all(document.text.endswith(b"\n") for document in corpus.documents)
    for salt in (b"one", b"two", b"three"):
        _, validation = split(corpus, salt, 0.1)
        assert 0.03 < sum(map(len, validation)) / len(text) < 0.2


def test_text_without_line_ends_is_cut_between_characters(tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_text("aéあ" * 5000)
    corpus = from_paths([tmp_path / "line.txt"])
    assert len(corpus.documents) > 2
    assert "".join(document.text.decode() for document in corpus.documents) == "aéあ" * 5000


def test_no_path_of_this_machine_is_in_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text")
    names = {document.name for document in from_paths([tmp_path, tmp_path / "a.txt"]).documents}
    assert names == {f"{tmp_path.name}/a.txt", "a.txt"}


def test_an_undecodable_or_long_file_name_is_made_usable(tmp_path: Path) -> None:
    deep = tmp_path / "/".join(["d" * 100] * 6)
    deep.mkdir(parents=True)
    (deep / os.fsdecode(b"caf\xe9.txt")).write_text("some text")
    corpus = from_paths([tmp_path])
    assert tuple(Corpus.unpack(corpus.packed()).documents) == corpus.documents
    assert corpus.documents[0].name.endswith("caf?.txt")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "an empty file"), (b"a\x00b", "not UTF-8 text"), (b"sch\xf6n", "not UTF-8 text")],
)
def test_a_named_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=complaint) as raised:
        from_paths([path])
    assert str(path) in str(raised.value)


def test_missing_paths_and_folders_without_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="at least one"):
        from_paths([])
    with pytest.raises(CorpusError, match="No such file"):
        from_paths([tmp_path / "missing"])
    with pytest.raises(CorpusError, match="no text file in this folder"):
        from_paths([tmp_path])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorpusError, match="neither a file nor a folder"):
        from_paths([tmp_path / "pipe"])


def test_too_much_text_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(10**12)  # sparse: no machine that runs the tests could read it
    with pytest.raises(CorpusError, match=f"over {corpus_module.CORPUS_BYTES_MAX} bytes"):
        from_paths([tmp_path / "huge"])
