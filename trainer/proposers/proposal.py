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
from typing import Annotated, Protocol

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


class Proposer(Protocol):
    """Anything that proposes changes to a program."""

    def propose(self, program: str, rng: random.Random, seen: Container[str]) -> Proposal:
        """A change of `program` whose fingerprint is neither its own nor in `seen`.

        All chance comes from `rng`. Raises `ProgramUnreadable` or `NothingNew`.
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
