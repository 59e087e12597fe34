"""docs/transitions.md: a Mermaid diagram and a list of moves for each transition table of policy/.

A table maps (state, move) to the state after it; both are enums, whose values are what people read.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from msgspec import Struct

from policy import gate, intake

HEAD = """# Transition tables

What may follow what, drawn from the tables in the code by `just transitions`. A move that is not drawn is refused, and
changes nothing. Do not edit this page: tests/policy/test_transitions_doc.py compares it with the tables.
"""


class Table(Struct, frozen=True):
    """One transition table, and how it is introduced."""

    title: str
    source: str  # module
    prose: str
    start: Enum
    transitions: Mapping[tuple[Any, Any], Enum]


TABLES: Sequence[Table] = (
    Table(
        "A foreign discovery",
        "policy/intake.py",
        "From its arrival to what this node thinks of it. Nothing is adopted that was not confirmed by the node's own "
        "runs.",
        intake.State.RECEIVED,
        intake.TRANSITIONS,
    ),
    Table(
        "The gate of a node",
        "policy/gate.py",
        "A rule moves it to a stricter state, over as many as it asks for; it opens again one state at a time. A "
        "command of the owner is legal in every state.",
        gate.State.RUN,
        gate.TRANSITIONS,
    ),
)


def document(tables: Sequence[Table] = TABLES) -> str:
    """The whole page."""
    return "\n".join([HEAD, *map(_section, tables)])


def _section(table: Table) -> str:
    rows = [
        f"| {_text(before)} | {move.name.lower().replace('_', ' ')} | {_text(after)} | {_text(move)} |"
        for (before, move), after in table.transitions.items()
    ]
    return "\n".join(
        [
            f"## {table.title}\n",
            f"`{table.source}`. {table.prose}\n",
            "```mermaid",
            *diagram(table),
            "```\n",
            "| from | move | to | because |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def diagram(table: Table) -> list[str]:
    """Lines of a Mermaid stateDiagram-v2; states that have no way out end it."""
    left = {before for before, _ in table.transitions}
    ends = [state for state in type(table.start) if state not in left]
    return [
        "stateDiagram-v2",
        f"    [*] --> {table.start.name}",
        *(f"    {state.name} : {_text(state)}" for state in type(table.start)),
        *(
            f"    {before.name} --> {after.name} : {move.name.lower().replace('_', ' ')}"
            for (before, move), after in table.transitions.items()
        ),
        *(f"    {state.name} --> [*]" for state in ends),
    ]


def _text(value: Enum) -> str:
    return str(value.value).replace("|", "\\|")
