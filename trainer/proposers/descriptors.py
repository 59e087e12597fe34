"""What a program's text says of its size, for an archive that keeps different programs and not only good ones.

Read from constants, never by running anything: approximate, and None where a program is built otherwise. What was
measured (bytes of weights, wall time) comes from its trials.
"""

import ast
import math

from msgspec import Struct

from trainer.proposers.constants import constants_of
from trainer.proposers.proposal import parse

_WIDTH = ("WIDTH", "N_EMBD", "DIM", "D_MODEL", "HIDDEN")
_DEPTH = ("LAYERS", "DEPTH", "N_LAYER", "NUM_LAYERS")
_RATIO = ("MLP_RATIO",)
_BATCH = ("BATCH", "BATCH_SIZE")
_CONTEXT = ("CONTEXT", "SEQ_LEN", "BLOCK_SIZE")
VOCAB_SIZE = 256
RATIO = 4  # hidden units of an MLP per unit of width, where a program does not say


class Descriptors(Struct, frozen=True, kw_only=True):
    width: int | None  # of the residual stream
    depth: int | None  # layers
    parameters: int | None  # in matrices of a transformer of that shape, embedding and head over bytes
    step_tokens: int | None  # that one forward pass sees
    lines: int  # with code on them, docstrings not counted

    def bin(self) -> tuple[int, int, int]:
        """A cell of an archive: parameters, tokens per step and lines, each by powers of two; -1 for unknown."""
        return _octave(self.parameters), _octave(self.step_tokens), _octave(self.lines)


def descriptors(program: str) -> Descriptors:
    """Raises `ProgramUnreadable`."""
    tree = parse(program)
    constants = constants_of(tree)

    def first(names: tuple[str, ...]) -> int | None:
        for name in names:
            value = constants.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
                return value
        return None

    width, depth, batch, context = (first(names) for names in (_WIDTH, _DEPTH, _BATCH, _CONTEXT))
    parameters = None
    if width is not None and depth is not None:
        # Queries, keys, values and output: 4 width^2; MLP: 2 ratio width^2 (Kaplan et al. 2020, arXiv:2001.08361).
        parameters = depth * width**2 * (4 + 2 * (first(_RATIO) or RATIO)) + 2 * VOCAB_SIZE * width
    tokens = None if batch is None or context is None else batch * context
    return Descriptors(width=width, depth=depth, parameters=parameters, step_tokens=tokens, lines=_lines(tree))


def _lines(tree: ast.Module) -> int:
    """Lines on which a statement or expression begins; a text alone, as a docstring is one, does not count."""
    texts = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    return len(
        {
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.stmt | ast.expr)
            and id(node) not in texts
            and not (isinstance(node, ast.Expr) and id(node.value) in texts)
        }
    )


def _octave(value: int | None) -> int:
    return -1 if value is None else int(math.log2(max(1, value)))
