"""The operator's wishes: used once, with a fate, whether a node runs or not."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from scripted import program

from node.claims import Candidate
from node.cli import waggle
from node.errors import UserError
from node.home import Home, found_challenge
from node.steering import OPEN_MAX, Steering, Wish
from node.tracks import CPU_TRACK, own_tracks


def passes(parent: str, text: str) -> str | None:
    return None


def given(folder: Path, *wishes: Wish) -> tuple[Steering, list[str]]:
    lines: list[str] = []
    steering = Steering(folder / "steering", lines.append)
    for wish in wishes:
        steering.add(wish)
    return steering, lines


def wish(hypothesis: str, text: str | None = None) -> Wish:
    return Wish(hypothesis=hypothesis, program=text, made_at=0)


def test_suggestions_are_asked_for_in_order_and_each_is_used_once(tmp_path: Path) -> None:
    steering, _ = given(tmp_path, wish("fewer layers"), wish("a larger batch"))
    assert steering.suggestion() == "fewer layers"
    assert steering.suggestion() == "fewer layers"  # asked again as long as nothing was made of it
    steering.proposed("a" * 64, None)
    assert steering.suggestion() == "a larger batch"
    steering.proposed("", "nothing could be tried")
    assert steering.suggestion() == ""
    steering.ended(Candidate("p", "a" * 64, "h", "evolve", "o"), "kept", "-0.02 bpb")
    assert [(one.wish.state, one.wish.why) for one in steering.all()] == [
        ("kept", "-0.02 bpb"),
        ("refused", "nothing could be tried"),
    ]


def test_a_program_comes_as_a_proposal_once_and_what_is_refused_is_passed_over(tmp_path: Path) -> None:
    good = program(0.1).decode()
    steering, lines = given(tmp_path, wish("", "import os"), wish("more gain", good))
    ready = steering.by_hand("p" * 64, lambda parent, text: "it imports os" if "os" in text else None)
    assert ready is not None
    assert (ready.proposal.program, ready.proposal.proposer) == (good, "operator")
    assert steering.by_hand("p" * 64, passes) is None
    assert [one.wish.state for one in steering.all()] == ["refused", "trying"]
    assert "it imports os" in lines[0]


def test_a_stop_loses_no_wish(tmp_path: Path) -> None:
    steering, _ = given(tmp_path, *(wish(str(n), program(n / 10).decode()) for n in range(4)))
    taken = [steering.by_hand("p" * 64, passes) for _ in range(4)]
    digests = [ready.child for ready in taken if ready is not None]
    again = Steering(tmp_path / "steering")
    again.resume(digests[0], {digests[1]: "discarded", digests[2]: "failed"}.get)  # type: ignore[arg-type]
    assert [one.wish.state for one in again.all()] == ["trying", "discarded", "failed", "open"]


def test_a_file_that_cannot_be_read_is_said_once_and_stops_nothing(tmp_path: Path) -> None:
    steering, lines = given(tmp_path, wish("fewer layers"))
    (tmp_path / "steering" / "0.json").write_text("{")
    (tmp_path / "steering" / "1.json").write_text(json.dumps({"hypothesis": "x" * 2000, "made_at": 0}))
    assert steering.suggestion() == steering.suggestion() == "fewer layers"
    assert len(lines) == 2


def test_no_more_than_so_many_wait(tmp_path: Path) -> None:
    steering, _ = given(tmp_path, *(wish(str(n)) for n in range(OPEN_MAX)))
    with pytest.raises(UserError, match="wait already"):
        steering.add(wish("one more"))


def test_news_is_what_was_not_there_before(tmp_path: Path) -> None:
    steering, _ = given(tmp_path, wish("fewer layers"))
    assert [steering.news(), steering.news()] == [True, False]
    steering.add(wish("more layers"))
    assert steering.news()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("home")
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"A line about the number {n} and its square {n * n}." * 20 for n in range(400)))
    found = Home(folder / "home")
    found_challenge(found, "steered", [text], own_tracks([CPU_TRACK], 1.0))
    return found


def run(home: Home, *arguments: str) -> str:
    """What a command prints; raises what it raises."""
    done = CliRunner().invoke(waggle, [*arguments, "--home", str(home.path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_commands_queue_list_and_refuse(home: Home, tmp_path: Path) -> None:
    assert "next start" in run(home, "suggest", "fewer layers")
    with home.locked():
        assert "running node" in run(home, "suggest", "more layers")
    good, bad = tmp_path / "train.py", tmp_path / "bad.py"
    good.write_bytes(program(0.25))
    bad.write_text("import os\n" + program(0.25).decode())
    with pytest.raises(UserError, match=r"bad.py is refused: .*os"):
        run(home, "propose", "--file", str(bad))
    assert json.loads(run(home, "propose", "--file", str(good), "--hypothesis", "it gains", "--json"))["program"]
    with pytest.raises(UserError, match="waits or is being tried already"):
        run(home, "propose", "--file", str(good))
    shown = run(home, "suggest", "--list")
    assert shown.count("open") == 3
    listed = json.loads(run(home, "suggest", "--list", "--json"))
    assert [one["hypothesis"] for one in listed] == ["fewer layers", "more layers", "it gains"]
    with pytest.raises(UserError, match="say what to try"):
        run(home, "suggest")


def test_a_program_that_was_tried_is_refused_in_other_words_too(home: Home, tmp_path: Path) -> None:
    import examples

    store = home.store(home.challenge())
    tried = store.blobs.put(program(0.5))
    by = examples.author(store, 7)
    examples.state_trial(by, tried, 0, 3.0)
    store.close()
    again = tmp_path / "again.py"
    again.write_text("# nothing new\n" + program(0.5).decode())
    with pytest.raises(UserError, match="has been tried"):
        run(home, "propose", "--file", str(again))
