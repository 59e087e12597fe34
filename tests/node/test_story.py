"""What a person reads of the ledger, and that a peer's text cannot act on their terminal."""

from pathlib import Path

import examples
import pytest
from rich.console import Console, RenderableType

from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed
from ledger.predicates import Discovery, Entry
from ledger.store import Store
from node import story

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


def test_a_discoverys_story_has_every_part(store: Store, found: Signed) -> None:
    row = queries.discovery(store, found.id)
    assert row is not None
    text = shown(story.discovery_story(store, row))
    two = examples.author_id(2)
    for part in (
        found.id,
        "a smaller batch",
        "-BATCH = 16",
        "+BATCH = 8",
        "-0.1933 bpb [-0.2433, -0.1433] over 3 pairs",
        "confirmed    " + story.short(two),
        "it beats the incumbent",
        "2.9500",
        "a processor, 2 cores, torch 2.13.0",
        "(confirmed 1, refuted 0, adopted 1)",
    ):
        assert part in text, part


def test_a_story_without_its_programs_says_so(store: Store) -> None:
    found = examples.state_discovery(examples.author(store), "a" * 64, "b" * 64)
    row = queries.discovery(store, found.id)
    assert row is not None
    text = shown(story.discovery_story(store, row))
    assert "has not arrived" in text
    assert "none yet" in text
    assert "nobody yet" in text


def test_lineage_is_a_tree_from_the_baseline(store: Store, found: Signed) -> None:
    by = examples.author(store, 1)
    below = examples.state_discovery(by, found.statement.subject, "c" * 64)
    row = queries.discovery(store, found.id)
    assert row is not None
    lines = shown(story.lineage(store, found.id, {row.parent})).splitlines()
    assert lines[0].startswith("baseline ")
    assert found.id[:16] in lines[1]
    assert below.id[:16] in lines[2]
    assert lines[2].index("bafkrei") > lines[1].index("bafkrei")
    assert shown(story.lineage(store, below.id, ())).startswith("program of unknown origin")


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
    for what in (
        story.discovery_story(store, row),
        story.lineage(store, found.id, ()),
        story.log_table(queries.log(store)),
    ):
        text = shown(what)
        assert not set(text) & {"\x1b", "\x07", "\u202e"}
    assert "[bold red]not markup[/]" in shown(story.discovery_story(store, row))
    assert "\x1b" not in story.entry_json(store, found.id)
