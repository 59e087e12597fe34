"""Proof files: checked with nothing else at hand, against those who would like them to say something else."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import examples
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import merkle
from ledger.checkpoint import Checkpoint, origin, sign
from ledger.envelope import PAYLOAD_TYPE, Envelope, Signature, Signed, open_envelope, pae, payload_of
from ledger.errors import BadStatement
from ledger.proof import PROOF_BYTES_MAX, check, prove
from ledger.statements import Opaque

Edit = Callable[[dict[str, Any]], object]


class Feed(NamedTuple):
    """One author's feed, as its ledger has it."""

    key: Ed25519PrivateKey
    entries: list[Signed]

    @property
    def leaves(self) -> list[bytes]:
        return [merkle.leaf_hash(payload_of(entry.envelope)) for entry in self.entries]

    def checkpoint(self, size: int) -> str:
        place = self.entries[0].statement.entry
        root = merkle.root(self.leaves[:size])
        return sign(self.key, Checkpoint(origin(place.challenge, place.author, place.feed), size, root))

    def proof(self, seq: int, size: int, older: int | None = None) -> bytes:
        earlier = None if older is None else self.checkpoint(older)
        return prove(self.entries[seq].envelope, self.leaves, self.checkpoint(size), earlier)


def feed(folder: Path, name: str, programs: str, number: int = 1, challenge: str = examples.CHALLENGE) -> Feed:
    """A feed `trials` with one trial for each letter of `programs`."""
    by = examples.author(examples.new_store(folder, name, challenge), number)
    trials = [examples.state_trial(by, examples.digest(each), at, 3.0) for at, each in enumerate(programs)]
    return Feed(examples.key(number), trials)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledgers")


@pytest.fixture(scope="module")
def ours(folder: Path) -> Feed:
    return feed(folder, "ours", "abcdefg")


@pytest.fixture(scope="module")
def proof(ours: Feed) -> bytes:
    return ours.proof(seq=2, size=7, older=3)


def replaced(data: bytes, **fields: Any) -> bytes:
    return json.dumps({**json.loads(data), **fields}).encode()


def edited(data: bytes, edit: Edit) -> bytes:
    document = json.loads(data)
    edit(document)
    return json.dumps(document).encode()


def test_every_entry_is_proved_at_every_later_size(ours: Feed) -> None:
    for size in range(1, 8):
        for seq in range(size):
            checked = check(ours.proof(seq, size))
            assert checked.signed == ours.entries[seq]
            assert checked.checkpoint.size == size
            assert checked.earlier is None


def test_a_tree_is_proved_to_extend_every_older_one(ours: Feed) -> None:
    for older in range(8):
        earlier = check(ours.proof(0, 7, older)).earlier
        assert earlier is not None
        assert earlier.size == older


@settings(max_examples=300, deadline=None)  # a busy machine is no failure
@given(data=st.data())
def test_any_flipped_bit_is_found(proof: bytes, data: st.DataObject) -> None:
    # White space is no exception: no single bit turns one such character of ours into another.
    spoilt = bytearray(proof)
    spoilt[data.draw(st.integers(0, len(spoilt) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadStatement):
        check(bytes(spoilt))


def test_white_space_order_and_escapes_mean_nothing(proof: bytes) -> None:
    document = json.loads(proof)
    backwards = dict(reversed(document.items()))
    for text in (json.dumps(backwards), json.dumps(document, indent="\t"), f"\r\n {proof.decode()}\n\n"):
        assert check(text.encode()) == check(proof)
    assert b"\\u2014" in json.dumps(backwards).encode()  # the dash of a signature line


@given(st.binary(max_size=500))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadStatement, match="this proves nothing"):
        check(data)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(deadline=None)  # a busy machine is no failure
@given(data=st.data())
def test_any_other_value_of_any_field_is_refused(proof: bytes, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["format", "envelope", "index", "inclusion", "checkpoint", "earlier", "more"]))
    value = data.draw(VALUES.filter(lambda value: (name, value) not in (("index", 2), ("earlier", None))))
    with pytest.raises(BadStatement) as refused:
        check(replaced(proof, **{name: value}))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "edit",
    [
        lambda document: document.pop("format"),
        lambda document: document.update(format="urn:waggle:proof:v2"),
        lambda document: document.update(index=3),
        lambda document: document.update(index="2"),
        lambda document: document.update(index=2.5),
        lambda document: document.update(index=-1),
        lambda document: document.update(index=float("nan")),
        lambda document: document.update(index=float("inf")),
        lambda document: document.update(envelope=document["envelope"] + "\n"),
        lambda document: document.update(inclusion=None),
        lambda document: document["inclusion"].reverse(),
        lambda document: document["inclusion"].pop(),
        lambda document: document["inclusion"].append("0" * 64),
        lambda document: document.update(inclusion=["0" * 64] * 5000),
        lambda document: document.update(inclusion=[node.upper() for node in document["inclusion"]]),
        lambda document: document.update(inclusion=[node[:-2] for node in document["inclusion"]]),
        lambda document: document["earlier"].pop("consistency"),
        lambda document: document["earlier"].update(consistency=document["inclusion"]),
        lambda document: document["earlier"].update(inclusion=[]),
        lambda document: document["earlier"].update(checkpoint=document["checkpoint"]),
        lambda document: document.update(checkpoint=document["earlier"]["checkpoint"]),
        lambda document: document.update({"\x1b[31m": 1}),
        lambda document: document.update({"\ud800": 1}),
        lambda document: document.update(checkpoint="\ud800"),
    ],
)
def test_edited_proofs(proof: bytes, edit: Edit) -> None:
    with pytest.raises(BadStatement) as refused:
        check(edited(proof, edit))
    assert str(refused.value).isprintable()


