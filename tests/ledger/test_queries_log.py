"""The log: every combination of conditions gives what a plain reading of all entries gives, and news arrives once."""

from collections.abc import Callable, Iterator
from itertools import chain, combinations_with_replacement
from pathlib import Path
from typing import Any

import examples
import histories
import pytest

from ledger import queries
from ledger.author import Author
from ledger.queries import LogFilter, LogLine, history
from ledger.statements import KINDS
from ledger.store import Store

BASELINE, FIRST, SECOND = (examples.digest(name) for name in ("baseline", "first", "second"))
TIMES = ["now", "2461044.5", "2026-01-03T01:00:00+01:00", *(f"2026-01-{day:02}T00:00:00Z" for day in range(1, 29))]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return examples.new_store(tmp_path)


def clocked(store: Store, number: int) -> Author:
    times: Iterator[str] = iter(TIMES * 9)
    return Author(store, examples.key(number), now=lambda: next(times))


@pytest.fixture
def told(store: Store) -> Store:
    """Two authors, several kinds, effects, statuses and times."""
    one, two = clocked(store, 1), clocked(store, 2)
    first = histories.state_hypothesis(one, BASELINE, FIRST, "fewer heads", 0.3)
    second = histories.state_hypothesis(two, FIRST, SECOND, "more heads", 0.1)
    histories.state_measured(two, first, "confirmed", [(3.0, 2.8)] * 2)
    histories.state_measured(one, second, "refuted", [(3.0, 3.1)] * 2)
    examples.state_attestation(one, first, "inconclusive")
    examples.state_trial(two, FIRST, 7, None)
    examples.state_adoption(two, FIRST, first)
    return store


def day_of(line: LogLine) -> float | None:
    if "T" not in line.recorded_at:  # SQLite would take "now" and a Julian day for times
        return None
    return 3.0 if line.recorded_at == "2026-01-03T01:00:00+01:00" else float(line.recorded_at[8:10])


CONDITIONS: list[dict[str, Any]] = [
    {"author": examples.author_id(1)},
    {"kind": "attestation"},
    {"kind": "trial"},
    {"subject": FIRST[:9]},
    {"subject": "0"},
    {"status": "crash"},
    {"verdict": "refuted"},
    {"better_than": -0.05},
    {"worse_than": -0.25},
    {"better_than": 0.0, "worse_than": -0.15},
    {"since": "2026-01-03T00:00:00Z", "until": "2026-01-05T00:00:00Z"},
]
FILTERS = [LogFilter(**(a | b | c)) for a, b, c in combinations_with_replacement(CONDITIONS, 3)]


@pytest.mark.parametrize("rare", [0, 5, 5000])
def test_every_way_to_an_answer_gives_the_same(told: Store, rare: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "RARE_MAX", rare)  # which way is taken, and nothing else
    everything = queries.log(told, limit=1000)
    facts = {
        row["id"]: row
        for row in told.db.query(
            """SELECT e.id, t.status, a.verdict, coalesce(d.mean, a.mean) AS mean FROM entries AS e
               LEFT JOIN trials AS t USING (id) LEFT JOIN attestations AS a USING (id)
               LEFT JOIN discoveries AS d USING (id)"""
        )
    }
    answered = 0
    for wanted in FILTERS:
        expected = [line.id for line in everything if _meets(line, facts[line.id], wanted)]
        assert [line.id for line in queries.log(told, wanted, limit=1000)] == expected, wanted
        assert [line.id for line in queries.log(told, wanted, limit=2)] == expected[-2:], wanted
        answered += bool(expected)
    assert answered > len(FILTERS) / 8


