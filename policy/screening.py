"""What a program's text must satisfy before any compute is spent on it, whoever wrote it. *Pure.*

A program that passes may still be hostile: the sandbox is what contains it, and the audit what finds a model that
cheats. This screen saves compute, and its answer is a sentence for the program's author, with the line. What it looks
for is data (harm_rules.py); how it is found is here: one walk over the syntax tree that knows which names are modules
under another name, and which hide a builtin.
"""

import ast
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator

from msgspec import Struct

from ledger.predicates import PROGRAM_BYTES_MAX
from policy.harm_rules import (
    BUILTINS_REFUSED,
    COMPUTED,
    CONTRACT,
    DEPTH_MAX,
    DUNDER_METHODS_REFUSED,
    DUNDERS,
    ENTROPY_BITS_MAX,
    ENTROPY_CHARACTERS_MIN,
    FINDINGS_MAX,
    FRAME_ATTRIBUTES,
    IMPORTS,
    INTEGER_DIGITS_MAX,
    NUMBERS_DIGITS_MAX,
    PACKAGES,
    PATCHABLE,
    RULES,
    RUN_CHARACTERS_MAX,
    STRING_CHARACTERS_MAX,
    STRINGS_CHARACTERS_MAX,
    SYSTEM_ATTRIBUTES,
    TABLE_NUMBERS_MAX,
    TORCH_PRIVATE_PREFIXES,
    TORCH_REFUSED,
)

SHOWN_CHARACTERS_MAX = 60  # of a program's own text in a sentence
_FORMAT_REACH = re.compile(r"\{[^{}]*[.\[]\s*_")  # "{0.__class__}"

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_Table = ast.List | ast.Tuple | ast.Set | ast.Dict


class Finding(Struct, frozen=True):
    """What one rule found at one place."""

    rule: str  # id
    line: int  # 1-based; 0 where it is about the whole text
    what: str

    @property
    def sentence(self) -> str:
        """For the program's author."""
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.what} ({RULES[self.rule].reason}) [{self.rule}]"


def screen_program(program: bytes) -> str | None:
    """Why the program is refused, in one sentence, or None if it passes."""
    found = screen_findings(program)
    return found[0].sentence if found else None


def screen_findings(program: bytes) -> tuple[Finding, ...]:
    """All that speaks against the program, the first FINDINGS_MAX; empty if it passes.

    By line, with what is about the whole text first. What prevents the text from being read at all stands alone.
    """
    if len(program) > PROGRAM_BYTES_MAX:
        return (Finding("size", 0, f"{len(program)} bytes, over the limit of {PROGRAM_BYTES_MAX}"),)
    try:
        text = program.decode()  # UTF-8 only: a coding cookie would let two readers see two programs
        with warnings.catch_warnings(action="ignore"):  # a stranger's odd escape is not news for our log
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # MemoryError: the parser's nesting limit
        return (Finding("text", 0, f"it is not Python in UTF-8: {error}"),)
    if deeper_than(tree, DEPTH_MAX):
        return (Finding("depth", 0, f"it is nested more than {DEPTH_MAX} levels deep"),)
    walk = _Walk(tree)
    walk.visit(tree)
    found = sorted([*_contract(tree), *walk.found, *_literals(tree)], key=lambda finding: finding.line)
    return tuple(found[:FINDINGS_MAX])


def _contract(tree: ast.Module) -> Iterator[Finding]:
    defined = {item.name: item for item in tree.body if isinstance(item, ast.FunctionDef)}
    for name, parameters in CONTRACT.items():
        if name not in defined:
            yield Finding("contract", 0, f"it does not define {name}")
            continue
        arguments = defined[name].args
        if len(arguments.posonlyargs) + len(arguments.args) != parameters:
            yield Finding("contract", defined[name].lineno, f"{name} does not take {parameters} arguments")


def deeper_than(tree: ast.AST, limit: int) -> bool:
    """Whether a syntax tree has more than `limit` levels, found without recursion."""
    level = [tree]
    for _ in range(limit):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return False
    return True


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "…"


# Names


class _Scope(Struct, frozen=True):
    """The names that a function, class or comprehension binds: they hide a builtin of that name."""

    names: frozenset[str]
    is_class: bool


