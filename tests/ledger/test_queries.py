"""Questions to a ledger with a small history: two authors, a chain of three and a branch."""

from itertools import pairwise
from pathlib import Path

import examples
import msgspec
import pytest

from ledger import queries
from ledger.envelope import seal
from ledger.errors import AmbiguousId, UnknownId
from ledger.store import Store

BASELINE, FIRST, SECOND, THIRD, BRANCH = (
    examples.digest(name) for name in ["baseline", "first", "second", "third", "branch"]
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return examples.new_store(tmp_path)


def test_a_discovery_with_what_became_of_it(store: Store) -> None:
    one, two, three = (examples.author(store, number) for number in (1, 2, 3))
    found = examples.state_discovery(one, BASELINE, FIRST)
    examples.state_attestation(one, found)  # an author's own word does not count
    examples.state_attestation(two, found)
    examples.state_attestation(two, found)  # nor does saying it twice
    examples.state_attestation(three, found, "refuted")
    examples.state_adoption(one, FIRST, found)
    examples.state_adoption(two, FIRST, found)
    row = queries.discovery(store, found.id)
    assert row is not None
    assert (row.parent, row.child, row.author) == (BASELINE, FIRST, one.id)
    assert (row.confirmed, row.refuted, row.adopted) == (1, 1, 2)
    assert [a.verdict for a in queries.attestations(store, found.id)] == [*["confirmed"] * 3, "refuted"]
    assert [a.author for a in queries.adoptions(store, found.id)] == [one.id, two.id]
    assert queries.counts(store) == {"adoption": 2, "attestation": 4, "discovery": 1, "trial": 6}


def test_lineage_runs_from_the_baseline_through_to_what_was_built_on_it(store: Store) -> None:
    one, two = examples.author(store, 1), examples.author(store, 2)
    first = examples.state_discovery(one, BASELINE, FIRST)
    second = examples.state_discovery(two, FIRST, SECOND)
    third = examples.state_discovery(one, SECOND, THIRD)
    branch = examples.state_discovery(two, FIRST, BRANCH)
    assert [row.id for row in queries.ancestors(store, third.id)] == [first.id, second.id, third.id]
    below = [(step.depth, step.discovery.id) for step in queries.descendants(store, first.id)]
    assert below == [(0, first.id), (1, second.id), (2, third.id), (1, branch.id)]
    assert queries.descendants(store, "bafkreinothing") == []


def test_nobody_becomes_an_ancestor_by_claiming_it(store: Store) -> None:
    stranger, one = examples.author(store, 3), examples.author(store, 1)
    examples.state_discovery(stranger, BASELINE, FIRST)  # earlier, but nobody built on it
    first = examples.state_discovery(one, BASELINE, FIRST)
    examples.state_adoption(one, FIRST, first)
    second = examples.state_discovery(one, FIRST, SECOND)
    assert [row.id for row in queries.ancestors(store, second.id)] == [first.id, second.id]


def test_entries_of_a_newer_version_are_listed(store: Store) -> None:
    by = examples.author(store)
    signed = examples.state_adoption(by, BASELINE)
    payload = msgspec.json.decode(msgspec.msgpack.decode(signed.envelope)["payload"])
    payload["predicateType"] = "urn:waggle:adoption:v2"
    payload["predicate"]["entry"] |= {"seq": 1, "prev": signed.id, "lamport": 9}
    store.add(seal(examples.key(1), msgspec.json.encode(payload)))
    line = queries.log(store)[-1]
    assert line.kind == "urn:waggle:adoption:v2"
    assert "does not know" in line.summary


def test_a_claimed_cycle_ends(store: Store) -> None:
    by = examples.author(store)
    first = examples.state_discovery(by, SECOND, FIRST)
    second = examples.state_discovery(by, FIRST, SECOND)
    assert {row.id for row in queries.ancestors(store, first.id)} == {first.id, second.id}
    assert {step.discovery.id for step in queries.descendants(store, first.id)} == {first.id, second.id}


def test_a_very_long_lineage_is_walked_without_recursion(store: Store) -> None:
    by = examples.author(store)
    names = [examples.digest(str(number)) for number in range(1200)]
    body = examples.discovery_body(by, names[0], names[1])
    ids = []
    with store.db.atomic():
        for parent, child in pairwise(names):
            ids.append(
                by.append("main", child, lambda entry, p=parent: msgspec.structs.replace(body(entry), parent=p)).id  # type: ignore[misc]
            )
    assert len(queries.ancestors(store, ids[-1])) == 1199
    assert len(queries.descendants(store, ids[0])) == 1199


def test_ids_by_prefix(store: Store) -> None:
    by = examples.author(store)
    ids = sorted(examples.state_trial(by, BASELINE, seed, 3.0).id for seed in range(40))
    assert queries.resolve(store, ids[3]) == ids[3]
    assert queries.resolve(store, ids[3][:20]) == ids[3]
    with pytest.raises(UnknownId, match="at least 8"):
        queries.resolve(store, "bafkrei")
    shared = next(a[:8] for a, b in pairwise(ids) if a[:8] == b[:8])
    with pytest.raises(AmbiguousId, match="more characters"):
        queries.resolve(store, shared)
    for absent in ("bafkrei0", "zzzzzzzzzz", "%%%%%%%%", "BAFKREIAA"):
        with pytest.raises(UnknownId):
            queries.resolve(store, absent)


def test_what_waits_for_a_verdict(store: Store) -> None:
    me, other = examples.author(store, 1), examples.author(store, 2)
    examples.state_discovery(me, BASELINE, FIRST)
    theirs = examples.state_discovery(other, BASELINE, SECOND)
    assert [row.id for row in queries.unattested(store, me.id)] == [theirs.id]
    examples.state_attestation(me, theirs, "inconclusive")
    assert queries.unattested(store, me.id) == []


def test_the_log_is_causal_filtered_and_limited(store: Store) -> None:
    one, two = examples.author(store, 1), examples.author(store, 2)
    found = examples.state_discovery(one, BASELINE, FIRST)
    verdict = examples.state_attestation(two, found)
    examples.state_trial(two, FIRST, 0, None)
    lines = queries.log(store)
    assert [line.lamport for line in lines] == sorted(line.lamport for line in lines)
    assert lines[-1].summary.startswith("crash")
    assert [line.id for line in queries.log(store, kind="attestation")] == [verdict.id]
    assert len(queries.log(store, author=one.id)) == 7
    assert queries.log(store, limit=2) == lines[-2:]


def test_the_last_adoption_is_what_a_node_builds_on(store: Store) -> None:
    by = examples.author(store)
    assert queries.last_adoption(store, by.id, examples.TRACK) is None
    examples.state_adoption(by, BASELINE)
    examples.state_adoption(by, FIRST, previous=BASELINE)
    adopted = queries.last_adoption(store, by.id, examples.TRACK)
    assert adopted is not None
    assert adopted.program == FIRST
    assert queries.last_adoption(store, by.id, "other-track") is None
