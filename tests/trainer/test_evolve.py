"""The proposer without a key: what it changes, what it leaves alone, and what a hostile program cannot make it do."""

import ast
import random
import re
from pathlib import Path

import pytest

import trainer
from trainer.proposers.evolve import Evolve
from trainer.proposers.proposal import Context, NothingNew, ProgramUnreadable, Proposal, fingerprint

BASELINE = Path(trainer.__file__).with_name("programs").joinpath("cpu_quick.py").read_text()
SOME = """RATE = 1e-3  # per step
HEADS = 2
WIDTH: int = 8
assert WIDTH % HEADS == 0
"""


def series(program: str, count: int, seed: int = 1) -> list[Proposal]:
    """Proposals from one parent, each told of those before it."""
    rng, seen, proposals = random.Random(seed), set[str](), []
    for _ in range(count):
        proposals.append(Evolve(()).propose(Context(program=program, seen=seen), rng))
        seen.add(fingerprint(proposals[-1].program))
    return proposals


def exhausted(program: str) -> list[str]:
    """The texts of all proposals that there are."""
    seen, texts, rng = set[str](), [], random.Random(1)
    while True:
        try:
            text = Evolve(()).propose(Context(program=program, seen=seen), rng).program
        except NothingNew:
            return texts
        seen.add(fingerprint(text))
        texts.append(text)


def constants(program: str) -> dict[str, object]:
    """The module's constants as Python itself sees them; its asserts are run as well."""
    body = [node for node in ast.parse(program).body if isinstance(node, ast.Assign | ast.AnnAssign | ast.Assert)]
    scope: dict[str, object] = {}
    exec(compile(ast.Module(body, []), "constants", "exec"), scope)
    return {name: value for name, value in scope.items() if name.isupper()}


@pytest.fixture(scope="module")
def proposals() -> list[Proposal]:
    return series(BASELINE, 300)


def test_proposals_differ_from_the_parent_and_from_each_other(proposals: list[Proposal]) -> None:
    fingerprints = {fingerprint(proposal.program) for proposal in proposals}
    assert len(fingerprints | {fingerprint(BASELINE)}) == 301


def test_proposals_change_one_or_two_constants_and_no_other_character(proposals: list[Proposal]) -> None:
    before = constants(BASELINE)
    changed_counts = []
    for proposal in proposals:
        after = constants(proposal.program)  # runs the asserts of the program
        changed = [name for name in before if after[name] != before[name]]
        assert 1 <= len(changed) <= 2
        assert list(after) == list(before)
        assert [type(value) for value in after.values()] == [type(value) for value in before.values()]
        lines = zip(BASELINE.splitlines(True), proposal.program.splitlines(True), strict=True)
        differing = [(old, new) for old, new in lines if old != new]
        assert len(differing) == len(changed)
        for old, new in differing:
            head = re.match(r"\w+ = ", old)
            assert head
            assert new.startswith(head[0])
            assert old.split("  # ")[1:] == new.split("  # ")[1:]
            assert old.endswith("\n") == new.endswith("\n")
        changed_counts.append(len(changed))
    assert {1, 2} <= set(changed_counts)


def test_values_stay_in_their_range(proposals: list[Proposal]) -> None:
    before = constants(BASELINE)
    for proposal in proposals:
        for name, value in constants(proposal.program).items():
            if isinstance(value, int):
                assert value >= 1 or value is False
            elif isinstance(value, float) and 0 <= before[name] < 1:  # type: ignore[operator]
                assert 0 <= value <= 1
            elif isinstance(value, str):
                assert value in ("relu2", "gelu", "silu")


def test_every_constant_of_the_baseline_is_tried(proposals: list[Proposal]) -> None:
    tried = {name for proposal in proposals for name in re.findall(r"([A-Z]\w+) from", proposal.hypothesis)}
    assert tried == set(constants(BASELINE))


def test_a_hypothesis_names_knob_and_values_and_is_short(proposals: list[Proposal]) -> None:
    before = constants(BASELINE)
    for proposal in proposals:
        after = constants(proposal.program)
        for name in before:
            if after[name] != before[name]:
                assert f"{name} from {before[name]!r} to {after[name]!r}: " in proposal.hypothesis
        assert len(proposal.hypothesis) < 300
        assert "\n" not in proposal.hypothesis
        assert proposal.proposer == "evolve"


def test_the_same_seed_gives_the_same_proposals() -> None:
    assert series(BASELINE, 10, seed=7) == series(BASELINE, 10, seed=7)
    assert series(BASELINE, 10, seed=7) != series(BASELINE, 10, seed=8)


def test_proposals_of_proposals_stay_valid() -> None:
    rng, program = random.Random(3), BASELINE
    seen = {fingerprint(program)}
    for _ in range(30):
        program = Evolve(()).propose(Context(program=program, seen=seen), rng).program
        seen.add(fingerprint(program))
        constants(program)
    assert len(seen) == 31


def test_what_is_left_to_try_runs_out_by_name() -> None:
    texts = exhausted("LAYERS = 1\n")
    assert sorted(texts) == ["LAYERS = 2\n"]
    with pytest.raises(NothingNew, match="has been tried"):
        Evolve(()).propose(Context(program="x = 1\n"), random.Random(1))


