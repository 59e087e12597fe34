"""A move in a transition table, for all tables of this package. *Pure.*"""

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

State = TypeVar("State", bound=Enum)
Move = TypeVar("Move", bound=Enum)


class IllegalMove(Exception):
    """Our own bug: a move that the table does not have. Nothing has changed."""


def made(table: Mapping[tuple[State, Move], State], state: State, move: Move) -> State:
    """The state after a move. Raises `IllegalMove`."""
    try:
        return table[state, move]
    except KeyError:
        raise IllegalMove(f"{move.name} is no move from {state.value}") from None
