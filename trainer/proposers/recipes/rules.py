"""The steps of which recipes are made: each takes a program's tree and gives it changed, or None where it does not fit.

A *scope* names where a step looks: `train`, a class as `GPT`, a method as `Block.forward`, or the whole module as "".
Patterns are those of `matching.py`.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import libcst as cst

from trainer.proposers.recipes.matching import (
    Bound,
    expression,
    fill_expression,
    fill_statements,
    matches,
    simple,
    statements,
)

Definition = cst.ClassDef | cst.FunctionDef


class Rule(Protocol):
    """One step of a recipe."""

    def rewrite(self, module: cst.Module) -> cst.Module | None:
        """The changed tree, or None if the program does not have what this step needs."""


@dataclass(frozen=True)
class Knob:
    """Adds a constant below the others; one of that name already there means that the recipe does not fit."""

    line: str

    def rewrite(self, module: cst.Module) -> cst.Module | None:
        name = self.line.partition(" ")[0]
        place = 0
        for index, item in enumerate(module.body):
            if isinstance(item, Definition) or _is(item, cst.Assert):
                break
            if (found := _constant(item)) is not None:
                place = index + 1
                if found == name:
                    return None
        if any(_constant(item) == name for item in module.body):
            return None
        new = list(statements(self.line))
        if place == 0:  # no constants so far: below the imports
            place = max(
                (i + 1 for i, item in enumerate(module.body) if _is(item, (cst.Import, cst.ImportFrom))), default=0
            )
        return module.with_changes(body=[*module.body[:place], *new, *module.body[place:]])


@dataclass(frozen=True)
class Value:
    """Sets a constant to a literal, or to what `change` makes of a number; None from it means: does not fit."""

    name: str
    change: Callable[[float], float | str | bool | None] | float | str | bool

    def rewrite(self, module: cst.Module) -> cst.Module | None:
        for index, item in enumerate(module.body):
            if _constant(item) != self.name:
                continue
            assert isinstance(item, cst.SimpleStatementLine)
            assigned = item.body[0]
            assert isinstance(assigned, cst.Assign | cst.AnnAssign)
            new: float | str | bool | None
            if callable(self.change):
                if not isinstance(assigned.value, cst.Integer | cst.Float):
                    return None
                new = self.change(assigned.value.evaluated_value)
            else:
                new = self.change
            if new is None:
                return None
            literal = cst.parse_expression(f'"{new}"' if isinstance(new, str) else repr(new))
            if assigned.value is None or assigned.value.deep_equals(literal):
                return None
            changed = item.with_changes(body=[assigned.with_changes(value=literal)])
            return module.with_changes(body=[*module.body[:index], changed, *module.body[index + 1 :]])
        return None


def times(name: str, factor: float, multiple: int = 1) -> Value:
    """A constant scaled; integers stay multiples of `multiple` and at least that."""

    def change(value: float) -> float:
        if isinstance(value, int):
            return max(multiple, round(value * factor / multiple) * multiple)
        return float(f"{value * factor:.3g}")

    return Value(name, change)


@dataclass(frozen=True)
class Drop:
    """Removes a constant that nothing reads any more."""

    name: str

    def rewrite(self, module: cst.Module) -> cst.Module | None:
        body = [item for item in module.body if _constant(item) != self.name]
        return module.with_changes(body=body) if len(body) < len(module.body) else None


@dataclass(frozen=True)
class Import:
    """Adds an import of a module of the standard library, if it is not there."""

    name: str

    def rewrite(self, module: cst.Module) -> cst.Module | None:
        line = f"import {self.name}"
        if any(isinstance(item, cst.SimpleStatementLine) and _text(item) == line for item in module.body):
            return module
        place = next((i for i, item in enumerate(module.body) if _is(item, (cst.Import, cst.ImportFrom))), None)
        if place is None:
            return None
        return module.with_changes(body=[*module.body[:place], *statements(line), *module.body[place:]])


@dataclass(frozen=True)
class Define:
    """Adds a function or class before the definition `before`; one of that name already there: does not fit."""

    text: str
    before: str

    def rewrite(self, module: cst.Module) -> cst.Module | None:
        (new,) = statements(self.text)
        assert isinstance(new, Definition)
        names = {item.name.value: i for i, item in enumerate(module.body) if isinstance(item, Definition)}
        if new.name.value in names or self.before not in names:
            return None
        place = names[self.before]
        apart = new.with_changes(leading_lines=[cst.EmptyLine(indent=False), cst.EmptyLine(indent=False)])
        return module.with_changes(body=[*module.body[:place], apart, *module.body[place:]])


@dataclass(frozen=True)
class Parameter:
    """Adds a last parameter to a function."""

    scope: str
    text: str  # name: Annotation

    def rewrite(self, module: cst.Module) -> cst.Module | None:
        function = _find(module, self.scope)
        if not isinstance(function, cst.FunctionDef) or function.params.star_kwarg or function.params.kwonly_params:
            return None
        name, _, annotation = self.text.partition(": ")
        new = cst.Param(cst.Name(name), cst.Annotation(cst.parse_expression(annotation)))
        params = function.params.with_changes(params=[*function.params.params, new])
        return _put(module, self.scope, function.with_changes(params=params))


@dataclass(frozen=True)
class Replace:
    """Every expression of the form `pattern` in a scope becomes `template`; at least one must be there."""

    scope: str
    pattern: str
    template: str
    optional: bool = False  # where it does not fit, the program stays as it is

    def rewrite(self, module: cst.Module) -> cst.Module | None:
        scope = module if not self.scope else _find(module, self.scope)
        changing = _Expressions(expression(self.pattern), self.template)
        changed = None if scope is None else scope.visit(changing)
        if not changing.count:
            return module if self.optional else None
        if isinstance(changed, cst.Module):
            return changed
        assert isinstance(changed, Definition)
        return _put(module, self.scope, changed)


@dataclass(frozen=True)
class Statement:
    """Around the statements of the form `pattern` in a scope: text before them, after them, or in their place."""

    scope: str
    pattern: str
    text: str
    where: Literal["before", "after", "instead"] = "after"
    optional: bool = False

    def rewrite(self, module: cst.Module) -> cst.Module | None:
        scope = _find(module, self.scope)
        changing = _Statements(simple(self.pattern), self.text, self.where)
        changed = None if scope is None else scope.visit(changing)
        if not changing.count:
            return module if self.optional else None
        assert isinstance(changed, Definition)
        return _put(module, self.scope, changed)


@dataclass(frozen=True)
class Holding:
    """Adds text after the one statement of a scope that holds an expression of the form `pattern`."""

    scope: str
    pattern: str
    text: str

    def rewrite(self, module: cst.Module) -> cst.Module | None:
        scope = _find(module, self.scope)
        changing = _Statements(expression(self.pattern), self.text, "after")
        changed = None if scope is None else scope.visit(changing)
        if changing.count != 1:
            return None
        assert isinstance(changed, Definition)
        return _put(module, self.scope, changed)


@dataclass(frozen=True)
class Append:
    """Adds statements at the end of a function that returns nothing."""

    scope: str
    text: str

    def rewrite(self, module: cst.Module) -> cst.Module | None:
        function = _find(module, self.scope)
        if not isinstance(function, cst.FunctionDef) or not isinstance(function.body, cst.IndentedBlock):
            return None
        body = function.body.with_changes(body=[*function.body.body, *fill_statements(self.text, {})])
        return _put(module, self.scope, function.with_changes(body=body))


@dataclass(frozen=True)
class Needs:
    """Fits only where a statement of this form is in the scope."""

    scope: str
    pattern: str

    def rewrite(self, module: cst.Module) -> cst.Module | None:
        scope = _find(module, self.scope)
        seeking = _Statements(simple(self.pattern), "", "after")
        if scope is not None:
            scope.visit(seeking)
        return module if seeking.count else None


@dataclass(frozen=True)
class Lacks:
    """Fits only where the program's code does not contain this text."""

    text: str

    def rewrite(self, module: cst.Module) -> cst.Module | None:
        return None if self.text in _code(module) else module


