"""The PROV-JSON document, read by the `prov` package: every relation that it should tell is there."""

import json
from pathlib import Path
from typing import Any

import examples
import msgspec
import pytest
from prov.model import (
    ProvActivity,
    ProvAgent,
    ProvAssociation,
    ProvAttribution,
    ProvCommunication,
    ProvDerivation,
    ProvDocument,
    ProvEntity,
    ProvGeneration,
    ProvInfluence,
    ProvRecord,
    ProvUsage,
)

from ledger.envelope import Signed
from ledger.export import prov
from ledger.export.selection import Selection
from ledger.predicates import Attestation, Discovery, Retraction
from ledger.store import Store

BASELINE, FIRST, SECOND = (examples.digest(name) for name in ("baseline", "first", "second"))
ONE, TWO = examples.author_id(1), examples.author_id(2)


class Story:
    """Two discoveries, one on the other, with a verdict by comparison, an adoption and a retraction."""

    def __init__(self, store: Store) -> None:
        one, two = examples.author(store, 1), examples.author(store, 2)
        self.baseline = examples.state_adoption(one, BASELINE)
        self.first = examples.state_discovery(one, BASELINE, FIRST)
        own = examples.comparison(two, BASELINE, FIRST, examples.GAIN, "private:" + "5" * 64)
        self.own = own
        self.verdict = two.append(
            "main",
            FIRST,
            lambda entry: Attestation(
                entry=entry, discovery=self.first.id, verdict="confirmed", reason="own runs", comparison=own
            ),
        )
        self.adoption = examples.state_adoption(two, FIRST, self.first, BASELINE)
        self.second = examples.state_discovery(two, FIRST, SECOND)
        self.retraction = one.append(
            "main",
            SECOND,
            lambda entry: Retraction(
                entry=entry, discovery=self.second.id, reason="gone", comparison=None, evidence=(self.verdict.id,)
            ),
        )
        self.crash = examples.state_trial(two, SECOND, 9, None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return examples.new_store(tmp_path)


@pytest.fixture
def story(store: Store) -> Story:
    return Story(store)


def loaded(store: Store, *ids: str) -> ProvDocument:
    document = ProvDocument.deserialize(content="".join(prov.export(Selection(store, ids))), format="json")
    assert isinstance(document, ProvDocument)
    return document


def relations(document: ProvDocument, kind: type[ProvRecord]) -> set[tuple[str, ...]]:
    """The first two ends of each relation of a kind."""
    return {tuple(str(end) for end in record.args[:2]) for record in document.get_records(kind)}


def one(document: ProvDocument, name: str) -> Any:
    (found,) = document.get_record(name)
    return found


def attribute(record: Any, name: str) -> Any:
    (found,) = record.get_attribute(f"waggle:{name}")
    return getattr(found, "value", found)


def entry(signed: Signed) -> str:
    return f"entry:{signed.id}"


def test_elements(store: Store, story: Story) -> None:
    document = loaded(store)
    entities = {str(record.identifier) for record in document.get_records(ProvEntity)}
    assert entities == {
        *(f"program:{program}" for program in (BASELINE, FIRST, SECOND)),
        entry(story.first),
        entry(story.second),
    }
    agents = {str(record.identifier) for record in document.get_records(ProvAgent)}
    assert agents == {f"peer:{ONE}", f"peer:{TWO}"}
    activities = [str(record.identifier) for record in document.get_records(ProvActivity)]
    trials = [signed for signed in store.entries() if signed.statement.kind == "trial"]
    assert len(trials) == 19
    assert set(activities) == {
        *map(entry, trials),
        *(f"comparison:{signed.id}" for signed in (story.first, story.verdict, story.second)),
        entry(story.verdict),
        entry(story.retraction),
    }
    assert len(activities) == len(set(activities))


def test_where_programs_and_discoveries_come_from(store: Store, story: Story) -> None:
    document = loaded(store)
    derived = {(f"program:{FIRST}", f"program:{BASELINE}"), (f"program:{SECOND}", f"program:{FIRST}")}
    assert relations(document, ProvDerivation) == derived
    generated = {(entry(found), f"comparison:{found.id}") for found in (story.first, story.second)}
    assert relations(document, ProvGeneration) == generated
    attributed = {(entry(story.first), f"peer:{ONE}"), (entry(story.second), f"peer:{TWO}")}
    assert relations(document, ProvAttribution) == attributed


def test_what_was_run_on_what_by_whom(store: Store, story: Story) -> None:
    document = loaded(store)
    used, informed = relations(document, ProvUsage), relations(document, ProvCommunication)
    by = relations(document, ProvAssociation)
    assert (entry(story.crash), f"program:{SECOND}") in used
    assert (entry(story.verdict), entry(story.first)) in used
    assert (entry(story.retraction), entry(story.second)) in used
    assert (f"comparison:{story.first.id}", f"program:{BASELINE}") in used
    assert (f"comparison:{story.first.id}", f"program:{FIRST}") in used
    assert len(used) == 19 + 2 + 4
    assert (entry(story.verdict), f"comparison:{story.verdict.id}") in informed
    assert {trial for compared, trial in informed if compared == f"comparison:{story.verdict.id}"} == {
        f"entry:{trial}" for trial in (*story.own.parent_trials, *story.own.child_trials)
    }
    assert len(informed) == 1 + 3 * 6
    assert (entry(story.verdict), f"peer:{TWO}") in by
    assert (entry(story.retraction), f"peer:{ONE}") in by
    assert (f"comparison:{story.second.id}", f"peer:{TWO}") in by
    assert len(by) == 19 + 3 + 2


def test_adoptions_are_influences(store: Store, story: Story) -> None:
    document = loaded(store)
    influences = {(f"peer:{ONE}", f"program:{BASELINE}"), (f"peer:{TWO}", f"program:{FIRST}")}
    assert relations(document, ProvInfluence) == influences
    adopted = one(document, entry(story.adoption))
    assert str(attribute(adopted, "discovery")) == entry(story.first)
    assert attribute(adopted, "reason") == "it beats the incumbent"
    assert one(document, entry(story.baseline)).get_attribute("waggle:discovery") == set()


def test_attributes_keep_their_values_and_types(store: Store, story: Story) -> None:
    document = loaded(store)
    found = one(document, entry(story.first))
    assert {str(kind) for kind in found.get_attribute("prov:type")} == {"waggle:Discovery"}
    assert attribute(found, "hypothesis") == "a smaller batch"
    body = story.first.statement.body
    assert isinstance(body, Discovery)
    compared = one(document, f"comparison:{story.first.id}")
    assert float(attribute(compared, "mean")) == body.comparison.mean
    assert int(attribute(compared, "pairs")) == 3
    assert attribute(one(document, entry(story.verdict)), "verdict") == "confirmed"
    crash = one(document, entry(story.crash))
    assert attribute(crash, "status") == "crash"
    assert crash.get_attribute("waggle:valBpb") == set()
    assert int(attribute(crash, "seed")) == 9
    assert found.identifier.uri == f"urn:waggle:entry:{story.first.id}"


def test_a_document_is_the_same_after_prov_has_read_and_written_it(store: Store, story: Story) -> None:
    document = loaded(store)
    again = ProvDocument.deserialize(content=document.serialize(format="json"), format="json")
    assert again == document
    assert "wasDerivedFrom(" in document.get_provn()


def test_part_of_a_ledger_names_what_it_leaves_out(store: Store, story: Story) -> None:
    document = loaded(store, story.retraction.id)
    assert (entry(story.verdict), entry(story.first)) in relations(document, ProvUsage)
    assert document.get_record(entry(story.adoption)) == []


def test_hostile_text_stays_text(store: Store) -> None:
    by = examples.author(store)
    hostile = '"}, {"$": "x", "type": "prov:QUALIFIED_NAME"} \x1b]0;owned\x07 \u202e </script> \N{PILE OF POO}'
    body = examples.discovery_body(by, BASELINE, FIRST)
    found = by.append("main", FIRST, lambda entry: msgspec.structs.replace(body(entry), hypothesis=hostile))
    text = "".join(prov.export(Selection(store)))
    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    assert attribute(one(loaded(store), entry(found)), "hypothesis") == hostile


def test_other_statements_and_an_empty_ledger_give_a_document_too(store: Store) -> None:
    assert list(loaded(store).get_records()) == []
    examples.author(store).revoke("it was stolen")
    assert json.loads("".join(prov.export(Selection(store)))) == {"prefix": prov.PREFIXES}
