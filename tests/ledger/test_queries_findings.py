"""Search, the best discoveries, and numbers over the whole ledger."""

from pathlib import Path

import examples
import histories
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import queries, tables
from ledger.author import Author
from ledger.store import Store

BASELINE = examples.digest("baseline")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return examples.new_store(tmp_path)


@pytest.fixture
def by(store: Store) -> Author:
    return examples.author(store)


def program(name: str) -> str:
    return examples.digest(name)


def test_all_words_are_wanted_wherever_they_stand(store: Store, by: Author) -> None:
    found = histories.state_hypothesis(by, BASELINE, program("a"), "A larger batch, with warm-up.")
    histories.state_hypothesis(by, BASELINE, program("b"), "a smaller batch")
    lesson = histories.state_skill(by, "Warm-up", "Small batches need none.")
    assert [hit.id for hit in queries.search(store, "BATCH larger")] == [found.id]
    assert [hit.id for hit in queries.search(store, "warm-up batches")] == [lesson.id]
    assert {hit.id for hit in queries.search(store, "warm up")} == {lesson.id, found.id}
    assert len(queries.search(store, "batch", limit=1)) == 1
    assert queries.search(store, "batch depth") == []
    (hit,) = queries.search(store, "larger")
    assert (hit.kind, hit.author, hit.snippet) == ("discovery", by.id, "A larger batch, with warm-up.")
    histories.state_retraction(by, found)
    assert next(hit.marks for hit in queries.search(store, "larger")) == ("retracted",)


def test_a_tidied_ledger_searches_one_part_and_finds_the_same(store: Store, by: Author) -> None:
    def parts() -> int:
        return int(store.db.execute("SELECT count(DISTINCT segid) FROM entry_text_idx").fetchone()[0])

    for number in range(3):
        histories.state_hypothesis(by, BASELINE, program(str(number)), f"a larger batch, {number}")
    before, digest = queries.search(store, "batch"), tables.digest(store.db)
    assert parts() == len(before) == 3
    store.tidy()
    assert (parts(), queries.search(store, "batch")) == (1, before)
    assert tables.digest(store.db) == digest


@pytest.mark.parametrize(
    "words",
    [
        '"',
        '""',
        "*",
        "smal*",
        "batch OR depth",
        "NEAR(batch",
        "(",
        "text:",
        "-",
        "^a depth",
        "{id kind}: x",
        "\0",
        "+ +",
        "'",
    ],
)
def test_words_have_no_syntax(store: Store, by: Author, words: str) -> None:
    histories.state_hypothesis(by, BASELINE, program("a"), "a smaller batch")
    assert queries.search(store, words) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.text(alphabet=st.characters() | st.sampled_from('"*()^:{}+-\0\udcff'), max_size=30))
def test_no_words_are_an_error(store: Store, words: str) -> None:
    assert queries.search(store, words) == []


def test_the_best_are_those_that_others_measured_best(store: Store, by: Author) -> None:
    two, three, four = (examples.author(store, number) for number in (2, 3, 4))
    loud = histories.state_hypothesis(by, BASELINE, program("loud"), "claims much", 2.0)
    solid = histories.state_hypothesis(by, BASELINE, program("solid"), "claims less", 0.5)
    silent = histories.state_hypothesis(by, BASELINE, program("silent"), "confirmed without an effect", 0.4)
    small = histories.state_hypothesis(by, BASELINE, program("small"), "nobody looked", 0.1)
    large = histories.state_hypothesis(by, BASELINE, program("large"), "nobody looked", 0.2)
    refuted = histories.state_hypothesis(by, BASELINE, program("refuted"), "not so", 0.9)
    retracted = histories.state_hypothesis(by, BASELINE, program("retracted"), "an error", 0.9)
    withdrawn = histories.state_hypothesis(by, BASELINE, program("withdrawn"), "believed once", 0.3)
    histories.state_measured(two, loud, "confirmed", [(3.0, 2.9)] * 2)
    for other, score in ((two, 2.6), (three, 2.4), (four, 2.9)):
        histories.state_measured(other, solid, "confirmed", [(3.0, score)] * 2)
    examples.state_attestation(two, silent)
    examples.state_attestation(two, refuted, "refuted")
    for found in (retracted, withdrawn):
        histories.state_measured(two, found, "confirmed", [(3.0, 1.0)] * 2)
    histories.state_retraction(by, retracted)
    histories.state_retraction(two, withdrawn)
    histories.state_measured(by, small, "confirmed", [(3.0, 1.0)] * 2)  # one's own word
    ranked = queries.best(store, examples.TRACK)
    assert [(one.discovery.id, one.verified) for one in ranked] == [
        (solid.id, True),
        (loud.id, True),
        (silent.id, True),
        (withdrawn.id, False),
        (large.id, False),
        (small.id, False),
    ]
    assert [one.remeasured for one in ranked[:3]] == [pytest.approx(-0.4), pytest.approx(-0.1), None]
    assert [one.discovery.id for one in queries.best(store, examples.TRACK, limit=1)] == [solid.id, withdrawn.id]
    assert queries.best(store, "another track") == []


