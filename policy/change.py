"""What a child program changes of its parent, without the literals: the identity by which lessons and skills recur.

A program is cut into *units*: module-level assignments, functions, methods and class bodies, by qualified name. Of the
units that differ, the change has an item for each statement that is gone or new, with literals abstracted, so that
`BATCH` raised from 16 to 32 and from 32 to 64 are one change. A constant that only moved says in which direction.
Comments, layout, docstrings and the order of units do not matter.

The normal form is our own and not `ast.dump`, which differs between versions of Python: fields that are empty are left
out, and so is what only the compiler needs. Two nodes whose interpreters share the program's grammar agree. *Pure.*
"""

import ast
import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator

from msgspec import Struct

from ledger.predicates import PROGRAM_BYTES_MAX
from policy.harm_rules import DEPTH_MAX
from policy.screening import deeper_than

ITEMS_MAX = 64  # of one change, for display; the fingerprint is of all
UNITS_SHOWN_MAX = 6
WORDS_CHARACTERS_MAX = 300
NAME_CHARACTERS_MAX = 48

_SKIPPED_FIELDS = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


class Change(Struct, frozen=True):
    """A change of a program, normalised."""

    fingerprint: str  # SHA-256, hex
    words: str  # in words, bounded; names in it are the program's own, and may be a stranger's
    units: tuple[str, ...]  # qualified names that it touches, the first ITEMS_MAX
    tags: tuple[str, ...]  # of `constant`, `function`, `class`, `import`, `other`, sorted


def change_of(parent: bytes, child: bytes) -> Change | None:
    """What `child` changes of `parent`; None where nothing does, or where one of them cannot be read."""
    before, after = _units(parent), _units(child)
    if before is None or after is None:
        return None
    items: list[str] = []
    words: list[str] = []
    touched: list[str] = []
    tags: set[str] = set()
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, []), after.get(name, [])
        if list(map(_exact, old)) == list(map(_exact, new)):
            continue
        found, said = _difference(name, old, new)
        items += found
        words.append(said)
        touched.append(name)
        tags.add(_tag(name, [*old, *new]))
    if not items:
        return None
    shown = "; ".join(words[:UNITS_SHOWN_MAX]) + (
        f"; {more} more" if (more := len(words) - UNITS_SHOWN_MAX) > 0 else ""
    )
    return Change(
        fingerprint=hashlib.sha256("\n".join(sorted(items)).encode("utf-8", "surrogatepass")).hexdigest(),
        words=shown[:WORDS_CHARACTERS_MAX],
        units=tuple(name[:NAME_CHARACTERS_MAX] for name in touched[:ITEMS_MAX]),
        tags=tuple(sorted(tags)),
    )


