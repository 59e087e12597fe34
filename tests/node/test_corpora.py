"""`waggle init --corpus` and `waggle corpus info`, and corpora that are too large for peers."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from loopback import PATIENCE_S, News, Node

from node import corpora, joining
from node import home as home_module
from node.corpora import info_of_home, info_of_sources, lines
from node.errors import UserError
from node.home import Home, found_challenge
from node.joining import fetch_challenge
from node.tracks import CPU_TRACK, own_tracks
from trainer.corpus import Corpus, Document, silent

TEXT = "".join(f"{number * 7919}: line {number} of a text for the command line.\n" for number in range(9000))
WAGGLE = (sys.executable, "-m", "node.cli")


def waggle(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*WAGGLE, *map(str, arguments)], capture_output=True, text=True, timeout=90, check=False)


def printed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """600 records: 20 twice, 30 with another end."""
    path = tmp_path / "records.jsonl"
    bodies = [TEXT[start : start + 600] for start in range(0, 330_000, 600)]
    bodies += [*bodies[:20], *(body + "Another end." for body in bodies[100:130])]
    path.write_text("".join(json.dumps({"body": body}) + "\n" for body in bodies))
    return path


def test_a_home_is_made_of_records_and_a_pinned_url(tmp_path: Path, records: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    url = (tmp_path / "text.txt").as_uri() + "#sha256=" + hashlib.sha256(TEXT.encode()).hexdigest()
    out = printed(waggle("init", "--home", tmp_path / "A", "--corpus", records, "--corpus", url, "--field", "body"))
    home = Home(tmp_path / "A")
    challenge = home.challenge()
    corpus = Corpus.open(home.corpus_file(challenge.corpus.digest))
    assert corpus.digest() == challenge.corpus.digest
    assert f"{len(corpus.documents)} documents" in out
    assert "note" not in out
    assert corpus.documents[0].name == "records.jsonl:1"
    assert b"".join(d.text for d in corpus.documents if d.name.startswith("text.txt#")) == TEXT.encode()
    assert home.store(challenge).blobs.has(corpus.digest())
    assert not (home.path / "downloads").exists()
    assert [path.name for path in (home.path / "corpus").iterdir()] == [corpus.digest()]


def test_wrong_sources_are_refused_before_a_home_is_made(tmp_path: Path, records: Path) -> None:
    for arguments, complaint in [
        (("https://example.org/a.txt",), "no digest"),
        ((records,), "--field"),
        ((tmp_path / "absent.jsonl",), "absent.jsonl: No such file"),
    ]:
        done = waggle("init", "--home", tmp_path / "A", *(f"--corpus={argument}" for argument in arguments))
        assert done.returncode == 2
        assert complaint in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not Home(tmp_path / "A").is_initialised()


def test_corpus_info_tells_what_init_would_make(tmp_path: Path, records: Path) -> None:
    info: dict[str, Any] = json.loads(printed(waggle("corpus", "info", records, "--field", "body", "--json")))
    assert (info["documents"], info["duplicates"]) == (600, 20)
    assert (info["near_duplicate_groups"], info["near_duplicates"], info["largest_group"]) == (50, 100, 2)
    assert info["training"]["documents"] + info["validation"]["documents"] == 600
    assert info["training"]["share"] + info["validation"]["share"] == pytest.approx(1)
    assert 0.03 < info["validation"]["share"] < 0.2
    printed(waggle("init", "--home", tmp_path / "A", "--corpus", records, "--field", "body"))
    of_home: dict[str, Any] = json.loads(printed(waggle("corpus", "info", "--home", tmp_path / "A", "--json")))
    challenge = Home(tmp_path / "A").challenge()
    assert of_home["salt"] == challenge.split.public_salt
    assert of_home["groups_agree"] is True
    for field in ("digest", "documents", "bytes", "near_duplicates"):
        assert info[field] == of_home[field]
    for_people = printed(waggle("corpus", "info", "--home", tmp_path / "A"))
    assert challenge.corpus.digest in for_people
    assert "50 of near duplicates with 100 documents" in for_people


def test_corpus_info_of_too_little_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One line.\n")
    info = info_of_sources([str(tmp_path / "a.txt")], "text", silent)
    assert (info.training, info.validation) == (None, None)
    assert "add more text" in "\n".join(lines(info))


def test_groups_that_were_not_made_by_the_rule_show(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    home = Home(tmp_path / "A")
    challenge = found_challenge(home, "test", [text], own_tracks([CPU_TRACK], 1.0))
    path = home.corpus_file(challenge.corpus.digest)
    packed = bytearray(path.read_bytes())
    packed[-4:] = bytes(4)  # the last document joins the first one's group
    path.write_bytes(packed)
    info = info_of_home(home)
    assert info.groups_agree is False
    assert "differ" in "\n".join(lines(info))


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 64 KiB were the most that a ledger holds and peers pass on."""
    monkeypatch.setattr(home_module, "BLOB_BYTES_MAX", 2**16)
    monkeypatch.setattr(corpora, "SHARED_BYTES_MAX", 2**16)
    for limit in ("BLOB_FILE_BYTES_MAX", "LEDGER_BLOB_BYTES_MAX"):
        monkeypatch.setattr(joining, limit, 2**16)


async def test_a_corpus_too_large_for_peers_is_used_here_and_brought_to_others_by_hand(
    tmp_path: Path, small_limit: None
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    founder, joiner = Home(tmp_path / "A"), Home(tmp_path / "B")
    challenge = found_challenge(founder, "large", [tmp_path / "text.txt"], own_tracks([CPU_TRACK], 1.0))
    store = founder.store(challenge)
    assert not store.blobs.has(challenge.corpus.digest)
    assert not info_of_home(founder).shareable
    assert "has to copy the file corpus/DIGEST" in "\n".join(lines(info_of_home(founder)))
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + PATIENCE_S  # a joiner asks for ever for what it lacks
        news = News()
        one = Node(nursery, news, tmp_path / "one", challenge.digest(), 60.0)
        other = Node(nursery, news, tmp_path / "other", challenge.digest(), 60.0)
        baselines = [track.baseline for track in challenge.tracks.values()]
        for digest in (challenge.digest(), challenge.constitution, *baselines):
            one.store.blobs.put(store.blobs.get(digest))
        await one.start()
        await other.start(mesh=False)
        said: list[str] = []
        with pytest.raises(UserError, match=f"Copy the file corpus/{challenge.corpus.digest}"):
            await fetch_challenge(other.transport, joiner, [one.address], said.append)
        assert not joiner.is_initialised()
        joiner.corpora.mkdir(parents=True)
        joiner.corpus_file(challenge.corpus.digest).write_bytes(Corpus((Document("a", b"text"),)).packed())
        with pytest.raises(UserError, match="has another digest"):
            await fetch_challenge(other.transport, joiner, [one.address], said.append)
        shutil.copy(founder.corpus_file(challenge.corpus.digest), joiner.corpora)
        await fetch_challenge(other.transport, joiner, [one.address], said.append)
        nursery.cancel_scope.cancel()
    assert joiner.challenge() == challenge
    assert joiner.private_split() != founder.private_split()
    assert msgspec.to_builtins(info_of_home(joiner)) == msgspec.to_builtins(info_of_home(founder))
    founder.corpus_file(challenge.corpus.digest).unlink()
    with pytest.raises(UserError, match="too large to be kept in the ledger"):
        founder.corpus_path(challenge, store)
