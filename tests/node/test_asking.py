"""What the owner asks of a node: verify this one, adopt that one."""

from pathlib import Path

import examples
import pytest
from scripted import program
from sides import SPREAD, Side, claim, verdicts, verify_all

from node.asking import WISHES_MAX, Folder
from policy.intake import State

ONE, TWO, THREE = 5, 6, 7


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path / "b", 2)


def wish(side: Side, what: str, discovery: str) -> None:
    side.asked.ask("adopt" if what == "adopt" else "verify", discovery)


def test_wishes_are_files_that_neither_side_overwrites(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "asked")
    assert folder.to_verify() == folder.to_adopt() == []
    folder.done("bafkreia")  # which nobody wished
    for _ in range(2):
        folder.ask("verify", "bafkreia")
    folder.ask("adopt", "bafkreia")
    folder.ask("adopt", "bafkreib")
    (tmp_path / "asked" / "notes.txt").write_text("the owner's own")
    (tmp_path / "asked" / "verify-UP").touch()
    assert Folder(tmp_path / "asked").to_verify() == ["bafkreia"]
    assert folder.to_adopt() == ["bafkreia", "bafkreib"]
    folder.done("bafkreia")
    assert (folder.to_verify(), folder.to_adopt()) == ([], ["bafkreib"])
    assert (tmp_path / "asked" / "notes.txt").exists()


def test_no_more_wishes_are_read_at_once_than_are_bounded(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for number in range(WISHES_MAX + 5):
        folder.ask("verify", f"bafkrei{number:04}")
    assert len(folder.to_verify()) == WISHES_MAX


async def test_what_the_owner_wants_verified_goes_before_all_others_and_beyond_the_share(side: Side) -> None:
    claim(side, ONE, 0.3)
    last = claim(side, TWO, 0.2)
    await side.verify_next()  # from here on verification is beyond its share
    side.verifier.reconsider()
    other = claim(side, THREE, 0.1, says=0.1)
    side.verifier.reconsider()
    assert side.verifier.next() is None
    left = last if side.state(last) is State.QUEUED else other
    wish(side, "verify", left.id)
    row = side.verifier.next()
    assert row is not None
    assert row.id == left.id
    await side.verifier.step(row, SPREAD)
    assert side.asked.to_verify() == []
    assert any("the owner asked for it" in dated.step.reason for dated in side.courses.steps(left.id))


@pytest.mark.parametrize("before", ["refuted", "duplicate", "quarantined"])
async def test_what_was_refuted_passed_over_or_held_back_is_run_where_the_owner_wants_it(
    side: Side, before: str
) -> None:
    found = claim(side, ONE, -0.2, says=2.0 if before == "quarantined" else 0.2)
    if before == "duplicate":
        found = claim(side, TWO, -0.2)
    if before != "quarantined":
        await verify_all(side)
    else:
        side.verifier.reconsider()
    assert side.state(found) is State(before)
    wish(side, "verify", found.id)
    row = side.next()
    assert row is not None
    assert row.id == found.id
    assert verdicts(await side.verifier.step(row, SPREAD)) == ["refuted"]
    assert side.asked.to_verify() == []


async def test_a_rejected_claim_is_looked_at_again_and_stays_rejected(side: Side) -> None:
    found = examples.state_discovery(examples.author(side.store, ONE), examples.digest("a"), examples.digest("a"))
    side.verifier.hear()
    assert side.next() is None
    wish(side, "verify", found.id)
    assert side.next() is None
    assert side.state(found) is State.REJECTED
    assert side.asked.to_verify() == []


async def test_a_wish_for_what_has_not_arrived_in_full_waits_with_it(side: Side) -> None:
    found = examples.state_discovery(
        examples.author(side.store, ONE), side.baseline, examples.digest("x"), [(3.0, 2.8)] * 2
    )
    side.verifier.hear()
    wish(side, "verify", found.id)
    assert side.next() is None
    assert side.asked.to_verify() == [found.id]


def test_wishes_for_what_is_no_discovery_are_answered_and_gone(side: Side) -> None:
    wish(side, "verify", "bafkreinone")
    wish(side, "adopt", "bafkreinone")
    assert side.next() is None
    assert side.verifier.pending() is None
    assert side.asked.to_verify() == side.asked.to_adopt() == []
    assert any("no discovery of this track" in line for line in side.lines)


async def test_what_was_declined_is_adopted_where_the_owner_wants_it(side: Side) -> None:
    claim(side, ONE, 0.3)
    await verify_all(side)
    found = claim(side, TWO, 0.2)
    await verify_all(side)
    assert side.state(found) is State.DECLINED
    wish(side, "adopt", found.id)
    side.verifier = side.new_verifier()
    side.verifier.reconsider()
    row = side.verifier.pending()
    assert row is not None
    runs = len(side.lane.requests)
    assert [one.statement.kind for one in await side.verifier.consider(row, SPREAD)] == ["adoption"]
    assert len(side.lane.requests) == runs
    assert side.adopter.incumbent == found.statement.subject
    assert "the owner" in side.courses.reason(found.id)
    assert side.verifier.pending() is None


async def test_nothing_is_adopted_that_own_runs_did_not_confirm(side: Side) -> None:
    refuted, unrun = claim(side, ONE, -0.2), None
    await verify_all(side)
    unrun = claim(side, TWO, 0.3)
    side.verifier.reconsider()
    for found in (refuted, unrun):
        wish(side, "adopt", found.id)
        assert side.verifier.pending() is None
        assert any(f"cannot adopt {found.id[:16]}" in line for line in side.lines)
    assert side.asked.to_adopt() == []
    assert side.adopter.incumbent == side.baseline


async def test_the_owners_word_does_not_build_on_what_rests_on_something_refuted_and_is_answered_once(
    side: Side,
) -> None:
    lie = claim(side, ONE, -0.3)
    await verify_all(side)
    found = claim(side, TWO, 0.2, lie.statement.subject)
    await verify_all(side)
    assert side.adopter.incumbent == side.baseline
    wish(side, "adopt", found.id)
    for _ in range(3):
        row = side.verifier.pending()
        if row is not None:
            await side.verifier.consider(row, SPREAD)
    assert side.verifier.pending() is None
    assert side.asked.to_adopt() == []
    assert program(0.2) == side.store.blobs.get(found.statement.subject)
