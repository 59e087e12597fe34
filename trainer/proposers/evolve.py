"""The proposer that needs no key and no network: typed edits of a program's constants.

A *knob* is a module-level constant in capitals whose value is a plain literal: a float, a positive integer, a boolean,
or a string with its alternatives in a trailing comment `# choices: a, b`. What a change of each kind may be:

* floats move on a log scale, by 2 and by 1.4; one strictly between 0 and 1 stays there or reaches 1, and above one half
  it is the distance to 1 that moves, which is the natural scale of a momentum or a decay;
* integers double, halve and move by half, small ones also by 1, and never fall below 1;
* booleans flip; choices change to another choice.

A program says which combinations make sense by module-level asserts over its constants, as in
`assert WIDTH % HEADS == 0`; they are evaluated here, on the changed constants, before anything is proposed. An assert
that says more (a call, an attribute) is left to the program itself.

What is tried first is drawn at random, with FIRST_WEIGHT for the knobs that published nights of such search name
first: under a fixed budget the number of steps dominates (batch, context, depth, width), then the learning rate and its
schedule. It is a prior on the order only; everything gets its turn.

Seeds are no knobs: a lucky seed is not a discovery. Nothing outside a changed literal changes, not even a space.

Why libcst sees single lines only: its native parser overflows the stack on deeply nested text (a segmentation fault
that would end the node), and a program may be a stranger's. The standard parser refuses such text with an exception.
"""

import ast
import itertools
import math
import operator
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import libcst as cst

from trainer.proposers.proposal import Context, NothingNew, Proposal, fingerprint, parse

KNOBS_MAX = 128
LINE_CHARACTERS_MAX = 200
INTEGER_MAX = 2**31
SMALL_INTEGER = 8  # up to here a step of 1 is worth a trial
FIRST_WORDS = frozenset(
    {"BATCH", "CONTEXT", "WINDOW", "LAYERS", "DEPTH", "WIDTH", "RATE", "LR", "WARMDOWN", "COOLDOWN"}
)
FIRST_WEIGHT = 4.0  # against 1 for every other knob
PAIR_SHARE = 0.25  # of proposals that change two knobs
PAIRS_TRIED_MAX = 500  # each costs a parse of the program, some milliseconds
ASSERT_NODES_MAX = 100

Value = bool | int | float | str

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


class Evolve:
    """Proposes one changed constant, sometimes two; see the module's text."""

    name = "evolve"

    def propose(self, context: Context, rng: random.Random) -> Proposal:
        """A change that is new; all single edits are tried before `NothingNew`, of the pairs a bounded sample.

        Pure: the same context and state of `rng` give the same proposal.
        Raises `ProgramUnreadable` or `NothingNew`.
        """
        program, seen = context.program, context.seen
        tree = parse(program)
        constants = _constants(tree)
        rules = [node.test for node in tree.body if isinstance(node, ast.Assert)]
        parent = fingerprint(program)
        for edits in _combinations(_edits(_knobs(program, tree, constants)), rng):
            changed = constants | {edit.knob.name: edit.value for edit in edits}
            if not all(_holds(rule, changed) for rule in rules):
                continue
            text = _apply(program, edits)
            if (found := fingerprint(text)) != parent and found not in seen:
                return Proposal(program=text, hypothesis=_hypothesis(edits), proposer=self.name)
        raise NothingNew("every change of the constants has been tried: mutate another program or add constants to it")


def _constants(tree: ast.Module) -> dict[str, Value]:
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


def _knobs(program: str, tree: ast.Module, constants: dict[str, Value]) -> list[Knob]:
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


def _edits(knobs: Sequence[Knob]) -> list[Edit]:
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


def _combinations(edits: list[Edit], rng: random.Random) -> Iterator[tuple[Edit, ...]]:
    """Single edits in random order, and a sample of pairs; which come first is drawn as well."""
    weights = [_weight(edit) for edit in edits]
    # Weighted sampling without replacement: the largest u ** (1 / w) first (Efraimidis and Spirakis 2006).
    order = [rng.random() ** (1 / weight) for weight in weights]
    singles = ((edit,) for _, edit in sorted(zip(order, edits, strict=True), key=lambda keyed: -keyed[0]))
    drawn = (tuple(rng.choices(edits, weights, k=2)) for _ in range(PAIRS_TRIED_MAX if edits else 0))
    pairs = (pair for pair in drawn if pair[0].knob != pair[1].knob)
    return itertools.chain(pairs, singles) if rng.random() < PAIR_SHARE else itertools.chain(singles, pairs)


