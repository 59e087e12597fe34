"""Questions to a ledger with a small history: two authors, a chain of three and a branch."""

from itertools import pairwise
from pathlib import Path

import examples
import histories
import msgspec
import pytest

from ledger import queries
from ledger.envelope import seal
from ledger.errors import AmbiguousId, UnknownId
from ledger.queries import LogFilter
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
    assert [line.id for line in queries.log(store, LogFilter(kind="attestation"))] == [verdict.id]
    assert len(queries.log(store, LogFilter(author=one.id))) == 7
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


def test_peers_by_either_end_of_their_ids(store: Store) -> None:
    ids = [examples.author(store, number).id for number in range(1, 4)]
    for number in range(1, 4):
        examples.state_adoption(examples.author(store, number), BASELINE)
    for author in ids:
        assert queries.resolve_author(store, author) == author
        assert queries.resolve_author(store, author[-8:]) == author
        assert queries.resolve_author(store, author[:16]) == author
    with pytest.raises(AmbiguousId, match="more characters"):
        queries.resolve_author(store, "12D3KooW")
    for absent in ("zzzzzz", examples.author_id(9), "%%%%", "\udcff\udcff\udcff\udcff"):
        with pytest.raises(UnknownId):
            queries.resolve_author(store, absent)
    with pytest.raises(UnknownId, match="at least 4"):
        queries.resolve_author(store, ids[0][-3:])


def test_programs_by_digest_or_by_an_entry_about_them(store: Store) -> None:
    program = store.blobs.put(b"A = 1\n")
    found = examples.state_discovery(examples.author(store), BASELINE, program)
    for name in (program, program[:8], found.id, found.id[:20]):
        assert queries.resolve_program(store, name) == program
    for absent in (BASELINE, "0" * 8, "bafkreiaaaaaaa", "'; --    ", "\udcff" * 8):
        with pytest.raises(UnknownId):
            queries.resolve_program(store, absent)
    with pytest.raises(UnknownId, match="at least 8"):
        queries.resolve_program(store, program[:7])


def marks_of(store: Store, *ids: str) -> list[tuple[str, ...]]:
    rows = [row for row in (queries.discovery(store, one) for one in ids) if row is not None]
    found = queries.marks(store, rows)
    return [found[one] for one in ids]


def test_what_was_built_on_a_retracted_discovery_is_marked(store: Store) -> None:
    one, two = examples.author(store, 1), examples.author(store, 2)
    first = examples.state_discovery(one, BASELINE, FIRST)
    second = examples.state_discovery(two, FIRST, SECOND)
    third = examples.state_discovery(one, SECOND, THIRD)
    beside = examples.state_discovery(one, BASELINE, BRANCH)
    ids = (first.id, second.id, third.id, beside.id)
    assert marks_of(store, *ids) == [(), (), (), ()]
    examples.state_attestation(two, first)
    histories.state_retraction(one, first)
    built = ("built_on_retracted",)
    assert marks_of(store, *ids) == [("retracted",), built, built, ()]
    assert {line.id: line.marks for line in queries.log(store) if line.marks} == {
        first.id: ("retracted",),
        second.id: built,
        third.id: built,
    }
    lineage = queries.lineage_of(store, second.id)
    assert [step.marks for step in lineage.ancestors] == [("retracted",), built]
    assert [(step.depth, step.marks) for step in lineage.descendants] == [(0, built), (1, built)]


def test_nobody_marks_what_is_not_theirs(store: Store) -> None:
    one, two, stranger = (examples.author(store, number) for number in (1, 2, 3))
    first = examples.state_discovery(one, BASELINE, FIRST)
    examples.state_adoption(two, FIRST, first)
    second = examples.state_discovery(two, FIRST, SECOND)
    histories.state_retraction(stranger, first)
    copied = examples.state_discovery(stranger, BASELINE, FIRST)  # the same program, claimed again and retracted
    histories.state_retraction(stranger, copied)
    assert marks_of(store, first.id, second.id, copied.id) == [(), (), ("retracted",)]


def test_a_claimed_cycle_with_a_retraction_ends(store: Store) -> None:
    by = examples.author(store)
    first = examples.state_discovery(by, SECOND, FIRST)
    second = examples.state_discovery(by, FIRST, SECOND)
    histories.state_retraction(by, second)
    assert marks_of(store, first.id) == [("built_on_retracted",)]
    assert "retracted" in marks_of(store, second.id)[0]


