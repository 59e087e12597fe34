"""A program's constants as knobs, and typed edits of them.

A *knob* is a module-level constant in capitals whose value is a plain literal: a float, a positive integer, a boolean,
or a string with its alternatives in a trailing comment `# choices: a, b`. What a change of each kind may be:

* floats move on a log scale, by 2 and by 1.4; one strictly between 0 and 1 stays there or reaches 1, and above one half
  it is the distance to 1 that moves, which is the natural scale of a momentum or a decay;
* integers double, halve and move by half, small ones also by 1, and never fall below 1;
* booleans flip; choices change to another choice.

Seeds are no knobs: a lucky seed is not a discovery. Nothing outside a changed literal changes, not even a space.

libcst sees single lines only, so a program of any shape that Python itself parses has knobs (see `syntax.py`).
"""

import ast
import functools
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import libcst as cst

from trainer.proposers.asserts import Value, holds, rules
from trainer.proposers.proposal import parse

KNOBS_MAX = 128
LINE_CHARACTERS_MAX = 200
INTEGER_MAX = 2**31
SMALL_INTEGER = 8  # up to here a step of 1 is worth a trial

_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,47}")
_CHOICES = re.compile(r"\bchoices:\s*(\w{1,32}(?:\s*,\s*\w{1,32}){1,15})\s*$")
_LINE_ENDS = re.compile(r"(\r\n|\r|\n)")  # Python's own; str.splitlines knows more


class Knob(NamedTuple):
    name: str
    value: Value
    choices: tuple[str, ...]  # empty unless the value is a string
    line: int  # 0-based


class Edit(NamedTuple):
    knob: Knob
    value: Value


def constants_of(tree: ast.Module) -> dict[str, Value]:
    """Names in capitals that are bound once in the whole program, at module level and to a plain literal."""
    bindings = Counter(
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    )
    found: dict[str, Value] = {}
    for node in tree.body:
        name, value = _assigned(node)
        if name is not None and _NAME.fullmatch(name) and bindings[name] == 1 and isinstance(value, ast.Constant):
            literal = value.value
            if isinstance(literal, bool | int | float | str):
                found[name] = literal
    return found


def _assigned(node: ast.stmt) -> tuple[str | None, ast.expr | None]:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, value
        case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Name(), value=value):
            return name, value
    return None, None


def knobs_of(program: str, tree: ast.Module, constants: dict[str, Value]) -> list[Knob]:
    """What may be edited, in the order of the text; `tree` and `constants` are those of `program`."""
    lines = _LINE_ENDS.split(program)[::2]
    knobs: list[Knob] = []
    for node in tree.body:
        name, _ = _assigned(node)
        if name not in constants or name.endswith("SEED") or node.lineno != node.end_lineno:
            continue
        index = node.lineno - 1
        comment = _comment(lines[index])
        if comment is None:
            continue
        value = constants[name]
        match = _CHOICES.search(comment) if isinstance(value, str) else None
        choices = tuple(re.split(r"\s*,\s*", match[1])) if match else ()
        knobs.append(Knob(name, value, choices, index))
    return knobs[:KNOBS_MAX]


def _comment(line: str) -> str | None:
    """The trailing comment of a line that holds one assignment of a literal, "" without one; else None."""
    statement = _statement(line)
    if statement is None:
        return None
    comment = statement.trailing_whitespace.comment
    return "" if comment is None else comment.value


def _statement(line: str) -> cst.SimpleStatementLine | None:
    if len(line) > LINE_CHARACTERS_MAX:
        return None
    try:
        statement = cst.parse_statement(line)
    except cst.ParserSyntaxError:  # part of a longer statement
        return None
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return None
    return statement if _code(statement) == line else None  # libcst drops a leading form feed


def _code(statement: cst.SimpleStatementLine) -> str:
    return cst.Module([statement]).code.removesuffix("\n")


def edits_of(knobs: Sequence[Knob]) -> list[Edit]:
    """All single edits."""
    return [Edit(knob, value) for knob in knobs for value in _alternatives(knob)]


def _alternatives(knob: Knob) -> list[Value]:
    """Other values for a knob, without repetition."""
    match knob.value:
        case bool(flag):
            return [not flag]
        case int(number) if 0 <= number <= INTEGER_MAX:
            near = [number - 1, number + 1] if number <= SMALL_INTEGER else [number * 3 // 4, number * 3 // 2]
            return [
                value for value in dict.fromkeys([number // 2, number * 2, *near]) if value >= 1 and value != number
            ]
        case float(number) if number >= 0 and math.isfinite(number):
            return [value for value in _float_steps(number) if math.isfinite(value) and value not in (0.0, number)]
        case str(word) if word in knob.choices:
            return [choice for choice in dict.fromkeys(knob.choices) if choice != word]
    return []


def _float_steps(number: float) -> list[float]:
    """Steps to three significant digits, so that programs stay readable."""
    if number == 0:
        return [0.01, 0.1]
    factors = (0.5, 1 / 1.4, 1.4, 2.0)
    if 0.5 < number < 1:
        distances = [float(f"{(1 - number) * factor:.3g}") for factor in factors]
        steps = [float(f"{1 - distance:.12g}") for distance in distances]  # 0.9714, not 0.9713999999999999
    else:
        steps = [float(f"{number * factor:.3g}") for factor in factors]
    return list(dict.fromkeys(steps))


def apply_edits(program: str, edits: Sequence[Edit]) -> str:
    """`program` with the literals of the edited knobs replaced, and every other character as it was."""
    parts = _LINE_ENDS.split(program)
    for edit in edits:
        place = 2 * edit.knob.line
        statement = _statement(parts[place])
        assert statement is not None, "a knob is an assignment on one line"
        assignment = statement.body[0]
        assert isinstance(assignment, cst.Assign | cst.AnnAssign), "a knob is an assignment"
        assert assignment.value is not None, "a knob has a value"
        literal = _literal(assignment.value, edit.value)
        parts[place] = _code(statement.with_deep_changes(assignment.value, value=literal))
    return "".join(parts)


def _literal(old: cst.BaseExpression, value: Value) -> str:
    if isinstance(value, str):
        quote = old.quote if isinstance(old, cst.SimpleString) else '"'
        return f"{quote}{value}{quote}"
    return repr(value)


@functools.lru_cache(maxsize=1024)  # a proposer meets the same candidates at every call
def keeps_asserts(program: str) -> bool:
    """Whether the module-level asserts hold, as far as they are about constants. Raises `ProgramUnreadable`."""
    tree = parse(program)
    constants = constants_of(tree)
    return all(holds(rule, constants) for rule in rules(tree))
