"""docs/statements.md: prose from template.md and the docstrings, forms from the types, examples from examples.py."""

import inspect
import json
import re
from pathlib import Path
from string import Template
from typing import Any

import msgspec

from ledger import predicates
from ledger.envelope import ENVELOPE_BYTES_MAX, Signed, payload_of
from ledger.predicates import FEED_ENTRIES_MAX, FEEDS_MAX, PROTOCOL, EntryId, Feed, PeerId, Record, Sha256, SplitName
from ledger.statements import PAYLOAD_BYTES_MAX, TYPES
from statements_doc.examples import signed_examples

SHARED = (
    predicates.Entry,
    predicates.Comparison,
    predicates.Measurement,
    predicates.Audit,
    predicates.Hardware,
    predicates.FeedHead,
    predicates.Successor,
)
WIDTH = 112  # of a line of JSON that holds a whole object or array

_FIELD = re.compile(r"^    (\w+): .+?  # (.+)$", re.MULTILINE)  # a field and the comment beside it


def document() -> str:
    """The whole text."""
    examples = {signed.statement.kind: signed for signed in signed_examples()}
    kinds = {urn: urn.split(":")[2] for urn in TYPES}
    template = Path(__file__).with_name("template.md").read_text()
    return Template(template).substitute(
        protocol=PROTOCOL,
        payload_kib=PAYLOAD_BYTES_MAX // 1024,
        envelope_kib=ENVELOPE_BYTES_MAX // 1024,
        feeds_max=FEEDS_MAX,
        entries_max=f"{FEED_ENTRIES_MAX:,}",
        type_links="\n".join(f"  - [{kind}](#{kind})" for kind in kinds.values()),
        shared_links="\n".join(f"  - [{_heading(kind)}](#{_anchor(kind)})" for kind in SHARED),
        overview="\n".join(_overview(urn, examples[kind]) for urn, kind in kinds.items()),
        types="\n".join(_section(urn, examples[kind]) for urn, kind in kinds.items()),
        shared="\n".join(f"### {_heading(kind)}\n\n{_prose(kind)}\n\n{_fields(kind)}\n" for kind in SHARED),
    )


def schema(kind: type[Record]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a record.

    Its patterns end as ECMA-262 has it, where `$` means the very end. Descriptions are docstrings' first paragraphs.
    """
    found: dict[str, Any] = msgspec.json.schema(kind)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_portable(found)}


def _portable(value: Any, name: str = "") -> Any:
    match name, value:
        case "pattern", str():
            return value.replace("\\Z", "$")
        case "description", str():
            return value.partition("\n")[0]
        case _, dict():
            return {key: _portable(part, key) for key, part in value.items()}
        case _, list():
            return [_portable(part) for part in value]
        case _:
            return value


def _overview(urn: str, example: Signed) -> str:
    kind, feed = example.statement.kind, "trials" if example.statement.kind == "trial" else "main"
    says = _parts(TYPES[urn])[0].split("\n")[0]
    return f"| [{kind}](#{kind}) | {feed} | `{_subject_name(example)}` | {says} |"


def _section(urn: str, example: Signed) -> str:
    kind = TYPES[urn]
    return f"""### {example.statement.kind}

`{urn}`

{_prose(kind)}

{_fields(kind)}

Example, `{example.id}`:

```json
{layout(_payload(example))}
```

<details><summary>JSON Schema of the predicate</summary>

```json
{layout(schema(kind))}
```

</details>
"""


def _payload(signed: Signed) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(payload_of(signed.envelope))
    return found


def _subject_name(signed: Signed) -> str:
    name: str = _payload(signed)["subject"][0]["name"]
    return name


def _parts(kind: type[Record]) -> list[str]:
    """The paragraphs of a docstring, with labels in bold."""
    paragraphs = inspect.getdoc(kind) or ""
    labelled = re.sub(r"^(Subject|Author): ", r"\n**\1**: ", paragraphs, flags=re.MULTILINE)
    return re.split(r"\n{2,}", labelled)


def _prose(kind: type[Record]) -> str:
    return "\n\n".join(_parts(kind))


def _fields(kind: type[Record]) -> str:
    meanings: dict[str, str] = dict(_FIELD.findall(inspect.getsource(kind)))
    properties = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]
    rows = [
        f"| `{name}` | {form(part)} | {_cell(meanings.get(name, '')).replace('None', 'null')} |"
        for name, part in properties.items()
    ]
    return "\n".join(["| field | form | meaning |", "| --- | --- | --- |", *rows])


_NAMED = {
    msgspec.json.schema(kind)["pattern"]: name
    for kind, name in (
        (Sha256, "SHA-256 in hex"),
        (EntryId, "[id](#ids)"),
        (PeerId, "[peer id](#the-envelope)"),
        (Feed, "[feed](#feeds)"),
        (SplitName, "`public`, or `private:` and a SHA-256 in hex"),
    )
}


def form(part: dict[str, Any]) -> str:
    """What a value must look like, in words, from its JSON Schema."""
    match part:
        case {"$ref": reference}:
            kind = getattr(predicates, reference.rpartition("/")[2])
            return f"[{_heading(kind)}](#{_anchor(kind)})"
        case {"anyOf": options}:
            return " or ".join(form(option) for option in options)
        case {"enum": values}:
            return " or ".join(f"`{value}`" for value in values)
        case {"type": "array", "items": items}:
            return "list" + (f" of at most {part['maxItems']}" if "maxItems" in part else "") + f": {form(items)}"
        case {"pattern": pattern}:
            return _NAMED.get(pattern) or f"text like `{_cell(_portable(part)['pattern'])}`"
        case {"type": "string", "maxLength": length}:
            return f"text, at most {length:,} characters"
        case {"type": "integer" | "number" as kind, "minimum": low, "maximum": high}:
            return f"{kind}, {_bound(low)} to {_bound(high)}"
        case {"type": "integer" | "number" as kind, "minimum": low}:
            return f"{kind}, at least {_bound(low)}"
        case {"type": "boolean"}:
            return "boolean"
        case {"type": "null"}:
            return "null"
        case _:
            raise ValueError(f"no words for {part}")


def _bound(value: float) -> str:
    return _POWERS.get(value) or f"{value:,.10g}"


_POWERS: dict[float, str] = {2**31 - 1: "2^31 - 1", 2**53 - 1: "2^53 - 1"}


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _heading(kind: type[Record]) -> str:
    """`FeedHead` as `feed head`."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", kind.__name__).lower()


def _anchor(kind: type[Record]) -> str:
    return _heading(kind).replace(" ", "-")


def layout(value: Any, indent: str = "") -> str:
    """JSON with an object or array on one line where it fits."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(line) <= WIDTH or not isinstance(value, dict | list):
        return line
    deeper = indent + "  "
    if isinstance(value, dict):
        parts = [f"{json.dumps(name)}: {layout(part, deeper)}" for name, part in value.items()]
        return "{\n" + ",\n".join(deeper + part for part in parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + layout(part, deeper) for part in value) + f"\n{indent}]"
