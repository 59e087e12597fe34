"""`waggle compare` and the options of `waggle trial`: pairs in turn, one effect, statuses and exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import examples
import pytest
from scripted import NOISE, ScriptedLane, program

from ledger.store import Store
from node.compare import Comparison, ScoredPair, outcome_line, pair_line, run_pairs
from node.home import Home
from policy import evidence

SALT = bytes(16)
WAGGLE = (sys.executable, "-m", "node.cli")
TABLE = """
import torch

def build(vocab_size, seq_len):
    model = torch.nn.Embedding(vocab_size, vocab_size)
    torch.nn.init.constant_(model.weight, 0.0)
    return model

def train(model, task):
    print("budget", round(task.time_left(), 1), "of", len(task.tokens), "bytes")
"""
COUNTING = TABLE.replace(
    "print(", "model.weight.data += torch.bincount(task.tokens.long(), minlength=256).add(0.1).log(); print("
)


async def compared(a: bytes, b: bytes, pairs: int, lane: ScriptedLane) -> tuple[Comparison, list[ScoredPair]]:
    heard: list[ScoredPair] = []
    result = await run_pairs(lane, {"a": a, "b": b}, examples.TRACK, SALT, range(pairs), heard.append)
    return result, heard


async def test_pairs_share_a_seed_and_take_turns() -> None:
    lane = ScriptedLane()
    result, heard = await compared(program(0.0), program(0.2), 3, lane)
    assert [b"0.2" in request.program for request in lane.requests] == [False, True, True, False, False, True]
    assert [request.seed for request in lane.requests] == [0, 0, 1, 1, 2, 2]
    assert {request.salt for request in lane.requests} == {SALT}
    assert heard == list(result.pairs)
    assert [pair.difference for pair in result.pairs] == [pair.b - pair.a for pair in result.pairs]


async def test_the_effect_is_that_of_the_evidence_and_negative_where_b_is_better() -> None:
    result, _ = await compared(program(0.0), program(0.2), 4, ScriptedLane())
    assert result.failure is None
    assert result.effect == evidence.effect([pair.difference for pair in result.pairs])
    assert result.effect.mean == pytest.approx(-0.2, abs=4 * NOISE)
    assert result.effect.low < -0.2 + 4 * NOISE < 0
    assert result.effect.p_value < 0.01
    line = outcome_line(result)
    assert f"{result.effect.mean:+.4f} bpb" in line
    assert "4 pairs" in line
    assert f"{result.pairs[2].b:.4f}" in pair_line(result.pairs[2])


async def test_a_program_against_itself_shows_no_effect() -> None:
    result, _ = await compared(program(0.1), program(0.1), 2, ScriptedLane())
    assert result.a == result.b
    assert result.effect is not None
    assert (result.effect.mean, result.effect.p_value) == (0.0, 1.0)  # the scripted noise hangs on program and seed


async def test_a_failed_run_ends_the_comparison_without_an_effect() -> None:
    lane = ScriptedLane()
    result, heard = await compared(program(0.0), program(0.2, crash_on="00"), 3, lane)
    assert result.effect is None
    assert result.failure is not None
    assert (result.failure.program, result.failure.seed, result.failure.status) == ("b", 0, "crash")
    assert (heard, len(lane.requests)) == ([], 2)
    assert outcome_line(result).startswith("B failed with seed 0, crash")


# From here on with the real runner and sandbox.


def waggle(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*WAGGLE, *map(str, arguments)], capture_output=True, text=True, timeout=90, check=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    (folder / "text.txt").write_text("".join(f"Line {n} of a text in which {n * 7919} stands.\n" for n in range(6000)))
    done = waggle("init", "--home", folder / "A", "--corpus", folder / "text.txt", "--budget", "30")
    assert done.returncode == 0, done.stderr
    return folder / "A"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.py"
    path.write_text(TABLE)
    return path


def test_compare_runs_pairs_and_records_nothing(home: Path, table: Path, tmp_path: Path) -> None:
    counting = tmp_path / "counting.py"
    counting.write_text(COUNTING)
    done = waggle("compare", table, counting, "--seeds", "2", "--home", home, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [pair["seed"] for pair in result["pairs"]] == [0, 1]
    assert all(pair["a"] == pytest.approx(8.0) for pair in result["pairs"])  # uniform over 256 bytes
    assert result["effect"]["mean"] < -2
    assert result["effect"]["p_value"] == 0.0  # neither draws random numbers
    place = Home(home)
    store: Store = place.store(place.challenge())
    assert store.heads() == {}
    store.close()


def test_compare_with_a_program_that_fails(home: Path, table: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def build(v, t):\n    raise ValueError('no model')\n\ndef train(m, t): ...\n")
    done = waggle("compare", bad, table, "--seeds", "2", "--home", home)
    assert done.returncode == 3
    assert "A failed with seed 0, crash" in done.stderr
    assert "no model" in done.stderr
    bad.write_text("def build(v, t): ...\n")
    refused = waggle("compare", table, bad, "--home", home, "--json")
    assert refused.returncode == 3
    failure = json.loads(refused.stdout)["failure"]
    assert (failure["program"], failure["seed"], failure["status"]) == ("b", None, "refused")


def test_compare_used_wrongly(home: Path, table: Path, tmp_path: Path) -> None:
    for arguments in (
        (table,),
        (table, tmp_path / "absent.py"),
        (table, table, "--seeds", "1"),
        (table, table, "--track", "gpu"),
        (table, table, "--home", tmp_path),
    ):
        done = waggle("compare", *arguments, *(() if "--home" in arguments else ("--home", home)))
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr


def test_a_trial_with_a_budget_split_and_log_of_its_own(home: Path, table: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    done = waggle("trial", table, "--home", home, "--json", "--budget", "1.5", "--split", "private", "--log", log)
    assert done.returncode == 0, done.stderr
    assert "budget 1." in log.read_text()  # of the track's 30
    table.write_text("import sys\nsys.exit('it has run')\n")
    public = waggle("trial", table, "--home", home, "--json", "--no-screen", "--log", log)
    assert public.returncode == 3
    measured = json.loads(public.stdout)
    assert measured["status"] == "crash"
    assert "it has run" in measured["reason"]
    assert "it has run" in log.read_text()
    assert measured["validation_sha256"] != json.loads(done.stdout)["validation_sha256"]


def test_a_program_that_the_screen_refuses_is_not_run(home: Path, tmp_path: Path) -> None:
    program_file = tmp_path / "train.py"
    program_file.write_text("import sys\nsys.exit('it has run')\n")
    done = waggle("trial", program_file, "--home", home, "--json")
    assert done.returncode == 3
    measured = json.loads(done.stdout)
    assert (measured["status"], measured["val_bpb"]) == ("refused", None)
    assert "does not define build" in measured["reason"]
    assert "it has run" not in done.stdout + done.stderr
    assert "refused: " in waggle("trial", program_file, "--home", home).stderr


def test_a_program_over_the_limit(home: Path, tmp_path: Path) -> None:
    large = tmp_path / "train.py"
    large.write_text(TABLE + "#" * 2**16)
    assert json.loads(waggle("trial", large, "--home", home, "--json").stdout)["status"] == "refused"
    done = waggle("trial", large, "--home", home, "--no-screen")
    assert done.returncode == 2
    assert "65536" in done.stderr


@pytest.mark.parametrize("wrong", [("--budget", "0"), ("--split", "mine"), ("--seed", "-1"), ("--budget", "soon")])
def test_a_trial_asked_for_wrongly(home: Path, table: Path, wrong: tuple[str, str]) -> None:
    done = waggle("trial", table, "--home", home, *wrong)
    assert done.returncode == 2
    assert wrong[0] in done.stderr
