"""Sandboxes that wait: what they are, and what their waiting does not cost."""

import os
from pathlib import Path

import psutil
import pytest

from trainer.sandbox.command import Limits, SandboxUnavailable
from trainer.sandbox.pool import Pool
from trainer.sandbox.process import Sandbox

CODE = """
import os, sys
answer = int(sys.argv[1])
waste = sum(x * x for x in range(2_000_000))
os.write(answer, b"w")
sys.stdin.read()
os.write(answer, str(os.getpid()).encode())
"""
LIMITS = Limits(memory_bytes=2**29, cpu_s=60, threads=1)


def waiting() -> Sandbox:
    return Sandbox(["-c", CODE], LIMITS, {})


def ready(sandbox: Sandbox) -> Sandbox:
    sandbox.limit(wall_s=30)
    assert sandbox.read(1) == b"w"
    return sandbox


def test_take_gives_the_one_that_waited_and_starts_its_successor() -> None:
    made: list[Sandbox] = []

    def make() -> Sandbox:
        made.append(waiting())
        return made[-1]

    with Pool(make, 2) as pool:
        assert len(made) == 2
        with pool.take() as taken:
            assert taken is made[0]
            assert len(made) == 3
            assert ready(taken).end() == 0
        with pool.take() as taken:
            assert taken is made[1]
    assert not any(sandbox.alive() for sandbox in made)


def test_what_it_used_while_it_waited_is_not_counted() -> None:
    with Pool(waiting, 1) as pool, ready(pool.take()) as taken:
        spent_s = sum(
            sum(child.cpu_times()[:2]) for child in psutil.Process().children(recursive=True) if child.is_running()
        )
        assert spent_s > 0.05
        taken.limit(wall_s=30, cpu_s=30)
        assert taken.cpu_s == 0
        assert taken.end() == 0
        assert taken.cpu_s < 0.1


def test_one_that_died_is_replaced() -> None:
    made: list[Sandbox] = []

    def make() -> Sandbox:
        made.append(waiting())
        return made[-1]

    with Pool(make, 1) as pool:
        made[0].kill()
        with pool.take() as taken:
            assert taken is made[1]
            assert ready(taken).end() == 0


def test_close_ends_those_that_wait_and_no_others() -> None:
    pool = Pool(waiting, 2)
    with pool.take() as taken:
        pool.close()
        pool.close()
        assert ready(taken).alive()
    assert [child for child in psutil.Process().children() if child.name() == "bwrap"] == []


def test_nothing_waits_after_a_start_that_failed() -> None:
    made: list[Sandbox] = []

    def make() -> Sandbox:
        if made:
            raise SandboxUnavailable("no more")
        made.append(waiting())
        return made[-1]

    with pytest.raises(SandboxUnavailable):
        Pool(make, 2)
    assert not made[0].alive()


def test_descriptors_are_given_back() -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with waiting() as sandbox:  # what the first one opens for good
        ready(sandbox)
    before = opened()
    with Pool(waiting, 2) as pool:
        ready(pool.take()).close()
    assert opened() == before


def test_a_pool_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="has none to give"):
        Pool(waiting, 0)


def test_a_sandbox_that_waits_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "correct-horse-battery")
    with Pool(waiting, 1) as pool:
        ready(pool.take()).close()
        for child in psutil.Process().children(recursive=True):
            assert "API_KEY" not in child.environ()
    assert "API_KEY" in os.environ
