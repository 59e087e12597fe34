"""The ledger in forms that others read. docs/exports.md says what each is good for, and what it leaves out."""

FORMATS = ("jsonl", "intoto", "prov", "tsv", "html")
"""One module of this package for each; its `export` yields the text piece by piece."""
