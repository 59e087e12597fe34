"""The report: what it says, and that nothing a peer wrote can act in the reader's browser."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import examples
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.author import Author
from ledger.envelope import Signed
from ledger.export import html, plots
from ledger.export.markup import Markup, escaped_lines, tag
from ledger.export.selection import Selection
from ledger.predicates import Attestation, Comparison, Retraction
from ledger.store import Store

TEXTS = {name: f"depth = 4\nlr = {number}\n".encode() for number, name in enumerate(("baseline", "first", "second"))}
HOSTILE = (
    "</title></pre></td><script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "<!-- --> ]]> <svg onload=alert(1)> &lt;b&gt; javascript:alert(1)",
    "\x1b]0;owned\x07\x00\r\n\u202e\u2066\u200f\u2028",
)
ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "pre", "details", "summary", "ol", "li"),
    *("table", "tr", "th", "td", "svg", "line", "circle", "text", "polyline"),
}


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return examples.new_store(tmp_path)


def put(store: Store, name: str) -> str:
    return store.blobs.put(TEXTS[name])


def page(store: Store, *ids: str) -> Page:
    return Page("".join(html.export(store, Selection(store, ids), title="a challenge")))


def state_discovery(by: Author, parent: str, child: str, **fields: object) -> Signed:
    body = examples.discovery_body(by, parent, child)
    return by.append("main", child, lambda entry: msgspec.structs.replace(body(entry), **fields))


def state_verdict(by: Author, found: Signed, verdict: str, scores: object = examples.GAIN) -> Signed:
    comparison: Comparison = examples.comparison(by, "1" * 64, found.statement.subject, scores)  # type: ignore[arg-type]
    return by.append(
        "main",
        found.statement.subject,
        lambda entry: Attestation(
            entry=entry,
            discovery=found.id,
            verdict=verdict,  # type: ignore[arg-type]
            reason="own runs",
            comparison=comparison,
        ),
    )


class Story(NamedTuple):
    first: Signed
    second: Signed
    unchecked: Signed


@pytest.fixture
def story(store: Store) -> Story:
    one, two = examples.author(store, 1), examples.author(store, 2)
    baseline, first, second = (put(store, name) for name in TEXTS)
    found = state_discovery(one, baseline, first, hypothesis="a first step")
    state_verdict(two, found, "confirmed")
    examples.state_adoption(two, first, found)
    then = state_discovery(two, first, second, hypothesis="a second step")
    state_verdict(one, then, "confirmed", ((3.0, 2.0), (3.0, 2.5)))
    unchecked = state_discovery(two, second, "9" * 64, hypothesis="a third step")
    return Story(found, then, unchecked)


def test_it_tells_the_story(store: Store, story: Story) -> None:
    text = page(store).text
    assert "Waggle: a challenge" in text
    assert f"Challenge {examples.CHALLENGE}." in text
    assert "discovery: 3" in text
    assert "entries by 2 peers" in text
    for signed in story:
        assert signed.id[:16] in text
    assert "confirmed 1, refuted 0, adopted 1" in text
    assert "-lr = 0\n+lr = 1" in text
    assert "-lr = 1\n+lr = 2" in text
    assert "(program 999999999999 has not arrived)" in text
    assert "-0.1933 [-0.2433, -0.1433]" in text  # the mean of examples.GAIN, and 0.05 to either side
    assert "-0.5800" in text  # three steps in all


def test_the_best_is_the_farthest_that_others_confirmed(store: Store, story: Story) -> None:
    source = "".join(html.export(store, Selection(store), title=""))
    lineage = source.partition("Lineage of the best")[2].partition("</ol>")[0]
    assert lineage.count("<li>") == 2
    assert lineage.index("a first step") < lineage.index("a second step")
    assert "a third step" not in lineage


def test_what_is_refuted_or_retracted_is_not_the_best(store: Store, story: Story) -> None:
    one, three = examples.author(store, 1), examples.author(store, 3)
    state_verdict(three, story.second, "refuted")  # as many as confirm it
    one.append(
        "main",
        story.first.statement.subject,
        lambda entry: Retraction(entry=entry, discovery=story.first.id, reason="", comparison=None, evidence=()),
    )
    text = page(store).text
    assert "Nobody has confirmed a discovery of somebody else yet." in text
    assert "retracted; confirmed 1, refuted 0, adopted 1" in text


def test_the_verdicts_of_each_peer(store: Store, story: Story) -> None:
    table = "".join(html.export(store, Selection(store), title="")).rpartition("<table>")[2]
    rows = {
        cells[0]: cells[1:] for cells in (re.findall("<td>(.*?)</td>", row) for row in table.split("<tr>")) if cells
    }
    assert rows == {
        examples.author_id(1): ["1", "1", "1", "0", "0"],
        examples.author_id(2): ["2", "1", "1", "0", "0"],
    }


def test_chosen_discoveries_only(store: Store, story: Story) -> None:
    text = page(store, story.second.id).text
    assert "a second step" in text
    assert "a third step" not in text
    assert text.count("a first step") == 1  # in the lineage


def test_an_empty_ledger_has_a_page(store: Store) -> None:
    assert "The ledger holds 0 entries by 0 peers (none)." in page(store).text


def hostile_store(store: Store, text: str) -> None:
    by, other = examples.author(store, 1), examples.author(store, 2)
    parent = store.blobs.put(b"before\n")
    child = store.blobs.put(text.encode() + b"\n\xff\xfe after\n")
    fields = {"hypothesis": text, "proposer": text[:60], "track": text[:60]}
    found = state_discovery(by, parent, child, **fields)
    reason = text
    other.append(
        "main",
        child,
        lambda entry: Attestation(entry=entry, discovery=found.id, verdict="confirmed", reason=reason, comparison=None),
    )


def check_harmless(source: str) -> Page:
    """Only our elements, with only our attributes, and no character that shows one thing where another stands."""
    found = Page(source)
    assert found.open == []
    assert {name for name, _ in found.elements} <= ELEMENTS
    for _, attributes in found.elements:
        assert not any(name.startswith("on") or name in ("src", "href", "style") for name in attributes)
    assert all(character.isprintable() or character == "\n" for character in source)
    (policy,) = (a["content"] for n, a in found.elements if n == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return found


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_cannot_act(store: Store, text: str) -> None:
    hostile_store(store, text)
    found = check_harmless("".join(html.export(store, Selection(store), title=text)))
    if text.isprintable():
        assert found.text.count(text) >= 5  # title twice, lineage, table, patch …: escaped, not dropped


@given(text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
def test_no_text_can_act(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    store = examples.new_store(tmp_path_factory.mktemp("hostile"))
    hostile_store(store, text)
    check_harmless("".join(html.export(store, Selection(store), title=text)))
    store.close()


def test_attributes_are_escaped_and_nothing_twice() -> None:
    made = tag("p", "a < b", tag("b", "&"), class_='x" onload="y', stroke_width=2.0)
    assert made == '<p class="x&quot; onload=&quot;y" stroke-width="2">a &lt; b<b>&amp;</b></p>'
    assert isinstance(made, Markup)
    assert escaped_lines("<\r\n>\x0b&") == "&lt;\n&gt;\n&amp;"


EXTREMES = st.floats(-1e9, 1e9) | st.just(0.0) | st.floats(-1e-9, 1e-9)


def coordinates(drawn: Markup) -> Iterator[tuple[str, float]]:
    for element in ElementTree.fromstring(drawn).iter():
        for name, value in element.attrib.items():
            if name in ("x", "x1", "x2", "cx", "y", "y1", "y2", "cy"):
                yield name[-1] if name[0] == "c" else name[0], float(value)
            for number, value_of in enumerate(value.replace(",", " ").split() if name == "points" else ()):
                yield "xy"[number % 2], float(value_of)


@given(st.lists(st.tuples(EXTREMES, EXTREMES, EXTREMES), min_size=1, max_size=10))
def test_no_effect_leaves_the_forest_plot(effects: list[tuple[float, float, float]]) -> None:
    drawn = plots.forest([plots.Effect("<a>", *effect, style="confirmed") for effect in effects])
    for axis, value in coordinates(drawn):
        assert 0 <= value <= (900 if axis == "x" else 20 * (len(effects) + 2))


@given(st.lists(st.tuples(EXTREMES, st.booleans()), min_size=1, max_size=10))
def test_no_point_leaves_the_progress_plot(totals: list[tuple[float, bool]]) -> None:
    drawn = plots.progress([plots.Point("<a>", total, verified) for total, verified in totals])
    for axis, value in coordinates(drawn):
        assert 0 <= value <= (900 if axis == "x" else 300)


def test_one_absurd_claim_does_not_flatten_the_others() -> None:
    honest = [plots.Effect(str(number), -0.01, -0.02, -0.001, "confirmed") for number in range(5)]
    drawn = plots.forest([*honest, plots.Effect("absurd", -1e9, -1e9, -1e9, "unverified")])
    means = [float(circle.attrib["cx"]) for circle in ElementTree.fromstring(drawn).iter("circle")]
    assert means[-1] < means[0] - 20 < means[0] + 20 < means[-1] + 280


def test_the_line_of_the_best_falls_at_verified_discoveries_only() -> None:
    points = [plots.Point("", -0.1, True), plots.Point("", -0.3, False), plots.Point("", -0.2, True)]
    (line,) = ElementTree.fromstring(plots.progress(points)).iter("polyline")
    heights = [float(corner.partition(",")[2]) for corner in line.attrib["points"].split()]
    assert heights == sorted(heights)  # downwards on the page
    assert len(set(heights)) == 3


def test_long_ledgers_and_long_programs_are_cut(store: Store, monkeypatch: pytest.MonkeyPatch, story: Story) -> None:
    monkeypatch.setattr(html, "DISCOVERIES_MAX", 2)
    monkeypatch.setattr(html, "PROGRAM_LINES_MAX", 1)
    text = page(store).text
    assert "2 discoveries are shown, 1 are left out." in text
    assert "a third step" not in text
    assert "(a program of more than 1 lines)" in text
