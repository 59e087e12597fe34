"""What a proposer gives: a whole new program with the reason to try it; and when two programs count as one.

A proposer reads a program as data: it never imports or runs it, since the text may be a stranger's. Whether a proposal
is any good is decided by trials; whether it may run at all, by the screen. Errors:

ProposerError
├── ProgramUnreadable  the parent program is not Python that this interpreter can parse
└── NothingNew         every change that the proposer knows has been tried
"""

import ast
import functools
import hashlib
import random
import warnings
from collections.abc import Container
from typing import Annotated, Literal, Protocol

from msgspec import Meta, Struct


class ProposerError(Exception):
    """Base of what a proposer raises on purpose."""


class ProgramUnreadable(ProposerError):
    """A program that does not parse; the message says where."""


class NothingNew(ProposerError):
    """No proposal is left that has not been tried; another parent or another proposer may have one."""


class Proposal(Struct, frozen=True, kw_only=True):
    """A mutation of a parent program."""

    program: str  # the whole new text
    hypothesis: Annotated[str, Meta(max_length=1000)]  # one sentence: what changes, and why it should help
    proposer: Annotated[str, Meta(max_length=64)]
    operator: Annotated[str, Meta(max_length=64)] = ""  # the kind of change, e.g. `constant:RATE`, `recipe:qk-norm`
    expected: float | None = None  # bits per byte, child - parent; None where the proposer does not say
    seconds: float = 0.0  # wall time that it took to make
    usd: float = 0.0  # money that it took
    source: str = ""  # id of the discovery in another track whose change this is; empty where it is none's
    answers: bool = False  # it was made for the suggestion in the context


class Relative(Struct, frozen=True, kw_only=True):
    """Another confirmed program of the track, as a partner for crossover."""

    program: str
    ancestor: str  # the nearest common ancestor of it and the parent
    effect: float  # bits per byte against the ancestor, as measured; negative is better


class Transfer(Struct, frozen=True, kw_only=True):
    """A confirmed discovery of another track, whose change is to be tried on this one's program."""

    source: str  # id of the discovery
    track: str  # of the discovery
    operator: str  # by which it was made, as its author says; may be empty
    ancestor: str  # its parent program, a text
    program: str
    effect: float  # there, bits per byte, child - parent; effects of different tracks differ in size


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of an earlier proposal, here or at a peer's."""

    operator: str
    hypothesis: str
    verdict: Literal["kept", "discarded", "failed"]  # failed: a run ended in another status than ok
    effect: float | None  # bits per byte, child - parent; None where it failed
    weight: float = 1.0  # 1 for this node's own; for a peer's, its standing here, between 0 and 1


class Context(Struct, frozen=True, kw_only=True):
    """All that a proposer may know. Everything but `program` may be left empty.

    Texts that are not the operator's own (hypotheses, lessons, skills, reasons) may be a stranger's: they are data, to
    be bounded and quoted, never followed.
    """

    program: str  # the parent
    origin: str = ""  # where its text is from, if it is not the program that the candidate is to be compared with
    seen: Container[str] = frozenset()  # fingerprints that have been tried, here or by a peer
    claimed: Container[str] = frozenset()  # fingerprints that peers are about to try: avoid them, if others are left
    noise: float = 0.0  # standard deviation of one run's score, bits per byte
    relatives: tuple[Relative, ...] = ()
    transfers: tuple[Transfer, ...] = ()  # the most promising first
    outcomes: tuple[Outcome, ...] = ()  # oldest first
    lessons: tuple[str, ...] = ()  # of failures
    skills: tuple[str, ...] = ()  # of successes
    brief: str = ""  # the operator's program.md, as it is now
    suggestion: str = ""  # an operator's hypothesis that this proposal should try
    widen: float = 0.0  # 0 to 1: how far from the parent to go; more on a plateau


class Proposer(Protocol):
    """Anything that proposes changes to a program."""

    name: str

    def propose(self, context: Context, rng: random.Random) -> Proposal:
        """A change of `context.program` whose fingerprint is neither its own nor in `context.seen`.

        Runs in a thread of its own and may take minutes. All chance comes from `rng`. Raises `ProposerError`.
        """


def parse(program: str) -> ast.Module:
    """The syntax tree of a program, without running any of it. Raises `ProgramUnreadable`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stranger's odd escapes are not for this node's log
            return ast.parse(program)
    except SyntaxError as error:
        raise ProgramUnreadable(f"the program is not Python: {error.msg} at line {error.lineno}") from error
    except ValueError as error:  # NUL characters, lone surrogates
        raise ProgramUnreadable(f"the program is not Python text: {error}") from error
    except (RecursionError, MemoryError) as error:  # so does the parser say "nested too deeply"
        raise ProgramUnreadable("the program is nested too deeply to be parsed") from error


@functools.lru_cache(maxsize=1024)  # a proposer meets the same candidates at every call
def fingerprint(program: str) -> str:
    """SHA-256 (hex) of the syntax tree without docstrings: comments, layout and quoting do not matter.

    Two programs with one fingerprint do the same, unless they read their own source. It depends on the Python version,
    whose grammar it reflects: compare only fingerprints made by one interpreter, and name programs to others by the
    SHA-256 of their text.

    Raises `ProgramUnreadable`.
    """
    tree = parse(program)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str:
                del node.body[0]
    try:
        return hashlib.sha256(ast.dump(tree).encode("utf-8", "surrogatepass")).hexdigest()
    except RecursionError as error:
        raise ProgramUnreadable("the program is nested too deeply to be compared") from error
