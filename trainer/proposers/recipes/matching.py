"""Patterns of Python text over libcst trees.

A pattern is Python in which `_1` to `_9` stand for any expression, the same one wherever the same number stands, and a
last argument `*_` of a call for whatever arguments are left. Layout, comments, brackets without meaning and quotes do
not matter.
"""

import functools
import re
import textwrap
from collections.abc import Sequence
from dataclasses import fields

import libcst as cst

Bound = dict[str, cst.BaseExpression | Sequence[cst.Arg]]

_HOLE = re.compile(r"_[1-9]")
_REST = "_"
_LAYOUT = (
    cst.BaseParenthesizableWhitespace,
    cst.TrailingWhitespace,
    cst.EmptyLine,
    cst.Comma,
    cst.Semicolon,
    cst.AssignEqual,
    cst.Colon,
    cst.MaybeSentinel,
)
_LAYOUT_FIELDS = frozenset({"lpar", "rpar", "leading_lines", "header", "footer", "lines_after_decorators", "indent"})
_COMPOUND = (cst.BinaryOperation, cst.BooleanOperation, cst.Comparison, cst.IfExp, cst.Lambda, cst.UnaryOperation)


@functools.cache
def expression(text: str) -> cst.BaseExpression:
    """A pattern or template of one expression."""
    return cst.parse_expression(text)


@functools.cache
def statements(text: str) -> tuple[cst.BaseStatement, ...]:
    """A template of statements, indented alike or not at all."""
    body = cst.parse_module(textwrap.dedent(text).strip("\n") + "\n").body
    assert all(isinstance(item, cst.BaseStatement) for item in body)
    return tuple(item for item in body if isinstance(item, cst.BaseStatement))


@functools.cache
def simple(text: str) -> cst.BaseSmallStatement:
    """A pattern of one statement that has no body of its own."""
    (line,) = statements(text)
    assert isinstance(line, cst.SimpleStatementLine), text
    (statement,) = line.body
    return statement


def matches(pattern: cst.CSTNode, node: cst.CSTNode) -> Bound | None:
    """What the holes of `pattern` stand for if `node` is of its form, else None."""
    bound: Bound = {}
    return bound if _match(pattern, node, bound) else None


def _match(pattern: cst.CSTNode, node: cst.CSTNode, bound: Bound) -> bool:
    if isinstance(pattern, cst.Name) and _HOLE.fullmatch(pattern.value):
        if not isinstance(node, cst.BaseExpression):
            return False
        known = bound.setdefault(pattern.value, node)
        return known is node or (isinstance(known, cst.CSTNode) and _match(known, node, {}))
    if type(pattern) is not type(node):
        return False
    if isinstance(pattern, cst.Call) and isinstance(node, cst.Call):
        return _match(pattern.func, node.func, bound) and _match_arguments(pattern.args, node.args, bound)
    if isinstance(pattern, cst.SimpleString) and isinstance(node, cst.SimpleString):
        return pattern.evaluated_value == node.evaluated_value
    return all(
        _match_value(getattr(pattern, field.name), getattr(node, field.name), bound)
        for field in fields(pattern)
        if field.name not in _LAYOUT_FIELDS
    )


def _match_arguments(pattern: Sequence[cst.Arg], found: Sequence[cst.Arg], bound: Bound) -> bool:
    last = pattern[-1] if pattern else None
    if last is not None and last.star == "*" and isinstance(last.value, cst.Name) and last.value.value == _REST:
        pattern = pattern[:-1]
        bound[_REST] = found[len(pattern) :]
        found = found[: len(pattern)]
    return _match_value(pattern, found, bound)


def _match_value(pattern: object, found: object, bound: Bound) -> bool:
    if isinstance(pattern, _LAYOUT) or isinstance(found, _LAYOUT):
        return True
    if isinstance(pattern, cst.CSTNode):
        return isinstance(found, cst.CSTNode) and _match(pattern, found, bound)
    if isinstance(pattern, Sequence) and not isinstance(pattern, str):
        return (
            isinstance(found, Sequence)
            and len(pattern) == len(found)
            and all(_match_value(one, other, bound) for one, other in zip(pattern, found, strict=True))
        )
    return pattern == found


class Filling(cst.CSTTransformer):
    """Puts what was bound into the holes of a template, in brackets where precedence might change its meaning."""

    def __init__(self, bound: Bound) -> None:
        super().__init__()
        self.bound = bound

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.BaseExpression:
        node = self.bound.get(updated_node.value) if _HOLE.fullmatch(updated_node.value) else None
        if not isinstance(node, cst.BaseExpression):
            return updated_node
        node = node.deep_clone()
        if isinstance(node, _COMPOUND) and not node.lpar:
            return node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        return node

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.Call:
        rest = self.bound.get(_REST)
        if not isinstance(rest, Sequence):
            return updated_node
        args: list[cst.Arg] = []
        for arg in updated_node.args:
            if arg.star == "*" and isinstance(arg.value, cst.Name) and arg.value.value == _REST:
                args += [item.deep_clone().with_changes(comma=cst.MaybeSentinel.DEFAULT) for item in rest]
            else:
                args.append(arg)
        return updated_node.with_changes(args=args)


def fill_expression(template: str, bound: Bound) -> cst.BaseExpression:
    """A template's text with its holes filled."""
    node = expression(template).deep_clone().visit(Filling(bound))
    assert isinstance(node, cst.BaseExpression)
    return node


def fill_statements(template: str, bound: Bound) -> list[cst.BaseStatement]:
    """Statements of a template with their holes filled; none from an empty text."""
    filled = [statement.deep_clone().visit(Filling(bound)) for statement in statements(template)]
    return [statement for statement in filled if isinstance(statement, cst.BaseStatement)]