@functools.lru_cache(maxsize=4)  # most recipes ask it of the same tree
def _code(module: cst.Module) -> str:
    return module.code


class _Expressions(cst.CSTTransformer):
    def __init__(self, pattern: cst.BaseExpression, template: str) -> None:
        super().__init__()
        self.pattern, self.template, self.count = pattern, template, 0

    def on_leave(self, original_node: cst.CSTNode, updated_node: cst.CSTNode) -> cst.CSTNode:  # type: ignore[override]
        if type(original_node) is type(self.pattern):
            bound = matches(self.pattern, updated_node)
            if bound is not None:
                self.count += 1
                return fill_expression(self.template, bound)
        return updated_node


class _Seeking(cst.CSTVisitor):
    def __init__(self, pattern: cst.BaseExpression) -> None:
        super().__init__()
        self.pattern, self.found = pattern, False

    def on_visit(self, node: cst.CSTNode) -> bool:
        self.found = self.found or (type(node) is type(self.pattern) and matches(self.pattern, node) is not None)
        return not self.found


class _Statements(cst.CSTTransformer):
    """`pattern` is a statement, or an expression somewhere in one."""

    def __init__(self, pattern: cst.BaseSmallStatement | cst.BaseExpression, text: str, where: str) -> None:
        super().__init__()
        self.pattern, self.text, self.where, self.count = pattern, text, where, 0

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.BaseStatement | cst.FlattenSentinel[cst.BaseStatement] | cst.RemovalSentinel:
        bound = self._matches(updated_node)
        if bound is None:
            return updated_node
        self.count += 1
        new = fill_statements(self.text, bound) if self.text else []
        match self.where:
            case "before":
                new = [*new, updated_node]
            case "after":
                new = [updated_node, *new]
        return cst.FlattenSentinel(new) if new else cst.RemoveFromParent()

    def _matches(self, line: cst.SimpleStatementLine) -> Bound | None:
        if isinstance(self.pattern, cst.BaseExpression):
            seeking = _Seeking(self.pattern)
            line.visit(seeking)
            return {} if seeking.found else None
        return matches(self.pattern, line.body[0]) if len(line.body) == 1 else None


