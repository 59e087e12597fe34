"""`fsck` finds every kind of damage and says where it is; and what it says mends it, does."""

import re
import shutil
import sqlite3
import typing
from contextlib import closing
from pathlib import Path

import examples
import histories
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integrity import errors

from ledger import tables
from ledger.checkpoint import Checkpoint as TreeHead
from ledger.checkpoint import origin, sign
from ledger.envelope import open_envelope
from ledger.errors import LedgerDamaged, LedgerError
from ledger.findings import FINDINGS_MAX, REBUILD, SALVAGE, Check, Finding
from ledger.fsck import fsck
from ledger.predicates import Checkpoint, Discovery, FeedHead, Revocation
from ledger.salvage import readable_rows, salvage
from ledger.store import Store

DOCUMENT = Path(__file__).parents[2] / "docs" / "integrity.md"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with something of everything: blobs, a peer, checkpoints, two histories, a revoked key."""
    store = examples.new_store(tmp_path_factory.mktemp("sound"))
    one, two, liar, robbed = (examples.author(store, number) for number in (1, 2, 3, 4))
    with store.batch():
        found = examples.state_discovery(one, store.blobs.put(b"parent" * 99), store.blobs.put(b"child" * 99))
        histories.state_skill(one, "a lesson", "shorter warm-ups help")
        one.checkpoint("trials")
        examples.state_attestation(two, found)
        examples.state_adoption(two, found.statement.subject, found)
        histories.equivocate(store, 3, examples.state_trial(liar, "a" * 64, 0, 3.0))
        last = examples.state_trial(robbed, "a" * 64, 0, 3.0)
        for seed in (1, 2):
            examples.state_trial(robbed, "a" * 64, seed, 0.1)
        heads = (FeedHead(feed="trials", seq=0, id=last.id),)
        robbed.append("main", "d" * 64, lambda entry: Revocation(entry=entry, reason="", heads=heads, successor=None))
    store.remember_peer("somebody", "somewhere")
    store.close()
    return store.path


@pytest.fixture
def path(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sound, tmp_path / "ledger.db"))


def everything(store: Store) -> tuple[object, ...]:
    """All but the peers, which nobody signed."""
    rows = [store.db.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() for table in ("entries", "refused")]
    blobs = [store.blobs.get(row[0]) for row in store.db.execute("SELECT digest FROM blobs ORDER BY digest")]
    return rows, blobs, store.heads(), store.challenge, tables.digest(store.db)


def checked(path: Path, *, rebuild: bool = False) -> list[Finding]:
    with closing(Store.open(path)) as store:
        return list(fsck(store, rebuild=rebuild))


def test_a_sound_ledger_is_clean_and_stays_as_it_is(path: Path) -> None:
    with closing(Store.open(path)) as store:
        before = everything(store)
        (two_histories,) = fsck(store)
        assert (two_histories.severity, two_histories.check) == ("warning", "author")
        (proof,) = store.proofs()
        assert two_histories.where == f"{proof.author}/trials/0"
        signed = {open_envelope(envelope).id for envelope in (proof.first, proof.second)}
        assert set(re.findall(r"bafkrei\w+", two_histories.what)) == signed
        assert everything(store) == before


FLIPPED = "CAST(substr(envelope, 1, 900) || x'00' || substr(envelope, 902) AS BLOB)"
ONE, FOUR = examples.author_id(1), examples.author_id(4)


def damage(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(f"PRAGMA writable_schema = ON; PRAGMA foreign_keys = OFF; {sql}")
        database.commit()


UNMENDABLE = {
    "an altered envelope": (
        f"UPDATE entries SET envelope = {FLIPPED} WHERE rowid = 3",
        ("entry", f"{ONE}/trials/2", "the envelope in row 3 does not open"),
    ),
    "an envelope cut short": (
        "UPDATE entries SET envelope = x'' WHERE rowid = 3",
        ("entry", f"{ONE}/trials/2", "the envelope in row 3 does not open"),
    ),
    "an altered time": (
        "UPDATE entries SET recorded_at = '2027' WHERE rowid = 3",
        ("entry", f"{ONE}/trials/2", "row 3 says another recorded_at than was signed"),
    ),
    "an altered subject and place": (
        "UPDATE entries SET subject = 'x', lamport = 7 * lamport WHERE rowid = 3",
        ("entry", f"{ONE}/trials/2", "row 3 says another lamport, subject than was signed"),
    ),
    "text that is no text": (
        "UPDATE entries SET kind = CAST(x'ff' AS TEXT) WHERE rowid = 3",
        ("entry", f"{ONE}/trials/2", "row 3 says another kind than was signed"),
    ),
    "entries in the middle": (
        "DELETE FROM entries WHERE rowid IN (2, 3)",
        ("feed", f"{ONE}/trials", "entries 1 to 2 are lost"),
    ),
    "entries at the end": (
        "DELETE FROM entries WHERE rowid IN (5, 6)",
        ("feed", f"{ONE}/trials", "entries 4 to 5 are lost"),
    ),
    "a whole feed": (
        f"DELETE FROM entries WHERE author = '{ONE}' AND feed = 'trials'",
        ("feed", f"{ONE}/trials", "entries 0 to 5 are lost"),
    ),
    "an entry twice": (
        "UPDATE entries SET rowid = 999 WHERE rowid = 3",
        ("feed", f"{ONE}/trials", "entry 2 stands after entry 5"),
    ),
    "the ledger's challenge": (
        f"UPDATE about SET challenge = '{'d' * 64}'",
        ("entry", f"{ONE}/trials/0", "belongs to another challenge than this ledger"),
    ),
    "an altered proof": (
        f"UPDATE refused SET envelope = {FLIPPED} WHERE reason = 'equivocation'",
        ("refused", f"{examples.author_id(3)}/trials/0", "does not open"),
    ),
    "an altered reason": (
        "UPDATE refused SET reason = 'equivocation' WHERE seq = 2",
        ("refused", f"{FOUR}/trials/2", "as a second entry, and there is no first"),
    ),
    "a refused entry's place": (
        "UPDATE refused SET seq = 3 WHERE seq = 2",
        ("refused", f"{FOUR}/trials/3", "says another place than was signed"),
    ),
    "a revocation": (
        "UPDATE revocations SET heads = '{}'",
        ("revocation", f"{FOUR}/trials", "entry 0 is believed, and its author has revoked its key before it"),
    ),
    "a table of the truth": ("DROP TABLE refused", ("schema", "refused", "is missing")),
}  # fmt: skip

REBUILT = {
    "a kind": (
        "UPDATE entries SET kind = 'adoption' WHERE rowid = 3",
        ("entry", f"{ONE}/trials/2", "row 3 says another kind than was signed"),
    ),
    "a derived row that is gone": (
        "DELETE FROM trial_results WHERE rowid = 2",
        ("derived", "trials", "has 7 rows, where the envelopes give 8"),
    ),
    "a derived row that is altered": (
        "UPDATE attestations SET verdict = 'refuted'",
        ("derived", "attestations", "has rows that the envelopes do not give"),
    ),
    "a derived row that nobody stated": (
        "INSERT INTO entry_text VALUES ('x', 'skill', 'longer warm-ups help')",
        ("derived", "entry_text", "has 6 rows, where the envelopes give 5"),
    ),
    "a head": (
        "UPDATE feeds SET seq = 77 WHERE feed = 'trials'",
        ("derived", "feeds", "has rows that the envelopes do not give"),
    ),
    "a table": ("DROP TABLE claims", ("derived", "claims", "cannot be read")),
    "an index": ("DROP INDEX entries_by_kind", ("schema", "entries_by_kind", "is missing")),
    "a view": ("DROP VIEW effects; CREATE VIEW effects AS SELECT 1", ("schema", "effects", "in another way")),
    "an index that is not of its table": (
        """DROP INDEX entries_by_kind; CREATE INDEX entries_by_kind ON entries (subject, kind);
           UPDATE sqlite_schema SET sql = 'CREATE INDEX entries_by_kind ON entries (kind, lamport)'
           WHERE name = 'entries_by_kind'""",
        ("file", "pages", "missing from index entries_by_kind"),
    ),
    "the search index": (
        "UPDATE entry_text_data SET block = zeroblob(length(block)) WHERE id > 10",
        ("search", "entry_text", "the index for full-text search is wrong"),
    ),
    "the search index's sizes": ("DELETE FROM entry_text_docsize", ("search", "entry_text", "is wrong")),
    "a blob": ("UPDATE blobs SET data = x'00' WHERE rowid = 1", ("blob", "", "cannot be read")),
    "a blob's size": ("UPDATE blobs SET size = 1 WHERE rowid = 1", ("blob", "", "its row says 1")),
    "a blob in place of another": (
        "UPDATE blobs SET data = (SELECT data FROM blobs WHERE rowid = 2) WHERE rowid = 1",
        ("blob", "", "is not the bytes that its digest names"),
    ),
}  # fmt: skip


def assert_found(findings: list[Finding], expected: tuple[str, str, str]) -> None:
    check, where, what = expected
    found = [each for each in findings if each.check == check and where in each.where and what in each.what]
    assert found, findings
    assert all(each.severity == "error" and each.remedy for each in found)


@pytest.mark.parametrize("case", UNMENDABLE)
def test_what_is_lost_is_named(path: Path, case: str) -> None:
    sql, expected = UNMENDABLE[case]
    damage(path, sql)
    assert_found(checked(path), expected)


@pytest.mark.parametrize("case", REBUILT)
def test_what_follows_from_the_envelopes_is_mended_by_a_rebuild(sound: Path, path: Path, case: str) -> None:
    sql, expected = REBUILT[case]
    damage(path, sql)
    findings = checked(path)
    assert_found(findings, expected)
    assert any(REBUILD in found.remedy for found in findings if found.check == expected[0])
    after = checked(path, rebuild=True)
    assert [found for found in after if found.severity == "error"] == []
    with closing(Store.open(path)) as store, closing(Store.open(sound)) as before:
        assert tables.digest(store.db) == tables.digest(before.db)
        assert list(store.entries()) == list(before.entries())
    if expected[0] == "blob":
        assert [found.check for found in after if "removed" in found.what] == ["blob"]


def test_what_is_not_ours_is_said_and_left_until_a_rebuild(path: Path) -> None:
    damage(path, 'CREATE TABLE "mine; or ""not" (a); CREATE VIEW my_view AS SELECT 1')
    found = [(each.severity, each.where) for each in checked(path) if each.check == "schema"]
    assert found == [("note", 'mine; or "not'), ("note", "my_view")]
    assert [each.check for each in checked(path, rebuild=True)] == ["author"]


def test_a_rebuild_keeps_the_only_trace_of_a_lost_end(path: Path) -> None:
    damage(path, "DELETE FROM entries WHERE rowid IN (5, 6)")
    for _ in range(2):
        findings = checked(path, rebuild=True)
        assert_found(findings, ("feed", f"{ONE}/trials", "its end is lost, so nothing was rebuilt"))
        assert_found(findings, ("feed", f"{ONE}/trials", "entries 4 to 5 are lost"))


def lost_by_name(findings: list[Finding]) -> set[tuple[str, int]]:
    """Feed and place of every entry that the findings name as lost."""
    lost = set()
    for found in findings:
        span = re.fullmatch(r"entries (\d+) to (\d+) are lost", found.what)
        if found.check == "feed" and span is not None:
            lost |= {(found.where, seq) for seq in range(int(span[1]), int(span[2]) + 1)}
        elif found.check == "entry" and "does not open" in found.what:
            feed, _, seq = found.where.rpartition("/")
            lost.add((feed, int(seq)))
    return lost


@pytest.mark.parametrize("rowid", [1, 4, 9, 12])
def test_a_page_that_is_gone_is_named_by_its_entries_and_the_rest_is_salvaged(
    sound: Path, path: Path, tmp_path: Path, rowid: int
) -> None:
    with closing(Store.open(sound)) as store:
        rows = store.db.execute("SELECT rowid, author || '/' || feed, seq, envelope FROM entries").fetchall()
        here = {(feed, seq): number for number, feed, seq, _ in rows}
        envelope = next(row[3] for row in rows if row[0] == rowid)
    data = bytearray(path.read_bytes())
    page = data.index(envelope[-64:]) // 4096 * 4096
    data[page : page + 4096] = bytes(4096)
    path.write_bytes(data)
    with closing(Store.open(path)) as store:
        readable = {row[0] for row in readable_rows(store.db, "entries", ("envelope",))}
        lost = {place for place, number in here.items() if number not in readable}
        assert lost
        findings = list(fsck(store))
        assert lost_by_name(findings) == lost
        assert_found(findings, ("file", "pages", ""))
        made = salvage(store, tmp_path / "salvaged.db")
    with closing(Store.open(tmp_path / "salvaged.db")) as copy:
        assert errors(copy) == []
        kept = {
            (f"{author}/{feed}", seq) for author, feed, seq in copy.db.execute("SELECT author, feed, seq FROM entries")
        }
    first_lost = {feed: min(seq for name, seq in lost if name == feed) for feed, _ in lost}
    assert kept == {(feed, seq) for feed, seq in here if seq < first_lost.get(feed, 10**9)}
    assert (made.entries, made.entries_left) == (len(kept), len(here) - len(lost) - len(kept))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_without_its_end_is_checked_as_far_as_it_goes(path: Path, tmp_path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    try:
        findings = checked(path)
    except LedgerDamaged:
        return
    assert any(found.severity == "error" and SALVAGE in found.remedy for found in findings)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_in_the_file_is_found_or_changes_nothing(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Where it changes nothing: free space, and facts about the file that SQLite does not use."""
    content = bytearray(sound.read_bytes())
    with closing(Store.open(sound)) as store:
        before = everything(store)
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flipped") / "ledger.db"
    path.write_bytes(content)
    try:
        store = Store.open(path)
    except LedgerError:
        return
    with closing(store):
        assert errors(store) or everything(store) == before


