"""Ledgers of every older version become ledgers of this one, with everything in them, or stay as they were."""

import hashlib
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import examples
import msgspec
import pytest
from integrity import count, errors, runs

from ledger import queries, schema, tables
from ledger.author import Author
from ledger.envelope import PAYLOAD_TYPE, Envelope, Signature, Signed, open_envelope, open_kept, pae
from ledger.errors import BadStatement, LedgerDamaged
from ledger.feed import next_entry
from ledger.predicates import Skill
from ledger.salvage import salvage
from ledger.statements import STATEMENT_TYPE
from ledger.store import Store

SCHEMAS = Path(__file__).parent / "schemas"
OLDER = tuple(range(1, schema.SCHEMA_VERSION))
UNKNOWN_THEN = {1: "('skill', 'checkpoint')", 2: "()"}
"""By version: kinds of `fill`'s entries that it could not read, and kept under their whole URN."""


def state_skill(by: Author) -> None:
    text = "shorter warm-ups help"
    digest = hashlib.sha256(text.encode()).hexdigest()
    by.append("main", digest, lambda entry: Skill(entry=entry, title="a lesson", text=text, replaces=None,
                                                  retired=False, evidence=()))  # fmt: skip


NONSENSE: dict[str, dict[str, object]] = {"skill": {"text": 7}, "checkpoint": {"feed": "main", "note": "nonsense"}}


def state_nonsense(store: Store, kind: str, number: int = 9) -> Signed:
    """What is not what its type says, as a node keeps it that does not know the type; signed all the same."""
    by = examples.author_id(number)
    entry = next_entry(
        None, clock=0, challenge=store.challenge, author=by, feed="main", recorded_at="2026-01-01T00:00:00Z"
    )
    payload = msgspec.json.encode({
        "_type": STATEMENT_TYPE,
        "subject": [{"name": kind, "digest": {"sha256": examples.digest("nonsense")}}],
        "predicateType": f"urn:waggle:{kind}:v1",
        "predicate": {"entry": entry} | NONSENSE[kind],
    })  # fmt: skip
    signature = Signature(keyid=by, sig=examples.key(number).sign(pae(PAYLOAD_TYPE, payload)))
    envelope = Envelope(payloadType=PAYLOAD_TYPE, payload=payload, signatures=(signature,))
    signed = open_kept(msgspec.msgpack.encode(envelope))
    store.add(signed)
    return signed


def fill(store: Store) -> None:
    """One's own and another's entries, of old types and of new ones; blobs and a peer."""
    one, two = examples.author(store, 1), examples.author(store, 2)
    found = examples.state_discovery(one, store.blobs.put(b"parent" * 50), store.blobs.put(b"child" * 50))
    examples.state_attestation(two, found)
    examples.state_adoption(two, found.statement.subject, found)
    state_skill(one)
    one.checkpoint("trials")
    examples.state_adoption(one, found.statement.subject, found)
    store.remember_peer("somebody", "somewhere")


def as_of(version: int, store: Store, path: Path) -> None:
    """The content of `store` as a ledger file of an older version."""
    with closing(sqlite3.connect(path)) as old:
        old.execute("PRAGMA journal_mode = WAL")
        old.executescript((SCHEMAS / f"{version}.sql").read_text())
        old.execute("ATTACH ? AS new", (str(store.path),))
        sql = (
            "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'entry\\_text\\_%' ESCAPE '\\'"
        )
        for (table,) in old.execute(sql).fetchall():
            columns = ", ".join(row[1] for row in old.execute(f"PRAGMA main.table_info({table})"))
            order = "rowid" if table == "entries" else columns
            old.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table} ORDER BY {order}")
        old.execute(f"UPDATE entries SET kind = 'urn:waggle:' || kind || ':v1' WHERE kind IN {UNKNOWN_THEN[version]}")
        old.commit()