def test_the_ledger_in_numbers(store: Store, by: Author) -> None:
    assert queries.stats(store).claim_error is None
    assert queries.stats(store).first_clock is None
    two, three = examples.author(store, 2), examples.author(store, 3)
    found = histories.state_hypothesis(by, BASELINE, program("a"), "x", 0.5)  # 6 trials
    histories.state_hypothesis(by, BASELINE, program("b"), "y", 0.5)
    histories.state_measured(two, found, "confirmed", [(3.0, 2.6)] * 2)
    histories.state_measured(three, found, "refuted", [(3.0, 3.1)] * 2)
    histories.state_measured(by, found, "confirmed", [(3.0, 3.0)] * 2)
    histories.state_retraction(by, found)
    said = examples.state_trial(three, program("c"), 9, None)
    histories.equivocate(store, 3, said)
    numbers = queries.stats(store)
    assert numbers.entries == {"attestation": 3, "discovery": 2, "retraction": 1, "trial": 25}
    assert numbers.trials == {"crash": 1, "ok": 24}
    assert (numbers.authors, numbers.banned) == (3, 1)
    assert (numbers.discoveries, numbers.confirmed, numbers.refuted, numbers.retracted) == (2, 1, 1, 1)
    assert numbers.claim_error == pytest.approx((0.1 + 0.6) / 2)
    assert (numbers.first_clock, numbers.last_clock) == (1, 31)
    assert numbers.bytes_on_disk >= store.path.stat().st_size
    assert numbers.challenge == examples.CHALLENGE


def test_peers_by_what_they_did(store: Store, by: Author) -> None:
    two, three = examples.author(store, 2), examples.author(store, 3)
    found = histories.state_hypothesis(by, BASELINE, program("a"), "x")
    examples.state_attestation(by, found)  # one's own word
    examples.state_attestation(two, found)
    examples.state_attestation(two, found)
    examples.state_attestation(three, found, "refuted")
    said = examples.state_adoption(two, program("a"), found)
    by.revoke("the key was lost")
    store.remember_peer(two.id, f"/ip4/192.0.2.1/tcp/4141/p2p/{two.id}")
    histories.equivocate(store, 2, said)
    found_peers = queries.peers(store)
    assert list(found_peers.addresses) == [two.id]
    first, second, third = found_peers.authors
    assert (first.author, first.entries, first.last_clock, first.revoked) == (by.id, 9, 13, True)
    assert (first.discoveries, first.confirmed, first.refuted, first.attestations) == (1, 1, 1, 1)
    assert first.hardware == ("a processor, x86_64",)
    assert (second.author, second.entries, second.attestations, second.adoptions) == (two.id, 3, 2, 1)
    assert (second.banned, second.revoked, second.hardware) == (True, False, ())
    assert (third.author, third.banned, third.last_recorded_at) == (three.id, False, "2026-01-01T00:00:00Z")


def test_an_empty_ledger_has_answers(store: Store) -> None:
    assert queries.log(store) == []
    assert queries.search(store, "anything") == []
    assert queries.best(store, examples.TRACK) == []
    assert queries.peers(store) == queries.Peers((), {})
