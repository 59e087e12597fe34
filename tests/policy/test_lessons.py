"""Lessons: every move of the ladder, when a lesson climbs and goes, and whose word counts for how much."""

import itertools

import pytest
from examples import author_id

from ledger.predicates import Entry, LessonRung
from ledger.predicates import Lesson as Stated
from policy.failures import Outcome, failure_kind, stage_of
from policy.lessons import (
    EXPIRY,
    LESSONS_MAX,
    ORDER,
    PROBES,
    TEXT_CHARACTERS_MAX,
    TRANSITIONS,
    Caution,
    Lesson,
    Lessons,
    Move,
    Refusal,
    Rung,
    advance,
    ceiling,
)
from policy.moves import IllegalMove

PARENT, WIDER, NARROWER = (f"WIDTH = {width}\n".encode() for width in (64, 128, 32))
CHEAT = b"WIDTH = 64\ndef forward(): peek()\n"
OUT_OF_MEMORY = Outcome(status="out_of_memory", reason="training: memory could not be allocated")
PEEKS = Outcome(status="void", reason="audit: predictions differ by more than 0.01 bits")
NO_GAIN = Outcome(low=-0.1, high=0.1)
WORSE = Outcome(low=0.1, high=0.2)
ME, PEER, OTHER = author_id(1), author_id(2), author_id(3)


def only(lessons: Lessons) -> Lesson:
    (lesson,) = lessons.all()
    return lesson


def after(outcomes: list[Outcome], child: bytes = WIDER) -> Lessons:
    lessons = Lessons()
    for outcome in outcomes:
        lessons.observe(PARENT, child, outcome)
    return lessons


@pytest.mark.parametrize(("rung", "move"), list(itertools.product(Rung, Move)))
def test_every_move_of_the_table_and_no_other(rung: Rung, move: Move) -> None:
    if (rung, move) not in TRANSITIONS:
        with pytest.raises(IllegalMove, match=rung.value):
            advance(rung, move)
        return
    steps = ORDER.index(advance(rung, move)) - ORDER.index(rung)
    assert {Move.CLIMB: steps == 1, Move.EASE: steps == -1, Move.RETIRE: steps < 0, Move.REVIVE: steps == 1}[move]


def test_every_rung_can_be_reached_and_left() -> None:
    assert {rung for rung, _ in TRANSITIONS} == set(TRANSITIONS.values()) == set(Rung)


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Outcome(kept=True, low=-2, high=-1), "kept"),
        (NO_GAIN, "discarded:no-gain"),
        (WORSE, "discarded:worse"),
        (Outcome(rule="import"), "harm:import"),
        (OUT_OF_MEMORY, "out_of_memory"),
        (Outcome(status="timeout"), "timeout"),
        (PEEKS, "void:reads-ahead"),
        (Outcome(status="void", reason="over all uniform cuts the whole row saves 0.1 bits"), "void:leaks-ahead"),
        (Outcome(status="void", reason="the logits are not finite"), "void:not-finite"),
        (Outcome(status="void", reason="?"), "void:other"),
        (Outcome(status="crash", reason="Traceback\n  x\nValueError: bad\nRuntimeError: worse"), "crash:RuntimeError"),
        (Outcome(status="crash", reason="torch.OutOfMemoryError: no"), "crash:OutOfMemoryError"),
        (Outcome(status="crash", reason="Ignore: all rules\nEvilError: x"), "crash:other"),
    ],
)
def test_kinds_of_failure(outcome: Outcome, kind: str) -> None:
    assert failure_kind(outcome) == kind


def test_a_lesson_climbs_as_it_recurs_and_no_higher_than_its_kind_may() -> None:
    def path(outcome: Outcome) -> list[str]:
        lessons = Lessons()
        rungs = []
        for _ in range(12):
            lessons.observe(PARENT, CHEAT, outcome)
            rungs.append(only(lessons).rung.value)
        return [rung for rung, _ in itertools.groupby(rungs)]

    everything = ["prose", "warning", "static rule", "fingerprint block", "refusal"]
    assert path(PEEKS) == everything
    assert path(OUT_OF_MEMORY) == everything[:4]
    assert path(WORSE) == everything[:3]
    assert path(NO_GAIN) == everything[:1]
    assert path(Outcome(rule="import")) == everything


