"""Statements are read strictly, and named by what every CID library computes."""

import json
from pathlib import Path
from typing import Any

import examples
import msgspec
import multihash
import pytest
from cid import make_cid  # an independent implementation: py-cid
from hypothesis import given
from hypothesis import strategies as st

from ledger import statements
from ledger.envelope import Signed
from ledger.errors import BadStatement
from ledger.statements import Opaque, decode, encode, entry_id


@pytest.fixture
def discovery(tmp_path: Path) -> Signed:
    by = examples.author(examples.new_store(tmp_path))
    return examples.state_discovery(by, "a" * 64, "b" * 64)


def payload_of(signed: Signed) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(msgspec.msgpack.decode(signed.envelope)["payload"])
    return payload


def test_a_statement_is_an_in_toto_statement_v1(discovery: Signed) -> None:
    payload = payload_of(discovery)
    assert set(payload) == {"_type", "subject", "predicateType", "predicate"}
    assert payload["_type"] == "https://in-toto.io/Statement/v1"
    assert payload["subject"] == [{"name": "train.py", "digest": {"sha256": "b" * 64}}]
    assert payload["predicateType"] == "urn:waggle:discovery:v1"


def test_the_id_is_the_cid_that_another_library_computes() -> None:
    payload = b'{"some": "payload"}'
    theirs = make_cid(1, "raw", multihash.digest(payload, "sha2-256").encode())
    assert entry_id(payload) == theirs.encode("base32").decode()


def test_round_trip(discovery: Signed) -> None:
    statement = discovery.statement
    assert not isinstance(statement.body, Opaque)
    assert decode(encode(statement.subject, statement.body)) == statement


def change(path: str, value: Any) -> Any:
    """A function that sets the field at a dotted path of a payload."""

    def apply(payload: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        at: Any = payload
        for name in parents:
            at = at[int(name)] if isinstance(at, list) else at[name]
        at[last] = value

    return apply


@pytest.mark.parametrize(
    "spoil",
    [
        change("_type", "https://in-toto.io/Statement/v0.1"),
        change("subject", []),
        change("subject.0.digest", {"sha256": "B" * 64}),
        change("subject.0.digest", {"sha256": "b" * 64 + "\n"}),
        change("predicateType", "urn:waggle:discovery:v1\n"),
        change("predicateType", "discovery"),
        change("predicate.surprise", 1),
        change("predicate.track", 5),
        change("predicate.hypothesis", "x" * 1001),
        change("predicate.parent", "a" * 63),
        change("predicate.entry.protocol", 3),
        change("predicate.entry.seq", -1),
        change("predicate.entry.seq", 2**53),
        change("predicate.entry.seq", 1),
        change("predicate.entry.prev", "bafkrei" + "a" * 52),
        change("predicate.entry.author", "12D3KooW"),
        change("predicate.entry.feed", "trials"),
        change("predicate.entry.feed", "other"),
        change("predicate.comparison.p_value", 1.5),
        change("predicate.comparison.noise", -0.1),
        change("predicate.comparison.differences", [-1.7e308, -1.7e308, -1.7e308]),
        change("predicate.comparison.seeds", [0, 1]),
        change("predicate.comparison.seeds", [0, 0, 1]),
        change("predicate.comparison.split", "private"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(discovery: Signed, spoil: Any) -> None:
    payload = payload_of(discovery)
    decode(json.dumps(payload).encode())  # sound before
    spoil(payload)
    with pytest.raises(BadStatement):
        decode(json.dumps(payload).encode())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", '"3.0"'])
def test_a_number_must_be_one(discovery: Signed, number: str) -> None:
    payload = payload_of(discovery)
    payload["predicate"]["comparison"]["mean"] = "here"
    with pytest.raises(BadStatement):
        decode(json.dumps(payload).replace('"here"', number).encode())


def test_a_failure_is_not_a_score() -> None:
    with pytest.raises(ValueError, match="status ok"):
        msgspec.structs.replace(examples.measurement(3.0), status="crash")
    with pytest.raises(ValueError, match="status ok"):
        msgspec.structs.replace(examples.measurement(None), status="ok")
    with pytest.raises(ValueError, match="finite"):
        msgspec.structs.replace(examples.measurement(3.0), val_bpb=float("nan"))


def test_an_unknown_type_is_kept_as_opaque(discovery: Signed) -> None:
    payload = payload_of(discovery)
    payload["predicateType"] = "urn:waggle:prophecy:v1"
    statement = decode(json.dumps(payload).encode())
    assert isinstance(statement.body, Opaque)
    assert statement.kind == "urn:waggle:prophecy:v1"
    assert statement.entry == discovery.statement.entry


@given(st.binary(max_size=2000))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(BadStatement):
        decode(data)


@pytest.mark.parametrize("nested", ["[" * 30_000, '{"_type":' * 7_000, '{"predicate":' + "[" * 30_000])
def test_nesting_and_size_are_bounded(nested: str) -> None:
    with pytest.raises(BadStatement):
        decode(nested.encode())
    with pytest.raises(BadStatement, match="over the limit"):
        decode(b" " * (statements.PAYLOAD_BYTES_MAX + 1))
