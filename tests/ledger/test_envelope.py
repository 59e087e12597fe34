"""Envelopes: what was signed is what is read, or nothing is."""

from pathlib import Path

import base58
import examples
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from ledger import envelope
from ledger.envelope import Envelope, Signature, Signed, open_envelope, pae, peer_id, public_key, seal
from ledger.errors import BadStatement
from ledger.statements import Opaque, encode


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    by = examples.author(examples.new_store(tmp_path_factory.mktemp("ledger")))
    return examples.state_trial(by, "b" * 64, 0, 3.0)


def test_peer_ids_are_libp2ps() -> None:
    key = examples.key(7)
    theirs = ID.from_pubkey(create_new_key_pair(key.private_bytes_raw()).public_key).to_base58()
    assert peer_id(key.public_key()) == theirs
    assert public_key(theirs).public_bytes_raw() == key.public_key().public_bytes_raw()


@pytest.mark.parametrize("bad", ["", "0OIl", "12D3KooW", base58.b58encode(b"\x12\x20" + bytes(32)).decode()])
def test_what_is_no_ed25519_peer_id(bad: str) -> None:
    with pytest.raises(BadStatement):
        public_key(bad)


def test_pae_is_dsses() -> None:
    # The protocol's own example: https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@given(data=st.data())
def test_any_flipped_bit_is_found(signed: Signed, data: st.DataObject) -> None:
    spoilt = bytearray(signed.envelope)
    at = data.draw(st.integers(0, len(spoilt) - 1))
    spoilt[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadStatement):
        open_envelope(bytes(spoilt))


@given(st.binary(max_size=500))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadStatement):
        open_envelope(data)


def test_an_envelope_signed_by_another_than_its_author(signed: Signed) -> None:
    body = signed.statement.body
    assert not isinstance(body, Opaque)
    with pytest.raises(BadStatement, match="as its author"):
        seal(examples.key(2), encode(signed.statement.subject, body))


def test_a_signature_under_a_stolen_name(signed: Signed) -> None:
    parts = msgspec.msgpack.decode(signed.envelope, type=Envelope)
    forged = Signature(keyid=parts.signatures[0].keyid, sig=examples.key(2).sign(pae(parts.payloadType, parts.payload)))
    with pytest.raises(BadStatement, match="signature is not by"):
        open_envelope(msgspec.msgpack.encode(msgspec.structs.replace(parts, signatures=(forged,))))


def test_a_payload_of_another_type_and_no_signature_at_all(signed: Signed) -> None:
    parts = msgspec.msgpack.decode(signed.envelope, type=Envelope)
    with pytest.raises(BadStatement, match="payload type"):
        open_envelope(msgspec.msgpack.encode(msgspec.structs.replace(parts, payloadType="text/plain")))
    with pytest.raises(BadStatement, match="0 signatures"):
        open_envelope(msgspec.msgpack.encode(msgspec.structs.replace(parts, signatures=())))
    with pytest.raises(BadStatement, match="over the limit"):
        open_envelope(bytes(envelope.ENVELOPE_BYTES_MAX + 1))


def test_a_key_id_is_bounded_before_it_is_decoded(signed: Signed) -> None:
    parts = msgspec.msgpack.decode(signed.envelope)
    parts["signatures"][0]["keyid"] = "z" * 60_000
    with pytest.raises(BadStatement, match="malformed envelope"):
        open_envelope(msgspec.msgpack.encode(parts))
    with pytest.raises(BadStatement, match="60000 characters"):
        public_key("z" * 60_000)


def test_exact_bytes_are_kept(signed: Signed, tmp_path: Path) -> None:
    assert open_envelope(signed.envelope) == signed
    store = examples.new_store(tmp_path)
    store.add(signed)
    again = store.entry(signed.id)
    assert again is not None
    assert again.envelope == signed.envelope
