"""The constitution of a ledger's swarm: the challenge's, and what its maintainers have made of it since.

A statement of an amendment and the text that it names arrive separately, like a discovery and its program. While the
text of a ratified one is missing, the one before it stays in force here, and `waiting_for` says so.
"""

from importlib.resources import files

from ledger.queries import governing
from ledger.store import Store
from node.errors import UserError
from policy.amendments import History, Motion, Succession, Term, history, in_force, seats_of
from policy.constitution import Constitution, ConstitutionError, Limits, from_canonical, from_toml
from trainer.challenge import Challenge


def default_constitution() -> Constitution:
    """What a new swarm gets where its founder brings none of its own."""
    return from_toml(files("policy").joinpath("default_constitution.toml").read_text())


class Charter:
    """The constitutions of one swarm, as its ledger has them. Reads; states nothing."""

    def __init__(self, store: Store, challenge: Challenge) -> None:
        """Raises `UserError` if the challenge's constitution is not in the ledger, or of another version of Waggle."""
        self._store, self._maintainers = store, challenge.maintainers
        self._texts: dict[str, Constitution] = {}
        self._unreadable: dict[str, str] = {}  # digest → why
        self._seen: tuple[object, ...] = ()  # what the history was made of
        root = self.text(challenge.constitution)
        if root is None:
            why = self._unreadable.get(challenge.constitution, "it is not in this ledger")
            raise UserError(
                f"the constitution {challenge.constitution[:12]} that the challenge names cannot be used: {why}. "
                "Update waggle, or join the swarm with a fresh --home, which fetches it."
            )
        self._root = root
        self._history: History | None = None

    def text(self, digest: str) -> Constitution | None:
        """A constitution by its digest; None if it is not here or cannot be read by this version."""
        if digest not in self._texts and digest not in self._unreadable and self._store.blobs.has(digest):
            try:
                self._texts[digest] = from_canonical(self._store.blobs.get(digest))
            except ConstitutionError as error:
                self._unreadable[digest] = str(error)
        return self._texts.get(digest)

    def seats(self) -> dict[str, str]:
        """Who can vote: peer id to the maintainer whose seat it has."""
        discredited = governing.equivocators(self._store)
        return seats_of(self._maintainers, [one for one in self._successions() if one.author not in discredited])

    def _successions(self) -> list[Succession]:
        return [
            Succession(lamport=row.lamport, id=row.id, author=row.author, successor=row.successor)
            for row in governing.successions(self._store)
        ]

    def history(self) -> History:
        """What was in force when, and every proposal."""
        successions, discredited = self._successions(), governing.equivocators(self._store)
        motions = [
            Motion(
                lamport=row.lamport, id=row.id, author=row.author, constitution=row.constitution,
                previous=row.previous, proposal=row.proposal,
            )
            for row in governing.motions(self._store, self.seats())
        ]  # fmt: skip
        for motion in motions:
            self.text(motion.constitution)
        seen = (motions, successions, discredited, len(self._texts))
        if self._history is None or seen != self._seen:
            self._seen = seen
            self._history = history(
                self._root, self._maintainers, motions, self._texts, successions=successions, discredited=discredited
            )
        return self._history

    def term(self, lamport: int | None = None) -> Term:
        """What is in force at a Lamport time; by default at that of the next statement here."""
        return in_force(self.history(), self._store.clock() + 1 if lamport is None else lamport)

    def constitution(self) -> Constitution:
        """The one in force now."""
        found = self.text(self.term().constitution)
        assert found is not None, "a term begins when its text is here"
        return found

    def limits(self) -> Limits:
        """The numbers in force now."""
        return self.constitution().numbers()

    def knows(self, digest: str) -> bool:
        """Whether a constitution is, was or may come to be in force by what the maintainers stated."""
        past = self.history()
        return digest in {term.constitution for term in past.terms} | {
            proposal.motion.constitution for proposal in past.proposals
        }

    def stranger(self, author: str) -> str | None:
        """Why what an author claims is to wait; None if nothing speaks against it.

        Nodes go over to an amended constitution at one Lamport time but hear of it at different ones. So another digest
        than one's own is no offence, nor is one that was merely proposed; one that no maintainer has stated is. Its
        entries are taken nevertheless: if it is the statements that are missing here, they come the same way.
        """
        said = governing.last_gate(self._store, author)
        if said is None or self.knows(said.constitution):
            return None
        return (
            f"its author works by the constitution {said.constitution[:12]}, which no maintainer has proposed, as far "
            "as is known here"
        )
