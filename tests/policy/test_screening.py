"""The static screen refuses what no honest program needs, lets honest ones pass, and never raises whatever the text."""

import base64
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import HONEST, cheat

from ledger.predicates import PROGRAM_BYTES_MAX
from node.tracks import CPU_TRACK, GPU_TRACK, baseline_program
from policy.harm_rules import FINDINGS_MAX, RULES
from policy.screening import entropy_bits, screen_findings, screen_program

SOUND = b"def build(vocab_size, seq_len): ...\ndef train(model, task): ...\n"
PACKED = random.Random(1).randbytes(3000)


def rules_of(program: str | bytes) -> set[str]:
    text = program.encode() if isinstance(program, str) else program
    return {finding.rule for finding in screen_findings(text)}


def test_sound_programs_pass() -> None:
    assert screen_program(SOUND) is None
    for track in (CPU_TRACK, GPU_TRACK):
        assert screen_program(baseline_program(track)) is None


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(name: str) -> None:
    assert screen_findings(HONEST[name].encode()) == ()


@pytest.mark.parametrize(
    "line",
    [
        "import torch.nn.functional as F\nassert hasattr(F, 'rms_norm')",
        "import torch\ntorch.backends.cuda.matmul.allow_tf32 = True",
        "import torch\ncompiled = torch.compile",
        "import torch\nn = torch.nn\nF = n.functional\ny = F.relu",
        "import torch\ntorch._foreach_mul_([], 0.5)",
        "import gc\ngc.collect()\ngc.freeze()",
        "from torch.nn.attention.flex_attention import flex_attention",
        "from torch.utils.data import DataLoader",
        "def forward(self, input):\n    return input + 1",
        "def count(time):\n    return [time, sum(input for input in range(3))]",
        "memory = {}\ndef remember(key):\n    global memory\n    memory[key] = 1",
        "class A:\n    def __init__(self):\n        super().__init__()\n        self.w = self.__class__.__name__",
        "class M:\n    def children(self):\n        return [m for m in self.modules()]",
        "x = getattr(object(), 'weight', None)",
        "def f(model, x):\n    model.head.weight = x\n    model.load_state_dict(x)",
    ],
)
def test_what_honest_programs_do_passes(line: str) -> None:
    assert screen_findings(SOUND + line.encode()) == ()


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (SOUND + b"#" * PROGRAM_BYTES_MAX, "over the limit"),
        (b"def build(", "not Python"),
        (SOUND + b"\x00", "not Python"),
        (b"# coding: latin-1\n# \xe9\n" + SOUND, "not Python in UTF-8"),
        (b"x = " + b"(" * 5000, "not Python"),
        (b"x = " + b"-" * 60000 + b"1", "not Python"),
        (SOUND + b"x = 1" + b" + 1" * 500, "levels deep"),
        (b"def train(model, task): ...", "does not define build"),
        (b"def build(vocab_size, seq_len): ...", "does not define train"),
        (SOUND + b"def train(model): ...", "train does not take 2"),
        (b"class build: ...\ndef train(model, task): ...", "does not define build"),
    ],
)
def test_others_are_refused_with_a_reason(program: bytes, why: str) -> None:
    refusal = screen_program(program)
    assert refusal is not None
    assert why in refusal


