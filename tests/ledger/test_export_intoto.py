"""The in-toto bundle, as tools that know nothing of Waggle read it."""

import base64
import json
from pathlib import Path
from typing import Any

import examples
import in_toto_attestation.v1.statement_pb2 as spb
import pytest
from google.protobuf import json_format
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Key, SSlibKey

from ledger.envelope import payload_of, public_key
from ledger.export import intoto
from ledger.export.selection import Selection
from ledger.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = examples.new_store(tmp_path)
    one, two = examples.author(store, 1), examples.author(store, 2)
    found = examples.state_discovery(one, "a" * 64, "b" * 64)
    examples.state_attestation(two, found)
    examples.state_adoption(two, "b" * 64, found)
    one.checkpoint("trials")
    two.revoke("it was stolen")
    return store


def lines(store: Store, *ids: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in intoto.export(Selection(store, ids))]


def key(author: str) -> Key:
    return SSlibKey.from_crypto(public_key(author), keyid=author)


def test_every_envelope_verifies_with_the_key_in_its_authors_peer_id(store: Store) -> None:
    keys = [key(examples.author_id(number)) for number in (1, 2)]
    documents = lines(store)
    assert len(documents) == 11
    for document, signed in zip(documents, store.entries(), strict=True):
        envelope = Envelope.from_dict(document)
        author = signed.statement.entry.author
        assert list(envelope.verify(keys, threshold=1)) == [author]
        assert envelope.payload == payload_of(signed.envelope)


def test_a_changed_payload_or_another_key_does_not_verify(store: Store) -> None:
    document = lines(store)[0]
    other = SSlibKey.from_crypto(public_key(examples.author_id(2)), keyid=examples.author_id(1))
    with pytest.raises(VerificationError):
        Envelope.from_dict(json.loads(json.dumps(document))).verify([other], threshold=1)
    payload = base64.b64decode(document["payload"]).replace(b'"seed":0', b'"seed":1')
    document["payload"] = base64.b64encode(payload).decode()
    with pytest.raises(VerificationError):
        Envelope.from_dict(document).verify([key(examples.author_id(1))], threshold=1)


def test_every_payload_is_an_in_toto_statement(store: Store) -> None:
    kinds = set()
    for document in lines(store):
        payload = base64.b64decode(document["payload"], validate=True)
        found = Statement.copy_from_pb(json_format.Parse(payload, spb.Statement()))
        found.validate()
        kinds.add(found.pb.predicate_type)
        assert len(found.pb.subject[0].digest["sha256"]) == 64
    assert kinds == {
        f"urn:waggle:{kind}:v1"
        for kind in ("trial", "discovery", "attestation", "adoption", "checkpoint", "revocation")
    }


def test_field_names_and_order_of_the_bundle(store: Store) -> None:
    for document in lines(store):
        assert list(document) == ["payloadType", "payload", "signatures"]
        assert document["payloadType"] == "application/vnd.in-toto+json"
        assert [list(signature) for signature in document["signatures"]] == [["keyid", "sig"]]
