"""Import: what was exported comes back as it was; whatever else a file holds is refused, and harms nothing."""

import base64
import hashlib
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import examples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import tables
from ledger.author import Author
from ledger.envelope import ENVELOPE_BYTES_MAX, Signed
from ledger.errors import BadStatement
from ledger.export import jsonl
from ledger.export.jsonl import LINE_BYTES_MAX
from ledger.export.selection import Selection
from ledger.importing import REFUSALS_KEPT_MAX, Report, import_export
from ledger.predicates import PROGRAM_BYTES_MAX, Claim, Skill
from ledger.store import Store

ENTRIES = 9  # of the exporting store, six of them trials
PARENT, CHILD = b"parent = 1\n", b"child = 2\n"
PARENT_DIGEST, CHILD_DIGEST = (hashlib.sha256(text).hexdigest() for text in (PARENT, CHILD))


def exported(store: Store, *ids: str, programs: bool = False) -> bytes:
    return "".join(jsonl.export(store, Selection(store, ids), programs=programs)).encode()


def imported(store: Store, data: bytes, **options: Any) -> Report:
    return import_export(store, io.BytesIO(data), **options)


def envelopes(store: Store) -> list[bytes]:
    return [row[0] for row in store.db.execute("SELECT envelope FROM entries ORDER BY id")]


def line(entry: Signed) -> bytes:
    return json.dumps({"id": entry.id, "envelope": base64.b64encode(entry.envelope).decode()}).encode() + b"\n"


