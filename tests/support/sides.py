"""One node's parts without its network, over a real ledger and a scripted lane."""

import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path

import examples
from scripted import NOISE, ScriptedLane, program

from ledger.author import Author
from ledger.envelope import Signed, open_envelope
from ledger.predicates import Attestation
from ledger.queries.arrivals import ClaimRow
from ledger.statements import commit
from ledger.store import Store
from node.adoption import Adopter
from node.asking import Folder
from node.courses import Courses
from node.home import Home, SplitChoice
from node.incumbent import IncumbentTree
from node.intake import nobody_waits
from node.proposing import Ready
from node.research import Research
from node.salts import Salts
from node.verify import Verifier
from node.workbench import Workbench
from policy.intake import State
from policy.noise import Spread
from trainer.proposers.proposal import Proposal

PUBLIC = SplitChoice("public", bytes(16))
PRIVATE = SplitChoice(commit(b"\x11" * 16), b"\x11" * 16)
BASELINE = program(0.0)
SPREAD = Spread(2 * NOISE, 10.0)


class Scripted:
    """Proposals as they were given, in order."""

    def __init__(self, *programs: bytes) -> None:
        self.programs = list(programs)

    def turn_to(self, parent: str) -> None: ...

    def waits(self, parent: str) -> bool:
        return False

    async def next(self, parent: str) -> Ready | None:
        if not self.programs:
            return None
        text = self.programs.pop(0).decode()
        return Ready(parent, Proposal(program=text, hypothesis="a larger gain", proposer="scripted"))


class Side:
    """One node's parts, without its network; in a folder of its own, or in a home that has a challenge."""

    def __init__(self, folder: Path, number: int, *candidates: bytes, home: Home | None = None) -> None:
        self.lane, self.lines = ScriptedLane(), list[str]()
        self.held: str | None = None  # why nothing is to be adopted now
        self.stranger: Callable[[str], str | None] = nobody_waits
        if home is None:
            folder.mkdir()
            self.store = examples.new_store(folder)
            self.author: Author = examples.author(self.store, number)
            self.baseline = self.store.blobs.put(BASELINE)
        else:
            challenge = home.challenge()
            self.store = home.store(challenge)
            self.author = Author(self.store, home.key(), now=lambda: "2026-01-01T00:00:00Z")
            self.baseline = challenge.tracks[examples.TRACK].baseline
        self.salts_file = folder / "private.salt"
        Salts.create(self.salts_file, PRIVATE.salt)
        self.tree = folder / "incumbent"
        self.bench = Workbench(self.store, self.author, self.lane, examples.TRACK, self.lines.append)
        self.adopter = Adopter(self.store, self.author, IncumbentTree(self.tree), examples.TRACK, self.lines.append)
        self.research = Research(
            self.store, self.author, self.bench, self.adopter, Scripted(*candidates), PUBLIC, self.lines.append
        )
        self.courses_file, self.asked = folder / "courses.db", Folder(folder / "asked")
        self.verifier = self.new_verifier()
        self.adopter.begin(self.baseline)
        self.research.resume()

    def new_verifier(self) -> Verifier:
        """As after a restart: all that it knows comes from the disk."""
        tracks = {examples.TRACK: self.baseline}
        drawn = itertools.count(0x22)
        salts = Salts(self.salts_file, lambda: bytes([next(drawn)]) * 16)
        self.courses = Courses(self.courses_file)
        return Verifier(
            self.store, self.author, self.bench, self.adopter, salts, tracks, self.lines.append,
            courses=self.courses, asked=self.asked, held=lambda: self.held,
            stranger=lambda author: self.stranger(author),
        )  # fmt: skip

    def receive(self, source: Store, *, blobs: bool = True) -> None:
        """Everything that the other ledger has."""
        for (author, feed), _ in source.heads().items():
            for envelope in source.envelopes(author, feed, 0, 10**9):
                self.store.add(open_envelope(envelope))
        if blobs:
            for digest in self.store.blobs.missing(100):
                self.store.blobs.put(source.blobs.get(digest))

    def next(self) -> ClaimRow | None:
        """What the lane would run now, if it had nothing else to do."""
        self.verifier.reconsider()
        return self.verifier.next(idle=True)

    async def verify_next(self) -> list[Signed]:
        row = self.next()
        assert row is not None
        return await self.verifier.step(row, SPREAD)

    def state(self, found: Signed) -> State | None:
        return self.courses.state(found.id)

    def diary(self) -> list[str]:
        command = ["git", "-C", str(self.tree), "log", "--format=%s", "--reverse"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def claim(side: Side, number: int, gain: float, parent: str = "", says: float = 0.2) -> Signed:
    """A discovery by the author with this number, with trials that agree; `gain` is what its program is worth."""
    child = side.store.blobs.put(program(gain))
    by = examples.author(side.store, number)
    scores = [(3.0, 3.0 - says - 0.01 * number) for number in (-1, 0, 1)]
    found = examples.state_discovery(by, parent or side.baseline, child, scores)
    side.verifier.hear()
    return found


async def verify_all(side: Side) -> list[Signed]:
    """Run whatever is queued, as a lane with nothing else to do would; what was stated."""
    made = side.verifier.reconsider()
    while (row := side.verifier.next(idle=True)) is not None:
        made += await side.verifier.step(row, SPREAD)
        made += side.verifier.reconsider()
    return made


def verdicts(statements: list[Signed]) -> list[str]:
    """What own attestations say, in order."""
    bodies = [signed.statement.body for signed in statements]
    return [body.verdict for body in bodies if isinstance(body, Attestation)]


async def conclude(side: Side) -> list[Signed] | None:
    """Steps of research up to the verdict on one candidate; None if there is none to try."""
    while (statements := await side.research.step()) == [] and "discarded" not in side.lines[-1]:
        pass
    return statements


async def discover(side: Side) -> Signed:
    statements = await conclude(side)
    assert statements is not None
    assert [signed.statement.kind for signed in statements] == ["discovery", "adoption"]
    return statements[0]