def _bound(node: _Function | _Comprehension | ast.ClassDef) -> _Scope:
    """What the node binds itself; as Python has it, a name bound anywhere in a function is local in all of it."""
    names: set[str] = set()
    outer: set[str] = set()
    inside: list[ast.AST]
    if isinstance(node, _Comprehension):
        inside = [generator.target for generator in node.generators]
    elif isinstance(node, ast.Lambda):
        inside = [node.args]
    elif isinstance(node, ast.ClassDef):
        inside = list(node.body)
    else:
        inside = [node.args, *node.body]
    while inside:
        part = inside.pop()
        match part:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
                continue
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                continue
            case ast.Global(names=declared) | ast.Nonlocal(names=declared):
                outer.update(declared)
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                names.add(name)
            case ast.alias(name=name, asname=asname):
                names.add(asname or name.partition(".")[0])
        inside.extend(ast.iter_child_nodes(part))
    return _Scope(frozenset(names - outer), isinstance(node, ast.ClassDef))


def _modules(tree: ast.Module) -> dict[str, str]:
    """Local names that stand for a module, or something in one, to its dotted name; wherever they are bound."""
    found: dict[str, str] = {}
    assigned: list[tuple[str, ast.expr]] = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                for alias in aliases:
                    top = alias.name.partition(".")[0]
                    found[alias.asname or top] = alias.name if alias.asname else top
            case ast.ImportFrom(module=str(module), names=aliases, level=0):
                for alias in aliases:
                    found[alias.asname or alias.name] = f"{module}.{alias.name}"
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.NamedExpr(target=ast.Name(id=name), value=value)
            ):
                assigned.append((name, value))
    for _ in range(2):  # one name for another
        for name, value in assigned:
            path = _dotted(value, found)
            if path is not None and name not in found:
                found[name] = path
    return found


