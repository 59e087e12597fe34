"""`waggle ledger fsck` and `gc` on a home: what they print and refuse, and what a salvaged ledger is good for."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click
import examples
import pytest
from click.testing import CliRunner, Result

from ledger.author import Author
from ledger.errors import LedgerDamaged, LedgerError
from ledger.store import Store
from node.errors import UserError
from node.home import Home, found_challenge
from node.mending_cli import fsck_command, gc_command
from node.tracks import CPU_TRACK, own_tracks


@pytest.fixture
def home(tmp_path: Path) -> Home:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {number} of a small text.\n" for number in range(4000)))
    home = Home(tmp_path / "home")
    found_challenge(home, "test", [text], own_tracks([CPU_TRACK], 1.0))
    with opened(home) as store:
        by = Author(store, home.key())
        examples.state_discovery(by, store.blobs.put(b"parent"), store.blobs.put(b"child"))
    return home


@contextmanager
def opened(home: Home) -> Iterator[Store]:
    with closing(Store.open(home.ledger_file)) as store:
        yield store


def run(command: click.Command, home: Home, *arguments: str | Path) -> Result:
    return CliRunner().invoke(command, ["--home", str(home.path), *map(str, arguments)])


def test_a_sound_home_is_clean(home: Home) -> None:
    done = run(fsck_command, home)
    assert (done.exit_code, done.stdout) == (0, "clean\n")
    assert json.loads(run(fsck_command, home, "--json").stdout) == []


def test_damage_is_printed_with_its_remedy_and_exit_code_1(home: Home) -> None:
    with opened(home) as store:
        store.db.execute("UPDATE entries SET recorded_at = char(27) || '[31m', author = char(27) || author")
    done = run(fsck_command, home)
    assert done.exit_code == 1
    assert done.stdout.endswith("\ndamaged\n")
    assert "→ `waggle ledger fsck --salvage FILE`" in done.stdout
    assert "\x1b" not in done.stdout
    findings = json.loads(run(fsck_command, home, "--json").stdout)
    assert {found["check"] for found in findings} >= {"entry"}


def test_what_a_rebuild_can_mend_is_mended(home: Home) -> None:
    with opened(home) as store:
        store.db.execute("DELETE FROM discoveries")
    assert run(fsck_command, home).exit_code == 1
    assert run(fsck_command, home, "--rebuild").exit_code == 0
    assert run(fsck_command, home).exit_code == 0


def test_a_ledger_that_cannot_be_opened_says_what_to_do(home: Home) -> None:
    home.ledger_file.write_bytes(b"no ledger" * 1000)
    error = run(fsck_command, home).exception
    assert isinstance(error, LedgerDamaged)  # exit code 2, by node.cli
    assert "--salvage" in str(error)


def test_what_changes_the_ledger_waits_for_the_node_to_stop(home: Home) -> None:
    with home.locked():
        for command, *arguments in ((fsck_command, "--rebuild"), (gc_command,), (fsck_command, "--salvage", "x.db")):
            assert isinstance(run(command, home, *arguments).exception, UserError)
        assert run(fsck_command, home).exit_code == 0
        assert run(gc_command, home, "--dry-run").exit_code == 0
    assert isinstance(run(fsck_command, home, "--rebuild", "--salvage", "x.db").exception, UserError)


def test_a_salvaged_ledger_takes_the_place_of_the_damaged_one(home: Home, tmp_path: Path) -> None:
    with opened(home) as store:
        by = Author(store, home.key())
        lost = examples.state_trial(by, "a" * 64, 9, 3.0)
        store.db.execute("UPDATE entries SET envelope = x'00' WHERE id = ?", (lost.id,))
    salvaged = tmp_path / "salvaged.db"
    done = run(fsck_command, home, "--salvage", salvaged)
    assert done.exit_code == 0, done.exception
    assert "1 entries and 0 blobs could be read and not be kept" in done.stdout
    assert isinstance(run(fsck_command, home, "--salvage", salvaged).exception, LedgerError)
    salvaged.replace(home.ledger_file)
    assert run(fsck_command, home).exit_code == 0
    with opened(home) as store:
        after = examples.state_trial(Author(store, home.key()), "a" * 64, 9, 3.0)
    assert after.statement.entry.feed != lost.statement.entry.feed  # never a second entry for that place


def test_a_salvaged_ledger_without_any_own_entry_left_begins_new_feeds_too(home: Home, tmp_path: Path) -> None:
    with opened(home) as store:
        store.db.execute("UPDATE entries SET envelope = x'00'")
    done = run(fsck_command, home, "--salvage", tmp_path / "salvaged.db", "--json")
    assert json.loads(done.stdout) | {"file": ""} == {
        "entries": 0, "entries_left": 7, "blobs": 6, "blobs_left": 0, "file": "", "writable": True,
    }  # fmt: skip
    with closing(Store.open(tmp_path / "salvaged.db")) as copy:
        assert Author(copy, home.key()).feed("main").startswith("main.")


def test_gc_removes_what_nothing_names_and_never_a_part_of_the_challenge(home: Home) -> None:
    challenge = home.challenge()
    parts = {challenge.digest(), challenge.constitution, challenge.corpus.digest}
    parts |= {track.baseline for track in challenge.tracks.values()}
    with opened(home) as store:
        orphan = store.blobs.put(b"an orphan" * 1000)
        assert all(store.blobs.has(part) for part in parts)
    would = json.loads(run(gc_command, home, "--dry-run", "--json").stdout)
    assert (would["removed"], would["blobs"], would["bytes"]) == (False, 1, 9000)
    assert orphan in run(gc_command, home, "--dry-run").stdout
    done = run(gc_command, home, "--vacuum")
    assert done.exit_code == 0, done.exception
    assert orphan in done.stdout
    with opened(home) as store:
        assert not store.blobs.has(orphan)
        assert all(store.blobs.has(part) for part in parts)
        assert store.blobs.missing(10) == []
    assert json.loads(run(gc_command, home, "--json").stdout)["blobs"] == 0
    assert run(fsck_command, home).exit_code == 0
