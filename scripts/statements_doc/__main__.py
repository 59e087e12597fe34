"""`just statements`: writes docs/statements.md."""

from pathlib import Path

from statements_doc.document import document

if __name__ == "__main__":
    (Path(__file__).parents[2] / "docs" / "statements.md").write_text(document())