def _dotted(node: ast.expr, modules: dict[str, str]) -> str | None:
    """`torch.nn.functional` for whatever the program calls it; None for what is no attribute of a module."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name) and node.id in modules:
        return ".".join([modules[node.id], *reversed(parts)])
    return None


def _is_module(path: str) -> bool:
    return path in IMPORTS or path == "torch.nn.functional"


class _Walk(ast.NodeVisitor):
    """Collects findings. The tree is at most DEPTH_MAX deep."""

    def __init__(self, tree: ast.Module) -> None:
        self.found: list[Finding] = []
        self._modules = _modules(tree)
        self._scopes: list[_Scope] = []
        self._read: set[int] = set()  # names of modules that are read in a way that is fine, by id of their node
        self._task = ""  # what `train` calls the task

    def _add(self, rule: str, node: ast.AST, what: str) -> None:
        if len(self.found) < FINDINGS_MAX:
            self.found.append(Finding(rule, getattr(node, "lineno", 0), what))

    def _hides(self, name: str) -> bool:
        """Whether a local variable of this name hides a builtin here."""
        for scope in reversed(self._scopes):
            if name in scope.names:
                return not scope.is_class  # a class's body may read the builtin before it binds the name
        return False

    # Imports

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._import(node, alias.name, None)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level or node.module is None:
            self._add("import", node, "a relative import")
            return
        for alias in node.names:
            if alias.name == "*":
                self._add("star-import", node, f"`from {_shown(node.module)} import *`")
            else:
                self._import(node, node.module, alias.name)

    def _import(self, node: ast.AST, module: str, name: str | None) -> None:
        shown = f"`import {_shown(module)}`" if name is None else f"`from {_shown(module)} import {_shown(name)}`"
        path = module if name is None else f"{module}.{name}"
        if self._refused_in_torch(path):
            self._add("torch", node, shown)
        elif module not in IMPORTS and not module.startswith(tuple(f"{package}." for package in PACKAGES)):
            self._add("import", node, shown)
        elif name is not None:
            self._member(node, module, name)

    def _member(self, node: ast.AST, module: str, name: str) -> None:
        """A name taken from a module, by import or as an attribute."""
        allowed = IMPORTS.get(module)
        if allowed is not None and name not in allowed:
            self._add("import", node, f"`{module}.{_shown(name)}`")
        else:
            self._attribute_name(node, name)
            if name.startswith("_") and not name.startswith("__") and not module.startswith("torch"):
                self._add("module-attribute", node, f"`{module}.{_shown(name)}`")

    def _refused_in_torch(self, path: str) -> bool:
        parts = path.split(".")
        if parts[0] != "torch":
            return False
        if any(part.startswith("_") and not part.startswith("__") for part in parts):
            return not path.startswith(TORCH_PRIVATE_PREFIXES)
        return any(".".join(parts[:length]) in TORCH_REFUSED for length in range(2, len(parts) + 1))

    # Names and attributes

    def visit_Name(self, node: ast.Name) -> None:
        name = node.id
        if isinstance(node.ctx, ast.Load):
            path = self._modules.get(name)
            if path is not None and _is_module(path) and id(node) not in self._read and not self._hides(name):
                self._add("module-value", node, f"the module `{_shown(name)}` as a value")
            if name in BUILTINS_REFUSED and not self._hides(name):
                self._add("builtin", node, f"`{name}`")
            elif name in COMPUTED and id(node) not in self._read and not self._hides(name):
                self._add("computed-name", node, f"`{name}` as a value")
        if name not in BUILTINS_REFUSED:
            self._dunder(node, name)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._member_of(node, node.value, node.attr)
        if not isinstance(node.ctx, ast.Load):
            self._patch(node, node.value, node.attr)
        self._visit_base(node.value)

    def _visit_base(self, base: ast.expr) -> None:
        if isinstance(base, ast.Name):
            self._read.add(id(base))
        self.visit(base)

    def _member_of(self, node: ast.AST, base: ast.expr, name: str) -> None:
        module = _dotted(base, self._modules)
        path = None if module is None else f"{module}.{name}"
        if path is not None and self._refused_in_torch(path):
            self._add("torch", node, f"`{_shown(path)}`")
        elif module is not None and (module in IMPORTS or module.startswith("torch.")):
            self._member(node, module, name)
        else:
            self._attribute_name(node, name)

    def _attribute_name(self, node: ast.AST, name: str) -> None:
        if name in FRAME_ATTRIBUTES:
            self._add("frame", node, f"`.{name}`")
        elif name in SYSTEM_ATTRIBUTES:
            self._add("module-attribute", node, f"`.{name}`")
        else:
            self._dunder(node, name)

    def _dunder(self, node: ast.AST, name: str) -> None:
        if name.startswith("__") and name.endswith("__") and name not in DUNDERS:
            self._add("dunder", node, f"`{_shown(name)}`")

    def _patch(self, node: ast.AST, base: ast.expr, name: str) -> None:
        path = _dotted(base, self._modules)
        if path is not None and not path.startswith(PATCHABLE):
            self._add("patch", node, f"an assignment to `{_shown(f'{path}.{name}')}`")
        elif isinstance(base, ast.Name) and self._task and base.id == self._task:
            self._add("patch", node, f"an assignment to `{_shown(f'{base.id}.{name}')}`")

    def visit_MatchClass(self, node: ast.MatchClass) -> None:
        for name in node.kwd_attrs:
            self._attribute_name(node, name)
        self._visit_base(node.cls)
        for pattern in (*node.patterns, *node.kwd_patterns):
            self.visit(pattern)

    # Calls

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(
                func=ast.Name(id=("getattr" | "setattr" | "delattr" | "hasattr") as name), args=[base, *rest]
            ):
                self._read.add(id(node.func))
                self._read.add(id(base))  # hasattr(F, "rms_norm") asks what this torch has
                match rest:
                    case [ast.Constant(value=str(attribute)), *_]:
                        self._member_of(node, base, attribute)
                        if name in ("setattr", "delattr"):
                            self._patch(node, base, attribute)
                    case _ if name != "hasattr":
                        self._add("computed-name", node, f"`{name}` with a computed name")
            case ast.Call(func=ast.Name(id="type"), args=[_, _, *_]):
                self._add("class", node, "`type` with three arguments")
        self.generic_visit(node)

    # Definitions

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._decorated(node)
        if node.name in DUNDER_METHODS_REFUSED:
            self._add("dunder-method", node, f"a method `{node.name}`")
        outer_task = self._task
        if node.name == "train" and not self._scopes and len(node.args.args) == CONTRACT["train"]:
            self._task = node.args.args[1].arg
        # Defaults and annotations are read outside the function.
        for part in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(part)
        self._scopes.append(_bound(node))
        for statement in node.body:
            self.visit(statement)
        self._scopes.pop()
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg) and argument.annotation is not None:
                self.visit(argument.annotation)
        if node.returns is not None:
            self.visit(node.returns)
        self._task = outer_task

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for part in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(part)
        self._scopes.append(_bound(node))
        self.visit(node.body)
        self._scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._decorated(node)
        for keyword in node.keywords:
            self._add("class", node, f"a class keyword `{_shown(keyword.arg or '**')}`")
            self.visit(keyword.value)
        for base in node.bases:
            plain = base.value if isinstance(base, ast.Subscript) else base  # Generic[T]
            if not _is_name(plain):
                self._add("class", node, f"a computed base of `{_shown(node.name)}`")
            self.visit(base)
        for decorator in node.decorator_list:
            self.visit(decorator)
        self._scopes.append(_bound(node))
        for statement in node.body:
            self.visit(statement)
        self._scopes.pop()

    def _decorated(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        for decorator in node.decorator_list:
            if not _is_name(decorator.func if isinstance(decorator, ast.Call) else decorator):
                self._add("decorator", decorator, f"a computed decorator of `{_shown(node.name)}`")

    def _comprehension(self, node: _Comprehension) -> None:
        self._scopes.append(_bound(node))
        self.generic_visit(node)
        self._scopes.pop()

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def visit_Assign(self, node: ast.Assign) -> None:
        if len(node.targets) == 1 and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Name):
            self._read.add(id(node.value))  # another name for a module, which `_modules` knows
            if node.value.id in COMPUTED and not self._hides(node.value.id):
                self._add("computed-name", node, f"`{node.value.id}` as a value")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and _FORMAT_REACH.search(node.value):
            self._add("format", node, "a format string that reads private attributes")


def _is_name(node: ast.expr) -> bool:
    """Whether it is a name, or attributes of one."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