def test_a_ledger_is_checked_while_another_process_adds_to_it(path: Path) -> None:
    with closing(Store.open(path)) as store, closing(Store.open(path)) as running:
        damaged = examples.author(running, 9)
        findings = []
        for number, found in enumerate(fsck(store, progress=lambda *_: examples.state_adoption(damaged, "a" * 64))):
            findings.append((number, found.severity))
        assert findings == [(0, "warning")]
        assert running.head(damaged.id, "main") is not None
        assert errors(store) == []


def test_findings_are_counted_after_the_first_hundred(tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    by = examples.author(store)
    with store.batch():
        for seed in range(FINDINGS_MAX + 50):
            examples.state_trial(by, "a" * 64, seed, 3.0)
    store.db.execute("UPDATE entries SET recorded_at = 'never'")
    found = [each for each in fsck(store) if each.check == "entry"]
    assert len(found) == FINDINGS_MAX + 1
    assert found[-1].what == "and 50 more like these"
    assert found[-1].severity == "error"


def test_progress_is_told_with_a_total(path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with closing(Store.open(path)) as store:
        list(fsck(store, progress=lambda *step: told.append(step)))
    assert told
    assert all(0 <= done <= total for _, done, total in told)


def test_a_salvaged_sound_ledger_is_the_same(path: Path, tmp_path: Path) -> None:
    with closing(Store.open(path)) as store:
        made = salvage(store, tmp_path / "copy.db")
        with closing(Store.open(tmp_path / "copy.db")) as copy:
            assert copy.heads() == store.heads()
            assert tables.digest(copy.db) == tables.digest(store.db)
            assert copy.proofs() == store.proofs()
            assert copy.peers() == store.peers()
            assert copy.blobs.garbage(()) == store.blobs.garbage(())
        assert made == (len(list(store.entries())), 0, 2, 0)
        with pytest.raises(LedgerError, match="exists already"):
            salvage(store, tmp_path / "copy.db")


def test_a_checkpoint_of_another_history_is_said_and_is_no_damage(tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    by = examples.author(store)
    examples.state_trial(by, "a" * 64, 0, 3.0)
    note = sign(examples.key(1), TreeHead(origin(examples.CHALLENGE, by.id, "trials"), 1, bytes(32)))
    stated = by.append("main", examples.digest(note), lambda entry: Checkpoint(entry=entry, feed="trials", note=note))
    (found,) = fsck(store)
    assert (found.severity, found.check, found.where) == ("warning", "checkpoint", f"{by.id}/trials")
    assert stated.id in found.what


def test_what_has_not_arrived_is_noted(tmp_path: Path) -> None:
    """A ledger with the main feeds only, as a light node may hold it."""
    store, light = examples.new_store(tmp_path), examples.new_store(tmp_path, "light.db")
    by = examples.author(store)
    found = examples.state_discovery(by, "a" * 64, "b" * 64)
    committed = by.checkpoint("trials")
    for signed in (found, committed):
        light.add(signed)
    notes = {note.what: note for note in fsck(light)}
    assert {note.severity for note in notes.values()} == {"note"}
    assert "6 entries that are named are not here, or not yet" in notes
    assert "2 programs of discoveries that are named are not here, or not yet" in notes
    assert "has 0 entries here, and its author signed a tree of 6" in notes


def test_numbers_that_sqlite_writes_otherwise_are_no_damage(tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    by = examples.author(store)
    body = examples.discovery_body(by, "a" * 64, "b" * 64)

    def with_negative_zero(entry: examples.Entry) -> Discovery:
        found = body(entry)
        comparison = msgspec.structs.replace(found.comparison, mean=-0.0, low=-1e-320, high=2.0)
        return msgspec.structs.replace(found, comparison=comparison, hypothesis="nul \0, and \u2028")

    by.append("main", "b" * 64, with_negative_zero)
    assert errors(store) == []


def test_the_document_names_every_check() -> None:
    text = DOCUMENT.read_text()
    assert [check for check in typing.get_args(Check) if f"`{check}`" not in text] == []