def _weight(edit: Edit) -> float:
    return FIRST_WEIGHT if FIRST_WORDS & set(edit.knob.name.split("_")) else 1.0


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


def _holds(rule: ast.expr, constants: dict[str, Value]) -> bool:
    """Whether an assert holds; one that is about more than constants counts as held."""
    if sum(1 for _ in itertools.islice(ast.walk(rule), ASSERT_NODES_MAX + 1)) > ASSERT_NODES_MAX:
        return True
    try:
        return bool(_evaluate(rule, constants))
    except _NotArithmetic:
        return True
    except (ZeroDivisionError, OverflowError):
        return False


def _evaluate(node: ast.expr, constants: dict[str, Value]) -> object:
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


def _apply(program: str, edits: Sequence[Edit]) -> str:
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


_BOTH_WAYS = "its present value was not chosen for this budget"
_MECHANISMS: tuple[tuple[frozenset[str], str, str], ...] = (  # words of the name; expected of more; expected of less
    (
        frozenset({"WARMUP"}),
        "a gentler start keeps early updates from undoing each other",
        "less of the budget goes to small early updates",
    ),
    (
        frozenset({"WARMDOWN", "COOLDOWN"}),
        "a longer fall of the rate averages out more gradient noise",
        "more of the budget is spent at the full rate",
    ),
    (
        frozenset({"FINAL"}),
        "the last steps still learn",
        "the last steps settle closer to a minimum",
    ),
    (
        frozenset({"RATE", "LR"}),
        "larger updates go further in the few steps of the budget",
        "smaller updates are less noisy and more stable",
    ),
    (
        frozenset({"BATCH"}),
        "each update averages over more text and is less noisy",
        "more updates fit the budget",
    ),
    (
        frozenset({"CONTEXT", "WINDOW"}),
        "predictions learn to use more of the text before them",
        "cheaper steps let more updates fit the budget",
    ),
    (
        frozenset({"LAYERS", "DEPTH"}),
        "more layers express more per update",
        "a shallower model takes more steps within the budget",
    ),
    (
        frozenset({"WIDTH", "RATIO", "DIM", "HIDDEN"}),
        "a larger model learns more from each byte",
        "a smaller model takes more steps within the budget",
    ),
    (
        frozenset({"HEADS"}),
        "more heads attend to more places at once",
        "fewer heads have more channels each to match on",
    ),
    (
        frozenset({"DECAY"}),
        "stronger decay keeps weights small and updates effective",
        "weaker decay leaves a short run more of what it has learned",
    ),
    (
        frozenset({"BETA", "BETA1", "BETA2", "MOMENTUM"}),
        "a longer average smooths the noise of small batches",
        "a shorter average follows a fast-changing start sooner",
    ),
    (
        frozenset({"STD", "INIT"}),
        "larger initial weights give stronger early gradients",
        "smaller initial weights start closer to a uniform prediction",
    ),
    (
        frozenset({"ROTARY", "ROPE", "THETA"}),
        "longer wavelengths blur far positions less",
        "shorter wavelengths tell near positions apart better",
    ),
    (
        frozenset({"GRADIENT", "GRAD", "CLIP"}),
        "looser clipping lets large gradients act",
        "tighter clipping tames outlying batches",
    ),
)


def _hypothesis(edits: Sequence[Edit]) -> str:
    """One sentence: each knob with its old and new value and what is expected of the change."""
    return "; ".join(
        f"{knob.name} from {knob.value!r} to {value!r}: {_mechanism(knob, value)}" for knob, value in edits
    )


def _mechanism(knob: Knob, value: Value) -> str:
    if isinstance(value, bool):
        return "it may earn more than it costs" if value else "it may cost more than it earns at this budget"
    if isinstance(value, str) or isinstance(knob.value, str):
        return "an alternative may learn faster or run cheaper at this budget"
    words = set(knob.name.split("_"))
    for known, more, less in _MECHANISMS:
        if words & known:
            return more if value > knob.value else less
    return _BOTH_WAYS
