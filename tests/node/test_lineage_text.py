"""A lineage as a tree and as a graph; no hypothesis can be more than a label."""

import re
from pathlib import Path

import examples
import histories
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import queries
from ledger.queries import DiscoveryRow, Lineage, Marked, Step
from ledger.store import Store
from node import lineage_text

BASELINE, FIRST, SECOND, THIRD, FOURTH = (examples.digest(name) for name in "abcde")
DOT_LINE = re.compile(r'  n\d+ \[label="([^"\\\n]|\\["\\n])*", shape=box[a-z=, ]*\];|  n\d+ -> n\d+;')
MERMAID_LINE = re.compile(r'  n\d+\["([\w +\-.,…]|#\d+;|<br/>)*"\](:::(confirmed|doubted))?|  n\d+ --> n\d+')


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return examples.new_store(tmp_path)


def tree(found: Lineage) -> list[str]:
    return [str(line) for line in lineage_text.tree(found, "baseline")]


def test_a_tree_from_the_baseline(store: Store) -> None:
    by = examples.author(store)
    first = histories.state_hypothesis(by, BASELINE, FIRST, "one")
    second = histories.state_hypothesis(by, FIRST, SECOND, "two")
    histories.state_hypothesis(by, SECOND, THIRD, "three")
    histories.state_hypothesis(by, THIRD, FOURTH, "four")
    histories.state_hypothesis(by, SECOND, "f" * 64, "beside three")
    shape = [re.sub(r"bafkrei.*\)  ", "", line) for line in tree(queries.lineage_of(store, second.id))]
    assert shape == ["baseline", "one", "two", "├─ three", "│  four", "└─ beside three"]
    alone = tree(queries.lineage_of(store, first.id))
    assert alone[1].startswith(first.id[:16])
    assert [line[:3] for line in alone[2:]] == ["└─ ", "   ", "   ", "   "]
    histories.state_retraction(by, first)
    marked = tree(queries.lineage_of(store, second.id))
    assert "[retracted] one" in marked[1]
    assert "[built on a retracted one] three" in marked[3]


def test_a_very_long_lineage_is_written_without_recursion() -> None:
    steps = tuple(Step(depth, row(str(depth)), ()) for depth in range(2000))
    found = Lineage((Marked(row("0"), ()),), steps)
    assert len(tree(found)) == 2001
    assert lineage_text.dot(found, "baseline").count("->") == 2000


def test_graphs_have_every_step_and_its_parent(store: Store) -> None:
    by, other = examples.author(store), examples.author(store, 2)
    first = histories.state_hypothesis(by, BASELINE, FIRST, "one")
    second = histories.state_hypothesis(by, FIRST, SECOND, "two")
    histories.state_hypothesis(by, SECOND, THIRD, "three")
    histories.state_hypothesis(by, SECOND, FOURTH, "four")
    examples.state_attestation(other, first)
    histories.state_retraction(by, second)
    found = queries.lineage_of(store, second.id)
    dot, mermaid = lineage_text.dot(found, "baseline"), lineage_text.mermaid(found, "baseline")
    edges = [(0, 1), (1, 2), (2, 3), (2, 4)]
    assert [tuple(map(int, edge)) for edge in re.findall(r"n(\d+) -> n(\d+)", dot)] == edges
    assert [tuple(map(int, edge)) for edge in re.findall(r"n(\d+) --> n(\d+)", mermaid)] == edges
    (confirmed,) = (line for line in dot.splitlines() if "darkgreen" in line)
    assert confirmed.startswith("  n1 ")
    assert re.findall(r"n(\d+)\[.*:::doubted", mermaid) == ["2", "3", "4"]


def row(hypothesis: str) -> DiscoveryRow:
    return DiscoveryRow(
        id=examples.digest(hypothesis), author=examples.author_id(1), track="t", parent=BASELINE, child=FIRST,
        hypothesis=hypothesis, proposer="p", pairs=3, mean=-0.1, low=-0.2, high=0.0, lamport=1,
        recorded_at="", confirmed=0, refuted=0, adopted=0, retracted=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "hostile",
    ['"]; evil [label="', "\\", '\\"', 'x"] --> n9["y', "`**bold**`", "<script>", "a\nb", "#quot;", "%% end", "\u202e"],
)
def test_a_label_stays_a_label(hostile: str) -> None:
    _check_syntax(hostile)


@given(st.text(max_size=100))
def test_any_label_stays_a_label(text: str) -> None:
    _check_syntax(text)


def _check_syntax(text: str) -> None:
    found = Lineage((Marked(row(text), ()),), (Step(0, row(text), ("retracted",)),))
    dot = lineage_text.dot(found, text).split("\n")
    assert (dot[0], dot[-1]) == ("digraph lineage {", "}")
    assert [line for line in dot[1:-1] if not DOT_LINE.fullmatch(line)] == []
    mermaid = lineage_text.mermaid(found, text).split("\n")
    assert [line for line in mermaid[3:] if not MERMAID_LINE.fullmatch(line)] == []
    assert len(mermaid) - 3 == len(dot) - 2 == 3