HARM = [
    ("import", "import os"),
    ("import", "import numpy as np"),
    ("import", "import torch, socket"),
    ("import", "from ctypes import CDLL"),
    ("import", "from . import stub"),
    ("import", "def f():\n    import subprocess"),
    ("import", "import gc\nfor found in gc.get_objects(): pass"),
    ("import", "from types import FunctionType"),
    ("import", "from operator import attrgetter"),
    ("star-import", "from torch import *"),
    ("torch", "import torch\ntorch.load('x')"),
    ("torch", "from torch import save as keep"),
    ("torch", "import torch as t\nt.hub.load('a', 'b')"),
    ("torch", "import torch\nt = torch\nt.ops.load_library('x')"),
    ("torch", "import torch.utils.cpp_extension"),
    ("torch", "from torch.utils import cpp_extension"),
    ("torch", "import torch\ngetattr(torch, 'load')('x')"),
    ("torch", "import torch._inductor.config"),
    ("torch", "import torch.multiprocessing as mp"),
    ("torch", "from torch.jit import script"),
    ("builtin", "eval('1')"),
    ("builtin", "run = exec"),
    ("builtin", "@eval\ndef f(): ..."),
    ("builtin", "[open][0]('/etc/passwd')"),
    ("builtin", "open = 1 if False else open"),
    ("builtin", "def f(open):\n    class A:\n        r = open\n        open = 1"),
    ("builtin", "[open for open in ()]\nopen('x')"),
    ("builtin", "def f():\n    global open\n    open('x')\n    open = 1"),
    ("builtin", "__import__('os')"),
    ("builtin", "__builtins__"),
    ("builtin", "x = vars()"),
    ("computed-name", "getattr(object(), 'a' + 'b')"),
    ("computed-name", "setattr(build, ''.join('ab'), 1)"),
    ("computed-name", "g = getattr"),
    ("computed-name", "list(map(getattr, [], []))"),
    ("computed-name", "getattr(*[build, 'x'])"),
    ("dunder", "().__class__.__bases__"),
    ("dunder", "build.__globals__"),
    ("dunder", "getattr(build, '__globals__')"),
    ("dunder", "match build:\n    case object(__dict__=found): pass"),
    ("dunder", "object.__subclasses__()"),
    ("dunder-method", "class A:\n    def __reduce__(self): ..."),
    ("dunder-method", "class A:\n    def __del__(self): ..."),
    ("frame", "(lambda: (yield))().gi_frame"),
    ("frame", "try:\n    1 / 0\nexcept Exception as e:\n    e.tb_frame"),
    ("module-attribute", "import torch\ntorch.os.system('x')"),
    ("module-attribute", "import random\nrandom._os"),
    ("module-attribute", "import torch\ntorch.zeros(1).share_memory_()"),
    ("module-value", "import torch\nmods = [torch]"),
    ("module-value", "import torch\nf = lambda m=torch: m.load"),
    ("patch", "import torch\ntorch.nn.Linear.forward = build"),
    ("patch", "import time\ntime.monotonic = lambda: 0.0"),
    ("patch", "import time\nsetattr(time, 'monotonic', build)"),
    ("patch", "def train(model, job):\n    job.time_left = lambda: 1e9"),
    ("format", "x = '{0._private}'.format(build)"),
    ("decorator", "@(lambda f: f)\ndef g(): ..."),
    ("class", "class A(metaclass=type): ..."),
    ("class", "class A(build()): ..."),
    ("class", "A = type('A', (), {})"),
    ("long-string", f"x = {'word ' * 300!r}"),
    ("long-string", "\n".join(f"x{n} = {'few words ' * 90!r}" for n in range(8))),
    ("entropy", f"x = {base64.b64encode(PACKED[:90]).decode()!r}"),
    ("entropy", f"x = {PACKED[:100].hex()!r}"),
    ("entropy", f"x = {PACKED[:200]!r}"),
    ("number", f"x = 0x{PACKED[:100].hex()}"),
    ("table", f"x = {list(PACKED[:100])}"),
    ("table", f"x = {[[-n for n in PACKED[i : i + 10]] for i in range(10)]}"),
    ("table", "\n".join(f"x{n} = {random.Random(n).random()!r}" for n in range(250))),
]


@pytest.mark.parametrize(("rule", "line"), HARM)
def test_what_no_honest_program_needs_is_refused_with_its_line(rule: str, line: str) -> None:
    found = screen_findings(b"# first\n" + SOUND + line.encode())
    assert rule in {finding.rule for finding in found}, found
    (one, *_) = (finding for finding in found if finding.rule == rule)
    assert one.line == 0 or one.line >= 4 or rule == "contract"
    assert one.sentence.endswith(f"({RULES[rule].reason}) [{rule}]")
    assert "\n" not in one.sentence


def test_every_rule_has_an_example_that_it_refuses() -> None:
    assert {rule for rule, _ in HARM} | {"size", "text", "depth", "contract"} == set(RULES)


def test_the_cheats_that_reach_out_are_refused() -> None:
    for program in (cheat(), cheat("open('/tmp/x')"), cheat(train="task.time_left = lambda: 1e9")):
        assert "import" in rules_of(program)
    without = cheat(train="task.time_left = lambda: 1e9").replace("import os\nimport sys\n", "")
    assert rules_of(without) == {"patch"}
    hidden = cheat(prelude=f"hidden = {base64.b85encode(PACKED)!r}").replace("import os\nimport sys\n", "")
    assert rules_of(hidden) == {"long-string", "entropy"}


def test_state_between_calls_is_for_the_audit() -> None:
    program = cheat("memory[0] = tokens\nreturn logits", prelude="global memory\nmemory = {}")
    assert rules_of(program.replace("import os\nimport sys\n", "")) == set()


def test_findings_are_in_order_and_bounded() -> None:
    found = screen_findings(SOUND + b"eval\n" * 300)
    assert len(found) == FINDINGS_MAX
    assert [finding.line for finding in found] == sorted(finding.line for finding in found)
    refusal = screen_program(SOUND + b"import os\nimport sys")
    assert refusal is not None
    assert refusal.startswith("line 3: `import os` (")


def test_entropy_is_that_of_shannon() -> None:
    assert entropy_bits("") == 0
    assert entropy_bits("aaaa") == 0
    assert entropy_bits("abab") == pytest.approx(1)
    assert entropy_bits(bytes(range(256))) == pytest.approx(8)


@given(st.binary(max_size=300))
def test_any_bytes_get_an_answer(program: bytes) -> None:
    assert screen_program(program) is not None


@given(st.recursive(st.sampled_from(["x", "torch", "eval", "1"]), lambda part: st.tuples(part, part).map(
    lambda two: f"({two[0]}).a[{two[1]}]"), max_leaves=20))  # fmt: skip
def test_any_expression_gets_an_answer(expression: str) -> None:
    found = screen_findings(SOUND + b"import torch\n" + expression.encode())
    assert ("eval" in expression) == ("builtin" in {finding.rule for finding in found})


def test_a_strangers_odd_escape_warns_nobody() -> None:
    assert screen_program(SOUND + rb"x = '\d'") is None  # a SyntaxWarning would fail this test
