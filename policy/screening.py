"""What a program's text must satisfy before any compute is spent on it, whoever wrote it. *Pure.*

A program that passes may still be hostile: the sandbox is what contains it. This screen saves compute, and its
answer is a sentence for the program's author.
"""

import ast
import warnings

from ledger.predicates import PROGRAM_BYTES_MAX

DEPTH_MAX = 100  # of the syntax tree; what walks a tree by recursion must not be ended by a stranger's
CONTRACT = {"build": 2, "train": 2}  # function to number of positional parameters


def screen_program(program: bytes) -> str | None:
    """Why the program is refused, or None if it passes."""
    if len(program) > PROGRAM_BYTES_MAX:
        return f"{len(program)} bytes, over the limit of {PROGRAM_BYTES_MAX}"
    try:
        text = program.decode()  # UTF-8 only: a coding cookie would let two readers see two programs
        with warnings.catch_warnings(action="ignore"):  # a stranger's odd escape is not news for our log
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # MemoryError: the parser's nesting limit
        return f"it is not Python in UTF-8: {error}"
    if _deeper_than(tree, DEPTH_MAX):
        return f"it is nested more than {DEPTH_MAX} levels deep"
    defined = {item.name: item.args for item in tree.body if isinstance(item, ast.FunctionDef)}
    for name, parameters in CONTRACT.items():
        if name not in defined:
            return f"it does not define {name}"
        arguments = defined[name]
        if len(arguments.posonlyargs) + len(arguments.args) != parameters:
            return f"{name} does not take {parameters} arguments"
    return None


def _deeper_than(tree: ast.AST, limit: int) -> bool:
    level = [tree]
    for _ in range(limit):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return False
    return True
