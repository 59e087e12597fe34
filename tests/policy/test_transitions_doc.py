"""docs/transitions.md is what the tables give now."""

import importlib
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def written() -> Any:
    """The module that writes the document."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(CHECKOUT / "scripts"))
        yield importlib.import_module("transitions_doc.document")


def test_the_document_is_what_the_tables_give_now(written: Any) -> None:
    assert written.document() == (CHECKOUT / "docs" / "transitions.md").read_text(), "run `just transitions`"


def test_every_state_and_every_move_is_drawn(written: Any) -> None:
    for table in written.TABLES:
        lines = written.diagram(table)
        assert sum("-->" in line and "[*]" not in line for line in lines) == len(table.transitions)
        for state in type(table.start):
            assert any(line.strip().startswith(f"{state.name} :") for line in lines)
