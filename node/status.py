"""What a running node says of itself, in a small file that is replaced as a whole."""

from pathlib import Path

import msgspec
from msgspec import Struct

from node.governance import GateStatus


class NodeStatus(Struct, kw_only=True):
    """The facts of one running node."""

    pid: int
    peer: str  # own peer id
    challenge: str
    track: str = ""  # of an observer, none
    listen: str = ""  # where it was asked to listen, with the port that it got
    addresses: list[str] = []  # where others can dial it
    peers: list[str] = []  # connected now
    unknown_constitutions: dict[str, str] = {}  # of these, who says that one is in force that is not known here
    network: dict[str, float] = {}  # counters and gauges of gossip/metrics.py
    activity: str = "starting"
    trials: int = 0  # run since the start
    gate: GateStatus | None = None  # of an observer, none
    waiting: dict[str, str] = {}  # discoveries of others that wait or were rejected, and why
    next_turn: str = ""  # of what is queued to be verified: which is next, or why none is
    incumbent: str = ""  # SHA-256
    incumbent_bpb: float | None = None  # mean over own runs on the public split


def write(path: Path, status: NodeStatus) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(status)))
    unfinished.replace(path)


def read(path: Path) -> NodeStatus | None:
    """The last status written; None if there is none, or none that can be read: it is information only."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=NodeStatus)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
