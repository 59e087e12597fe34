"""What a person reads of the ledger, and that a peer's text cannot act on their terminal."""

import re
from pathlib import Path

import examples
import histories
import pytest
from rich.console import Console, RenderableType

from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed
from ledger.errors import UnknownId
from ledger.predicates import PROGRAM_BYTES_MAX, Discovery, Entry
from ledger.store import Store
from node import census_text, story
from node.errors import UserError

HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold red]not markup[/] \u202ebackwards\nsecond line"


def shown(what: RenderableType) -> str:
    console = Console(width=160, force_terminal=False)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return examples.new_store(tmp_path)


@pytest.fixture
def found(store: Store) -> Signed:
    one, two = examples.author(store, 1), examples.author(store, 2)
    parent = store.blobs.put(b"BATCH = 16\nWIDTH = 64\n")
    child = store.blobs.put(b"BATCH = 8\nWIDTH = 64\n")
    found = examples.state_discovery(one, parent, child)
    examples.state_attestation(two, found)
    examples.state_adoption(two, child, found, parent)
    return found


def discovery_of(found: Signed) -> Discovery:
    assert isinstance(found.statement.body, Discovery)
    return found.statement.body


def story_of(store: Store, found: Signed) -> str:
    row = queries.discovery(store, found.id)
    assert row is not None
    return shown(story.discovery_story(store, row))


def test_a_discoverys_story_has_every_part(store: Store, found: Signed) -> None:
    text = story_of(store, found)
    two = examples.author_id(2)
    for part in (
        found.id,
        "a smaller batch",
        "-BATCH = 16",
        "+BATCH = 8",
        "-0.1933 bpb [-0.2433, -0.1433] over 3 pairs",
        "confirmed    " + story.short(two),
        "no effect measured",
        "it beats the incumbent",
        "2.9500",
        "a processor, x86_64",
        "(confirmed 1, refuted 0, adopted 1)",
    ):
        assert part in text, part


def test_a_story_without_its_programs_says_so(store: Store) -> None:
    found = examples.state_discovery(examples.author(store), "a" * 64, "b" * 64)
    text = story_of(store, found)
    assert "has not arrived" in text
    assert "none yet" in text
    assert "nobody yet" in text


def test_a_story_says_what_speaks_against_it(store: Store, found: Signed) -> None:
    one, two = examples.author(store, 1), examples.author(store, 2)
    above = examples.state_discovery(one, "a" * 64, discovery_of(found).parent)
    measured = histories.state_measured(two, found, "refuted", [(3.0, 3.2)] * 2)
    histories.state_retraction(one, above)
    histories.state_retraction(one, found, "my clock was wrong")
    histories.equivocate(store, 2, measured)
    text = story_of(store, found)
    assert "retracted, built on a retracted one" in text
    assert "[author banned] refuted" in text
    assert "+0.2000 bpb [+0.1500, +0.2500], 2 pairs, a processor, x86_64" in text
    assert "my clock was wrong" in text
    assert re.search(r"\+0\.2000 bpb +1 +a processor", text)  # the median, of one node
    lines = {line.id: shown(story.log_line(line)) for line in queries.log(store)}
    assert "[retracted, built on a retracted one] -0.1933 bpb" in lines[found.id]
    assert "[author banned] refuted" in lines[measured.id]


def test_a_story_stays_on_a_screen(store: Store, found: Signed) -> None:
    for number in range(3, 33):
        examples.state_attestation(examples.author(store, number), found)
    text = story_of(store, found)
    assert "… 19 before; --json has all" in text
    assert text.count("confirmed    ") == story.ROWS_SHOWN


def test_any_entry_tells_who_said_what(store: Store, found: Signed) -> None:
    by = examples.author(store, 3)
    said = histories.state_skill(by, "Warm-up", "Small batches need none.")
    newer = histories.state_newer(3, store, said)
    text = shown(story.entry_story(store, said.id))
    for part in ("skill", said.id, by.id, "main 0, clock 10", "Warm-up", '"text": "Small batches need none."'):
        assert part in text, part
    unknown = shown(story.entry_story(store, newer.id))
    assert "of a type that this version does not know" in unknown
    assert "urn:waggle:dream:v1" in unknown
    with pytest.raises(UnknownId):
        story.entry_story(store, "bafkreinothing")


def test_what_is_no_program_is_not_compared(store: Store) -> None:
    program, corpus = store.blobs.put(b"A = 1\n"), store.blobs.put(b"x" * (PROGRAM_BYTES_MAX + 1))
    lines = store.blobs.put(b"\n" * (story.PATCH_LINES_MAX + 1))
    for other, message in ((corpus, "is not a program"), (lines, "2001 lines"), ("a" * 64, "not arrived")):
        with pytest.raises(UserError, match=message):
            story.program_diff(store, program, other)
        claimed = examples.state_discovery(examples.author(store), program, other)
        assert message in story_of(store, claimed)


def test_a_peers_text_cannot_act_on_the_terminal(store: Store) -> None:
    by = Author(store, examples.key(1), now=lambda: "[/z]\x1b[2J")
    evidence = examples.comparison(by, "a" * 64, "b" * 64, examples.GAIN)
    parent, child = store.blobs.put(HOSTILE.encode()), store.blobs.put(b"plain")

    def body(entry: Entry) -> Discovery:
        return Discovery(
            entry=entry,
            track="cpu\x1b[/y]",
            parent=parent,
            hypothesis=HOSTILE,
            proposer="x\x1b[1m[/x]",
            comparison=evidence,
        )

    found = by.append("main", child, body)
    row = queries.discovery(store, found.id)
    assert row is not None
    (entry,) = (line for line in queries.log(store) if line.id == found.id)
    for what in (
        story.discovery_story(store, row),
        story.entry_story(store, found.id),
        story.log_line(entry),
        *census_text.hits(queries.search(store, "markup")),
        *census_text.ranking({"x": queries.best(store, "cpu\x1b[/y]")}),
        *census_text.peers(queries.peers(store)),
    ):
        text = shown(what)
        assert not set(text) & {"\x1b", "\x07", "\u202e"}
    assert "[bold red]not markup[/]" in shown(story.discovery_story(store, row))
    for written in (story.entry_json(store, found.id), story.discovery_json(store, row)):
        assert written.isascii()
        assert not set(written) & {"\x1b", "\x07", "\x7f"}
