"""Private salts: counted, rotated, revealed; and whatever a crash leaves of the file is read rightly."""

import hashlib
import os
import secrets
import stat
from pathlib import Path

import examples
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import BadStatement
from ledger.predicates import Reveal
from ledger.statements import commit, decode, encode, opens
from node.errors import UserError
from node.home import Home, found_challenge
from node.salts import SALT_BYTES, Salts
from node.tracks import CPU_TRACK, own_tracks
from policy.splits import USES_MAX
from trainer.corpus import Corpus, split

FIRST = bytes(range(SALT_BYTES))


class Drawn:
    """Draws 1, 2, 3, …, and knows how often."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> bytes:
        self.count += 1
        return self.count.to_bytes(SALT_BYTES, "big")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "private.salt"
    Salts.create(path, FIRST)
    return path


def test_a_salt_serves_its_uses_and_is_then_spent(path: Path) -> None:
    drawn = Drawn()
    salts = Salts(path, drawn)
    assert [salts.use() for _ in range(USES_MAX)] == [FIRST] * USES_MAX
    assert salts.current() == FIRST
    assert drawn.count == 0
    assert salts.unrevealed() == []
    second = salts.use()
    assert second == salts.current() == bytes(SALT_BYTES - 1) + b"\1"
    assert (salts.uses, salts.unrevealed()) == (1, [FIRST])
    for _ in range(USES_MAX):
        salts.use()
    assert salts.unrevealed() == [FIRST, second]
    salts.mark_revealed(FIRST)
    assert salts.unrevealed() == [second]


def test_asking_for_the_current_one_counts_nothing(path: Path) -> None:
    salts = Salts(path, Drawn())
    before = path.read_bytes()
    for _ in range(3 * USES_MAX):
        assert salts.current() == FIRST
    assert path.read_bytes() == before


def test_what_was_counted_survives_and_is_the_owners_only(path: Path) -> None:
    drawn = Drawn()
    for _ in range(USES_MAX + 3):
        Salts(path, drawn).use()  # a node that is started again for each
    again = Salts(path, drawn)
    assert (again.uses, drawn.count, again.unrevealed()) == (3, 1, [FIRST])
    again.mark_revealed(FIRST)
    assert Salts(path, drawn).unrevealed() == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_crash_at_any_byte_of_an_append_loses_nothing_that_was_acknowledged(path: Path) -> None:
    salts = Salts(path, Drawn())
    for _ in range(USES_MAX):
        salts.use()
    acknowledged = len(path.read_bytes())
    salts.use()
    salts.mark_revealed(FIRST)
    whole = path.read_bytes()
    for length in range(acknowledged, len(whole) + 1):
        path.write_bytes(whole[:length])
        drawn = Drawn()
        torn = Salts(path, drawn)
        rotated = b"salt" in whole[acknowledged:length] and whole[acknowledged:length].count(b"\n") >= 1
        assert torn.current() == (salts.current() if rotated else FIRST)
        torn.use()
        assert drawn.count == (0 if rotated else 1)
        again = Salts(path, drawn)
        assert (again.current(), again.uses) == (torn.current(), torn.uses)
        assert again.unrevealed() in ([FIRST], [])


def test_a_new_salt_is_on_the_disk_before_it_is_given_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append(path.read_text().splitlines()[-1]))
    salts = Salts(path, Drawn())
    for _ in range(USES_MAX + 1):
        salts.use()
    assert order == ["use"] * USES_MAX + ["salt " + salts.current().hex(), "use"]


def test_a_file_from_before_salts_rotated_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "private.salt"
    path.write_bytes(FIRST)
    path.chmod(0o600)
    salts = Salts(path, Drawn())
    assert salts.current() == FIRST
    salts.use()
    assert (Salts(path, Drawn()).current(), Salts(path, Drawn()).uses) == (FIRST, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["private.salt"]


def test_a_salt_file_is_never_replaced(path: Path) -> None:
    Salts.create(path, b"x" * SALT_BYTES)
    assert Salts(path, Drawn()).current() == FIRST


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"waggle private salts 1\n",
        b"waggle private salts 1\nuse\n",
        b"waggle private salts 1\nsalt 00\n",
        b"waggle private salts 1\nsalt " + b"0" * 32 + b"\nused\nuse\n",
        b"waggle private salts 1\nrevealed " + b"0" * 32 + b"\nsalt " + b"0" * 32 + b"\n",
        b"waggle private salts 2\nsalt " + b"0" * 32 + b"\n",
    ],
)
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "private.salt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        Salts(path, Drawn())
    assert path.read_bytes() == content


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    path = Path("/dev/shm") / f"salts-{secrets.token_hex(8)}"
    path.write_bytes(data)
    try:
        Salts(path, Drawn())
    except UserError:
        assert len(data) != SALT_BYTES
    finally:
        path.unlink()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        Salts(tmp_path / "private.salt", Drawn())


# In a home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{number * 7919}: line {number} of a small text.\n" for number in range(4000)))
    home = Home(tmp_path / "home")
    found_challenge(home, "test", [text], own_tracks([CPU_TRACK], 1.0))
    return home


def test_a_home_rotates_to_a_salt_that_splits_its_corpus(home: Home) -> None:
    salts, before = home.salts(), home.private_split()
    for _ in range(USES_MAX + 1):
        salts.use()
    after = home.private_split()
    assert after.salt == salts.current() != before.salt
    assert after.name == commit(after.salt) != before.name
    assert [commit(salt) for salt in salts.unrevealed()] == [before.name]
    challenge = home.challenge()
    corpus = Corpus.open(home.corpus_path(challenge, home.store(challenge)))
    assert split(corpus, before.salt, 0.1) != split(corpus, after.salt, 0.1)


def test_a_home_from_before_salts_rotated_keeps_its_split(home: Home) -> None:
    before = home.private_split()
    (home.path / "private.salt").write_bytes(before.salt)
    assert home.private_split() == before
    assert home.salts().use() == before.salt


# The statement


def test_a_reveal_opens_the_commitment_that_is_its_subject(tmp_path: Path) -> None:
    by = examples.author(examples.new_store(tmp_path))
    digest = hashlib.sha256(FIRST).hexdigest()
    signed = by.append("main", digest, lambda entry: Reveal(entry=entry, salt=FIRST.hex()))
    statement = decode(encode(digest, signed.statement.body))  # type: ignore[arg-type]
    assert statement.kind == "reveal"
    assert isinstance(statement.body, Reveal)
    assert opens(f"private:{statement.subject}", bytes.fromhex(statement.body.salt))
    payload = msgspec.json.decode(msgspec.msgpack.decode(signed.envelope)["payload"])
    assert payload["predicateType"] == "urn:waggle:reveal:v1"
    assert payload["subject"] == [{"name": "salt", "digest": {"sha256": digest}}]


def test_only_the_salt_itself_opens_a_commitment() -> None:
    assert opens(commit(FIRST), FIRST)
    assert not opens(commit(FIRST), FIRST + b"\0")
    assert not opens(commit(FIRST).removeprefix("private:"), FIRST)
    assert not opens("public", FIRST)


@pytest.mark.parametrize("salt", ["", "0", "0g", "AB", "00" * 65, "00\n", " 00"])
def test_a_reveal_holds_a_salt_in_hex(tmp_path: Path, salt: str) -> None:
    by = examples.author(examples.new_store(tmp_path))
    with pytest.raises(BadStatement):
        by.append("main", "0" * 64, lambda entry: Reveal(entry=entry, salt=salt))