def test_hostile_files(proof: bytes) -> None:
    for data in (
        b"",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"9" * 100_000,
        proof.replace(b'"index": 2', b'"index": ' + b"2" * 5000),
        b"\xef\xbb\xbf" + proof,
        proof.decode().encode("utf-16"),
        proof + proof,
        proof + b"\x00",
        proof + b" " * PROOF_BYTES_MAX,
    ):
        with pytest.raises(BadStatement):
            check(data)


def test_a_field_that_occurs_twice(proof: bytes) -> None:
    for field in (b'"index": 2,', b'"format": "urn:waggle:proof:v1",'):
        assert proof.count(field) == 1
        with pytest.raises(BadStatement, match="occurs twice"):
            check(proof.replace(field, field + field))


def test_the_checkpoint_of_another_author_feed_or_challenge(ours: Feed, folder: Path) -> None:
    theirs = feed(folder, "theirs", "abcdefg", number=2)
    elsewhere = feed(folder, "elsewhere", "abcdefg", challenge="d" * 64)
    by = examples.author(examples.new_store(folder, "main"))
    main = Feed(examples.key(1), [examples.state_adoption(by, examples.digest(each)) for each in "abcdefg"])
    for other, why in ((theirs, "expected key"), (elsewhere, "another feed"), (main, "another feed")):
        newer, older = other.checkpoint(7), other.checkpoint(3)
        with pytest.raises(BadStatement, match=why):
            prove(ours.entries[2].envelope, ours.leaves, newer)
        with pytest.raises(BadStatement, match=why):
            check(replaced(ours.proof(2, 7), checkpoint=newer))
        with pytest.raises(BadStatement, match=why):
            check(replaced(ours.proof(2, 7), earlier={"checkpoint": older, "consistency": []}))


def test_an_entry_that_the_author_signed_but_left_out(ours: Feed, folder: Path) -> None:
    fork = feed(folder, "fork", "abXdefg")
    swapped = base64.b64encode(fork.entries[2].envelope).decode()
    with pytest.raises(BadStatement, match="another root"):
        check(replaced(ours.proof(2, 7), envelope=swapped))
    with pytest.raises(BadStatement, match="another root"):
        prove(fork.entries[2].envelope, ours.leaves, ours.checkpoint(7))


def test_an_entry_at_another_place_than_it_names(ours: Feed) -> None:
    leaves = ours.leaves[::-1]
    place = ours.entries[0].statement.entry
    misplaced = Checkpoint(origin(place.challenge, place.author, place.feed), 7, merkle.root(leaves))
    path = [node.hex() for node in merkle.inclusion_proof(leaves, 4)]
    with pytest.raises(BadStatement, match="about position 4 of the feed, the entry stands at 2"):
        check(replaced(ours.proof(2, 7), index=4, inclusion=path, checkpoint=sign(ours.key, misplaced)))


def test_a_second_history_does_not_extend_the_first(ours: Feed, folder: Path) -> None:
    second = feed(folder, "second", "Xbcdefg")
    for size in (1, 3, 6):
        with pytest.raises(BadStatement, match="does not extend"):
            prove(ours.entries[2].envelope, ours.leaves, ours.checkpoint(7), second.checkpoint(size))
    with pytest.raises(BadStatement, match="two roots"):
        prove(ours.entries[2].envelope, ours.leaves, ours.checkpoint(7), second.checkpoint(7))


def test_what_cannot_be_proved_yet(ours: Feed) -> None:
    with pytest.raises(BadStatement, match="use a newer checkpoint"):
        ours.proof(seq=3, size=3)
    with pytest.raises(BadStatement, match="of which 4 are here: sync first"):
        prove(ours.entries[2].envelope, ours.leaves[:4], ours.checkpoint(7))
    with pytest.raises(BadStatement, match="covers 7 entries, the other only 3"):
        ours.proof(seq=2, size=3, older=7)


def envelope_of(payload: bytes, number: int = 1) -> bytes:
    """A signed envelope, whatever the payload."""
    signature = Signature(keyid=examples.author_id(number), sig=examples.key(number).sign(pae(PAYLOAD_TYPE, payload)))
    return msgspec.msgpack.encode(Envelope(payloadType=PAYLOAD_TYPE, payload=payload, signatures=(signature,)))


def test_a_statement_of_a_type_not_known_yet_is_proved(ours: Feed) -> None:
    document = json.loads(payload_of(ours.entries[0].envelope))
    document["predicateType"] = "urn:waggle:prophecy:v1"
    future = Feed(ours.key, [open_envelope(envelope_of(json.dumps(document).encode()))])
    assert isinstance(check(future.proof(0, 1)).signed.statement.body, Opaque)


def test_an_author_cannot_write_on_the_readers_terminal(ours: Feed, proof: bytes) -> None:
    document = json.loads(payload_of(ours.entries[2].envelope))
    document["predicate"]["\x1b]0;owned\x07\u202e"] = 1
    hostile = base64.b64encode(envelope_of(json.dumps(document).encode())).decode()
    with pytest.raises(BadStatement, match="unknown field") as refused:
        check(replaced(proof, envelope=hostile))
    assert str(refused.value).isprintable()
