"""What to do with a discovery whose parent is not what this node builds on.

Its gain was shown over its own parent. Compared with the incumbent it may still lose, and its change may still help:
so it is compared with its parent first (that is the verdict), then with the incumbent (that is the adoption), and where
both have changed since their common ancestor, the three-way merge of them is tried as a proposal of its own. The shell
makes the runs and the merge; what comes next is decided here.

Only the first of these runs counts as verification (policy/priority.py): what comes after is about a confirmed program,
so no flood of claims can make it grow, and it is the node's own search for a better one. *Pure.*
"""

from collections.abc import Sequence
from enum import Enum

from msgspec import Struct

from ledger.predicates import Verdict

MERGE_TRIES_MAX = 4  # of one change


class Next(Enum):
    COMPARE_WITH_PARENT = "compare it with its parent"
    COMPARE_WITH_INCUMBENT = "compare it with the incumbent"
    ADOPT = "adopt it"
    DECLINE = "decline it"
    LEAVE = "there is nothing to adopt"


class Merge(Struct, frozen=True):
    """A three-way merge to try as a proposal: `theirs` - `base` applied to `ours`. SHA-256 of programs."""

    base: str
    ours: str
    theirs: str


class Plan(Struct, frozen=True):
    next: Next
    reason: str
    merge: Merge | None = None


class Situation(Struct, frozen=True, kw_only=True):
    """Where this node stands towards a discovery. Programs as SHA-256."""

    parent: str
    child: str
    incumbent: str
    child_line: Sequence[str]  # from the baseline to the child
    incumbent_line: Sequence[str]  # from the baseline to the incumbent
    with_parent: Verdict | None = None  # None: not run yet
    beats_incumbent: bool | None = None  # None: not run yet
    fallen: str | None = None  # a discovery that the parent rests on and that is believed no more


def plan(at: Situation) -> Plan:
    """The next thing to do, with its reason."""
    if at.with_parent is None:
        return Plan(Next.COMPARE_WITH_PARENT, "its claim is about its parent")
    if at.with_parent != "confirmed":
        return Plan(Next.LEAVE, f"it was found {at.with_parent}")
    if at.child == at.incumbent or at.child in at.incumbent_line:
        return Plan(Next.DECLINE, "the incumbent is built on it already")
    if at.fallen is not None:
        why = f"it rests on discovery {at.fallen[:16]}, which is believed no more: its own change is tried alone"
        return Plan(Next.DECLINE, why, change_of(at))
    if at.parent == at.incumbent:
        return Plan(Next.ADOPT, "its parent is the incumbent, and it beats it here")
    if at.beats_incumbent is None:
        return Plan(Next.COMPARE_WITH_INCUMBENT, "its parent is not the incumbent")
    merge = merge_of(at)
    if at.beats_incumbent:
        return Plan(Next.ADOPT, "it beats the incumbent here", merge)
    return Plan(Next.DECLINE, "it was not shown to beat the incumbent here", merge)


def merge_of(at: Situation) -> Merge | None:
    """The merge of child and incumbent on their nearest common ancestor; None where one descends from the other."""
    if at.incumbent in at.child_line or at.child in at.incumbent_line:
        return None
    common = set(at.incumbent_line)
    base = next((program for program in reversed(at.child_line) if program in common), None)
    return None if base is None else Merge(base, at.incumbent, at.child)


def change_of(at: Situation) -> Merge | None:
    """The discovery's own change, applied to the incumbent: nothing of what its parent rests on comes with it.

    None where it is in the incumbent's line, or would be the child itself.
    """
    if at.child in at.incumbent_line or at.parent == at.incumbent:
        return None
    return Merge(at.parent, at.incumbent, at.child)


def try_again(tries: int, last_with: str | None, incumbent: str) -> bool:
    """Whether a confirmed change that is not in the incumbent is to be merged into it (`change_of`).

    `tries` so far, the last into `last_with`. Effects differ from program to program and a small one shows only most of
    the time, so there are several tries, each into another incumbent.
    """
    return tries < MERGE_TRIES_MAX and last_with != incumbent