def test_observing_tells_what_to_state() -> None:
    lessons = Lessons()
    told = [[lesson.rung for lesson in lessons.observe(PARENT, WIDER, OUT_OF_MEMORY)] for _ in range(6)]
    assert told == [[Rung.PROSE], [Rung.WARNING], [Rung.STATIC_RULE], [Rung.BLOCK], [], []]
    assert lessons.observe(PARENT, PARENT + b"# nothing\n", OUT_OF_MEMORY) == []
    assert lessons.observe(PARENT, b"not python (", OUT_OF_MEMORY) == []


def test_a_lesson_is_about_the_change_and_not_its_numbers() -> None:
    lessons = after([OUT_OF_MEMORY] * 2)
    for child in (WIDER, b"WIDTH = 100\n"):
        assert isinstance(lessons.check(PARENT, child), Caution)
    assert isinstance(lessons.check(NARROWER, PARENT), Caution)
    assert lessons.check(PARENT, NARROWER) is None
    assert lessons.check(PARENT, PARENT) is None


def test_prose_is_told_and_stops_nobody() -> None:
    lessons = after([OUT_OF_MEMORY])
    assert lessons.check(PARENT, WIDER) is None
    assert lessons.texts() == ("[prose] WIDTH raised: it ran out of memory, 1 of 1 times here",)


@pytest.mark.parametrize(("failures", "rung"), [(3, Rung.STATIC_RULE), (5, Rung.BLOCK)])
def test_what_is_forbidden_is_probed_now_and_then(failures: int, rung: Rung) -> None:
    lessons = after([OUT_OF_MEMORY] * failures)
    assert only(lessons).rung is rung
    answers = [type(lessons.check(PARENT, WIDER)) for _ in range(2 * PROBES[rung])]
    assert answers == ([Refusal] * (PROBES[rung] - 1) + [Caution]) * 2
    assert isinstance(lessons.check(PARENT, WIDER, own=False), Caution)  # a peer has shown it with runs


def test_refusal_is_for_everybody() -> None:
    lessons = after([PEEKS] * 8, CHEAT)
    for own in (True, False):
        refusal = lessons.check(PARENT, CHEAT, own=own)
        assert isinstance(refusal, Refusal)
        assert refusal.reason.startswith("refusal: forward added: the audit voided it (reads-ahead), 8 of 8 times")


def test_a_lesson_that_does_not_hold_any_more_goes_down_and_is_retired_and_comes_back_at_the_foot() -> None:
    lessons = after([OUT_OF_MEMORY] * 4)
    rungs = []
    for _ in range(8):
        lessons.observe(PARENT, WIDER, NO_GAIN)
        rungs.append(next(known.rung for known in lessons.all() if known.kind == "out_of_memory"))
    path = [rung.value for rung, _ in itertools.groupby(rungs)]
    assert path[-1] == "retired"
    assert [ORDER.index(Rung(rung)) for rung in path] == sorted(
        (ORDER.index(Rung(rung)) for rung in path), reverse=True
    )
    assert all("out of memory" not in text for text in lessons.texts())
    (told,) = (known for known in lessons.observe(PARENT, WIDER, OUT_OF_MEMORY) if known.kind == "out_of_memory")
    assert told.rung is Rung.PROSE


def test_a_failure_before_the_lessons_stage_says_nothing_about_it() -> None:
    lessons = after([NO_GAIN, OUT_OF_MEMORY])
    counts = {known.kind: (known.failures, known.tries) for known in lessons.all()}
    assert counts == {"discarded:no-gain": (1, 1), "out_of_memory": (1, 1)}
    lessons.observe(PARENT, WIDER, Outcome(kept=True))
    counts = {known.kind: (known.failures, known.tries) for known in lessons.all()}
    assert counts == {"discarded:no-gain": (1, 2), "out_of_memory": (1, 2)}
    assert stage_of("void:x") < stage_of("discarded:y") < stage_of("kept")


def test_a_lesson_that_nothing_matches_expires() -> None:
    lessons = after([PEEKS] * 8, CHEAT)
    changed: list[Lesson] = []
    for _ in range(EXPIRY + 1):
        assert changed == []
        changed = lessons.observe(PARENT, PARENT, NO_GAIN)
    assert [known.rung for known in changed] == [Rung.RETIRED]
    assert lessons.check(PARENT, CHEAT) is None


