"""The operator's steering of a search: hypotheses and whole programs for a running node, or for the next one.

Each wish is one file in the home's folder `steering`, named by the time at which it was made, and replaced as a whole.
The command line makes them and never changes one; the node changes them and makes none, so neither undoes what the
other wrote, and no lock is needed. Each is used once, and its file says what became of it.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from ledger.predicates import PROGRAM_BYTES_MAX
from node.claims import Candidate
from node.errors import UserError
from node.proposing import Ready
from trainer.proposers.proposal import Proposal

HYPOTHESIS_CHARACTERS_MAX = 1000
OPEN_MAX = 100  # wishes that wait
KEPT_MAX = 500  # files, those that are done with among them; the oldest of these go first
FILE_BYTES_MAX = 8 * PROGRAM_BYTES_MAX  # JSON may write one character as six

State = Literal["open", "trying", "kept", "discarded", "failed", "refused"]
PROPOSER = "operator"
OPERATOR = "by hand"


class Wish(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the operator asked for: a hypothesis for the proposers, or a program to try as it is."""

    hypothesis: Annotated[str, Meta(max_length=HYPOTHESIS_CHARACTERS_MAX)]
    program: str | None = None  # the text; None: the proposers are to write one
    made_at: int  # Unix seconds
    state: State = "open"
    candidate: str = ""  # SHA-256 of what is or was tried for it
    why: str = ""  # what became of it, in words


class Named(Struct, frozen=True):
    """A wish with its name, which orders wishes by when they were made."""

    name: str
    wish: Wish


class Steering:
    """The wishes in the home. Reading passes over files that cannot be read; `report` says so once for each."""

    def __init__(self, folder: Path, report: Callable[[str], None] = lambda line: None) -> None:
        self._folder, self._report = folder, report
        self._unreadable: set[str] = set()
        self._seen: frozenset[str] = frozenset()
        self._asked = ""  # the suggestion that is with the proposers now

    # By the command line

    def add(self, wish: Wish) -> str:
        """Queue a wish; its name. Raises `UserError` if too many wait."""
        known = self.all()
        if sum(one.wish.state == "open" for one in known) >= OPEN_MAX:
            raise UserError(
                f"{OPEN_MAX} suggestions and programs wait already, see `waggle suggest --list`. "
                f"Remove some of {self._folder} if they are not wanted any more."
            )
        done = [one.name for one in known if one.wish.state not in ("open", "trying")]
        for name in done[: max(0, len(known) + 1 - KEPT_MAX)]:
            self._path(name).unlink(missing_ok=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        content = msgspec.json.encode(wish)
        name = f"{time.time_ns():020d}-{hashlib.sha256(content).hexdigest()[:8]}"
        self._write(Named(name, wish))
        return name

    def all(self) -> list[Named]:
        """Every wish, the oldest first."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            wish = self._read(path)
            if wish is not None:
                found.append(Named(path.stem, wish))
        return found

    # By the node

    def resume(self, under_way: str, became: Callable[[str], State | None]) -> None:
        """At the node's start: settle what was being tried when it stopped.

        `under_way`: the candidate that is taken up again, a SHA-256, or empty. `became`: by the ledger what became of
        a candidate; None for one that was not run, which is open again.
        """
        for one in self.all():
            if one.wish.state != "trying" or one.wish.candidate == under_way:
                continue
            state = became(one.wish.candidate)
            if state is None:
                self._change(one, "open", "", "")
            else:
                self._change(one, state, one.wish.candidate, "the node stopped before it could say more")

    def news(self) -> bool:
        """Whether there are open wishes that were not there at the last call."""
        before, self._seen = self._seen, frozenset(one.name for one in self._open())
        return bool(self._seen - before)

    def suggestion(self) -> str:
        """The oldest open hypothesis without a program, for the proposers; empty if there is none."""
        found = next((one for one in self._open() if one.wish.program is None), None)
        self._asked = "" if found is None else found.name
        return "" if found is None else found.wish.hypothesis

    def proposed(self, program: str, refusal: str | None) -> None:
        """A proposer has answered the suggestion that it was given, with the program of this SHA-256."""
        found = self._find(self._asked)
        self._asked = ""
        if found is not None and found.wish.state == "open":
            self._change(found, "trying" if refusal is None else "refused", program, refusal or "it waits for its turn")

    def by_hand(self, parent: str, screen: Callable[[str, str], str | None]) -> Ready | None:
        """The oldest program that waits, as a proposal on `parent`; those that the screen refuses are done with."""
        for one in self._open():
            text = one.wish.program
            if text is None:
                continue
            digest = hashlib.sha256(text.encode()).hexdigest()
            refusal = "it is the incumbent" if digest == parent else screen(parent, text)
            if refusal is not None:
                self._change(one, "refused", digest, refusal)
                self._report(f"the operator's program {digest[:8]} is refused: {refusal}")
                continue
            self._change(one, "trying", digest, "it is the next candidate")
            hypothesis = one.wish.hypothesis or "a program by the operator's hand"
            return Ready(parent, Proposal(program=text, hypothesis=hypothesis, proposer=PROPOSER, operator=OPERATOR))
        return None

    def ended(self, candidate: Candidate, state: State, why: str) -> None:
        """Record the fate of a candidate that was tried for a wish; `open`: it was given up, and is to come again."""
        for one in self.all():
            if one.wish.state == "trying" and one.wish.candidate == candidate.child:
                self._change(one, state, "" if state == "open" else candidate.child, why)

    def _open(self) -> list[Named]:
        return [one for one in self.all() if one.wish.state == "open"]

    def _find(self, name: str) -> Named | None:
        wish = self._read(self._path(name)) if name else None
        return None if wish is None else Named(name, wish)

    def _change(self, one: Named, state: State, candidate: str, why: str) -> None:
        why = why[:HYPOTHESIS_CHARACTERS_MAX]
        self._write(Named(one.name, msgspec.structs.replace(one.wish, state=state, candidate=candidate, why=why)))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _write(self, one: Named) -> None:
        unfinished = self._folder / f"{one.name}.new"
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(one.wish)))
        unfinished.replace(self._path(one.name))

    def _read(self, path: Path) -> Wish | None:
        try:
            with path.open("rb") as file:
                content = file.read(FILE_BYTES_MAX + 1)
            if len(content) > FILE_BYTES_MAX:
                raise msgspec.ValidationError(f"more than {FILE_BYTES_MAX} bytes")
            return msgspec.json.decode(content, type=Wish)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            if path.name not in self._unreadable:
                self._unreadable.add(path.name)
                self._report(f"{path} cannot be read ({error}); remove it, and ask again")
            return None
