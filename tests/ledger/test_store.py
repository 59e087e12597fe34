"""The store keeps what was acknowledged, refuses what does not fit, and says what is wrong with a file."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import examples
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.blobs import BLOB_BYTES_MAX
from ledger.envelope import open_envelope, peer_id, seal
from ledger.errors import BadStatement, BrokenChain, Equivocation, LedgerDamaged, LedgerError, UnknownBlob
from ledger.feed import next_entry
from ledger.predicates import Adoption
from ledger.statements import encode
from ledger.store import PEERS_REMEMBERED_MAX, Store, readable


def test_own_entries_form_a_chain_and_the_clock_advances(tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    by, other = examples.author(store, 1), examples.author(store, 2)
    first = examples.state_adoption(by, "a" * 64)
    found = examples.state_discovery(other, "a" * 64, "b" * 64)
    second = examples.state_attestation(by, found)
    entry = second.statement.entry
    assert (entry.seq, entry.prev) == (1, first.id)
    assert entry.lamport > found.statement.entry.lamport > first.statement.entry.lamport
    assert store.heads()[by.id, "main"].id == second.id
    assert store.heads()[other.id, "trials"].seq == 5  # three pairs


def test_entries_travel_in_order_and_once(tmp_path: Path) -> None:
    store, copy = examples.new_store(tmp_path), examples.new_store(tmp_path, "copy.db")
    by = examples.author(store)
    examples.state_discovery(by, "a" * 64, "b" * 64)
    page = [open_envelope(e) for e in store.envelopes(by.id, "trials", 0, 10**6)]
    with pytest.raises(BrokenChain, match="next entry of this feed is 0"):
        copy.add(page[1])
    assert [copy.add(signed) for signed in page] == [True] * 6
    assert [copy.add(signed) for signed in page] == [False] * 6
    assert copy.heads() == {(by.id, "trials"): store.heads()[by.id, "trials"]}


def test_pages_are_bounded_but_never_empty(tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    by = examples.author(store)
    for seed in range(5):
        examples.state_trial(by, "a" * 64, seed, 3.0)
    whole = store.envelopes(by.id, "trials", 0, 10**6)
    assert store.envelopes(by.id, "trials", 0, 1) == whole[:1]
    assert store.envelopes(by.id, "trials", 1, len(whole[1]) + len(whole[2])) == whole[1:3]
    assert store.envelopes(by.id, "trials", 5, 10**6) == []


def test_a_second_history_is_an_equivocation(tmp_path: Path) -> None:
    one, two = examples.new_store(tmp_path, "one.db"), examples.new_store(tmp_path, "two.db")
    kept = examples.state_trial(examples.author(one), "a" * 64, 0, 3.0)
    examples.state_trial(examples.author(two), "a" * 64, 0, 2.0)
    rewritten = examples.state_trial(examples.author(two), "a" * 64, 1, 2.0)
    with pytest.raises(BrokenChain):
        one.add(rewritten)  # follows an entry that `one` has never seen
    first_of_two = two.envelopes(rewritten.statement.entry.author, "trials", 0, 1)[0]
    with pytest.raises(Equivocation, match=kept.id):
        one.add(open_envelope(first_of_two))
    assert one.head(examples.author(one).id, "trials") is not None
    assert one.entry(kept.id) == kept


def test_an_entry_of_another_swarm_is_refused(tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    foreign = examples.new_store(tmp_path, "foreign.db", challenge="d" * 64)
    with pytest.raises(BadStatement, match="belongs to challenge"):
        store.add(examples.state_trial(examples.author(foreign), "a" * 64, 0, 3.0))
    assert store.heads() == {}


@given(st.binary(max_size=3000))
def test_blobs_come_back_by_their_digest(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    store = examples.new_store(tmp_path_factory.mktemp("blobs"))
    digest = store.blobs.put(data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert store.blobs.put(data) == digest
    assert store.blobs.get(digest) == data
    store.close()


def test_blobs_that_are_not_there_too_large_or_spoilt(tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    with pytest.raises(UnknownBlob):
        store.blobs.get("0" * 64)
    with pytest.raises(LedgerError, match="over the limit"):
        store.blobs.put(bytes(BLOB_BYTES_MAX + 1))
    one, two = store.blobs.put(b"one" * 100), store.blobs.put(b"two" * 100)
    store.db.execute("UPDATE blobs SET data = (SELECT data FROM blobs WHERE digest = ?) WHERE digest = ?", (one, two))
    with pytest.raises(LedgerDamaged, match="not those"):
        store.blobs.get(two)
    store.db.execute("UPDATE blobs SET data = x'00'")
    with pytest.raises(LedgerDamaged, match="cannot be decompressed"):
        store.blobs.get(one)


def test_programs_that_discoveries_name_are_wanted_until_they_are_here(tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    parent, child = store.blobs.put(b"parent"), hashlib.sha256(b"child").hexdigest()
    examples.state_discovery(examples.author(store), parent, child)
    assert store.blobs.missing(10) == [child]
    store.blobs.put(b"child")
    assert store.blobs.missing(10) == []


def test_an_author_who_names_what_nobody_has_does_not_hide_the_others(tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    spammer, honest = examples.author(store, 1), examples.author(store, 2)
    body = examples.discovery_body(spammer, "0" * 64, "1" * 64)
    with store.batch():
        for number in range(300):
            spammer.append("main", f"{number:064x}", body)
    examples.state_discovery(honest, "0" * 64, "f" * 64)
    assert "f" * 64 in store.blobs.missing(4)


def test_only_what_peers_would_send_again_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    store, other = examples.new_store(tmp_path), examples.new_store(tmp_path, "other.db")
    foreign = examples.state_adoption(examples.author(other, 2), "a" * 64)

    def waits() -> bool:
        return bool(store.db.execute("PRAGMA synchronous").fetchone()[0] == 2)  # FULL

    with store.batch(refetchable=True):
        assert store.add(foreign)
        assert not waits()
    assert waits()
    with pytest.raises(RuntimeError), store.batch(refetchable=True):
        raise RuntimeError("within")
    assert waits()
    with store.batch(), store.batch(refetchable=True):
        assert waits()


def test_a_clock_that_nobody_counted_to_does_not_silence_the_others(tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    key = examples.key(3)
    me = peer_id(key.public_key())
    entry = next_entry(None, clock=2**53 - 2, challenge=examples.CHALLENGE, author=me, feed="main", recorded_at="")
    adoption = Adoption(entry=entry, track="t", previous=None, discovery=None, reason="", comparison=None)
    assert store.add(seal(key, encode("a" * 64, adoption)))
    by = examples.author(store)
    first = examples.state_adoption(by, "a" * 64)
    second = examples.state_adoption(by, "a" * 64)
    assert first.statement.entry.lamport < second.statement.entry.lamport < 2**52


def test_peers_are_remembered_up_to_a_bound(tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    for number in range(PEERS_REMEMBERED_MAX + 5):
        store.remember_peer(f"peer {number}", "an address")
    store.remember_peer("peer 6", "another address")
    assert len(store.peers()) == PEERS_REMEMBERED_MAX
    assert "peer 4" not in store.peers()
    assert store.peers()["peer 6"] == "another address"


def fill(path: Path) -> None:
    store = Store.create(path, examples.CHALLENGE)
    by = examples.author(store)
    for seed in range(60):
        examples.state_trial(by, "a" * 64, seed, 3.0)
    store.close()


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_named_and_left_alone(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "ledger.db"
    fill(path)
    os.truncate(path, int(path.stat().st_size * keep))
    before = path.read_bytes()
    with pytest.raises(LedgerDamaged, match=r"ledger\.db"):
        Store.open(path, check=True)
    assert path.read_bytes() == before


def test_files_that_are_no_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with pytest.raises(LedgerDamaged, match="is missing"):
        Store.open(path)
    path.write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(LedgerDamaged, match="not a database"):
        Store.open(path)
    path.unlink()
    fill(path)
    with pytest.raises(LedgerError, match="exists already"):
        Store.create(path, examples.CHALLENGE)
    store = Store.open(path)
    store.db.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(LedgerDamaged, match="version 99"):
        Store.open(path)


def test_damage_met_later_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    fill(path)
    data = bytearray(path.read_bytes())
    data[-len(data) // 4 :] = b"\xff" * -(-len(data) // 4)
    path.write_bytes(data)
    store = Store.open(path)
    with pytest.raises(LedgerDamaged, match=r"ledger\.db is damaged"), readable(path):
        list(store.db.query("SELECT * FROM entries NOT INDEXED"))


APPENDER = """
import sys
from pathlib import Path
import examples
from ledger.store import Store
store = Store.open(Path(sys.argv[1]))
by = examples.author(store)
for seed in range(10**6):
    print(examples.state_trial(by, "a" * 64, seed, 3.0).id, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 40])
def test_what_was_acknowledged_survives_sigkill(tmp_path: Path, after: int) -> None:
    path = tmp_path / "ledger.db"
    examples.new_store(tmp_path).close()
    environment = os.environ | {"PYTHONPATH": str(Path(examples.__file__).parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    store = Store.open(path, check=True)
    assert all(store.entry(entry_id) is not None for entry_id in acknowledged)
    examples.state_trial(examples.author(store), "a" * 64, 0, 3.0)  # the chain goes on where it stopped