def _meets(line: LogLine, facts: dict[str, object], wanted: LogFilter) -> bool:
    mean, day = facts["mean"], day_of(line)
    return (
        (wanted.author is None or line.author == wanted.author)
        and (wanted.kind is None or line.kind == wanted.kind)
        and (wanted.subject is None or line.subject.startswith(wanted.subject))
        and (wanted.status is None or facts["status"] == wanted.status)
        and (wanted.verdict is None or facts["verdict"] == wanted.verdict)
        and (wanted.better_than is None or (isinstance(mean, float) and mean < wanted.better_than))
        and (wanted.worse_than is None or (isinstance(mean, float) and mean > wanted.worse_than))
        and (wanted.since is None or (day is not None and 3 <= day <= 5))
    )


def test_every_kind_has_a_line_of_its_own(store: Store) -> None:
    one, two = examples.author(store, 1), examples.author(store, 2)
    found = examples.state_discovery(one, BASELINE, FIRST)
    examples.state_attestation(two, found)
    adopted = examples.state_adoption(two, FIRST, found)
    histories.state_retraction(one, found)
    histories.state_skill(one, "warm up", "Warm up for longer.")
    histories.state_newer(2, store, adopted)
    one.reset("the disk died", number=7)
    histories.state_every_other_kind(one, FIRST)
    lines = {line.kind: line.summary for line in queries.log(store, limit=1000)}
    assert set(lines) == {*KINDS, "urn:waggle:dream:v1"}
    assert len(set(lines.values())) == len(lines)
    assert all(lines.values())
    assert lines["urn:waggle:dream:v1"] == "of a type that this version does not know"
    assert lines["gate"] == "RUN to FREEZE: costs"
    assert lines["skill"] == "warm up"
    assert lines["checkpoint"].endswith("entries of main")


def followed(store: Store, wanted: LogFilter, after: int, wait: Callable[[], None]) -> list[list[str]]:
    """Ids, page by page, until `wait` is tired of it."""
    pages: list[list[str]] = []
    try:
        for lines in queries.follow(store, wanted, after, wait):
            pages.append([line.id for line in lines])
    except KeyboardInterrupt:
        return pages
    raise AssertionError("it ended by itself")


def test_news_arrives_once_and_in_the_order_of_its_arrival(store: Store) -> None:
    by, other = examples.author(store, 1), examples.author(store, 2)
    examples.state_adoption(by, BASELINE)
    stated: list[str] = []

    def wait() -> None:
        if len(stated) >= 6:
            raise KeyboardInterrupt
        stated.append(examples.state_adoption(by, FIRST).id)
        examples.state_adoption(other, FIRST)
        stated.append(examples.state_adoption(by, SECOND).id)

    pages = followed(store, LogFilter(author=by.id), queries.position(store), wait)
    assert list(chain(*pages)) == stated
    assert len(stated) == 6


def test_much_news_arrives_in_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "ARRIVALS_MAX", 3)
    by = examples.author(store)
    stated = [examples.state_trial(by, BASELINE, seed, 3.0).id for seed in range(10)]

    def wait() -> None:
        raise KeyboardInterrupt

    pages = followed(store, LogFilter(), 0, wait)
    assert [len(page) for page in pages] == [3, 3, 3, 1]
    assert list(chain(*pages)) == stated


def test_a_revocation_does_not_hide_news(store: Store) -> None:
    """It takes entries away, and SQLite could give their row numbers to the next ones."""
    one, two, liar = (examples.author(store, number) for number in (1, 2, 3))
    examples.state_adoption(one, BASELINE)
    at_fork = examples.state_adoption(liar, BASELINE)
    stranger = examples.new_store(store.path.parent, "other.db")
    stranger.add(at_fork)
    revoked = examples.author(stranger, 3).revoke("stolen")  # vouches for nothing of the trials
    for seed in range(3):
        examples.state_trial(liar, BASELINE, seed, 3.0)
    stated: list[str] = []

    def wait() -> None:
        if stated:
            raise KeyboardInterrupt
        store.add(revoked)
        stated.extend([revoked.id, examples.state_adoption(two, FIRST).id])

    pages = followed(store, LogFilter(), queries.position(store), wait)
    assert list(chain(*pages)) == stated
    assert queries.log(store, LogFilter(author=liar.id, kind="trial")) == []
