"""The challenge: one meaning, one digest; strict reading; errors that name the field."""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger.envelope import peer_id
from trainer.challenge import (
    CHALLENGE_BYTES_MAX,
    Challenge,
    ChallengeError,
    CorpusRef,
    Split,
    Track,
    from_canonical,
    load,
)

FOUNDER, STRANGER = (peer_id(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32).public_key()) for n in (1, 2))
CHALLENGE = Challenge(
    name="a-challenge",
    founder=FOUNDER,
    constitution="e" * 64,
    corpus=CorpusRef(digest="a" * 64, bytes=1000, documents=10),
    split=Split(public_salt="0" * 32),
    tracks={"cpu-quick": Track(baseline="b" * 64), "cpu-long": Track(baseline="b" * 64, budget_s=300.0)},
)

# Another valid value for every field.
OTHER: list[tuple[tuple[str, ...], Any]] = [
    (("name",), "another"),
    (("founder",), STRANGER),
    (("maintainers",), [FOUNDER, STRANGER]),
    (("constitution",), "f" * 64),
    (("tokenizer",), {"digest": "d" * 64}),
    (("corpus", "digest"), "c" * 64),
    (("corpus", "bytes"), 1001),
    (("corpus", "documents"), 11),
    (("split", "public_salt"), "1" * 32),
    (("split", "validation_share"), 0.2),
    (("tracks", "cpu-quick", "clock"), "wall"),
    (("tracks", "cpu-quick", "budget_s"), 11.0),
    (("tracks", "cpu-quick", "threads"), 2),
    (("tracks", "cpu-quick", "memory_bytes"), 2**30),
    (("tracks", "cpu-quick", "seq_len"), 256),
    (("tracks", "cpu-quick", "eval_bytes"), 2**17),
    (("tracks", "cpu-quick", "baseline"), "c" * 64),
]


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(CHALLENGE.canonical())
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return document


def read(tmp_path: Path, text: str) -> Challenge:
    path = tmp_path / "challenge.toml"
    path.write_text(text)
    return load(path)


def test_the_toml_form_keeps_the_digest(tmp_path: Path) -> None:
    again = read(tmp_path, CHALLENGE.to_toml())
    assert again == CHALLENGE
    assert again.digest() == CHALLENGE.digest()


def test_the_canonical_form_is_sorted_compact_json() -> None:
    document = json.loads(CHALLENGE.canonical())
    assert CHALLENGE.canonical() == json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    assert CHALLENGE.digest() == hashlib.sha256(CHALLENGE.canonical()).hexdigest()
    assert from_canonical(CHALLENGE.canonical()) == CHALLENGE


def test_comments_layout_and_order_do_not_change_the_digest(tmp_path: Path) -> None:
    document = json.loads(CHALLENGE.canonical())
    turned = {key: document[key] for key in reversed(document)}
    turned["tracks"] = {key: document["tracks"][key] for key in reversed(document["tracks"])}
    text = tomli_w.dumps(turned).replace("\n", "   # a comment\n\n")
    assert text != CHALLENGE.to_toml()
    assert read(tmp_path, text).digest() == CHALLENGE.digest()


def test_a_default_that_is_spelled_out_does_not_change_the_digest(tmp_path: Path) -> None:
    document = json.loads(CHALLENGE.canonical())
    del document["split"]["validation_share"]
    del document["tokenizer"]
    del document["maintainers"]  # the founder
    assert read(tmp_path, tomli_w.dumps(document)).digest() == CHALLENGE.digest()


@pytest.mark.parametrize(("path", "value"), OTHER, ids=[".".join(path) for path, _ in OTHER])
def test_any_changed_value_changes_the_digest(tmp_path: Path, path: tuple[str, ...], value: Any) -> None:
    assert read(tmp_path, tomli_w.dumps(changed(path, value))).digest() != CHALLENGE.digest()


def test_every_field_that_can_change_is_in_that_list() -> None:
    document = json.loads(CHALLENGE.canonical())
    fields = {(key,) for key in document if key not in ("corpus", "split", "tracks")}
    fields |= {(part, key) for part in ("corpus", "split") for key in document[part]}
    fields |= {("tracks", "cpu-quick", key) for key in document["tracks"]["cpu-quick"]}
    not_alone = {("evaluator",), ("tracks", "cpu-quick", "device")}  # one value only; and a GPU needs the wall clock
    assert fields - not_alone == {path for path, _ in OTHER}


@pytest.mark.parametrize("path", [("extra",), ("split", "extra"), ("tracks", "cpu-quick", "extra")])
def test_an_unknown_field_is_refused_by_name(tmp_path: Path, path: tuple[str, ...]) -> None:
    document = changed(path, 1)
    with pytest.raises(ChallengeError, match="extra"):
        read(tmp_path, tomli_w.dumps(document))
    with pytest.raises(ChallengeError, match="extra"):
        from_canonical(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("name",), "Not A Name"),
        (("founder",), "nobody"),
        (("evaluator",), 999),
        (("tokenizer",), "words"),
        (("tokenizer",), {"digest": "short"}),
        (("tokenizer",), {"digest": "d" * 64, "extra": 1}),
        (("tracks",), {}),
        (("corpus", "documents"), 1),
        (("split", "public_salt"), "short"),
        (("split", "validation_share"), 1.0),
        (("tracks", "cpu-quick", "device"), "abacus"),
        (("tracks", "cpu-quick", "budget_s"), 0),
        (("tracks", "cpu-quick", "baseline"), "B" * 64),
    ],
)
def test_a_value_out_of_range_is_refused_where_it_stands(tmp_path: Path, path: tuple[str, ...], value: Any) -> None:
    field = path[-1] if path[0] != "tracks" or len(path) == 1 else "tracks"
    with pytest.raises(ChallengeError, match=field) as raised:
        read(tmp_path, tomli_w.dumps(changed(path, value)))
    assert str(tmp_path / "challenge.toml") in str(raised.value)


def test_a_gpu_is_timed_by_the_wall_clock() -> None:
    gpu = {"device": "cuda", "baseline": "b" * 64}
    assert msgspec.convert({**gpu, "clock": "wall"}, Track).device == "cuda"
    with pytest.raises(msgspec.ValidationError, match='clock "wall"'):
        msgspec.convert(gpu, Track)


def test_files_that_cannot_be_read_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ChallengeError, match=r"missing\.toml"):
        load(tmp_path / "missing.toml")
    with pytest.raises(ChallengeError, match=r"challenge\.toml"):
        read(tmp_path, "not = = toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ChallengeError, match=r"binary\.toml"):
        load(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[]", b"[" * 100_000, b" " * (CHALLENGE_BYTES_MAX + 1)],
    ids=["empty", "binary", "an array", "deep", "long"],
)
def test_strange_bytes_from_a_peer_are_refused(data: bytes) -> None:
    with pytest.raises(ChallengeError):
        from_canonical(data)
