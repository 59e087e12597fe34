"""What the node builds on, and the act of changing it: stated in the ledger first, shown in the working tree second."""

from collections.abc import Callable

from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed
from ledger.predicates import Adoption, Comparison
from ledger.store import Store
from node.incumbent import IncumbentTree


class Adopter:
    """The incumbent of one node in one track, as its own last adoption says."""

    def __init__(
        self, store: Store, author: Author, tree: IncumbentTree, track: str, report: Callable[[str], None]
    ) -> None:
        self._store, self._author, self._tree, self._track, self._report = store, author, tree, track, report

    @property
    def incumbent(self) -> str:
        """SHA-256 of the program. Call `begin` first."""
        adopted = queries.last_adoption(self._store, self._author.id, self._track)
        if adopted is None:
            raise LookupError("no adoption yet: begin() comes first")
        return adopted.program

    def missing_program(self) -> str | None:
        """The incumbent's SHA-256 where its text is not here: a lost ledger came back, and its blobs not yet."""
        adopted = queries.last_adoption(self._store, self._author.id, self._track)
        return None if adopted is None or self._store.blobs.has(adopted.program) else adopted.program

    def begin(self, baseline: str) -> list[Signed]:
        """Adopt the baseline at the first start; at any start, make the working tree agree with the ledger."""
        adopted = queries.last_adoption(self._store, self._author.id, self._track)
        if adopted is None:
            return [self._adopt(baseline, None, None, "the challenge's baseline", None)]
        self._tree.commit(self._store.blobs.get(adopted.program), f"{adopted.reason}\n\nadoption {adopted.id}")
        return []

    def adopt(self, program: str, discovery: str | None, reason: str, comparison: Comparison | None) -> Signed:
        """Build on `program` from now on. `comparison` is with the incumbent, where that was not the parent.

        `discovery`: by which the program came; None for the baseline, on the way back to it.
        """
        return self._adopt(program, self.incumbent, discovery, reason, comparison)

    def _adopt(
        self, program: str, previous: str | None, discovery: str | None, reason: str, comparison: Comparison | None
    ) -> Signed:
        adoption = self._author.append(
            "main",
            program,
            lambda entry: Adoption(
                entry=entry,
                track=self._track,
                previous=previous,
                discovery=discovery,
                reason=reason,
                comparison=comparison,
            ),
        )
        self._tree.commit(self._store.blobs.get(program), f"{reason}\n\nadoption {adoption.id}\ndiscovery {discovery}")
        self._report(f"adopted {program[:8]}: {reason}")
        return adoption
