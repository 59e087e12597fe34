"""The screen judges any bytes without raising, and rejects each kind of provably bad message."""

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import CHALLENGE, statement

from gossip.limits import MESSAGE_BYTES_MAX
from gossip.screen import Verdict, screen
from ledger.envelope import Envelope, Signature, pae, peer_id, seal
from ledger.feed import next_entry
from ledger.predicates import Feed
from ledger.statements import encode

KEY, OTHER_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))


def envelope(feed: Feed = "main", challenge: str = CHALLENGE) -> bytes:
    author = peer_id(KEY.public_key())
    entry = next_entry(None, clock=0, challenge=challenge, author=author, feed=feed, recorded_at="")
    return seal(KEY, encode("b" * 64, statement(entry))).envelope


GOOD = envelope()
OPENED = msgspec.msgpack.decode(GOOD, type=Envelope)


def resigned_by(key: Ed25519PrivateKey) -> bytes:
    signature = Signature(keyid=peer_id(key.public_key()), sig=OPENED.signatures[0].sig)
    return msgspec.msgpack.encode(Envelope(OPENED.payloadType, OPENED.payload, (signature,)))


def reordered() -> bytes:
    fields = msgspec.msgpack.decode(GOOD)
    return msgspec.msgpack.encode({name: fields[name] for name in reversed(fields)})


def newer(protocol: int) -> bytes:
    payload = OPENED.payload.replace(b'"protocol":1', b'"protocol":%d' % protocol)
    signature = Signature(keyid=peer_id(KEY.public_key()), sig=KEY.sign(pae(OPENED.payloadType, payload)))
    return msgspec.msgpack.encode(Envelope(OPENED.payloadType, payload, (signature,)))


def test_what_is_too_new_is_nobodys_fault() -> None:
    assert screen(newer(2), CHALLENGE).verdict is Verdict.ACCEPT
    assert screen(newer(3), CHALLENGE).verdict is Verdict.IGNORE


def test_a_good_entry_is_accepted_and_opened() -> None:
    screened = screen(GOOD, CHALLENGE)
    assert screened.verdict is Verdict.ACCEPT
    assert screened.signed is not None
    assert screened.signed.envelope == GOOD


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\0" * (MESSAGE_BYTES_MAX + 1), "over"),
        (b"", "malformed"),
        (GOOD[:-1], "malformed"),
        (GOOD.replace(b"adoption:v1", b"adoption:v2"), "signature"),
        (resigned_by(OTHER_KEY), "signature"),
        (msgspec.msgpack.encode(Envelope(OPENED.payloadType, OPENED.payload, ())), "0 signatures"),
        (msgspec.msgpack.encode(Envelope("text/plain", OPENED.payload, OPENED.signatures)), "payload type"),
        (envelope(challenge="d" * 64), "challenge"),
        (b"\xde\x00\x03" + GOOD[1:], "standard form"),  # the same map, with its length in 16 bits
        (reordered(), "standard form"),
    ],
)
def test_provably_bad_messages_are_rejected(message: bytes, reason: str) -> None:
    screened = screen(message, CHALLENGE)
    assert screened.verdict is Verdict.REJECT
    assert reason in screened.reason
    assert screened.signed is None


def test_a_trials_entry_is_ignored_because_it_travels_by_sync() -> None:
    assert screen(envelope(feed="trials"), CHALLENGE).verdict is Verdict.IGNORE


@given(st.binary(max_size=2000))
def test_random_bytes_are_rejected(message: bytes) -> None:
    assert screen(message, CHALLENGE).verdict is Verdict.REJECT


@settings(max_examples=300)
@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=3), st.integers(0, 4))
def test_no_mutation_of_an_envelope_passes_or_raises(at: int, inserted: bytes, removed: int) -> None:
    message = GOOD[:at] + inserted + GOOD[at + removed :]
    assert (screen(message, CHALLENGE).verdict is Verdict.ACCEPT) == (message == GOOD)


signatures = st.lists(st.builds(Signature, keyid=st.text(max_size=60), sig=st.binary(max_size=70)), max_size=2)


@given(st.builds(Envelope, st.just(OPENED.payloadType), st.binary(max_size=200), signatures.map(tuple)))
def test_well_formed_nonsense_is_rejected(nonsense: Envelope) -> None:
    assert screen(msgspec.msgpack.encode(nonsense), CHALLENGE).verdict is Verdict.REJECT
