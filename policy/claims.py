"""Who is about to try what: which claims count, and who of two goes on where they meet.

A claim names a program and the fingerprint of its change (change.py), which has no literals in it: two claims *meet*
when they are about one program, or about one kind of change, as "`WIDTH` raised" by whatever factor. The author's name
is in no key. Rules that every node applies alike to the same entries:

1. A claim counts while the reader's Lamport clock is not past its own Lamport time plus its ticks. There is no wall
   clock in it. One that is dated back expires that much earlier; one from the future of the reader counts for nothing.
2. Of one author only the last `LIVE_PER_AUTHOR` count, so whoever claims everything claims next to nothing.
3. Where several meet, the one with the lowest Lamport time holds, and of those the one with the lowest id.

A claim promises nothing and forbids nothing. What a reader makes of it is its own affair: it *avoids* what another
holds as long as it has anything else to try, what a stranger holds less than what somebody of standing does. *Pure.*
"""

from collections.abc import Iterable

from msgspec import Struct

LIVE_PER_AUTHOR = 2  # the candidate under way, and one that was given up for it
CLAIM_TICKS_MIN = 50
TICKS_FACTOR = 3  # times what the longest of the last candidates took


class Claimed(Struct, frozen=True, kw_only=True):
    """A claim of somebody in one track."""

    id: str
    author: str
    lamport: int
    ticks: int
    program: str  # SHA-256
    change: str | None  # its fingerprint; None: not said
    weight: float = 0.0  # the author's standing here, 0 (a stranger) to 1

    def meets(self, program: str, change: str | None) -> bool:
        """Whether it is about this program, or this kind of change."""
        return self.program == program or (change is not None and self.change == change)

    @property
    def place(self) -> tuple[int, str]:
        """What decides between claims that meet; the lowest holds."""
        return self.lamport, self.id


def live(claims: Iterable[Claimed], clock: int) -> list[Claimed]:
    """Those that count when the reader's Lamport clock is `clock`, by rules 1 and 2, in the order of rule 3."""
    found: dict[str, list[Claimed]] = {}
    for claim in sorted(claims, key=lambda claim: claim.place, reverse=True):
        of_author = found.setdefault(claim.author, [])
        if claim.lamport <= clock <= claim.lamport + claim.ticks and len(of_author) < LIVE_PER_AUTHOR:
            of_author.append(claim)
    return sorted((claim for counted in found.values() for claim in counted), key=lambda claim: claim.place)


def holder(claims: Iterable[Claimed], program: str, change: str | None) -> Claimed | None:
    """Of live claims the one that holds this program or kind of change, by rule 3; None if it is free."""
    return min((claim for claim in claims if claim.meets(program, change)), key=lambda c: c.place, default=None)


def contested(claims: Iterable[Claimed], me: str, program: str, change: str | None) -> float | None:
    """How much others' live claims to this weigh: the highest standing of their authors. None where there are none."""
    return max((one.weight for one in claims if one.author != me and one.meets(program, change)), default=None)


def ticks_for(taken: Iterable[int], ticks_max: int) -> int:
    """For how long to claim, when the last candidates took so many ticks from claim to end."""
    return min(ticks_max, max(CLAIM_TICKS_MIN, TICKS_FACTOR * max(taken, default=0)))
