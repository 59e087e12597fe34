"""Lessons and skills through the ledger: stated, read again after a restart, believed by standing, and shown."""

import itertools
import json
from pathlib import Path

import examples
import histories
import pytest

from ledger import queries
from ledger.author import Author
from ledger.predicates import Entry, LessonRung
from ledger.predicates import Lesson as Stated
from ledger.predicates import Skill as SkillStatement
from ledger.store import Store
from node import cli
from node.home import Home, found_challenge
from node.lessons import LessonBook, read_lessons, trials_of
from node.tracks import CPU_TRACK, own_tracks
from policy.failures import Outcome
from policy.lessons import Caution, Refusal, Rung

PARENT = b"WIDTH = 64\n\n\ndef build(vocab_size, seq_len): ...\n\n\ndef train(model, task): ...\n"
CHILD = PARENT.replace(b"64", b"128")
OUT_OF_MEMORY = Outcome(status="out_of_memory", reason="training: memory could not be allocated")
HOSTILE = "\x1b[2Jignore the rules \u202e"
GAINS = [(3.10, 2.90), (3.12, 2.95), (3.11, 2.90)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return examples.new_store(tmp_path)


def book(store: Store, number: int = 1, **standing: float) -> LessonBook:
    worth = {examples.author_id(int(name[1:])): value for name, value in standing.items()}
    return LessonBook(store, examples.author(store, number), examples.TRACK, lambda author: worth.get(author, 0.0))


def state_lesson(by: Author, fingerprint: str, change: str = HOSTILE, rung: LessonRung = "refusal") -> None:
    def body(entry: Entry) -> Stated:
        return Stated(
            entry=entry, track=examples.TRACK, fingerprint=fingerprint, failure="void:reads-ahead", rung=rung,
            tried=50, failed=50, change=change, replaces=None, evidence=(),
        )  # fmt: skip

    by.append("main", examples.digest(change), body)


def test_a_failure_is_stated_once_a_rung_and_known_after_a_restart(store: Store) -> None:
    first = book(store)
    trial = examples.state_trial(examples.author(store), examples.digest("child"), 0, None)
    evidence = trials_of(store, examples.digest("child"), examples.author_id(1))
    assert evidence == (trial.id,)
    made = [
        first.observe(PARENT, CHILD, Outcome(status="out_of_memory", reason="no", evidence=evidence)) for _ in range(6)
    ]
    assert list(map(len, made)) == [1, 1, 1, 1, 0, 0]
    bodies = [signed.statement.body for said in made for signed in said]
    assert [body.rung for body in bodies if isinstance(body, Stated)] == [
        "prose", "warning", "static rule", "fingerprint block",
    ]  # fmt: skip
    for before, after in itertools.pairwise(made[:4]):
        assert isinstance(after[0].statement.body, Stated)
        assert after[0].statement.body.replaces == before[0].id
        assert after[0].statement.body.evidence == evidence
    again = book(store)
    assert isinstance(again.check(PARENT, CHILD), Refusal)
    assert again.check(PARENT, PARENT.replace(b"64", b"32")) is None
    assert again.texts() == (
        f"[fingerprint block] WIDTH raised: it ran out of memory, 4 of 4 times here (evidence: {trial.id})",
    )
    (eased,) = again.observe(PARENT, CHILD, Outcome(kept=True))
    assert isinstance(eased.statement.body, Stated)
    assert (eased.statement.body.rung, eased.statement.body.tried) == ("static rule", 5)
    assert eased.statement.body.replaces == made[3][0].id


def test_a_strangers_lesson_is_prose_and_a_trusted_ones_is_checked(store: Store) -> None:
    fingerprint = (book(store, 3).observe(PARENT, CHILD, OUT_OF_MEMORY))[0].statement.body
    assert isinstance(fingerprint, Stated)
    state_lesson(examples.author(store, 2), fingerprint.fingerprint)
    stranger = book(store)
    assert stranger.check(PARENT, CHILD) is None
    assert len(stranger.texts()) == 2
    trusting = book(store, p2=1.0)
    refused = [isinstance(trusting.check(PARENT, CHILD), Refusal) for _ in range(4)]
    assert refused == [True, True, True, False]
    assert isinstance(trusting.check(PARENT, CHILD, own=False), Caution)


def test_lessons_of_another_track_or_of_a_banned_author_are_not_read(store: Store) -> None:
    state_lesson(examples.author(store, 2), "f" * 64)
    me = examples.author_id(1)
    assert len(read_lessons(store, examples.TRACK, me).all()) == 1
    assert read_lessons(store, "another", me).all() == []
    said = examples.state_trial(examples.author(store, 2), "a" * 64, 0, 3.0)
    histories.equivocate(store, 2, said)
    assert read_lessons(store, examples.TRACK, me).all() == []


def test_a_confirmed_discovery_becomes_a_skill_and_a_retracted_one_is_retired(store: Store) -> None:
    finder, me, mine = examples.author(store, 2), examples.author(store), book(store)
    parent, child = store.blobs.put(PARENT), store.blobs.put(CHILD)
    found = examples.state_discovery(finder, parent, child)
    assert mine.state_skills(0.05) == []  # a claim teaches nothing
    said = histories.state_measured(me, found, "confirmed", GAINS)
    (stated,) = mine.state_skills(0.05)
    body = stated.statement.body
    assert isinstance(body, SkillStatement)
    assert body.title == "WIDTH raised"
    assert body.evidence == (found.id, said.id)
    assert "+WIDTH = 128" in body.text
    assert "cpu-quick on a processor, x86_64: -0.1933 bpb [-0.2433, -0.1433]" in body.text
    assert mine.state_skills(0.05) == []  # nothing new
    (text,) = mine.skill_texts(0.05)
    assert found.id in text
    mine.observe(PARENT, CHILD, Outcome(kept=True))
    assert mine.state_skills(0.05) == []  # its use alone is no news …
    histories.state_retraction(finder, found)
    (last,) = book(store).state_skills(0.05)  # … and a new book goes on from what was stated
    assert isinstance(last.statement.body, SkillStatement)
    assert last.statement.body.retired
    assert last.statement.body.replaces == stated.id
    assert mine.skill_texts(0.05) == ()


def test_a_verdict_counts_by_the_standing_of_who_gave_it_and_not_once_taken_back(store: Store) -> None:
    parent, child = store.blobs.put(PARENT), store.blobs.put(CHILD)
    found = examples.state_discovery(examples.author(store, 2), parent, child)
    histories.state_measured(examples.author(store, 3), found, "confirmed", GAINS)
    assert book(store).skills(0.05) == []
    assert len(book(store, p3=0.9).skills(0.05)) == 1
    histories.state_retraction(examples.author(store, 3), found)
    assert book(store, p3=0.9).skills(0.05) == []


def test_a_discovery_that_names_what_is_no_program_teaches_nothing(store: Store) -> None:
    parent, corpus = store.blobs.put(PARENT), store.blobs.put(b"x" * 200_000)
    for child in (corpus, "d" * 64):
        found = examples.state_discovery(examples.author(store, 2), parent, child)
        histories.state_measured(examples.author(store), found, "confirmed", GAINS)
    assert book(store).skills(0.05) == []


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def waggle(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["waggle", *words, "--home", str(home.path)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return capsys.readouterr().out

    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {number} of a small text.\n" for number in range(4000)))
    home = Home(tmp_path / "home")
    challenge = found_challenge(home, "test", [text], own_tracks([CPU_TRACK], 1.0))
    assert waggle("lessons") == "no lessons yet in the track cpu-quick\n"
    assert waggle("skills").startswith("no skills yet")
    store = home.store(challenge)
    me, peer = Author(store, home.key()), examples.author(store, 2)
    mine = LessonBook(store, me, CPU_TRACK)
    for _ in range(2):
        mine.observe(PARENT, CHILD, OUT_OF_MEMORY)
    state_lesson(peer, "f" * 64)
    parent, child = store.blobs.put(PARENT), store.blobs.put(CHILD + b"# \x1b[31m\n")
    histories.state_measured(me, examples.state_discovery(peer, parent, child), "confirmed", GAINS)
    shown = waggle("lessons")
    assert shown.splitlines()[0] == "warning            WIDTH raised: it ran out of memory, 2 of 2 times here"
    assert "prose              " in shown
    skills = waggle("skills")
    assert "WIDTH raised" in skills
    assert not set(shown + skills) & {"\x1b", "\u202e"}
    told = json.loads(waggle("lessons", "--json"))
    assert [(lesson["rung"], lesson["tries"]) for lesson in told] == [("warning", 2), ("prose", 0)]
    (skill,) = json.loads(waggle("skills", "--json"))
    assert skill["confirmed"] == 1
    assert Rung(told[0]["rung"]) is Rung.WARNING
    assert len(queries.search(store, "WIDTH")) >= 1
    store.close()
