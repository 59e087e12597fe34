"""What strangers may send: each is refused with a clear reason, in bounded memory, and nothing of it is kept."""

import io
import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import examples
import msgspec
import pytest
import zstandard
from integrity import ENVIRONMENT, errors

from ledger.envelope import (
    ENVELOPE_BYTES_MAX,
    PAYLOAD_TYPE,
    Envelope,
    Signature,
    open_envelope,
    pae,
    payload_of,
    peer_id,
    seal,
)
from ledger.errors import BadStatement, BrokenChain, LedgerError
from ledger.feed import next_entry
from ledger.predicates import Adoption
from ledger.statements import PAYLOAD_BYTES_MAX, encode
from ledger.store import Store

MEMORY_BYTES_MAX = 4 * 2**20  # beyond what is there before, to refuse any one message


@contextmanager
def little_memory(bytes_max: int = MEMORY_BYTES_MAX) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < bytes_max
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A trial as its author states it."""
    store = examples.new_store(tmp_path_factory.mktemp("good"))
    return payload_of(examples.state_trial(examples.author(store), "a" * 64, 0, 3.0).envelope)


def signed(payload: bytes) -> bytes:
    """An envelope with a good signature, whatever is in it."""
    key = examples.key(1)
    signature = Signature(keyid=peer_id(key.public_key()), sig=key.sign(pae(PAYLOAD_TYPE, payload)))
    return msgspec.msgpack.encode(Envelope(payloadType=PAYLOAD_TYPE, payload=payload, signatures=(signature,)))


def at(*path: str | int, value: bytes) -> Callable[[bytes], bytes]:
    """The payload with other JSON at a place."""

    def change(payload: bytes) -> bytes:
        document = json.loads(payload)
        inner = document
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = "HERE"
        return json.dumps(document, separators=(",", ":")).encode().replace(b'"HERE"', value)

    return change


def twice(key: bytes) -> Callable[[bytes], bytes]:
    """The payload with a key given twice in its object, the second time with another value."""
    return lambda payload: re.sub(rb'("%s":[^,{}]+)' % key, rb'\1,"%s":null' % key, payload, count=1)


RESULT = ("predicate", "result")
ENTRY = ("predicate", "entry")
NESTED = b"[" * 30_000 + b"]" * 30_000

PAYLOADS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda payload: b"",
    "no JSON": lambda payload: b"\x00\x01\x02",
    "an array": lambda payload: b"[]",
    "cut short": lambda payload: payload[:-1],
    "two documents": lambda payload: payload + payload,
    "oversized": at(*RESULT, "reason", value=b'"%s"' % (b"x" * PAYLOAD_BYTES_MAX)),
    "a long text": at(*RESULT, "reason", value=b'"%s"' % (b"x" * 8001)),
    "nested deeply": at("predicate", "more", value=NESTED),
    "nested deeply in a type of the future": lambda payload: at("predicate", "more", value=NESTED)(
        payload.replace(b"urn:waggle:trial:v1", b"urn:waggle:dream:v1")
    ),
    "nested deeply in place of a number": at(*RESULT, "wall_s", value=NESTED),
    "objects nested deeply": at("predicate", "more", value=b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "a key twice": twice(b"seed"),
    "a key twice in the entry": twice(b"lamport"),
    "a key twice in the hardware": twice(b"cores"),
    "a key twice in the outer form": twice(b"_type"),
    "a key twice, written in two ways": lambda payload: payload.replace(b'"seq":', b'"s\\u0065q":0,"seq":'),
    "NaN": at(*RESULT, "val_bpb", value=b"NaN"),
    "infinity": at(*RESULT, "val_bpb", value=b"Infinity"),
    "a number that becomes infinity": at(*RESULT, "wall_s", value=b"1e999"),
    "a score beyond every score": at(*RESULT, "val_bpb", value=b"1e300"),
    "a huge integer": at("predicate", "seed", value=b"9" * 5000),
    "an integer of 64 bits": at(*ENTRY, "lamport", value=b"%d" % 2**63),
    "an integer that floats cannot tell apart": at(*ENTRY, "seq", value=b"%d" % 2**53),
    "a negative integer": at(*ENTRY, "seq", value=b"-1"),
    "an integer written as a float": at(*ENTRY, "seq", value=b"1e400"),
    "a truth value for a number": at(*RESULT, "wall_s", value=b"true"),
    "a text for a number": at(*RESULT, "wall_s", value=b'"14"'),
    "a number for a text": at("predicate", "track", value=b"1"),
    "null for a text": at("predicate", "track", value=b"null"),
    "invalid UTF-8": at("predicate", "track", value=b'"\xff\xfe"'),
    "UTF-8 of half a character": at("predicate", "track", value=b'"\xed\xa0\x80"'),
    "half a character, escaped": at("predicate", "track", value=b'"\\ud800"'),
    "UTF-16": lambda payload: payload.decode().encode("utf-16"),
    "a byte order mark": lambda payload: b"\xef\xbb\xbf" + payload,
    "an unknown field": at("predicate", "more", value=b"1"),
    "an author who is not the signer": at(*ENTRY, "author", value=b'"%s"' % examples.author_id(2).encode()),
    "an author who is nobody": at(*ENTRY, "author", value=b'"12D3KooW"'),
    "a protocol of the far future": at(*ENTRY, "protocol", value=b"99"),
    "a feed that does not exist": at(*ENTRY, "feed", value=b'"gossip"'),
    "a place in the wrong feed": at(*ENTRY, "feed", value=b'"main"'),
    "a feed with a newline": at(*ENTRY, "feed", value=b'"trials\\n"'),
    "a predecessor at the start": at(*ENTRY, "prev", value=b'"bafkrei%s"' % (b"a" * 52)),
    "no subject": at("subject", value=b"[]"),
}


@pytest.mark.parametrize("case", PAYLOADS)
def test_a_malformed_statement_is_refused_although_it_is_signed(payload: bytes, case: str) -> None:
    data = signed(PAYLOADS[case](payload))
    with little_memory(), pytest.raises(BadStatement) as refusal:
        open_envelope(data)
    assert len(str(refusal.value)) < 1000


def test_the_statement_that_they_are_made_of_is_good(payload: bytes) -> None:
    assert open_envelope(signed(payload)).statement.kind == "trial"


ENVELOPES: dict[str, bytes] = {
    "nothing": b"",
    "oversized": b"\xc6\x7f\xff\xff\xff" + bytes(ENVELOPE_BYTES_MAX),
    "an array that says it has four billion items": b"\xdd\xff\xff\xff\xff",
    "a map that says it has four billion items": b"\xdf\xff\xff\xff\xff",
    "bytes that say they are four billion": b"\x83\xabpayloadType\xc6\xff\xff\xff\xff",
    "nested deeply": b"\x91" * ENVELOPE_BYTES_MAX,
    "maps nested deeply": b"\x81\xa1a" * (ENVELOPE_BYTES_MAX // 3),
    "an extension type": b"\xc7\xff\x05" + bytes(255),
    "a timestamp": b"\xd7\xff" + bytes(8),
    "many signatures": msgspec.msgpack.encode({
        "payloadType": PAYLOAD_TYPE, "payload": b"", "signatures": [{"keyid": "x" * 52, "sig": b""}] * 800,
    }),
    "a long key id": msgspec.msgpack.encode({
        "payloadType": PAYLOAD_TYPE, "payload": b"", "signatures": [{"keyid": "1" * 60_000, "sig": bytes(64)}],
    }),
    "a short signature": msgspec.msgpack.encode({
        "payloadType": PAYLOAD_TYPE, "payload": b"",
        "signatures": [{"keyid": examples.author_id(1), "sig": b"x"}],
    }),
    "another payload type": msgspec.msgpack.encode({
        "payloadType": "text/html", "payload": b"", "signatures": [{"keyid": examples.author_id(1), "sig": bytes(64)}],
    }),
}  # fmt: skip


@pytest.mark.parametrize("case", ENVELOPES)
def test_a_malformed_envelope_is_refused(case: str) -> None:
    with little_memory(), pytest.raises(BadStatement) as refusal:
        open_envelope(ENVELOPES[case])
    assert len(str(refusal.value)) < 1000


def adoptions(count: int, first: int = 0) -> Iterator[Any]:
    """A feed that one author signs as fast as it can, from some place on."""
    key = examples.key(1)
    author = peer_id(key.public_key())
    for seq in range(first, first + count):
        entry = next_entry(None, clock=seq, challenge=examples.CHALLENGE, author=author, feed="main", recorded_at="")
        entry = msgspec.structs.replace(entry, seq=seq, prev=f"bafkrei{'a' * 52}" if seq else None)
        adoption = Adoption(entry=entry, track="t", previous=None, discovery=None, reason="", comparison=None)
        yield seal(key, encode("a" * 64, adoption))


def test_a_flood_from_the_future_leaves_nothing_behind(tmp_path: Path) -> None:
    """A thousand entries stand for a million: each is refused before anything of it is written or remembered."""
    store = examples.new_store(tmp_path)
    flood = list(adoptions(1000, first=10**6))
    changes, size = store.db.conn.total_changes, sum(path.stat().st_size for path in tmp_path.iterdir())
    with little_memory(2**17):
        for entry in flood:
            with pytest.raises(BrokenChain, match="the next entry of this feed is 0"):
                store.add(entry)
    assert store.db.conn.total_changes == changes
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == size
    assert store.heads() == {}


def test_a_flood_in_order_takes_disk_and_no_memory(tmp_path: Path) -> None:
    """The ledger does not bound how much an author may state; what it holds in memory does not grow with it."""
    store, flood = examples.new_store(tmp_path), examples.new_store(tmp_path, "flood.db")
    by = examples.author(flood)
    with flood.batch():
        for seed in range(2000):
            examples.state_trial(by, "a" * 64, seed, 3.0)

    def take(upto: int) -> None:
        while (head := store.head(by.id, "trials")) is None or head.seq < upto:
            page = flood.envelopes(by.id, "trials", 0 if head is None else head.seq + 1, 2**16)
            with store.batch():
                for envelope in page:
                    store.add(open_envelope(envelope))

    take(500)  # whatever is held from the first use on
    with little_memory(2**19):
        take(1999)
    with little_memory(2**19):
        assert len(store.envelopes(by.id, "trials", 0, 2**16)) < 100
    with little_memory(2**20):
        assert errors(store) == []


BOMB = """
import resource, sys
from pathlib import Path
import examples
from ledger.errors import LedgerDamaged
from ledger.fsck import fsck
from ledger.store import Store
store = Store.open(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
findings = [found.check for found in fsck(store)]
in_fsck = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
try:
    store.blobs.get("a" * 64)
except LedgerDamaged as error:
    print(findings, in_fsck // 1024, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("size_said", [100, 2**30, 2**62])
def test_a_blob_that_inflates_to_a_gigabyte_is_refused_in_little_memory(tmp_path: Path, size_said: int) -> None:
    """32 KiB, the smallest that zstd makes of a gigabyte; peers send blobs plain, so it takes a file of theirs."""
    store = examples.new_store(tmp_path)
    bomb = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(bomb, closefd=False) as writer:
        for _ in range(2**10):
            writer.write(bytes(2**20))
    assert len(bomb.getvalue()) < 2**16
    store.db.execute("INSERT INTO blobs VALUES (?, ?, ?)", ("a" * 64, size_said, bomb.getvalue()))
    store.close()
    command = [sys.executable, "-c", BOMB, str(store.path)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    findings, fsck_mib, get_mib = re.fullmatch(r"(\[.*\]) (\d+) (\d+)\n", done.stdout).groups()
    assert findings == "['blob']"
    assert int(fsck_mib) < 16
    assert int(get_mib) < 160  # the largest blob that there may be is 64 MiB, and is held once or twice


def test_a_blob_is_never_larger_than_said(tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    with pytest.raises(LedgerError, match="over the limit"):
        store.blobs.put(bytes(64 * 2**20 + 1))
    assert store.db.execute("SELECT count(*) FROM blobs").fetchone() == (0,)
    Store.open(store.path).close()
