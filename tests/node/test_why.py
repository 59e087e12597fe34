"""`waggle why`, `waggle verify` and `waggle adopt` as a user meets them."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import examples
import histories
import pytest
import trio
from scripted import program
from sides import Side, claim, verify_all

from ledger.envelope import Signed
from node import cli
from node.home import Home, found_challenge
from node.tracks import CPU_TRACK, own_tracks
from policy.intake import State

ONE, TWO, THREE = 5, 6, 7


class Told(NamedTuple):
    """A home with discoveries in many states."""

    home: Home
    found: dict[str, Signed]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("why")
    text = folder / "text.txt"
    text.write_text("".join(f"Line {number} of a small text.\n" for number in range(4000)))
    home = Home(folder / "home")
    found_challenge(home, "test", [text], own_tracks([CPU_TRACK], 1.0))
    side = Side(home.path, 0, home=home)
    found = trio.run(_history, side)
    assert {name: side.state(one) for name, one in found.items()} == {
        name: State.ADOPTED if name == "own" else State(name) for name in found
    }
    side.courses.close()
    side.store.close()
    return Told(home, found)


async def _history(side: Side) -> dict[str, Signed]:
    found = {"refuted": claim(side, ONE, -0.2), "adopted": claim(side, TWO, 0.3)}
    await verify_all(side)
    found["declined"] = claim(side, TWO, 0.15)
    await verify_all(side)
    child = side.store.blobs.put(program(0.9))
    found["own"] = examples.state_discovery(side.author, side.baseline, child)
    side.adopter.adopt(child, found["own"].id, "it beats the incumbent", None)
    found["duplicate"] = claim(side, THREE, -0.2)
    found["waiting"] = claim(side, TWO, 0.4, side.store.blobs.put(program(0.35)))
    found["rejected"] = examples.state_discovery(
        examples.author(side.store, 8), examples.digest("a"), examples.digest("a")
    )
    odd = "a\x1b[31m \x9bhypothesis"
    found["queued"] = histories.state_hypothesis(
        examples.author(side.store, 9), side.baseline, side.store.blobs.put(program(0.7)), odd
    )
    found["quarantined"] = claim(side, 9, 0.5, says=2.5)
    found["overturned"] = claim(side, 10, 0.75)
    histories.state_retraction(examples.author(side.store, 10), found["overturned"], "a bug in the count")
    side.verifier.hear()
    side.verifier.reconsider()
    return found


class Answer(NamedTuple):
    code: int
    out: str
    err: str


class Waggle:
    """`waggle ARGUMENTS --home HOME` in this process."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._home, self._monkeypatch, self._capsys = home, monkeypatch, capsys

    def __call__(self, *arguments: str) -> Answer:
        self._monkeypatch.setattr(sys, "argv", ["waggle", *arguments, "--home", str(self._home)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = self._capsys.readouterr()
        return Answer(int(ended.value.code or 0), shown.out, shown.err)


@pytest.fixture
def waggle(told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Waggle:
    return Waggle(told.home.path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own", ["of this node", "builds on it", "this node found it itself", "Measured here: claimed"]),
        ("adopted", ["builds on it", "queued", "verifying", "confirmed", "adopted: its parent is the incumbent",
                     "e-value", "Then: the node went on"]),
        ("declined", ["It holds, and this node builds on something else", "not shown to beat the incumbent"]),
        ("refuted", ["show no such gain", "on a private split"]),
        ("waiting", ["It waits.", "its parent's lineage has not arrived"]),
        ("quarantined", ["It is held back.", "more than any first gain should be", "Until"]),
        ("duplicate", ["was asked already", "the same child and parent as discovery"]),
        ("rejected", ["It was not worth a run.", "the child is the parent"]),
        ("queued", ["It is queued for this node's own runs", "is a stranger here"]),
        ("overturned", ["something speaks against it", "its author takes it back"]),
    ],
)  # fmt: skip
def test_the_whole_way_in_sentences(told: Told, waggle: Waggle, name: str, says: list[str]) -> None:
    answer = waggle("why", told.found[name].id)
    assert answer.code == 0, answer.err
    for part in ["Claimed: ", *says]:
        assert part in answer.out
    assert not set(answer.out) & {"\x1b", "\x9b"}
    assert answer.out.endswith(".\n") or name in ("adopted", "own", "refuted", "declined")


def shape(value: Any) -> Any:
    """Names and types, without what they hold."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def test_json_for_machines_keeps_its_form(told: Told, waggle: Waggle) -> None:
    answer = waggle("why", told.found["adopted"].id, "--json")
    (one,) = json.loads(answer.out)
    assert shape(one) == {
        "discovery": "str",
        "hypothesis": "str",
        "parent": "str",
        "child": "str",
        "claimed": {
            "split": "str", "seeds": ["int"], "parent_trials": ["str"], "child_trials": ["str"],
            "differences": ["float"], "mean": "float", "low": "float", "high": "float", "p_value": "float",
            "noise": "float",
        },
        "state": "str",
        "steps": [{"at": "str", "step": {"move": "str", "state": "str", "reason": "str"}}],
        "author": {
            "author": "str", "own": "bool", "claims": "float", "confirmations": "float", "refutations": "float",
            "checked": "int", "banned": "NoneType",
        },
        "voices": {
            "confirming": "int", "refuting": "int", "confirmers": "int", "refuters": "int", "undecided": "int",
            "undeciders": "int",
        },
        "evidence": [{
            "verdict": "str", "reason": "str", "split": "str", "pairs": "int", "mean": "float", "low": "float",
            "high": "float", "e_value": "float",
        }],
        "then": [{"entry": "str", "what": "str", "reason": "str"}],
        "words": ["str"],
    }  # fmt: skip
    assert one["state"] == "adopted"
    assert [step["step"]["state"] for step in one["steps"]] == [
        "screened", "queued", "verifying", "confirmed", "adopted"
    ]  # fmt: skip


def test_a_program_names_all_discoveries_of_it(told: Told, waggle: Waggle) -> None:
    answer = waggle("why", told.found["refuted"].statement.subject[:12], "--json")
    states = [one["state"] for one in json.loads(answer.out)]
    assert sorted(states) == ["duplicate", "refuted"]
    waits = waggle("why", told.found["rejected"].statement.subject[:12])  # its text is not here
    assert "the child is the parent" in waits.out


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        ("bafkreiaaaaaaaaaaaaaaa", "no entry"),
        ("0" * 20, "no program"),
        ("short", "too short"),
        ("'; DROP TABLE", "no program"),
    ],
)
def test_an_id_that_names_nothing(waggle: Waggle, prefix: str, says: str) -> None:
    for command in ("why", "verify", "adopt"):
        answer = waggle(command, prefix)
        assert answer.code == 2
        assert says in answer.err
        assert len(answer.err.splitlines()) == 1


def test_an_entry_that_is_no_discovery_and_a_baseline(told: Told, waggle: Waggle) -> None:
    body = told.found["adopted"].statement.body
    trial = body.comparison.child_trials[0]  # type: ignore[union-attr]
    assert f"waggle ledger show {trial}" in waggle("why", trial).err
    baseline = told.home.challenge().tracks[CPU_TRACK].baseline
    assert "it may be a baseline" in waggle("why", baseline).err


def test_the_owners_wishes_with_and_without_a_running_node(told: Told, waggle: Waggle) -> None:
    queued, declined = told.found["queued"].id, told.found["declined"].id
    assert "at its next start" in waggle("verify", queued).out
    with told.home.locked():
        assert "the running node does so next" in waggle("adopt", declined).out
        assert "It is queued" in waggle("why", queued).out
    assert sorted(path.name for path in told.home.asked.iterdir()) == [f"adopt-{declined}", f"verify-{queued}"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("queued", "are still to come. Have it run: waggle verify"),
        ("refuted", "say refuted"),
        ("own", "builds on"),
    ],
)
def test_what_cannot_be_adopted_is_said_at_once(told: Told, waggle: Waggle, name: str, says: str) -> None:
    answer = waggle("adopt", told.found[name].id)
    assert answer.code == 2
    assert says in answer.err
    assert not (told.home.asked / f"adopt-{told.found[name].id}").exists()


def test_a_program_of_several_discoveries_cannot_be_wished_for(told: Told, waggle: Waggle) -> None:
    answer = waggle("verify", told.found["refuted"].statement.subject)
    assert answer.code == 2
    assert "Name one by its id" in answer.err
