"""How SQLite goes about it: no question that a person waits for reads all entries or all trials."""

import re
from collections.abc import Callable
from pathlib import Path

import examples
import histories
import pytest

from ledger import queries
from ledger.queries import LogFilter, history
from ledger.store import Store

ALL_OF_IT = re.compile(
    r"SCAN (entries|e|trials|t)\b(?! USING INDEX entries_by_clock)"
)  # but in causal order, to a limit
ME, FIRST = examples.author_id(1), examples.digest("first")


def plan(store: Store, ask: Callable[[], object]) -> list[str]:
    """The steps of all that `ask` asks of SQLite."""
    asked: list[str] = []
    store.db.conn.set_trace_callback(asked.append)
    ask()
    store.db.conn.set_trace_callback(None)
    own = [sql for sql in asked if not sql.startswith("--")]  # FTS5 asks its own tables
    assert own
    return [row[3] for sql in own for row in store.db.execute(f"EXPLAIN QUERY PLAN {sql}")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = examples.new_store(tmp_path)
    one, two = examples.author(store, 1), examples.author(store, 2)
    found = examples.state_discovery(one, examples.digest("baseline"), FIRST)
    histories.state_measured(two, found, "confirmed", examples.GAIN)
    examples.state_adoption(two, FIRST, found)
    examples.state_discovery(two, FIRST, examples.digest("second"))
    histories.state_retraction(one, found)
    return store


LOGS = {
    "everything": LogFilter(),
    "author": LogFilter(author=ME),
    "kind": LogFilter(kind="discovery"),
    "author and kind": LogFilter(author=ME, kind="trial"),
    "subject": LogFilter(subject=FIRST[:8]),
    "status": LogFilter(status="ok"),
    "verdict": LogFilter(verdict="confirmed"),
    "effect": LogFilter(better_than=0.0, worse_than=-1.0),
    "status and author": LogFilter(status="ok", author=ME),
}


@pytest.mark.parametrize("rare", [0, 5000])
@pytest.mark.parametrize("name", LOGS)
def test_the_log(store: Store, name: str, rare: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "RARE_MAX", rare)
    steps = plan(store, lambda: queries.log(store, LOGS[name]))
    assert [step for step in steps if ALL_OF_IT.match(step)] == []
    # On a walk, entries of equal clock are sorted among themselves; what is rare is sorted as a whole.
    assert ("USE TEMP B-TREE FOR RIGHT PART OF ORDER BY" in steps) == (rare == 0 or LOGS[name] == LogFilter())


def test_the_other_questions(store: Store) -> None:
    found = queries.log(store, LogFilter(kind="discovery"))[0].id
    asks: dict[str, Callable[[], object]] = {
        "show": lambda: queries.trace(store, found),
        "show another": lambda: queries.line(store, found),
        "lineage": lambda: queries.lineage_of(store, found),
        "search": lambda: queries.search(store, "batch"),
        "best": lambda: queries.best(store, examples.TRACK),
        "prefixes": lambda: [queries.resolve(store, found[:20]), queries.resolve_author(store, ME[-8:])],
        "position": lambda: queries.position(store),
        "trials": lambda: queries.trials(store, ME, FIRST, "public"),
        "transfers": lambda: queries.transfers(store),
        "last adoption": lambda: queries.last_adoption(store, ME, examples.TRACK),
    }
    for name, ask in asks.items():
        assert [step for step in plan(store, ask) if ALL_OF_IT.match(step)] == [], name


def test_a_question_that_reads_everything_would_be_noticed(store: Store) -> None:
    steps = plan(store, lambda: store.db.execute("SELECT * FROM trials AS t WHERE seed = 1").fetchall())
    assert [step for step in steps if ALL_OF_IT.match(step)] == ["SCAN t"]
