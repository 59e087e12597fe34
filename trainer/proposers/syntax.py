"""libcst's tree of a whole program, for texts that its parser survives.

libcst's native parser works by recursion and overflows the stack on deeply nested text: a segmentation fault that would
end the node, and a program may be a stranger's. So Python's own parser reads it first and three bounds hold before
libcst sees it. libcst 1.9 overflows an 8 MiB stack between 1000 and 3000 levels of brackets.

* The depth of Python's tree. The same bound as the screen's (`DEPTH_MAX` of policy/screening.py, which this layer may
  not import): what is deeper could not be run anyway.
* Brackets within brackets: `((((2))))` is flat in Python's tree and deep in libcst's.
* Tokens of one logical line: `a and b and …`, `import a.b.…` and adjacent strings are flat in one and chains in the
  other.
"""

import ast
import functools
import io
import tokenize

import libcst as cst

from trainer.proposers.proposal import ProgramUnreadable, parse

DEPTH_MAX = 100
BRACKETS_MAX = 100
LINE_TOKENS_MAX = 2000  # a table of some hundred literals; no line of the baselines has 100


@functools.lru_cache(maxsize=4)  # trees are immutable, and recipes are tried on one program after the other
def syntax(program: str) -> cst.Module:
    """The tree of `program`, whose `code` is its text. Raises `ProgramUnreadable`."""
    if _deeper_than(parse(program), DEPTH_MAX):
        raise ProgramUnreadable(f"the program is nested more than {DEPTH_MAX} levels deep")
    _check_lines(program)
    try:
        return cst.parse_module(program)
    except (cst.ParserSyntaxError, RecursionError) as error:
        raise ProgramUnreadable(f"libcst cannot read the program: {str(error).splitlines()[0]}") from error


def _deeper_than(tree: ast.AST, limit: int) -> bool:
    level = [tree]
    for _ in range(limit):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return False
    return True


def _check_lines(program: str) -> None:
    depth = count = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(program).readline):
            count = 0 if token.type == tokenize.NEWLINE else count + 1
            if token.type == tokenize.OP:
                depth += (token.string in "([{") - (token.string in ")]}")
            if depth > BRACKETS_MAX:
                raise ProgramUnreadable(f"the program has more than {BRACKETS_MAX} brackets within brackets")
            if count > LINE_TOKENS_MAX:
                raise ProgramUnreadable(f"line {token.start[0]} of the program has more than {LINE_TOKENS_MAX} tokens")
    except (tokenize.TokenError, IndentationError) as error:
        raise ProgramUnreadable(f"the program cannot be read by tokens: {error}") from error