def test_asserts_over_constants_are_kept() -> None:
    for text in exhausted(SOME):
        values = constants(text)
        assert values["WIDTH"] % values["HEADS"] == 0  # type: ignore[operator]
    assert any("HEADS = 4" in text for text in exhausted(SOME))
    assert not any("HEADS = 3\nWIDTH: int = 8" in text for text in exhausted(SOME))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("N <= 4", {2, 3}),
        ("1 < N < 4", {2, 3}),
        ("N in (2, 7)", {2}),
        ("N % 2 == 0 or N == 3", {2, 3, 8}),
        ("not N > 4", {2, 3}),
        ("10 // (N - 2) > 0", {3, 5, 8}),  # no division by zero: 2 is out
        ("-N < -2", {3, 5, 8}),
        ("print(N) or N <= 4", {2, 3, 5, 8}),  # more than arithmetic: left to the program
        ("N ** 9 ** 9 ** 9 > 0", {2, 3, 5, 8}),
        ("'a' * 10 ** 12 != N", {2, 3, 5, 8}),
    ],
)
def test_an_assert_decides_what_is_proposed(rule: str, expected: set[int]) -> None:
    parent = f"N = 4\nassert {rule}\n"
    assert {int(text.split()[2]) for text in exhausted(parent)} == expected


def test_layout_line_ends_and_quotes_are_kept() -> None:
    parent = (
        "# été\r\nA  =  ( 2 )   #  x \r\n\f\r\nB: float = 2.5;\r\nC = 'x'  # kind; choices: x, y\r\nprint('\u2028')"
    )
    for text in exhausted(parent):
        assert re.fullmatch(
            r"# été\r\nA  =  \( \d \)   #  x \r\n\f\r\nB: float = [\d.]+;\r\nC = '[xy]'  # kind; choices: x, y\r\n"
            r"print\('\u2028'\)",
            text,
        )
    assert {"A", "B", "C"} == {
        name for proposal in series(parent, 20) for name in re.findall("([ABC]) from", proposal.hypothesis)
    }


@pytest.mark.parametrize(
    "line",
    [
        "lower = 2",
        "\fA = 2",
        "SEED = 2",
        "DATA_SEED = 2",
        "A = 2; B = 3",
        "A = B = 2",
        "A = 2\nA = 3",
        "A = 2\ndef f():\n    global A\n    A = 3",
        "A = 1 + 1",
        "A = -1",
        "A = 1e999",
        "A = 99999999999",
        "A = 'x'",
        "A = 'x'  # choices: y, z",
        "A = 'x'  # choices: x",
        "A = None",
        "A = 2j",
        "A = \\\n    2",
        "if True:\n    A = 2",
        f"A = 2  # {'x' * 200}",
        f"{'A' * 49} = 2",
    ],
)
def test_what_is_no_knob_is_left_alone(line: str) -> None:
    assert exhausted(f"{line}\n") == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0.95", {0.975, 0.9643, 0.93, 0.9}),  # by the distance to 1
        ("0.5", {0.25, 0.357, 0.7, 1.0}),
        ("1.0", {0.5, 0.714, 1.4, 2.0}),
        ("3e-4", {0.00015, 0.000214, 0.00042, 0.0006}),
        ("0.0", {0.01, 0.1}),
        ("6", {3, 5, 7, 12}),
        ("1", {2}),
        ("100", {50, 75, 150, 200}),
        ("True", {False}),
    ],
)
def test_the_steps_of_a_value(value: str, expected: set[float]) -> None:
    found = {ast.literal_eval(text.split()[2]) for text in exhausted(f"A = {value}\n")}
    assert found == expected
    assert {type(item) for item in found} == {type(ast.literal_eval(value))}


def test_a_program_is_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    hostile = f"open({str(trace)!r}, 'w').close()\nA = 2\nassert open({str(trace)!r}, 'w')\nimport antigravity\n"
    assert exhausted(hostile)
    assert not trace.exists()


@pytest.mark.parametrize(
    "program",
    [
        "A = (2\n",
        "A = 2\x00\n",
        "A = '\ud800'\n",
        "A = " + "(" * 20_000 + "2" + ")" * 20_000,  # libcst's own parser would end the process here
        "A = " + "-" * 20_000 + "2",
        "A = 2\nB = " + "+".join(["1"] * 20_000),
        "A = 2\nB = b" + ".b" * 20_000,
    ],
    ids=["syntax", "nul", "surrogate", "parentheses", "minus", "sum", "attributes"],
)
def test_a_program_that_does_not_parse_is_refused_by_name(program: str) -> None:
    with pytest.raises(ProgramUnreadable, match="the program is"):
        Evolve(()).propose(Context(program=program), random.Random(1))
    with pytest.raises(ProgramUnreadable, match="the program is"):
        fingerprint(program)


def test_deep_text_that_python_accepts_does_no_harm() -> None:
    deep = "A = 2\nB = " + " and ".join(["1"] * 20_000) + "\n"  # libcst's own parser would end the process here
    assert sorted(text.split("\n")[0] for text in exhausted(deep)) == ["A = 1", "A = 3", "A = 4"]


def test_a_fingerprint_ignores_what_does_nothing() -> None:
    one = '"""Text."""\nA = 2\n\ndef f(x):\n    "Doc."\n    return x + A\n'
    same = "A = (2)  # two\ndef f(x): return (x\n  + A)\n"
    assert fingerprint(one) == fingerprint(same)
    assert fingerprint(one) != fingerprint(one.replace("x + A", "A + x"))
    assert fingerprint(one) != fingerprint(one.replace("A = 2", "A = 2.0"))
    assert fingerprint("f('a')") != fingerprint("f('b')")


def test_odd_escapes_in_a_program_do_not_warn() -> None:
    assert len(fingerprint("A = '\\d'\n")) == 64  # warnings are errors here