def test_who_retracts_confirms_no_more(store: Store) -> None:
    one, two, three = (examples.author(store, number) for number in (1, 2, 3))
    found = examples.state_discovery(one, BASELINE, FIRST)
    examples.state_attestation(two, found)
    examples.state_attestation(three, found)
    histories.state_retraction(two, found, "my disk was full")
    row = queries.discovery(store, found.id)
    assert row is not None
    assert (row.confirmed, row.retracted) == (1, False)
    assert [said.reason for said in queries.retractions(store, found.id)] == ["my disk was full"]


def test_a_banned_author_is_marked(store: Store) -> None:
    liar, two = examples.author(store, 1), examples.author(store, 2)
    found = examples.state_discovery(liar, BASELINE, FIRST)
    said = examples.state_adoption(liar, FIRST, found)
    taken = examples.state_adoption(two, FIRST, found)
    histories.equivocate(store, 1, said)
    marks = {line.id: line.marks for line in queries.log(store)}
    assert (marks[found.id], marks[said.id], marks[taken.id]) == (("author_banned",), ("author_banned",), ())
    account = queries.trace(store, found.id).account
    assert account.marks == ("author_banned",)
    assert account.banned == (liar.id,)


def test_a_discoverys_account(store: Store) -> None:
    one, two, three = (examples.author(store, number) for number in (1, 2, 3))
    first = examples.state_discovery(one, BASELINE, FIRST)
    found = examples.state_discovery(one, FIRST, SECOND)
    below = examples.state_discovery(two, SECOND, THIRD)
    histories.state_measured(two, found, "inconclusive", [(3.0, 3.0)] * 2)
    second_look = histories.state_measured(two, found, "confirmed", [(3.0, 2.9)] * 2)
    histories.state_measured(three, found, "confirmed", [(3.0, 2.7)] * 3)
    histories.state_measured(one, found, "confirmed", [(3.0, 1.0)] * 3)  # its author again
    examples.state_attestation(examples.author(store, 4), found, "refuted")  # without an effect
    account = queries.trace(store, found.id).account
    assert [pair.difference for pair in account.pairs] == pytest.approx(
        [after - before for before, after in examples.GAIN]
    )
    assert [(pair.parent.val_bpb, pair.child.val_bpb) for pair in account.pairs if pair.parent and pair.child] == list(
        examples.GAIN
    )
    assert account.lineage == queries.LineageIds(ancestors=(first.id,), descendants=(below.id,))
    assert len(account.attestations) == 5
    (effects,) = account.effects
    assert effects.hardware == "a processor, x86_64"
    assert effects.claimed is not None
    assert effects.claimed.mean == account.discovery.mean
    assert [(effect.author, effect.pairs) for effect in effects.measured] == [(two.id, 2), (three.id, 3)]
    assert effects.measured[0].mean == pytest.approx(-0.1)
    assert second_look.id in [said.id for said in account.attestations]
    assert (effects.nodes, effects.median) == (2, pytest.approx(-0.2))
    with pytest.raises(UnknownId, match="not a discovery"):
        queries.trace(store, second_look.id)


def test_an_account_whose_trials_are_elsewhere(store: Store) -> None:
    source = examples.new_store(store.path.parent, "source.db")
    found = examples.state_discovery(examples.author(source), BASELINE, FIRST)
    store.add(found)
    account = queries.trace(store, found.id).account
    assert {(pair.parent, pair.child) for pair in account.pairs} == {(None, None)}
    assert [(effects.hardware, effects.nodes, effects.median) for effects in account.effects] == [(None, 0, None)]


def test_effects_are_apart_by_hardware(store: Store) -> None:
    row = queries.discovery(store, examples.state_discovery(examples.author(store), BASELINE, FIRST).id)
    assert row is not None

    def said(author: str, hardware: str | None, mean: float) -> queries.AttestationRow:
        return queries.AttestationRow(author, author, "confirmed", "", 3, mean, mean, mean, hardware, 1, "")

    verdicts = [said("a", "GPU", -1.0), said("b", "CPU", -2.0), said("a", "CPU", -4.0), said("c", None, -8.0)]
    found = queries.effects(row, "CPU", verdicts)
    assert [(one.hardware, one.claimed is not None, one.nodes, one.median) for one in found] == [
        ("CPU", True, 2, -3.0),
        ("GPU", False, 1, -1.0),
        (None, False, 1, -8.0),
    ]
