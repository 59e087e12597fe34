"""Kinds of failure: what became of a proposal, as a short name by which failures of one kind recur, with its limits.

A kind is a *stage*, at which the proposal came to its end, and a class within it: `harm:import`, `crash:RuntimeError`,
`void:reads-ahead`, `discarded:worse`. The classes are ours; of a program's own text only the name of a builtin
exception gets into one. *Pure.*
"""

import builtins
import re
from collections.abc import Mapping

from msgspec import Struct

from ledger.predicates import EntryId, Status

STAGES: Mapping[str, int] = {
    "harm": 0,
    "refused": 0,
    "crash": 1,
    "timeout": 1,
    "over_budget": 1,
    "out_of_memory": 1,
    "void": 2,
    "discarded": 3,
    "kept": 4,
}
"""How far a proposal came. One that comes farther than a lesson's stage did not fail in the lesson's way."""

VOID_CLASSES: tuple[tuple[str, str], ...] = (
    ("uniform cuts the whole row saves", "void:leaks-ahead"),
    ("predictions differ by more than", "void:reads-ahead"),
    ("not finite", "void:not-finite"),
    ("logits", "void:not-logits"),
)
"""Part of a reason as trainer/audit.py and trainer/trial.py give it, to the class; the first that fits."""

_RAISED = re.compile(r"^(?:torch\.)?([A-Za-z]{1,40})(?::|$)", re.MULTILINE)
_EXCEPTIONS = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)}
_EXCEPTIONS |= {"OutOfMemoryError", "AcceleratorError"}  # torch's


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of one proposal, here."""

    kept: bool = False
    rule: str = ""  # of policy/harm_rules.py, where the screen refused it; then nothing below is set
    status: Status = "ok"  # of the child's run; a parent that fails says nothing about the change
    reason: str = ""  # of that status, as the trial recorded it; it may quote the program
    low: float | None = None  # 95 % interval of the effect, bits per byte, child - parent; negative is better
    high: float | None = None
    evidence: tuple[EntryId, ...] = ()  # trials, or the discovery


def failure_kind(outcome: Outcome) -> str:
    """The kind, `stage` or `stage:class`; `kept` for a success. At most 64 characters."""
    if outcome.rule:
        return f"harm:{outcome.rule}"[:64]
    if outcome.status == "void":
        return next((kind for part, kind in VOID_CLASSES if part in outcome.reason), "void:other")
    if outcome.status == "crash":
        raised = [name for name in _RAISED.findall(outcome.reason) if name in _EXCEPTIONS]
        return f"crash:{raised[-1]}" if raised else "crash:other"
    if outcome.status != "ok":
        return outcome.status
    if outcome.kept:
        return "kept"
    return "discarded:worse" if outcome.low is not None and outcome.low > 0 else "discarded:no-gain"


def stage_of(kind: str) -> int:
    """How far a proposal of this kind came, see STAGES; 0 for a stage that is not known, a peer's word for instance."""
    return STAGES.get(kind.partition(":")[0], 0)


FAILURE_WORDS: Mapping[str, str] = {
    "harm": "the screen refused it",
    "refused": "it was refused",
    "crash": "the program raised",
    "timeout": "it did not end in time",
    "over_budget": "it overran the budget",
    "out_of_memory": "it ran out of memory",
    "void": "the audit voided it",
    "discarded": "it was tried and not kept",
}


def failure_words(kind: str) -> str:
    """The kind as a person reads it, with the class in brackets."""
    stage, _, detail = kind.partition(":")
    words = FAILURE_WORDS.get(stage, "it failed")
    return f"{words} ({detail[:48]})" if detail else words
