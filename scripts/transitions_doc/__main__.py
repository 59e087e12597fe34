"""`just transitions`: writes docs/transitions.md."""

from pathlib import Path

from transitions_doc.document import document

if __name__ == "__main__":
    (Path(__file__).parents[2] / "docs" / "transitions.md").write_text(document())
