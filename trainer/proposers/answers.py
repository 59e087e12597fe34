"""What a model hands back: the tool that it calls, and the new program that follows from the call. *Pure.*

Edits are exact: a search text must occur once and only once in the program as the edits before it have left it.
Nothing is guessed, since a change that is not the one that was meant makes the hypothesis a lie.
"""

import math
from collections.abc import Container
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ledger.predicates import PROGRAM_BYTES_MAX
from trainer.proposers.proposal import ProgramUnreadable, fingerprint
from trainer.proposers.quoting import clean_line
from trainer.proposers.spending import ProposalFailed

EDITS_MAX = 64
HYPOTHESIS_CHARACTERS_MAX = 1000
EXPECTED_MAX = 100.0  # bits per byte; beyond it is no expectation
TOOL_NAME = "propose"

TOOL_DESCRIPTION = (
    "Hand in the proposal: one change of the program. Call it exactly once. Give either `edits` (preferred) or "
    "`program`. Edits are applied in order; each search text must occur exactly once in the program at that point, "
    "character by character, so include enough of the lines around it."
)
TOOL_SCHEMA: dict[str, object] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["hypothesis"],
    "properties": {
        "hypothesis": {
            "type": "string",
            "description": "One sentence: what changes, and why it should lower the bits per byte.",
        },
        "expected_effect": {
            "type": "number",
            "description": "Expected change in bits per byte, child minus parent; negative is better.",
        },
        "edits": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["search", "replace"],
                "properties": {
                    "search": {"type": "string", "description": "Text that occurs exactly once."},
                    "replace": {"type": "string", "description": "What stands in its place."},
                },
            },
        },
        "program": {"type": "string", "description": "The whole new train.py, where edits would be longer."},
    },
}


class AnswerMalformed(ProposalFailed):
    """The answer is not a call of the tool with what it asks for."""


class EditUnappliable(ProposalFailed):
    """The edits do not fit the program, or what they make is no program."""


class AlreadyTried(ProposalFailed):
    """The change is none, or one that has been tried."""


class Edit(Struct, frozen=True, forbid_unknown_fields=True):
    search: Annotated[str, Meta(min_length=1, max_length=PROGRAM_BYTES_MAX)]
    replace: Annotated[str, Meta(max_length=PROGRAM_BYTES_MAX)]


class Answer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The input of the tool."""

    hypothesis: Annotated[str, Meta(min_length=1, max_length=10_000)]
    expected_effect: float | None = None
    edits: Annotated[list[Edit], Meta(max_length=EDITS_MAX)] = []
    program: Annotated[str, Meta(max_length=2 * PROGRAM_BYTES_MAX)] | None = None


def read_answer(given: Any) -> Answer:
    """The call's input, checked. Raises `AnswerMalformed`."""
    answer: Answer | None = None
    try:
        answer = msgspec.convert(given, Answer)
    except (msgspec.ValidationError, RecursionError) as error:
        why = clean_line(str(error), 200)
    if answer is None:  # raised here, apart from the library's exception, which quotes the answer
        raise AnswerMalformed(f"the tool was called with what it does not take: {why}")
    if bool(answer.edits) == (answer.program is not None):
        raise AnswerMalformed("the tool was called with neither edits nor a program, or with both")
    if not clean_line(answer.hypothesis, HYPOTHESIS_CHARACTERS_MAX):
        raise AnswerMalformed("the tool was called without a hypothesis")
    return answer


def applied(answer: Answer, program: str) -> str:
    """The new program. Raises `EditUnappliable`."""
    text = program if answer.program is None else answer.program
    for number, edit in enumerate(answer.edits, start=1):
        places = _occurrences(text, edit.search)
        if places != 1:
            found = "does not occur" if places == 0 else "occurs more than once"
            raise EditUnappliable(f"edit {number} of {len(answer.edits)}: its search text {found} in the program")
        text = text.replace(edit.search, edit.replace)
        if len(text) > PROGRAM_BYTES_MAX:
            break
    if (size := len(text.encode(errors="replace"))) > PROGRAM_BYTES_MAX:
        raise EditUnappliable(f"the new program has {size} bytes or more, over the limit of {PROGRAM_BYTES_MAX}")
    return text


def _occurrences(text: str, search: str) -> int:
    """0, 1 or 2 for more; occurrences may overlap, which str.count does not see."""
    first = text.find(search)
    if first < 0:
        return 0
    return 1 if text.find(search, first + 1) < 0 else 2


def expected_of(answer: Answer) -> float | None:
    """The expected effect, if it is one."""
    effect = answer.expected_effect
    return effect if effect is not None and math.isfinite(effect) and abs(effect) <= EXPECTED_MAX else None


def check_new(text: str, parent: str, seen: Container[str]) -> None:
    """Whether a program says something new; `seen`: fingerprints.

    Raises `EditUnappliable` for what is no Python, `AlreadyTried`, and `ProgramUnreadable` for the parent.
    """
    own = fingerprint(parent)
    try:
        found = fingerprint(text)
    except ProgramUnreadable as error:
        raise EditUnappliable(f"the new program cannot be read: {clean_line(str(error), 200)}") from None
    if found == own:
        raise AlreadyTried("the new program does the same as its parent")
    if found in seen:
        raise AlreadyTried("the change has been tried before, here or by a peer")
