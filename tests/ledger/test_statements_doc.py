"""docs/statements.md is what the types give now, and its examples are what it says they are."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from ledger import predicates
from ledger.errors import BadStatement
from ledger.statements import KINDS, Opaque, decode, entry_id

CHECKOUT = Path(__file__).parents[2]
TEXT = (CHECKOUT / "docs" / "statements.md").read_text()


def section(kind: str) -> str:
    """The part of the document on one type."""
    return TEXT.partition(f"\n### {kind}\n")[2].partition("\n### ")[0]


def blocks(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The example and the schema."""
    example, schema = re.findall(r"```json\n(.*?)\n```", section(kind), re.DOTALL)
    return json.loads(example), json.loads(schema)


@pytest.fixture(scope="module")
def written() -> Any:
    """The module that writes the document."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(CHECKOUT / "scripts"))
        yield importlib.import_module("statements_doc.document")


def test_the_document_is_what_the_types_give_now(written: Any) -> None:
    assert written.document() == TEXT, "run `just statements`"


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_decodes_and_has_the_id_that_is_named(kind: str) -> None:
    example, _ = blocks(kind)
    assert decode(json.dumps(example).encode()).kind == kind
    assert f"Example, `{entry_id(msgspec.json.encode(example))}`" in section(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_fits_its_schema_and_spoilt_ones_do_not(kind: str) -> None:
    example, schema = blocks(kind)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    predicate = example["predicate"]
    validator.validate(predicate)
    place = predicate["entry"]
    for spoilt in (
        {**predicate, "surprise": 1},
        {name: part for name, part in predicate.items() if name != "entry"},
        {**predicate, "entry": {**place, "seq": "0"}},
        {**predicate, "entry": {**place, "author": "12D3KooW"}},
        {**predicate, "entry": {**place, "feed": "other"}},
    ):
        assert not validator.is_valid(spoilt)


def test_the_examples_are_one_story() -> None:
    statements = {kind: blocks(kind)[0] for kind in KINDS}
    identity = {kind: entry_id(msgspec.json.encode(example)) for kind, example in statements.items()}
    trial, discovery, attestation, adoption = (
        statements[kind]["predicate"] for kind in ("trial", "discovery", "attestation", "adoption")
    )
    assert identity["trial"] in discovery["comparison"]["child_trials"]
    assert attestation["discovery"] == adoption["discovery"] == identity["discovery"]
    assert attestation["entry"]["author"] != discovery["entry"]["author"] == trial["entry"]["author"]
    assert statements["revocation"]["predicate"]["entry"]["prev"] == identity["feed-reset"]


def test_every_type_says_what_it_is_about_and_who_means_it() -> None:
    for kind in KINDS:
        assert "\n**Subject**: " in section(kind)
        assert "\n**Author**: " in section(kind)


def test_every_record_of_a_statement_is_in_the_document() -> None:
    records = {
        name
        for name, kind in vars(predicates).items()
        if isinstance(kind, type) and issubclass(kind, predicates.Record) and kind is not predicates.Record
    }
    headings = {heading.replace("-", "").replace(" ", "") for heading in re.findall(r"^### (.+)$", TEXT, re.MULTILINE)}
    assert {name.lower() for name in records} == headings


def test_links_within_the_document_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([a-z-]+)\)", TEXT)) <= anchors


def test_what_the_document_says_of_versions_holds() -> None:
    example, _ = blocks("discovery")
    example["predicate"]["entry"] |= {"protocol": predicates.PROTOCOL + 1, "new": True}
    example["predicate"]["surprise"] = 1
    assert isinstance(decode(json.dumps(example).encode()).body, Opaque)
    example["predicate"]["entry"]["protocol"] += 1
    with pytest.raises(BadStatement, match="update waggle"):
        decode(json.dumps(example).encode())


@pytest.mark.parametrize("urn", ["urn:waggle:discovery:v1", "urn:waggle:discovery:v2"])
@pytest.mark.parametrize(
    ("written", "spoilt"),
    [
        ('"proposer":', '"proposer": "evolve", "proposer":'),
        ('"seq":', '"seq": 1, "seq":'),
        ('"sha256":', f'"sha256": "{"0" * 64}", "sha256":'),
        ('"mean": -0.08', '"mean": 1e999'),
        ('"mean": -0.08', f'"mean": {"1" * 5000}'),
        ('"mean": -0.08', '"mean": NaN'),
    ],
)
def test_what_is_ambiguous_is_refused_whether_the_type_is_known_or_not(urn: str, written: str, spoilt: str) -> None:
    text = json.dumps({**blocks("discovery")[0], "predicateType": urn})
    decode(text.encode())
    assert text.count(written) == 1
    with pytest.raises(BadStatement, match="malformed"):
        decode(text.replace(written, spoilt).encode())
