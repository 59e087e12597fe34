"""Whether a program's module-level asserts hold over its constants, without running any of it.

Arithmetic, comparisons and membership only. An assert that says more (a call, an attribute) is left to the program
itself and counts as held.
"""

import ast
import itertools
import operator
from collections.abc import Callable, Mapping

Value = bool | int | float | str

ASSERT_NODES_MAX = 100

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,  # no power: a stranger's 9 ** 9 ** 9 would not end
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[object, object], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: lambda a, b: _number(a) < _number(b),
    ast.LtE: lambda a, b: _number(a) <= _number(b),
    ast.Gt: lambda a, b: _number(a) > _number(b),
    ast.GtE: lambda a, b: _number(a) >= _number(b),
    ast.In: lambda a, b: isinstance(b, tuple) and a in b,
    ast.NotIn: lambda a, b: isinstance(b, tuple) and a not in b,
}


class _NotArithmetic(Exception):
    """An expression that is about more than the constants."""


def rules(tree: ast.Module) -> list[ast.expr]:
    """The conditions of the module-level asserts."""
    return [node.test for node in tree.body if isinstance(node, ast.Assert)]


def holds(rule: ast.expr, constants: Mapping[str, Value]) -> bool:
    """Whether an assert holds; one that is about more than constants counts as held."""
    if sum(1 for _ in itertools.islice(ast.walk(rule), ASSERT_NODES_MAX + 1)) > ASSERT_NODES_MAX:
        return True
    try:
        return bool(_evaluate(rule, constants))
    except _NotArithmetic:
        return True
    except (ZeroDivisionError, OverflowError):
        return False


def _evaluate(node: ast.expr, constants: Mapping[str, Value]) -> object:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.Name(id=name) if name in constants:
            return constants[name]
        case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
            return tuple(_evaluate(item, constants) for item in items)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _evaluate(operand, constants)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(_evaluate(operand, constants))
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_number(_evaluate(left, constants)), _number(_evaluate(right, constants)))
        case ast.BoolOp(op=op, values=parts):
            results = (bool(_evaluate(part, constants)) for part in parts)
            return all(results) if isinstance(op, ast.And) else any(results)
        case ast.Compare(left=first, ops=ops, comparators=rest) if all(type(op) in _COMPARISONS for op in ops):
            values = [_evaluate(part, constants) for part in (first, *rest)]
            return all(_COMPARISONS[type(op)](values[i], values[i + 1]) for i, op in enumerate(ops))
    raise _NotArithmetic


def _number(value: object) -> int | float:
    if isinstance(value, int | float):
        return value
    raise _NotArithmetic
