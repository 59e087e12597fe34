"""How each discovery came to be in its state at this node: every move with its reason, for `waggle why`.

Verdicts, adoptions and retractions stand in the ledger, which is the authority (verify.py compares at each start). What
the ledger has no statement for stands here alone: why a claim waits, was rejected, held back or declined, and which
author was banned for contradicting its own records. All of it can be found again from the ledger, at the price of
looking again. So the file is a small SQLite database of its own, which survives a crash of the node and may lose its
last moves in a power cut.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from ledger.predicates import Verdict
from node.errors import UserError
from policy.intake import Course, Move, State, Step, advance
from policy.standing import Ban, Misdeed

REASON_CHARS_MAX = 2000
STEPS_MAX = 100  # of one discovery; the first and the latest are kept
OF_VERDICTS: Mapping[Verdict, tuple[Move, State]] = {
    "confirmed": (Move.CONFIRM, State.CONFIRMED),
    "refuted": (Move.REFUTE, State.REFUTED),
    "inconclusive": (Move.LEAVE_OPEN, State.INCONCLUSIVE),
}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS steps (
    number INTEGER PRIMARY KEY, discovery TEXT NOT NULL, at TEXT NOT NULL, move TEXT NOT NULL, state TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS steps_by_discovery ON steps (discovery, number);
CREATE TABLE IF NOT EXISTS changes (
    discovery TEXT PRIMARY KEY, parent TEXT NOT NULL, child TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bans (
    author TEXT PRIMARY KEY, misdeed TEXT NOT NULL, proof TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""


class Dated(Struct, frozen=True):
    """A step, and when it was made by this machine's clock."""

    at: str  # RFC 3339, UTC
    step: Step


class Courses:
    """The courses in a file, or in memory where there is none. One process at a time may write."""

    def __init__(self, path: Path | None = None) -> None:
        """Raises `UserError` for a file that cannot be read."""
        try:
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")  # see above: nothing here is the only record of a word
            self._db.executescript(_SCHEMA)
            # The bare columns are those of the row with the maximum, https://www.sqlite.org/lang_select.html#bareagg
            last = self._db.execute("SELECT discovery, state, reason, max(number) FROM steps GROUP BY discovery")
            self._last = {row[0]: (State(row[1]), str(row[2])) for row in last}
        except (sqlite3.DatabaseError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}). Remove it: the node finds its content again by looking at every "
                "claim once more."
            ) from error

    def close(self) -> None:
        self._db.close()

    def state(self, discovery: str) -> State | None:
        """Where it stands; None if nothing was ever noted of it."""
        found = self._last.get(discovery)
        return None if found is None else found[0]

    def reason(self, discovery: str) -> str:
        """Why it is in its state; empty if nothing was noted."""
        return self._last.get(discovery, (State.RECEIVED, ""))[1]

    def states(self) -> dict[str, State]:
        return {discovery: state for discovery, (state, _) in self._last.items()}

    def move(self, discovery: str, move: Move, reason: str = "") -> State:
        """Make a legal move; without a reason, the move's own words. Raises `IllegalMove`, and nothing has changed."""
        state = advance(self.state(discovery) or State.RECEIVED, move)
        self.note(discovery, Step(move, state, reason or move.value))
        return state

    def note(self, discovery: str, step: Step) -> None:
        """Put down a step that was made elsewhere: what the ledger says happened, before this file knew of it."""
        self._last[discovery] = (step.state, step.reason[:REASON_CHARS_MAX])
        row = (discovery, _now(), step.move.name, step.state.value, step.reason[:REASON_CHARS_MAX])
        self._db.execute("INSERT INTO steps (discovery, at, move, state, reason) VALUES (?, ?, ?, ?, ?)", row)
        self._db.execute(
            """DELETE FROM steps WHERE number IN
               (SELECT number FROM steps WHERE discovery = ? ORDER BY number DESC LIMIT -1 OFFSET ?)
               AND number > (SELECT min(number) FROM steps WHERE discovery = ?)""",
            (discovery, STEPS_MAX - 1, discovery),
        )

    def say(self, discovery: str, reason: str) -> None:
        """Replace the reason of the last step: it still stands there, for another reason."""
        state, before = self._last[discovery]
        if before == (reason := reason[:REASON_CHARS_MAX]):
            return
        self._last[discovery] = (state, reason)
        self._db.execute(
            "UPDATE steps SET reason = ? WHERE number = (SELECT max(number) FROM steps WHERE discovery = ?)",
            (reason, discovery),
        )

    def forget(self, discovery: str) -> None:
        """As if it had just arrived."""
        self._last.pop(discovery, None)
        self._db.execute("DELETE FROM steps WHERE discovery = ?", (discovery,))

    def steps(self, discovery: str) -> list[Dated]:
        """The way to its state, oldest first."""
        sql = "SELECT at, move, state, reason FROM steps WHERE discovery = ? ORDER BY number"
        found = self._db.execute(sql, (discovery,))
        return [Dated(at, Step(Move[move], State(state), reason)) for at, move, state, reason in found]

    def course(self, discovery: str) -> Course:
        return Course(tuple(dated.step for dated in self.steps(discovery)))

    # What a look at the programs has shown

    def change(self, discovery: str) -> tuple[str, str] | None:
        """The fingerprints of its programs, where `learn_change` has noted them."""
        found = self._db.execute("SELECT parent, child FROM changes WHERE discovery = ?", (discovery,)).fetchone()
        return None if found is None else (str(found[0]), str(found[1]))

    def learn_change(self, discovery: str, change: tuple[str, str]) -> None:
        self._db.execute("INSERT OR REPLACE INTO changes VALUES (?, ?, ?)", (discovery, *change))

    # Who contradicted its own records

    def bans(self) -> dict[str, Ban]:
        """Authors banned by what they signed themselves, with the entries that show it."""
        found: Iterable[tuple[str, str, str]] = self._db.execute("SELECT author, misdeed, proof FROM bans")
        bans = {}
        for author, misdeed, proof in found:
            with suppress(KeyError):  # of a later version
                bans[author] = Ban(Misdeed[misdeed], tuple(proof.split()))
        return bans

    def ban(self, author: str, ban: Ban) -> None:
        """The first proof is enough, and stays."""
        row = (author, ban.misdeed.name, " ".join(ban.proof))
        self._db.execute("INSERT OR IGNORE INTO bans VALUES (?, ?, ?)", row)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