def _units(program: bytes) -> dict[str, list[ast.stmt]] | None:
    if len(program) > PROGRAM_BYTES_MAX:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(program.decode())
        return None if deeper_than(tree, DEPTH_MAX) else dict(_cut("", _body(tree.body)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _cut(prefix: str, body: list[ast.stmt]) -> Iterator[tuple[str, list[ast.stmt]]]:
    """Units of a module or class. Statements without a name of their own are one unit together."""
    rest: list[ast.stmt] = []
    named: dict[str, list[ast.stmt]] = {}
    for statement in body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                named.setdefault(prefix + name, []).append(statement)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                named.setdefault(prefix + name, []).append(statement)
            case _:
                rest.append(statement)
    for name, statements in named.items():
        if len(statements) == 1 and isinstance(statements[0], ast.ClassDef):
            found = statements[0]
            head = ast.ClassDef(found.name, found.bases, found.keywords, [ast.Pass()], found.decorator_list)
            yield name, [ast.fix_missing_locations(head)]
            yield from _cut(f"{name}.", _body(found.body))
        else:
            yield name, statements
    if rest:
        yield prefix or "imports and asserts", rest


def _body(statements: list[ast.stmt]) -> list[ast.stmt]:
    """Without the docstring."""
    match statements:
        case [ast.Expr(value=ast.Constant(value=str())), *rest]:
            return rest
    return statements


def _difference(name: str, old: list[ast.stmt], new: list[ast.stmt]) -> tuple[list[str], str]:
    """Items of the fingerprint, and words for them."""
    if not old:
        return [f"+{name}", *_signed("+", name, Counter(_lines(new)))], f"{name} added"
    if not new:
        return [f"-{name}"], f"{name} removed"
    direction = _direction(old, new)
    if direction is not None:
        return [f"{name} {direction}"], f"{name} {direction}"
    before, after = Counter(_lines(old)), Counter(_lines(new))
    items = [*_signed("-", name, before - after), *_signed("+", name, after - before)]
    if not items:  # the same statements with other literals, or in another order
        return [f"~{name}"], f"numbers of {name} changed"
    return items, f"{name} changed"


def _signed(sign: str, name: str, lines: Counter[str]) -> Iterator[str]:
    for line, count in lines.items():
        yield f"{sign}{name} {count} {line}"


def _direction(old: list[ast.stmt], new: list[ast.stmt]) -> str | None:
    """How one assigned literal moved, if that is all there is."""
    values = [statement.value for unit in (old, new) for statement in unit if isinstance(statement, _Assignments)]
    if len(old) != 1 or len(new) != 1 or len(values) != 2:
        return None
    try:
        before, after = (ast.literal_eval(value) for value in values if value is not None)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    if isinstance(before, bool) and isinstance(after, bool):
        return "switched on" if after else "switched off"
    if isinstance(before, int | float) and isinstance(after, int | float):
        return "raised" if after > before else "lowered"
    if isinstance(before, str) and isinstance(after, str):
        # The choice is what such a change is about: it is kept, as a name and not as a number.
        return f"set to {after[:NAME_CHARACTERS_MAX]!r}"
    return None


_Assignments = ast.Assign | ast.AnnAssign


def _lines(statements: Iterable[ast.stmt]) -> Iterator[str]:
    """Every statement, those inside others too, normalised, without the statements inside it."""
    for statement in statements:
        nested = [part for part in ast.iter_child_nodes(statement) if isinstance(part, ast.stmt)]
        for part in ast.iter_child_nodes(statement):
            if isinstance(part, ast.ExceptHandler | ast.match_case):
                nested += part.body
        yield _normal(statement, with_statements=False, literals=False)
        yield from _lines(_body(nested) if isinstance(statement, ast.FunctionDef) else nested)


def _exact(statement: ast.stmt) -> str:
    return _normal(statement, with_statements=True, literals=True)


def _normal(node: ast.AST, *, with_statements: bool, literals: bool) -> str:
    if isinstance(node, ast.Constant):
        return f"={node.value!r}" if literals else f"={type(node.value).__name__}"
    parts: list[str] = []
    body = node.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else None
    for name, value in ast.iter_fields(node):
        if name in _SKIPPED_FIELDS or value is None or value == []:
            continue
        members = value if isinstance(value, list) else [value]
        if value is body:
            members = _body(members)
        texts = [
            _normal(member, with_statements=with_statements, literals=literals)
            if isinstance(member, ast.AST)
            else repr(member)
            for member in members
            if with_statements or not isinstance(member, ast.stmt)
        ]
        parts.append(f"{name}:{','.join(texts)}")
    return f"{type(node).__name__}({' '.join(parts)})"


def _tag(name: str, statements: list[ast.stmt]) -> str:
    first = statements[0]
    if isinstance(first, _Assignments):
        return "constant"
    if isinstance(first, ast.ClassDef) or "." in name:
        return "class"
    if isinstance(first, ast.FunctionDef | ast.AsyncFunctionDef):
        return "function"
    return "import" if isinstance(first, ast.Import | ast.ImportFrom) else "other"