def header(lines: int, *, whole: bool = True, challenge: str = examples.CHALLENGE) -> bytes:
    fields = {"format": "urn:waggle:ledger:v1", "challenge": challenge, "whole": whole, "entries": lines, "blobs": 0}
    return json.dumps(fields).encode() + b"\n"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two authors; a discovery, a verdict on it, its adoption, and both programs."""
    store = examples.new_store(tmp_path, "exporting.db")
    one, two = examples.author(store, 1), examples.author(store, 2)
    found = examples.state_discovery(one, store.blobs.put(PARENT), store.blobs.put(CHILD))
    examples.state_attestation(two, found)
    examples.state_adoption(two, CHILD_DIGEST, found)
    return store


@pytest.fixture
def fresh(tmp_path: Path) -> Store:
    return examples.new_store(tmp_path, "importing.db")


def state_claim(by: Author, program: str) -> Signed:
    return by.append(
        "main",
        program,
        lambda entry: Claim(entry=entry, track="a track", parent=PARENT_DIGEST, hypothesis="\u202e\x1b[31m"),
    )


def state_skill(by: Author, program: str) -> Signed:
    text = f"what {program} taught"
    return by.append(
        "main",
        examples.digest(text),
        lambda entry: Skill(entry=entry, title="a skill", text=text, replaces=None, retired=False, evidence=()),
    )


def state_reset(by: Author, program: str) -> Signed:
    return by.reset("lost", number=int(program[:6], 16) + 1)


MOVES: list[Callable[[Author, str], Signed]] = [
    lambda by, program: examples.state_trial(by, program, 0, 3.0),
    lambda by, program: examples.state_trial(by, program, 1, None),
    lambda by, program: examples.state_discovery(by, PARENT_DIGEST, program),
    lambda by, program: examples.state_attestation(by, examples.state_discovery(by, program, CHILD_DIGEST), "refuted"),
    examples.state_adoption,
    lambda by, program: by.checkpoint(examples.state_adoption(by, program).statement.entry.feed),
    lambda by, program: by.revoke(f"because of {program}"),
    state_claim,
    state_skill,
    state_reset,
]
STORIES = st.lists(st.tuples(st.integers(1, 3), st.sampled_from(MOVES)), max_size=12)


@settings(max_examples=40, deadline=None)
@given(story=STORIES)
def test_what_was_exported_comes_back(tmp_path_factory: pytest.TempPathFactory, story: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("story")
    store, copy = examples.new_store(folder, "store.db"), examples.new_store(folder, "copy.db")
    revoked = set()
    with store.batch():
        for step, (number, move) in enumerate(story):
            if number not in revoked:
                signed = move(examples.author(store, number), examples.digest(str(step)))
                if signed.statement.kind == "revocation":
                    revoked.add(number)
    data = exported(store)
    count = len(envelopes(store))
    report = imported(copy, data)
    assert (report.entries_new, report.refused) == (count, 0)
    assert tables.digest(copy.db) == tables.digest(store.db)
    assert envelopes(copy) == envelopes(store)
    assert exported(copy) == data
    again = imported(copy, data)
    assert (again.entries_new, again.entries_known, again.refused) == (0, count, 0)
    store.close()
    copy.close()


@settings(max_examples=150, deadline=None)
@given(draw=st.data())
def test_any_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject) -> None:
    # Also in white space: no single bit turns one such character into another.
    folder = tmp_path_factory.mktemp("flipped")
    store, copy = examples.new_store(folder, "store.db"), examples.new_store(folder, "copy.db")
    by = examples.author(store)
    examples.state_trial(by, store.blobs.put(PARENT), 0, 3.0)
    examples.state_adoption(by, PARENT_DIGEST)
    data = exported(store, programs=True)
    first_two = len(data) - len(data.splitlines()[-1]) - 1
    place = draw.draw(st.integers(0, 250) | st.integers(0, len(data) - 1) | st.integers(first_two, len(data) - 1))
    spoilt = bytearray(data)
    spoilt[place] ^= 1 << draw.draw(st.integers(0, 7))
    try:
        assert imported(copy, bytes(spoilt)).refused
    except BadStatement:
        assert envelopes(copy) == []
    assert set(envelopes(copy)) <= set(envelopes(store))
    store.close()
    copy.close()


def test_programs_come_along_where_asked_for(store: Store, fresh: Store) -> None:
    assert imported(fresh, exported(store)).programs_new == 0
    report = imported(fresh, exported(store, programs=True))
    assert (report.entries_known, report.programs_new, report.refused) == (ENTRIES, 2, 0)
    assert (fresh.blobs.get(PARENT_DIGEST), fresh.blobs.get(CHILD_DIGEST)) == (PARENT, CHILD)
    assert imported(fresh, exported(store, programs=True)).programs_known == 2


def test_blobs_that_are_no_programs_stay_where_they_are(store: Store) -> None:
    store.blobs.put(b"a corpus, which no entry names")
    large = store.blobs.put(b"#" * (PROGRAM_BYTES_MAX + 1))
    examples.state_adoption(examples.author(store), large)
    assert exported(store, programs=True).count(b'"blob":') == 2


def test_the_largest_program_fits_into_a_line(store: Store, fresh: Store) -> None:
    largest = store.blobs.put(b"#" * PROGRAM_BYTES_MAX)
    examples.state_adoption(examples.author(store), largest)
    assert imported(fresh, exported(store, programs=True)).programs_new == 3


def test_the_largest_envelope_fits_into_a_line() -> None:
    line_of_largest = json.dumps({"id": "b" * 59, "envelope": base64.b64encode(bytes(ENVELOPE_BYTES_MAX)).decode()})
    assert len(line_of_largest) < LINE_BYTES_MAX


def blob(data: bytes, digest: str | None = None) -> bytes:
    fields = {"blob": digest or hashlib.sha256(data).hexdigest(), "data": base64.b64encode(data).decode()}
    return json.dumps(fields).encode() + b"\n"


def test_programs_that_nothing_names_or_that_are_others_are_refused(store: Store, fresh: Store) -> None:
    large = b"#" * (PROGRAM_BYTES_MAX + 1)
    entry = examples.state_adoption(examples.author(store, 3), hashlib.sha256(large).hexdigest())
    data = header(5) + blob(PARENT) + line(entry) + blob(large) + blob(b"not named") + blob(b"other", PARENT_DIGEST)
    report = imported(fresh, data)
    assert (report.entries_new, report.programs_new, report.refused) == (1, 0, 4)
    for refusal, why in zip(report.refusals, ["no entry", "over the limit", "no entry", "not those with"], strict=True):
        assert why in refusal.reason
    assert fresh.db.execute("SELECT count(*) FROM blobs").fetchone()[0] == 0


def test_a_program_is_taken_whatever_names_it(store: Store, fresh: Store) -> None:
    by = examples.author(store, 3)
    entries = [state_claim(by, CHILD_DIGEST), examples.state_adoption(by, "a" * 64, previous=examples.digest("old"))]
    data = header(4) + b"".join(map(line, entries)) + blob(PARENT) + blob(b"old")
    assert imported(fresh, data).programs_new == 2


def test_another_challenges_export_is_refused_at_its_header(store: Store, tmp_path: Path) -> None:
    other = examples.new_store(tmp_path, "other.db", challenge="d" * 64)
    with pytest.raises(BadStatement, match="is of challenge cccccccccccc and this ledger of dddddddddddd"):
        imported(other, exported(store))
    assert envelopes(other) == []
    lies = imported(other, header(ENTRIES, challenge="d" * 64) + exported(store).partition(b"\n")[2])
    assert (lies.entries_new, lies.refused) == (0, ENTRIES)
    assert "belongs to challenge" in lies.refusals[0].reason


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"null\n",
        b"\x1f\x8b\x08\x00 compressed",
        b"<!DOCTYPE html>",
        b"commit\tval_bpb\n",
        b"\xef\xbb\xbf" + header(0),
        b"[" * 100_000,
        b"x" * 10 * LINE_BYTES_MAX,
        header(0).replace(b"v1", b"v2"),
        header(0).replace(b'"format"', b'"\\u001b]0;form\xe2\x80\xae"'),
        header(0).replace(b"true", b'"true"'),
        header(0).replace(b'"entries": 0', b'"entries": -1'),
    ],
)
def test_files_that_are_no_export(fresh: Store, data: bytes) -> None:
    with pytest.raises(BadStatement, match="not an export") as refused:
        imported(fresh, data)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


def test_a_bad_line_does_not_stop_the_good_ones(store: Store, fresh: Store) -> None:
    lines = exported(store).splitlines(keepends=True)
    lines[2] = b'{"id": 3}\n'  # the second of six trials
    report = imported(fresh, b"".join(lines))
    assert (report.entries_new, report.refused) == (4, 5)
    assert report.refusals[0].line == 3
    assert "the next entry of this feed is 1" in report.refusals[1].reason
    assert imported(fresh, exported(store)).entries_new == 5
    assert tables.digest(fresh.db) == tables.digest(store.db)


def test_strict_stops_at_the_first_bad_line(store: Store, fresh: Store) -> None:
    lines = exported(store).splitlines(keepends=True)
    report = imported(fresh, b"".join([*lines[:3], b"bad\n", *lines[3:]]), strict=True)
    assert (report.entries_new, report.refused) == (2, 1)
    assert len(envelopes(fresh)) == 2


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe", "malformed line"),
        (b"[" * 50_000, "malformed line"),
        (b'{"id":"x"}', "malformed line"),
        (b'{"more":1}', "malformed line"),
        (b'{"\\u001b[2J\\u202e":1}', "malformed line"),
        (b"{}", "neither an entry"),
        (b'{"id":null,"data":""}', "neither an entry"),
        (b'{"blob":"%s","data":"=="}' % (b"a" * 64), "base64"),
        (b'{"blob":"%s","data":"e30=\\n"}' % (b"a" * 64), "base64"),
        (b"x" * (3 * LINE_BYTES_MAX), "longer than"),
    ],
)
def test_hostile_lines(store: Store, fresh: Store, content: bytes, why: str) -> None:
    lines = exported(store).splitlines(keepends=True)
    report = imported(fresh, header(ENTRIES + 1) + content + b"\n" + b"".join(lines[1:]))
    assert (report.entries_new, report.refused) == (ENTRIES, 1)
    assert why in report.refusals[0].reason
    assert report.refusals[0].reason.isprintable()


def test_an_entry_under_another_id_is_refused(store: Store, fresh: Store) -> None:
    one, two = (json.loads(each) for each in exported(store).splitlines()[1:3])
    swapped = json.dumps({"id": two["id"], "envelope": one["envelope"]}).encode()
    report = imported(fresh, header(1) + swapped)
    assert report.refused == 1
    assert one["id"] in report.refusals[0].reason


def test_blank_lines_and_white_space_mean_nothing(store: Store, fresh: Store) -> None:
    lines = [b" " + each.replace(b'":', b'" : ') + b"\r\n\n \n" for each in exported(store).splitlines()]
    assert imported(fresh, b"".join(lines)[:-5]).entries_new == ENTRIES
    assert tables.digest(fresh.db) == tables.digest(store.db)


def test_a_file_that_is_cut_off_gives_what_it_has_and_says_so(store: Store, tmp_path: Path) -> None:
    data = exported(store, programs=True)
    lines = data.splitlines(keepends=True)
    for cut in range(1, len(lines)):
        copy = examples.new_store(tmp_path, f"{cut}.db")
        report = imported(copy, b"".join(lines[:cut]))
        assert (report.entries_new + report.programs_new, report.refused) == (cut - 1, 1)
        assert f"announces {ENTRIES + 2} lines and has {cut - 1}" in report.refusals[0].reason
    report = imported(fresh := examples.new_store(tmp_path, "within.db"), data[: len(data) // 2])
    assert report.refused == 2
    assert tables.digest(fresh.db) != tables.digest(store.db)


def test_single_entries_are_taken_only_where_those_before_them_are(store: Store, fresh: Store) -> None:
    by = examples.author(store, 2)
    before = exported(store)
    verdict = examples.state_attestation(by, examples.state_discovery(by, CHILD_DIGEST, "a" * 64))
    single = exported(store, verdict.id)
    assert json.loads(single.splitlines()[0])["whole"] is False
    report = imported(fresh, single)
    assert report.refused == 2  # its trials are the first of their feed
    assert "next entry of this feed is 0 (the export holds chosen entries" in report.refusals[0].reason
    imported(fresh, before)
    assert imported(fresh, single).refused == 0
    assert tables.digest(fresh.db) == tables.digest(store.db)


def test_two_histories_leave_the_proof_and_end_belief(store: Store, fresh: Store, tmp_path: Path) -> None:
    imported(fresh, exported(store))
    liar = examples.author(examples.new_store(tmp_path, "liar.db"), 1)
    second = [examples.state_trial(liar, "e" * 64, seed, 2.0) for seed in range(2)]
    report = imported(fresh, header(2) + b"".join(map(line, second)))
    assert report.refused == 2
    assert "signed both" in report.refusals[0].reason
    assert fresh.is_banned(liar.id)
    assert fresh.proofs()[0].second == second[0].envelope


def test_only_the_first_refusals_are_kept(fresh: Store) -> None:
    report = imported(fresh, header(1000) + b"bad\n" * 1000)
    assert report.refused == 1000
    assert len(report.refusals) == REFUSALS_KEPT_MAX


class Endless(io.RawIOBase):
    """A header, and then one line without an end."""

    def __init__(self) -> None:
        self.left = header(1)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self.left[: len(buffer)] or b"x" * len(buffer)
        self.left = self.left[len(part) :]
        buffer[: len(part)] = part
        return len(part)


def test_an_endless_line_is_read_in_bounded_memory_up_to_the_limit(fresh: Store) -> None:
    tracemalloc.start()
    report = import_export(fresh, io.BufferedReader(Endless()), bytes_max=30 * 2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "larger than 31457280 bytes" in report.refusals[0].reason
    assert peak < 2 * 2**20


def test_a_file_of_exactly_the_limit_is_read_whole(store: Store, fresh: Store, tmp_path: Path) -> None:
    data = exported(store)
    assert imported(fresh, data, bytes_max=len(data)).refused == 0
    less = imported(examples.new_store(tmp_path, "less.db"), data, bytes_max=len(data) - 1)
    assert (less.entries_new, less.refused) == (ENTRIES - 1, 1)


class Broken(io.BytesIO):
    """A file that cannot be read to its end."""

    def readline(self, size: int | None = -1, /) -> bytes:
        found = super().readline(size)
        if not found:
            raise OSError("the disk is gone")
        return found


def many_trials(store: Store, count: int) -> bytes:
    with store.batch():
        for seed in range(count):
            examples.state_trial(examples.author(store), PARENT_DIGEST, seed, 3.0)
    return exported(store)


def test_a_file_that_breaks_off_leaves_whole_pages(store: Store, fresh: Store) -> None:
    data = many_trials(store, 300)
    with pytest.raises(OSError, match="the disk is gone"):
        import_export(fresh, Broken(data))
    kept = len(envelopes(fresh))
    assert 0 < kept < ENTRIES + 300
    again = imported(fresh, data)
    assert (again.entries_known, again.entries_new, again.refused) == (kept, ENTRIES + 300 - kept, 0)
    assert tables.digest(fresh.db) == tables.digest(store.db)


def test_while_a_file_is_read_others_can_write(store: Store, fresh: Store) -> None:
    node = Store.open(fresh.path)
    node.db.execute("PRAGMA busy_timeout = 0")  # ms: fail at once where the ledger is locked

    class Slow(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            examples.state_adoption(examples.author(node, 5), PARENT_DIGEST)
            return super().readline(size)

    report = import_export(fresh, Slow(many_trials(store, 150)))
    assert (report.entries_new, report.refused) == (ENTRIES + 150, 0)
    assert node.heads() == fresh.heads()
