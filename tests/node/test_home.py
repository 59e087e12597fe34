"""A home comes into being once and whole, is held by one node, and says what is wrong with it."""

import hashlib
import stat
from pathlib import Path

import examples
import pytest

from ledger.envelope import peer_id
from ledger.errors import LedgerDamaged
from ledger.store import Store
from node.errors import UserError
from node.home import Home, found_challenge, usable_salt
from node.tracks import CPU_TRACK, baseline_program, own_tracks
from trainer.challenge import ChallengeError, Track
from trainer.corpus import Corpus, CorpusError, Document, split, validation_rows
from trainer.tokens import ByteTokens


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


def test_a_new_home_holds_everything_that_its_challenge_names(home: Home) -> None:
    challenge = home.challenge()
    store = home.store(challenge, check=True)
    track = challenge.tracks["cpu-quick"]
    assert store.blobs.get(track.baseline) == baseline_program(CPU_TRACK)
    assert hashlib.sha256(store.blobs.get(challenge.corpus.digest)).hexdigest() == challenge.corpus.digest
    assert store.blobs.get(challenge.digest()) == challenge.canonical()
    assert home.corpus_path(challenge, store).read_bytes() == store.blobs.get(challenge.corpus.digest)
    assert challenge.founder == peer_id(home.key().public_key())


def test_secrets_are_the_owners_only_and_stay_the_same(home: Home) -> None:
    for name in ("identity.key", "private.salt"):
        assert stat.S_IMODE((home.path / name).stat().st_mode) == 0o600
    assert home.key().private_bytes_raw() == Home(home.path).key().private_bytes_raw()
    assert home.private_split() == Home(home.path).private_split()
    assert home.private_split().name == "private:" + hashlib.sha256(home.private_split().salt).hexdigest()


def test_a_home_is_founded_once(home: Home, text: Path) -> None:
    before = home.challenge_file.read_bytes()
    with pytest.raises(UserError, match="already the home of challenge"):
        found_challenge(home, "other", [text], own_tracks([CPU_TRACK], 1.0))
    assert home.challenge_file.read_bytes() == before


def test_an_interrupted_founding_is_done_again(tmp_path: Path, text: Path) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    Store.create(home.ledger_file, "d" * 64).close()  # as far as the interrupted attempt came
    found_challenge(home, "test", [text], own_tracks([CPU_TRACK], 1.0))
    assert home.store(home.challenge()).challenge == home.challenge().digest()


def test_a_ledger_with_statements_is_never_replaced(home: Home, text: Path) -> None:
    store = home.store(home.challenge())
    examples.author(store)
    stated = examples.state_adoption(examples.author(store), "a" * 64)
    home.challenge_file.unlink()
    with pytest.raises(UserError, match="holds 1 statements"):
        found_challenge(home, "test", [text], own_tracks([CPU_TRACK], 1.0))
    assert Store.open(home.ledger_file).entry(stated.id) == stated


def test_a_bad_corpus_leaves_nothing_behind(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with pytest.raises(CorpusError):
        found_challenge(home, "test", [tmp_path / "absent.txt"], own_tracks([CPU_TRACK], 1.0))
    assert not home.is_initialised()
    assert not home.ledger_file.exists()


def test_what_cannot_be_a_challenge_leaves_no_home(tmp_path: Path, text: Path) -> None:
    home = Home(tmp_path / "home")
    with pytest.raises(ChallengeError, match="name"):
        found_challenge(home, "My Challenge", [text], own_tracks([CPU_TRACK], 1.0))
    tiny = tmp_path / "tiny.txt"
    tiny.write_text("One line.\n")
    with pytest.raises(UserError, match="too small"):
        found_challenge(home, "test", [tiny], own_tracks([CPU_TRACK], 1.0))
    assert not home.is_initialised()
    found_challenge(home, "test", [text], own_tracks([CPU_TRACK], 1.0))


def test_every_salt_that_is_drawn_gives_both_sides() -> None:
    """Of a few documents many salts put none into validation."""
    corpus = Corpus(tuple(Document(f"{n}", b"%d " % n * 3000) for n in range(12)))
    track = Track(baseline="0" * 64, eval_bytes=1024)
    for _ in range(30):
        salt = usable_salt(corpus, 0.1, {"t": track}, ByteTokens())
        training, validation = split(corpus, salt, 0.1)
        assert training
        assert validation_rows(validation, track.seq_len, track.eval_bytes)


def test_what_is_wrong_with_a_home_is_said(home: Home, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no challenge"):
        Home(tmp_path / "nowhere").challenge()
    challenge = home.challenge()
    home.challenge_file.write_text(challenge.to_toml().replace("validation_share = 0.1", "validation_share = 0.2"))
    with pytest.raises(UserError, match="is the ledger of challenge"):
        home.store(home.challenge())
    home.challenge_file.write_text("name = [")
    with pytest.raises(ChallengeError, match=r"challenge\.toml"):
        home.challenge()
    (home.path / "identity.key").write_text("not a key")
    with pytest.raises(UserError, match="cannot be read as a private key"):
        home.key()
    (home.path / "private.salt").write_bytes(b"short")
    with pytest.raises(UserError, match="is damaged"):
        home.private_split()
    home.ledger_file.unlink()
    with pytest.raises(LedgerDamaged, match="is missing"):
        home.store(challenge)


def test_one_node_at_a_time(home: Home) -> None:
    assert not home.is_locked()
    with home.locked():
        assert home.is_locked()
        with pytest.raises(UserError, match="already running"), home.locked():
            pass
    assert not home.is_locked()
