"""docs/protocol.md says what the code does: ids, limits, gossip's parameters, and each byte of its example session."""

import hashlib
import re
from pathlib import Path

import examples
import pytest
import trio
from loopback import News, Node

from gossip import exchange, limits, records, wire
from gossip.exchange import Compare, Fingerprint, Pull
from gossip.holdings import Holdings
from gossip.protocols import topic_of
from gossip.rates import Rate
from gossip.summary import WHOLE, Summary
from gossip.wire import BlobReply, BlobRequest, Status, SyncReply, SyncRequest, encode
from ledger.envelope import PAYLOAD_TYPE

CHALLENGE = examples.CHALLENGE
DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
UNITS = {"": 1, "KiB": limits.KIB, "MiB": limits.MIB, "GiB": 1024 * limits.MIB, "s": 1}

SECTION = DOCUMENT.partition("\n## Limits\n")[2].partition("\n## ")[0]
LIMITS = re.findall(r"^\| `([A-Z_]+)` \| ([\d.,]+) ?(\w*)(?:/s, ([\d.,]+) ?(\w*) at once)? \|", SECTION, re.MULTILINE)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit[0])
def test_a_limit_is_what_the_document_says(limit: tuple[str, ...]) -> None:
    name, value, unit, burst, burst_unit = limit
    said = float(value.replace(",", "")) * UNITS[unit]
    rate = Rate(said, float(burst.replace(",", "")) * UNITS[burst_unit]) if burst else None
    assert getattr(limits, name) == (said if rate is None else rate)


def test_every_limit_in_the_document_has_a_value() -> None:
    assert len(LIMITS) == SECTION.count("\n|") - 2 > 40  # a heading and a line below it


async def test_gossip_has_the_parameters_of_the_document(nursery: trio.Nursery, tmp_path: Path) -> None:
    node = await Node(nursery, News(), tmp_path / "node", CHALLENGE, limits.SYNC_INTERVAL_S).start(mesh=False)
    router, seen = node.transport._up.router, node.transport._up.pubsub.seen_messages
    for parameter, values in {
        "D, D_lo, D_hi": f"{router.degree}, {router.degree_low}, {router.degree_high}",
        "heartbeat": f"{router.heartbeat_interval} s",
        "gossip window, history": f"{router.mcache.window_size}, {router.mcache.history_size} heartbeats",
        "back-off after PRUNE, after unsubscribing": f"{router.prune_back_off}, {router.unsubscribe_back_off} s",
        "fan-out time to live": f"{router.time_to_live} s",
        "message ids remembered": f"{seen.ttl} s",
    }.items():
        assert f"\n| {parameter} | {values} |\n" in DOCUMENT


def test_the_document_names_every_protocol_and_its_version() -> None:
    ids = set(re.findall(r"/waggle/[a-z]+/[0-9]+", DOCUMENT))
    assert ids == {wire.STATUS, wire.SYNC, wire.BLOB, wire.PEERS}
    assert topic_of("CHALLENGE") in DOCUMENT
    assert f"now {wire.PROTOCOL}." in DOCUMENT
    for payload_type in (PAYLOAD_TYPE, records.PAYLOAD_TYPE):
        assert f"DSSEv1 {len(payload_type)} {payload_type} LENGTH PAYLOAD" in DOCUMENT


def documented(name: str, words: dict[str, bytes]) -> bytes:
    """The bytes of an example: hex and words in capitals, up to two spaces and a remark in each line."""
    found = re.search(rf"^```hex {name}\n(.+?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found is not None
    tokens = " ".join(line.partition("  ")[0] for line in found[1].splitlines()).split()
    return b"".join(words[token] if token in words else bytes.fromhex(token) for token in tokens)


def test_the_example_session_is_what_is_said(tmp_path: Path) -> None:
    text = b"# a program\n"
    program = hashlib.sha256(text).hexdigest()
    store = examples.new_store(tmp_path)
    entry = examples.state_adoption(examples.author(store), program)
    peer = examples.author_id(1)
    payload = re.search(r"^```text PAYLOAD\n(.+?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert payload is not None
    words = {
        "CHALLENGE": CHALLENGE.encode(),
        "PEER": peer.encode(),
        "PROGRAM": program.encode(),
        "PAYLOAD": payload[1].replace("\n", "").encode(),
    }
    words["ENVELOPE"] = documented("ENVELOPE", words)
    assert words["ENVELOPE"] == entry.envelope
    for text_of in (peer, program, entry.id):
        assert f"`{text_of}`" in DOCUMENT

    holdings = Holdings(store)
    compare = Compare((Fingerprint(*WHOLE, Summary().whole()),))
    pull = Pull((WHOLE,), (), ())
    page = exchange.next_page(holdings.summary(), pull, holdings.envelopes, holdings.proof, limits.PAGE_BYTES_MAX)
    said = {
        "status request": encode(Status(1, None, "joiner", ())),
        "status reply": encode(Status(1, CHALLENGE, "waggle 0.1.0", (f"/ip4/192.0.2.7/tcp/4001/p2p/{peer}",))),
        "compare": encode(SyncRequest(CHALLENGE, compare)),
        "compared": encode(SyncReply(exchange.compare(holdings.summary(), compare))),
        "pull": encode(SyncRequest(CHALLENGE, pull)),
        "page": encode(SyncReply(page)),
        "blob request": encode(BlobRequest(program, 0)),
        "blob reply": encode(BlobReply(len(text))) + text,
    }
    assert {name: documented(name, words) for name in said} == said
    assert set(re.findall(r"^```hex (.+)$", DOCUMENT, re.MULTILINE)) == {*said, "ENVELOPE"}
