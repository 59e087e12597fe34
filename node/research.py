"""The node's own search: one candidate at a time, kept only when paired runs say so.

A step is one pair of runs, so that a claim of somebody else never waits for a whole candidate: what holds in the swarm
is worth more than one more try of one's own.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

import trio

from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed
from ledger.predicates import Discovery
from ledger.store import Store
from node.adoption import Adopter
from node.home import SplitChoice
from node.workbench import Comparing, Workbench, seeds_of
from policy.evidence import Decision
from policy.screening import screen_program
from trainer.proposers.proposal import Context, Proposal, Proposer, ProposerError, fingerprint


class Candidate(NamedTuple):
    """A proposal that is being tried."""

    proposal: Proposal
    comparing: Comparing


class Research:
    """Proposes mutations of the incumbent, tries them, and states the gains as discoveries."""

    def __init__(
        self,
        store: Store,
        author: Author,
        bench: Workbench,
        adopter: Adopter,
        proposer: Proposer,
        split: SplitChoice,
        report: Callable[[str], None],
    ) -> None:
        self._store, self._author, self._bench = store, author, bench
        self._adopter, self._proposer, self._split, self._report = adopter, proposer, split, report
        self._candidate: Candidate | None = None
        self._exhausted = ""  # the program on which nothing is left to try
        self._proposals = 0  # made since the start
        self._tried: dict[str, str] = {}  # program (SHA-256) to fingerprint

    async def step(self, noise: float) -> list[Signed] | None:
        """One pair of runs for the present candidate, or for a new one: the statements to publish, if it is decided.

        None if there was nothing to try.
        """
        parent = self._adopter.incumbent
        if self._candidate is not None and self._candidate.comparing.parent != parent:
            self._report(
                f"candidate {self._candidate.comparing.child[:8]} given up: its parent is no longer the incumbent"
            )
            self._candidate = None
        if self._candidate is None:
            # In a thread: a proposer reads the program many times over, and the network must not wait for it.
            proposal = await self._propose(parent)
            self._candidate = None if proposal is None else self._begin(parent, proposal, noise)
        if self._candidate is None:
            return None
        candidate = self._candidate
        await candidate.comparing.advance()
        if candidate.comparing.decision() is Decision.MORE:
            return []
        self._candidate = None
        return self._conclude(candidate)

    def _begin(self, parent: str, proposal: Proposal, noise: float) -> Candidate:
        child = self._store.blobs.put(proposal.program.encode())
        self._report(f"candidate {child[:8]} on {parent[:8]}: {proposal.hypothesis}")
        seeds = seeds_of(self._author.id.encode(), parent.encode(), child.encode())
        comparing = self._bench.comparing(parent, child, seeds, self._split, noise, give_up_early=True)
        return Candidate(proposal, comparing)

    async def _propose(self, parent: str) -> Proposal | None:
        """A candidate that passes the screen and has not been tried in any ledger entry that is here."""
        self._read_programs_tried()
        seen = frozenset(self._tried.values())
        # Reproducible from the ledger: the position in the own feed stands for everything that happened before.
        head = self._author.head("trials")
        rng = random.Random(f"{self._author.id} {head.seq if head else -1} {self._proposals}")
        self._proposals += 1
        try:
            text = self._store.blobs.get(parent).decode()
            proposal = await trio.to_thread.run_sync(self._proposer.propose, Context(program=text, seen=seen), rng)
        except ProposerError as nothing:
            if self._exhausted != parent:  # asked again whenever there is news: say it once
                self._exhausted = parent
                self._report(f"nothing to try on {parent[:8]}: {nothing}")
            return None
        refusal = screen_program(proposal.program.encode())
        if refusal is not None:
            self._report(f"proposal refused: {refusal}")
            return None
        return proposal

    def _read_programs_tried(self) -> None:
        """The fingerprints of all programs that anybody has run, as far as their text is here and readable."""
        for program in queries.programs_tried(self._store):
            if program not in self._tried:
                try:
                    self._tried[program] = fingerprint(self._store.blobs.get(program).decode())
                except (ProposerError, UnicodeDecodeError):  # a stranger's: nothing that we propose can be equal to it
                    self._tried[program] = ""

    def _conclude(self, candidate: Candidate) -> list[Signed]:
        proposal, parent, child = candidate.proposal, candidate.comparing.parent, candidate.comparing.child
        compared = candidate.comparing.result()
        comparison = compared.comparison
        if compared.decision is not Decision.BETTER or comparison is None:
            why = str(compared.failure).splitlines()[0] if compared.failure is not None else compared.decision.value
            self._report(f"discarded {child[:8]}: {why}")
            return []
        with self._store.batch():  # both or neither: a discovery whose finder does not build on it tells a wrong story
            discovery = self._author.append(
                "main",
                child,
                lambda entry: Discovery(
                    entry=entry,
                    track=self._bench.track,
                    parent=parent,
                    hypothesis=proposal.hypothesis,
                    proposer=proposal.proposer,
                    comparison=comparison,
                ),
            )
            reason = f"own discovery, {comparison.mean:+.4f} bpb"
            adoption = self._adopter.adopt(child, discovery.id, reason, None)
        self._report(f"discovery {discovery.id[:16]}: {comparison.mean:+.4f} bpb, {proposal.hypothesis}")
        return [discovery, adoption]
