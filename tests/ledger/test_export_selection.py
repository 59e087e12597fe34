"""What an export holds: everything, or some entries with all that they rest on."""

from pathlib import Path

import examples
import pytest

from ledger.envelope import Signed
from ledger.export.selection import Selection, snapshot
from ledger.predicates import Retraction, Skill
from ledger.store import Store

BASELINE, FIRST, SECOND = (examples.digest(name) for name in ("baseline", "first", "second"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return examples.new_store(tmp_path)


def kinds(selection: Selection) -> list[str]:
    return [signed.statement.kind for signed in selection]


def ids(selection: Selection) -> set[str]:
    return {signed.id for signed in selection}


def test_without_ids_it_is_the_whole_ledger_as_often_as_asked_for(store: Store) -> None:
    one = examples.author(store)
    examples.state_discovery(one, BASELINE, FIRST)
    whole = Selection(store)
    assert whole.whole
    assert len(whole) == len(list(whole)) == len(list(whole)) == 7
    assert list(whole) == list(store.entries())


def test_an_entry_comes_with_what_it_names_and_what_that_names(store: Store) -> None:
    one, two = examples.author(store, 1), examples.author(store, 2)
    examples.state_adoption(one, BASELINE)
    found = examples.state_discovery(one, BASELINE, FIRST)
    verdict = examples.state_attestation(two, found)
    other = examples.state_discovery(two, FIRST, SECOND)
    adoption = examples.state_adoption(two, FIRST, found)
    evidence = (verdict.id, other.id)
    retracted = two.append(
        "main",
        FIRST,
        lambda entry: Retraction(entry=entry, discovery=found.id, reason="", comparison=None, evidence=evidence),
    )
    assert kinds(Selection(store, [found.id])) == [*["trial"] * 6, "discovery"]
    assert kinds(Selection(store, [verdict.id])) == [*["trial"] * 6, "discovery", "attestation"]
    assert ids(Selection(store, [adoption.id])) == ids(Selection(store, [found.id])) | {adoption.id}
    everything = Selection(store, [retracted.id, adoption.id])
    assert len(everything) == len(Selection(store)) - 1  # the first adoption is named by nothing
    assert not everything.whole
    clock = [signed.statement.entry.lamport for signed in everything]
    assert clock == sorted(clock)


def test_a_chain_of_skills_ends_where_the_ledger_does(store: Store) -> None:
    one = examples.author(store)

    def skill(text: str, replaces: str | None) -> Signed:
        return one.append(
            "main",
            examples.digest(text),
            lambda entry: Skill(entry=entry, title="", text=text, replaces=replaces, retired=False, evidence=()),
        )

    absent = "bafkrei" + "a" * 52
    first = skill("one", absent)
    second = skill("two", first.id)
    assert [signed.id for signed in Selection(store, [second.id, absent])] == [first.id, second.id]


def test_a_snapshot_does_not_see_what_is_appended_meanwhile(store: Store) -> None:
    other = Store.open(store.path)
    examples.state_adoption(examples.author(other), BASELINE)
    with snapshot(store):
        selection = Selection(store)
        assert len(selection) == 1
        examples.state_adoption(examples.author(other), FIRST)
        assert len(selection) == len(list(selection)) == 1
    assert len(Selection(store)) == 2
