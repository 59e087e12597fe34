"""Fixtures of the gossip tests; what they give is in loopback.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from loopback import CHALLENGE, News, Node


@pytest.fixture
def make_node(nursery: trio.Nursery, tmp_path: Path) -> Callable[..., Node]:
    made: list[Node] = []
    news = News()

    def make(*, challenge: str = CHALLENGE, sync_interval_s: float = 0.5) -> Node:
        made.append(Node(nursery, news, tmp_path / str(len(made)), challenge, sync_interval_s))
        return made[-1]

    return make