def everything(store: Store) -> tuple[object, ...]:
    rows = store.db.execute("SELECT * FROM entries ORDER BY rowid").fetchall()
    blobs = [store.blobs.get(row[0]) for row in store.db.execute("SELECT digest FROM blobs ORDER BY digest")]
    return rows, blobs, store.heads(), store.peers(), store.challenge, tables.digest(store.db)


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_of_a_type_learnt_since_stays_and_is_shown_as_unreadable(
    tmp_path: Path, present: Store, kind: str
) -> None:
    nonsense = state_nonsense(present, kind)
    with pytest.raises(BadStatement):
        open_envelope(nonsense.envelope)  # from a stranger, today
    path = tmp_path / "ledger.db"
    as_of(1, present, path)
    with closing(Store.open(path)) as store:
        assert store.entry(nonsense.id) == nonsense
        line = queries.line(store, nonsense.id)
        assert line is not None
        assert line.kind == f"urn:waggle:{kind}:v1"
        assert line.summary == f"unreadable: no {kind} as this version knows them"
        assert errors(store) == []
        assert everything(store) == everything(present)
        assert salvage(store, tmp_path / "salvaged.db").entries_left == 0


def test_what_is_kept_is_still_checked(present: Store) -> None:
    envelope = state_nonsense(present, "skill").envelope
    with pytest.raises(BadStatement, match="signature"):
        open_kept(envelope.replace(b'"text":7', b'"text":8'))


@pytest.fixture
def present(tmp_path: Path) -> Store:
    store = examples.new_store(tmp_path, "present.db")
    fill(store)
    return store


def test_the_schema_of_every_older_version_is_kept() -> None:
    assert sorted(int(path.stem) for path in SCHEMAS.glob("*.sql")) == list(OLDER) == list(UNKNOWN_THEN)


@pytest.mark.parametrize("version", OLDER)
def test_an_older_ledger_is_brought_up_to_date_with_everything_in_it(
    tmp_path: Path, present: Store, version: int
) -> None:
    path = tmp_path / "ledger.db"
    as_of(version, present, path)
    for _ in range(2):  # and then opened as any other
        store = Store.open(path, check=True)
        assert schema.version(store.db) == schema.SCHEMA_VERSION
        assert everything(store) == everything(present)
        assert errors(store) == []
        store.close()


@pytest.mark.parametrize("version", OLDER)
def test_an_older_ledger_with_a_damaged_entry_stays_as_it_was(tmp_path: Path, present: Store, version: int) -> None:
    path = tmp_path / "ledger.db"
    as_of(version, present, path)
    with closing(sqlite3.connect(path)) as old:
        old.execute("UPDATE entries SET envelope = substr(envelope, 1, 100) WHERE rowid = 5")
        old.commit()
        before = list(old.iterdump())
    with pytest.raises(LedgerDamaged, match=f"is of version {version}, and an entry in it cannot be read"):
        Store.open(path)
    with closing(sqlite3.connect(path)) as old:
        assert list(old.iterdump()) == before
        assert old.execute("PRAGMA user_version").fetchone() == (version,)


@pytest.mark.parametrize("version", OLDER)
def test_several_processes_may_bring_it_up_to_date_at_once(tmp_path: Path, present: Store, version: int) -> None:
    path = tmp_path / "ledger.db"
    as_of(version, present, path)
    together = threading.Barrier(4)
    found = []

    def open_it() -> None:
        together.wait()
        with closing(Store.open(path)) as store:
            found.append(tables.digest(store.db))

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tables.digest(present.db)] * 4


@pytest.mark.parametrize("fault", ["error", "tear", "power"])
@pytest.mark.parametrize("version", OLDER)
def test_a_migration_that_is_cut_short_is_done_again(tmp_path: Path, present: Store, version: int, fault: str) -> None:
    old = tmp_path / "old.db"
    as_of(version, present, old)
    calls = count("migrate", old, tmp_path)
    for ran in runs("migrate", old, tmp_path, fault, range(1, calls + 1, max(1, calls // 12))):
        store = Store.open(tmp_path / f"{fault}-{ran.at}" / "ledger.db", check=True)
        assert everything(store) == everything(present), f"{fault} at call {ran.at}"
        assert errors(store) == [], f"{fault} at call {ran.at}"
        store.close()
