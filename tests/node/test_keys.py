"""Keys through the command line: shown, revoked, rotated; proofs; and a key that outlived its ledger."""

import json
import subprocess
import sys
from pathlib import Path

import examples
import pytest

from ledger import queries
from ledger.author import Author
from ledger.envelope import peer_id
from ledger.errors import KeyRevoked
from node import keys
from node.home import Home, found_challenge
from node.identity import load_key
from node.tracks import CPU_TRACK, own_tracks


def waggle(*arguments: str | Path, code: int = 0, stdin: bytes = b"") -> str:
    """What the command says; its exit code has to be `code`, and a refusal is one line."""
    command = [sys.executable, "-m", "node.cli", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr.decode()
    assert not code or len(done.stderr.splitlines()) == 1, done.stderr.decode()
    return (done.stderr if code else done.stdout).decode()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("".join(f"Line {number} of a small text.\n" for number in range(4000)))
    return file


@pytest.fixture
def home(tmp_path: Path, text: Path) -> Home:
    home = Home(tmp_path / "home")
    found_challenge(home, "test", [text], own_tracks([CPU_TRACK], 1.0))
    return home


def author_of(home: Home) -> Author:
    return Author(home.store(home.challenge()), home.key())


def test_show_names_the_peer_and_makes_no_key(home: Home, tmp_path: Path) -> None:
    shown = json.loads(waggle("key", "show", "--home", home.path, "--json"))
    assert shown == {"peer": peer_id(home.key().public_key()), "file": str(home.path / "identity.key")}
    assert "waggle init" in waggle("key", "show", "--home", tmp_path / "nowhere", code=2)
    assert not (tmp_path / "nowhere").exists()


def test_after_a_rotation_the_new_key_goes_on_and_the_old_one_cannot(home: Home) -> None:
    old = author_of(home)
    stated = examples.state_adoption(old, "a" * 64)
    done = json.loads(waggle("key", "rotate", "--home", home.path, "--reason", "a new laptop", "--json"))
    new = author_of(home)
    assert (done["old"], done["new"]) == (old.id, new.id)
    assert Path(done["kept"]).stat().st_mode & 0o777 == 0o600
    store = home.store(home.challenge())
    assert store.revocation(old.id, new.id) == done["revocation"]
    assert store.entry(stated.id) is not None
    with pytest.raises(KeyRevoked):
        examples.state_adoption(Author(store, load_key(Path(done["kept"]))), "b" * 64)
    examples.state_adoption(new, "b" * 64)


def test_a_rotation_that_was_cut_short_goes_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    old = author_of(home).id
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError("no power")))
    with pytest.raises(OSError, match="no power"):
        keys.rotate(home, "a new laptop")
    monkeypatch.setattr(Path, "replace", replace)
    assert author_of(home).id == old
    done = keys.rotate(home, "a new laptop")
    assert author_of(home).id == done.new
    assert queries.counts(home.store(home.challenge()))["revocation"] == 1


def test_a_revoked_key_states_nothing_more(home: Home) -> None:
    assert "revoked by bafkrei" in waggle("key", "revoke", "--home", home.path, "--reason", "stolen")
    assert "revoked" in waggle("key", "revoke", "--home", home.path, "--reason", "stolen again", code=2)


def test_a_key_without_its_ledger_begins_new_feeds(home: Home, tmp_path: Path, text: Path) -> None:
    """The ledger is lost and the key is not: what it signs now must not stand where it signed before."""
    assert author_of(home).feed("main") == "main"
    again = Home(tmp_path / "again")
    again.path.mkdir()
    (again.path / "identity.key").write_bytes(home.key_file.read_bytes())
    found_challenge(again, "test", [text], own_tracks([CPU_TRACK], 1.0))
    assert author_of(again).feed("main").startswith("main.")
    assert queries.counts(again.store(again.challenge())) == {"feed-reset": 1}


def test_a_proof_convinces_without_the_ledger(home: Home, tmp_path: Path) -> None:
    entry = examples.state_adoption(author_of(home), "a" * 64)
    assert "ledger checkpoint" in waggle("ledger", "prove", entry.id[:20], "--home", home.path, code=2)
    assert "main" in waggle("ledger", "checkpoint", "--home", home.path)
    assert "nothing to commit to" in waggle("ledger", "checkpoint", "--home", home.path, code=2)
    proof = waggle("ledger", "prove", entry.id[:20], "--home", home.path).encode()
    file = tmp_path / "proof"
    file.write_bytes(proof)
    assert f"proved: adoption {entry.id}" in waggle("ledger", "check", file)
    facts = json.loads(waggle("ledger", "check", "-", "--json", stdin=proof))
    assert (facts["author"], facts["seq"], facts["tree_size"]) == (author_of(home).id, 0, 1)
    assert "proves nothing" in waggle("ledger", "check", "-", code=2, stdin=proof.replace(b'"index": 0', b'"index": 1'))
    with home.locked():
        assert "already running" in waggle("ledger", "checkpoint", "--home", home.path, code=2)