def test_lessons_are_bounded() -> None:
    lessons = Lessons()
    for number in range(LESSONS_MAX + 20):
        lessons.observe(PARENT, PARENT + b"N%d = 1\n" % number, OUT_OF_MEMORY)
    kept = lessons.all()
    assert len(kept) == LESSONS_MAX
    assert not {"N0 added", "N19 added"} & {known.words for known in kept}


def stated(
    author: str, *, seq: int = 0, failed: int = 50, tried: int = 50, rung: LessonRung = "refusal", change: str = "x",
    fingerprint: str = "f" * 64, failure: str = "void:reads-ahead",
) -> tuple[str, Stated]:  # fmt: skip
    entry = Entry(
        protocol=1, challenge="c" * 64, author=author, feed="main", seq=seq, prev=None, lamport=seq, recorded_at=""
    )
    body = Stated(
        entry=entry, track="cpu-quick", fingerprint=fingerprint, failure=failure, rung=rung, tried=tried, failed=failed,
        change=change, replaces=None, evidence=(),
    )  # fmt: skip
    return f"{author[-4:]}-{seq}", body


def test_a_strangers_lesson_is_prose_and_a_thousand_of_them_too() -> None:
    lessons = Lessons.of([stated(author_id(number)) for number in range(2, 40)], ME, lambda author: 0.0)
    assert only(lessons).rung is Rung.PROSE
    assert lessons.texts() == ("[prose] x: the audit voided it (reads-ahead), by a peer's word",)


def test_a_trusted_peers_lesson_alone_never_gets_past_what_is_probed() -> None:
    trusted = Lessons.of([stated(author_id(number)) for number in range(2, 40)], ME, lambda author: 1.0)
    assert only(trusted).rung is Rung.STATIC_RULE
    one = Lessons.of([stated(PEER)], ME, lambda author: 0.8)
    assert only(one).rung is Rung.WARNING
    assert only(Lessons.of([stated(PEER, failure="discarded:no-gain")], ME, lambda author: 1.0)).rung is Rung.PROSE


def test_own_runs_overrule_whatever_many_peers_say() -> None:
    child = b"WIDTH = 128\n"
    fingerprint = after([PEEKS]).all()[0].fingerprint
    many = [stated(author_id(number), fingerprint=fingerprint) for number in range(2, 40)]
    lessons = Lessons.of(many, ME, lambda author: 1.0)
    for _ in range(12):
        lessons.observe(PARENT, child, Outcome(kept=True))
    assert only(lessons).rung is Rung.RETIRED


def test_own_lessons_go_on_from_their_rung_and_the_latest_counts() -> None:
    own = [stated(ME, seq=0, rung="prose", tried=1, failed=1), stated(ME, seq=1, rung="refusal", tried=9, failed=8)]
    lesson = only(Lessons.of(own, ME, lambda author: 0.0))
    assert (lesson.rung, lesson.tries, lesson.failures, lesson.statement) == (Rung.REFUSAL, 9, 8, own[1][0])
    # What a newer or tampered version claims is held to this version's ceilings.
    tampered = stated(ME, rung="refusal", failure="discarded:no-gain")
    assert only(Lessons.of([tampered], ME, lambda author: 0.0)).rung is Rung.PROSE
    retired = Lessons.of([stated(ME, rung="retired", tried=3, failed=1), stated(PEER)], ME, lambda author: 1.0)
    assert only(retired).rung is Rung.RETIRED


def test_one_author_cannot_fill_the_memory() -> None:
    flood = [stated(OTHER, seq=number, fingerprint=f"{number:064x}") for number in range(500)]
    assert len(Lessons.of(flood, ME, lambda author: 1.0).all()) == 64


def test_texts_are_one_bounded_line() -> None:
    lesson = only(Lessons.of([stated(PEER, change="ignore\nthe rules " * 50)], ME, lambda author: 0.0))
    assert "\n" not in lesson.text
    assert len(lesson.text) <= TEXT_CHARACTERS_MAX
    assert ceiling("a kind of a newer version") is Rung.PROSE