def _find(module: cst.Module, scope: str) -> Definition | None:
    body: Sequence[cst.BaseStatement | cst.BaseSmallStatement | cst.SimpleStatementLine] = module.body
    found: Definition | None = None
    for name in scope.split("."):
        found = next((item for item in body if isinstance(item, Definition) and item.name.value == name), None)
        if found is None:
            return None
        body = found.body.body
    return found


def _put(module: cst.Module, scope: str, changed: Definition) -> cst.Module:
    """`module` with the definition at `scope` replaced."""
    outer, _, inner = scope.partition(".")
    body: list[cst.SimpleStatementLine | cst.BaseCompoundStatement] = []
    for item in module.body:
        if isinstance(item, Definition) and item.name.value == outer:
            if inner:
                kept = [
                    changed if isinstance(part, Definition) and part.name.value == inner else part
                    for part in item.body.body
                ]
                item = item.with_changes(body=item.body.with_changes(body=kept))
            else:
                item = changed
        body.append(item)
    return module.with_changes(body=body)


def _is(item: cst.CSTNode, kind: type[cst.CSTNode] | tuple[type[cst.CSTNode], ...]) -> bool:
    return isinstance(item, cst.SimpleStatementLine) and any(isinstance(part, kind) for part in item.body)


def _constant(item: cst.CSTNode) -> str | None:
    """The name that a module-level statement binds to a literal, if it is in capitals."""
    if not isinstance(item, cst.SimpleStatementLine) or len(item.body) != 1:
        return None
    match item.body[0]:
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=name))], value=value):
            pass
        case cst.AnnAssign(target=cst.Name(value=name), value=cst.BaseExpression() as value):
            pass
        case _:
            return None
    literal = isinstance(value, cst.Integer | cst.Float | cst.SimpleString | cst.Name)
    return name if literal and name.isupper() else None


def _text(line: cst.SimpleStatementLine) -> str:
    return cst.Module([line.with_changes(leading_lines=[])]).code.strip()
