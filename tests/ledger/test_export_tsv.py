"""Autoresearch's results.tsv: its columns, its order, its three statuses."""

import csv
import io
from pathlib import Path

import examples
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.author import Author
from ledger.envelope import Signed
from ledger.export import tsv
from ledger.export.selection import Selection
from ledger.export.text import cell
from ledger.predicates import Claim, Trial
from ledger.store import Store

BASELINE, FIRST, SECOND, THIRD = (examples.digest(name) for name in ("baseline", "first", "second", "third"))
PRIVATE = "private:" + "5" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return examples.new_store(tmp_path)


def rows(store: Store, author: str | None = None, track: str | None = None) -> list[dict[str, str]]:
    text = "".join(tsv.export(Selection(store), author=author, track=track))
    return list(csv.DictReader(io.StringIO(text), delimiter="\t"))


def state_claim(by: Author, program: str, hypothesis: str) -> Signed:
    return by.append(
        "main",
        program,
        lambda entry: Claim(entry=entry, track=examples.TRACK, parent=BASELINE, hypothesis=hypothesis),
    )


def state_trial_in(by: Author, program: str, track: str, gib: float) -> Signed:
    def body(entry: msgspec.Struct) -> Trial:
        result = msgspec.structs.replace(examples.measurement(2.5), peak_memory_bytes=int(gib * 2**30))
        return Trial(entry=entry, track=track, seed=0, split="public", result=result)  # type: ignore[arg-type]

    return by.append("trials", program, body)


def test_a_night_as_autoresearch_writes_it(store: Store) -> None:
    me, other = examples.author(store, 1), examples.author(store, 2)
    theirs = examples.state_discovery(other, BASELINE, THIRD)
    examples.state_adoption(me, BASELINE)
    examples.state_trial(me, BASELINE, 0, 3.0)
    examples.state_trial(me, BASELINE, 1, 3.1)
    found = examples.state_discovery(me, BASELINE, FIRST, ((3.0, 2.5), (3.2, 2.75)))
    examples.state_adoption(me, FIRST, found)
    state_claim(me, SECOND, "twice the depth")
    examples.state_trial(me, SECOND, 0, 2.9)
    examples.state_trial(me, THIRD, 0, 2.0, PRIVATE)  # a verification is no experiment of one's own
    examples.state_trial(me, THIRD, 0, 2.0)
    examples.state_adoption(me, THIRD, theirs)
    examples.state_trial(me, "d" * 64, 0, None)
    assert "".join(tsv.export(Selection(store), author=me.id)) == (
        "commit\tval_bpb\tmemory_gb\tstatus\tdescription\n"
        f"{BASELINE[:7]}\t3.075000\t0.3\tkeep\tbaseline\n"
        f"{FIRST[:7]}\t2.625000\t0.3\tkeep\ta smaller batch\n"
        f"{SECOND[:7]}\t2.900000\t0.3\tdiscard\ttwice the depth\n"
        f"{THIRD[:7]}\t2.000000\t0.3\tkeep\ta smaller batch\n"
        "ddddddd\t0.000000\t0.0\tcrash\t(no hypothesis recorded)\n"
    )


def test_the_baseline_is_first_whenever_it_was_run(store: Store) -> None:
    me = examples.author(store)
    examples.state_trial(me, FIRST, 0, 2.0)
    examples.state_trial(me, BASELINE, 0, 3.0)
    examples.state_adoption(me, BASELINE)
    assert [row["description"] for row in rows(store)] == ["baseline", tsv.UNKNOWN]


def test_authors_and_tracks_can_be_chosen(store: Store) -> None:
    one, two = examples.author(store, 1), examples.author(store, 2)
    examples.state_trial(one, BASELINE, 0, 3.0)
    examples.state_trial(two, BASELINE, 0, 3.5)
    state_trial_in(two, FIRST, "gpu-5min", 43.96)
    assert [row["val_bpb"] for row in rows(store)] == ["3.000000", "3.500000", "2.500000"]
    assert [row["val_bpb"] for row in rows(store, author=two.id)] == ["3.500000", "2.500000"]
    assert [row["memory_gb"] for row in rows(store, track="gpu-5min")] == ["44.0"]
    assert rows(store, author=examples.author_id(3)) == []


def test_a_program_has_a_row_in_each_track(store: Store) -> None:
    me = examples.author(store)
    examples.state_trial(me, FIRST, 0, 3.0)
    state_trial_in(me, FIRST, "gpu-5min", 1.0)
    examples.state_adoption(me, FIRST)  # in the first track
    assert [(row["val_bpb"], row["status"]) for row in rows(store)] == [("3.000000", "keep"), ("2.500000", "discard")]


def test_a_failed_run_beside_good_ones_is_no_crash(store: Store) -> None:
    me = examples.author(store)
    examples.state_trial(me, FIRST, 0, None)
    examples.state_trial(me, FIRST, 1, 2.0)
    assert [(row["val_bpb"], row["status"]) for row in rows(store)] == [("2.000000", "discard")]


@given(hypothesis=st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_hypothesis_stays_in_its_cell(tmp_path_factory: pytest.TempPathFactory, hypothesis: str) -> None:
    store = examples.new_store(tmp_path_factory.mktemp("tsv"))
    me = examples.author(store)
    state_claim(me, FIRST, hypothesis)
    examples.state_trial(me, FIRST, 0, 2.0)
    examples.state_trial(me, SECOND, 0, 2.0)
    text = "".join(tsv.export(Selection(store)))
    lines = text.split("\n")
    assert [line.count("\t") for line in lines] == [4, 4, 4, 0]
    assert all(part.isprintable() for line in lines for part in line.split("\t"))
    assert [row["commit"] for row in rows(store)] == [FIRST[:7], SECOND[:7]]
    store.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\ttwo\r\nthree", "one two three"),
        ('"open', "'open"),
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("  -1", "'-1"),
        ("\x1b[31mred\u202e", "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}"),
        ("größer, 3×", "größer, 3×"),
        ("", ""),
    ],
)
def test_cells(text: str, expected: str) -> None:
    assert cell(text) == expected
