"""Optuna as a proposer: within the asserts, never twice, and better with what it is told than without."""

import math
import random
import re
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import pytest

from trainer.proposers.proposal import Context, NothingNew, fingerprint
from trainer.proposers.tuning import Method, Optuna

PROGRAM = """RATE = 1e-3
WIDTH = 64
BETA = 0.9
FLAG = True
KIND = "a"  # choices: a, b
assert WIDTH % 2 == 0
"""


def values(text: str) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([A-Z]+) = (\S+)", text))


def score(text: str) -> float:
    """A bowl with its bottom at RATE 4e-3, WIDTH 32."""
    found = values(text)
    return math.log2(float(found["RATE"]) / 4e-3) ** 2 + math.log2(int(found["WIDTH"]) / 32) ** 2


def search(method: Method, count: int, told: bool = True) -> list[str]:
    proposer, rng, seen, texts = Optuna(method), random.Random(3), {fingerprint(PROGRAM)}, []
    proposer.tell(PROGRAM, score(PROGRAM))
    for _ in range(count):
        texts.append(proposer.propose(Context(program=PROGRAM, seen=seen), rng).program)
        seen.add(fingerprint(texts[-1]))
        proposer.tell(texts[-1], score(texts[-1]) if told else None)
    return texts


@pytest.mark.parametrize("method", ["tpe", "cma-es"])
def test_it_learns_from_what_it_is_told_and_never_repeats(method: Method) -> None:
    texts = search(method, 60)
    assert len({fingerprint(text) for text in texts}) == 60
    assert all(int(values(text)["WIDTH"]) % 2 == 0 for text in texts)
    assert all(0.2 <= float(values(text)["BETA"]) < 1 for text in texts)
    first, last = (sorted(score(text) for text in part)[10] for part in (texts[:20], texts[40:]))
    assert last < first / 2


def test_the_same_seed_gives_the_same_search() -> None:
    assert search("tpe", 15) == search("tpe", 15)


def test_failures_are_told_and_other_programs_are_left_out() -> None:
    assert len(search("tpe", 12, told=False)) == 12
    proposer = Optuna()
    proposer.tell("def other():\n    pass\n", 1.0)
    proposer.tell(PROGRAM + "print(1)\n", 1.0)
    proposer.tell(PROGRAM.replace("64", "6400"), 1.0)  # out of the search space
    text = proposer.propose(Context(program=PROGRAM), random.Random(1)).program
    assert values(text) != values(PROGRAM)


def test_it_may_be_told_from_one_thread_while_another_asks() -> None:
    proposer, rng, seen = Optuna(), random.Random(3), {fingerprint(PROGRAM)}
    made: SimpleQueue[str] = SimpleQueue()

    def tell(count: int) -> None:
        for _ in range(count):
            text = made.get(timeout=20)
            proposer.tell(text, score(text))

    with ThreadPoolExecutor(1) as others:
        telling = others.submit(tell, 30)
        for _ in range(30):
            text = proposer.propose(Context(program=PROGRAM, seen=seen), rng).program
            seen.add(fingerprint(text))
            made.put(text)
        telling.result(20)
    assert len(seen) == 31


def test_nothing_to_tune_is_said() -> None:
    with pytest.raises(NothingNew, match="constants"):
        Optuna().propose(Context(program="x = 1\n"), random.Random(1))