# Literals


def _literals(tree: ast.Module) -> Iterator[Finding]:
    """Rules on how much data the text holds."""
    docstrings = _docstrings(tree)
    characters, digits = 0, 0
    for node in ast.walk(tree):
        if isinstance(node, _Table) and (numbers := _numbers(node)) > TABLE_NUMBERS_MAX:
            yield Finding("table", node.lineno, f"{numbers} numbers in one literal table, over {TABLE_NUMBERS_MAX}")
        if not isinstance(node, ast.Constant) or id(node) in docstrings:
            continue
        value, line = node.value, node.lineno
        if isinstance(value, str | bytes):
            characters += len(value)
            if len(value) > STRING_CHARACTERS_MAX:
                yield Finding("long-string", line, f"a literal of {len(value)} characters")
            if len(value) >= ENTROPY_CHARACTERS_MIN and (bits := entropy_bits(value)) > ENTROPY_BITS_MAX:
                yield Finding("entropy", line, f"a literal of {len(value)} characters with {bits:.1f} bits each")
            elif (run := max(map(len, value.split()), default=0)) > RUN_CHARACTERS_MAX:
                yield Finding("entropy", line, f"a literal with {run} characters and no space between them")
        elif isinstance(value, int | float | complex) and not isinstance(value, bool):
            long = isinstance(value, int) and value.bit_length() > INTEGER_DIGITS_MAX * math.log2(10)
            if long:
                yield Finding("number", line, f"an integer of more than {INTEGER_DIGITS_MAX} digits")
            digits += 0 if long else max(0, sum(map(str.isdigit, repr(value))) - 2)
    if characters > STRINGS_CHARACTERS_MAX:
        yield Finding("long-string", 0, f"{characters} characters in string literals, over {STRINGS_CHARACTERS_MAX}")
    if digits > NUMBERS_DIGITS_MAX:
        yield Finding("table", 0, f"{digits} digits in number literals, over {NUMBERS_DIGITS_MAX}")


def _docstrings(tree: ast.Module) -> set[int]:
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str()) as text), *_]:
                    found.add(id(text))
    return found


def _numbers(table: _Table) -> int:
    """Number literals of a table and of the tables in it."""
    count, parts = 0, list(ast.iter_child_nodes(table))
    while parts:
        part = parts.pop()
        if isinstance(part, ast.Constant) and isinstance(part.value, int | float | complex):
            count += not isinstance(part.value, bool)
        elif isinstance(part, ast.UnaryOp | _Table | ast.BinOp):
            parts.extend(ast.iter_child_nodes(part))
    return count


def entropy_bits(text: str | bytes) -> float:
    """Shannon entropy of the distribution of its characters, bits per character; 0 for an empty text."""
    counts = Counter(text)
    return sum(count / len(text) * math.log2(len(text) / count) for count in counts.values())
