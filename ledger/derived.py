"""What the ledger's tables say of an entry, so that queries need no decoding. *Pure.*

Each row follows from one envelope alone, so the tables are the same in whatever order entries arrive, and can be made
anew at any time. docs/statements.md says what the predicates are, derived.sql what the columns are.
"""

import json
from typing import Any, NamedTuple

from ledger.envelope import Signed
from ledger.predicates import (
    Adoption,
    Amendment,
    Attestation,
    Checkpoint,
    Claim,
    Comparison,
    Discovery,
    Gate,
    Hardware,
    Lesson,
    Retraction,
    Revocation,
    Skill,
    Trial,
)

TABLES = (
    "feeds",
    "trials",
    "discoveries",
    "attestations",
    "adoptions",
    "retractions",
    "claims",
    "skills",
    "gates",
    "amendments",
    "checkpoints",
    "revocations",
    "entry_text",
)
"""All derived tables; `feeds` has the last entry of each feed, the others a row for some entries.

`trials` is a view: its rows are kept in `trial_results`, without what `entries` has of them.
"""


class Row(NamedTuple):
    """A row for `table`, by column."""

    table: str
    values: dict[str, Any]


def derive(signed: Signed) -> list[Row]:
    """The rows of an entry besides its own in `entries` and `feeds`; none for a type without a table."""
    entry, subject, body = signed.statement.entry, signed.statement.subject, signed.statement.body
    own: dict[str, Any] = {"id": signed.id, "author": entry.author}
    match body:
        case Trial(result=result):
            own |= {"program": subject, "track": body.track, "seed": body.seed, "split": body.split}
            own |= {name: getattr(result, name) for name in _RESULT}
            return [Row("trials", own | {"hardware": hardware_class(result.hardware)})]
        case Discovery():
            own |= {"track": body.track, "parent": body.parent, "child": subject}
            own |= {"hypothesis": body.hypothesis, "proposer": body.proposer} | _measured(body.comparison)
            own |= {"source": body.source}
            return [Row("discoveries", own), _text(signed, body.hypothesis)]
        case Attestation():
            own |= {"discovery": body.discovery, "verdict": body.verdict, "reason": body.reason}
            return [Row("attestations", own | _measured(body.comparison)), _text(signed, body.reason)]
        case Adoption():
            own |= {"track": body.track, "program": subject, "previous": body.previous}
            own |= {"discovery": body.discovery, "reason": body.reason}
            return [Row("adoptions", own), _text(signed, body.reason)]
        case Retraction():
            own |= {"discovery": body.discovery, "reason": body.reason} | _effect(body.comparison)
            return [Row("retractions", own), _text(signed, body.reason)]
        case Claim():
            own |= {"track": body.track, "program": subject, "parent": body.parent, "hypothesis": body.hypothesis}
            own |= {"operator": body.operator, "source": body.source}
            return [Row("claims", own), _text(signed, body.hypothesis)]
        case Skill():
            own |= {"title": body.title, "text": body.text, "replaces": body.replaces, "retired": int(body.retired)}
            return [Row("skills", own), _text(signed, f"{body.title}\n{body.text}")]
        case Lesson():
            return [_text(signed, f"{body.failure}\n{body.change}")]
        case Gate():
            own |= {"previous": body.previous, "state": body.state, "commanded": int(body.commanded)}
            return [Row("gates", own | {"reason": body.reason}), _text(signed, body.reason)]
        case Amendment():
            own |= {"constitution": subject, "previous": body.previous, "proposal": body.proposal}
            return [Row("amendments", own | {"reason": body.reason}), _text(signed, body.reason)]
        case Checkpoint():
            size = int(body.note.split("\n")[1])  # open_envelope has read the note
            return [Row("checkpoints", own | {"feed": body.feed, "size": size, "note": body.note})]
        case Revocation():
            heads = json.dumps({head.feed: [head.seq, head.id] for head in body.heads}, sort_keys=True)
            own |= {"feed": entry.feed, "seq": entry.seq, "heads": heads}
            successor = None if body.successor is None else body.successor.peer
            return [Row("revocations", own | {"successor": successor}), _text(signed, body.reason)]
        case _:
            return []


_RESULT = ("status", "val_bpb", "budget_used_s", "peak_memory_bytes", "program_lines")


def hardware_class(hardware: Hardware) -> str:
    """Machines whose effects are shown together: those with the same GPU, or where none is used the same CPU."""
    return hardware.gpu or f"{hardware.cpu}, {hardware.machine}"


def _effect(comparison: Comparison | None) -> dict[str, Any]:
    return {name: getattr(comparison, name, None) for name in ("mean", "low", "high")}


def _measured(comparison: Comparison | None) -> dict[str, Any]:
    """Effect, number of pairs, and the trial that tells on what hardware."""
    trials = () if comparison is None else comparison.child_trials
    return _effect(comparison) | {"pairs": len(trials), "trial": trials[0] if trials else None}


def _text(signed: Signed, text: str) -> Row:
    """What full-text search finds the entry by."""
    return Row("entry_text", {"id": signed.id, "kind": signed.statement.kind, "text": text})
