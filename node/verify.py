"""Foreign discoveries, from arrival to verdict: the shell around policy.intake.

What is to be done is read from the ledger each time (discoveries of others without a verdict of ours), so nothing is
lost by a restart, and nothing depends on the order in which entries and blobs arrive.
"""

import hashlib
from collections.abc import Callable, Mapping

import trio

from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed
from ledger.predicates import Attestation, Comparison, Discovery, Reveal, Verdict
from ledger.queries import DiscoveryRow
from ledger.statements import commit
from ledger.store import Store
from node.adoption import Adopter
from node.home import SplitChoice
from node.salts import Salts
from node.workbench import Compared, Workbench, seeds_of
from policy.evidence import Decision
from policy.intake import Claim, Move, Rejected, State, Waiting, advance, check_claim

# A child that crashes or cheats here does not do what was claimed; one that met a limit of this machine may elsewhere.
REFUTING_STATUSES = ("crash", "void", "refused")


class Verifier:
    """Checks, runs, attests and perhaps adopts what others claim."""

    def __init__(
        self,
        store: Store,
        author: Author,
        bench: Workbench,
        adopter: Adopter,
        salts: Salts,
        tracks: Mapping[str, str],
        report: Callable[[str], None],
    ) -> None:
        self._store, self._author, self._bench, self._adopter = store, author, bench, adopter
        self._salts, self._tracks, self._report = salts, tracks, report
        self.states: dict[str, State] = {}  # of the discoveries met since the start, by id
        self.reasons: dict[str, str] = {}  # why one waits or was rejected
        self._news = True

    def next(self) -> DiscoveryRow | None:
        """The first discovery in causal order that is ready for this node's own runs.

        What waits for something to arrive is looked at again only after `hear`.
        """
        news, self._news = self._news, False
        for row in queries.unattested(self._store, self._author.id):
            state = self.states.setdefault(row.id, State.RECEIVED)
            if state is State.RECEIVED and (news or row.id not in self.reasons):
                state = self._check(row)
            if state is State.QUEUED and row.track == self._bench.track:
                return row
        return None

    def hear(self) -> None:
        """Something has arrived: entries or blobs."""
        self._news = True

    def _check(self, row: DiscoveryRow) -> State:
        """Judge a received discovery by its own records."""
        match check_claim(self._claim(row), tracks=self._tracks):
            case Waiting(reason):
                self.reasons[row.id] = reason
            case Rejected(reason):
                self._move(row.id, Move.REJECT)
                self.reasons[row.id] = reason
                self._report(f"rejected discovery {row.id[:16]} of {row.author[-8:]}: {reason}")
            case None:
                self._move(row.id, Move.CHECKED)
                self.reasons.pop(row.id, None)
        return self.states[row.id]

    def _claim(self, row: DiscoveryRow) -> Claim:
        signed = self._store.entry(row.id)
        if signed is None or not isinstance(signed.statement.body, Discovery):
            raise LookupError(f"{row.id} is listed as a discovery and is none: run a check of the ledger")
        found = signed.statement.body
        child_program, parent_program = self._program(row.child), self._program(row.parent)
        named = (*found.comparison.parent_trials, *found.comparison.child_trials)
        if child_program is None or parent_program is None:
            named = ()  # it waits anyway, and each trial read is a signature checked
        return Claim(
            child=row.child,
            discovery=found,
            child_program=child_program,
            parent_program=parent_program,
            parent_known=row.parent == self._tracks.get(row.track) or queries.program_known(self._store, row.parent),
            trials={trial_id: queries.trial(self._store, trial_id) for trial_id in named},
        )

    def _program(self, digest: str) -> bytes | None:
        return self._store.blobs.get(digest) if self._store.blobs.has(digest) else None

    def _move(self, discovery: str, move: Move) -> None:
        self.states[discovery] = advance(self.states[discovery], move)

    def interrupted(self) -> tuple[DiscoveryRow, Comparison] | None:
        """A discovery that this node confirmed as its very last word: it stopped before it decided on adoption.

        None if runs of the program followed the verdict: then the decision was under way or fell as a decline, and
        asking again at each start would be a new chance for luck.
        """
        head = self._author.head("main")
        last = self._store.entry(head.id) if head is not None else None
        if last is None or not isinstance(last.statement.body, Attestation):
            return None
        attestation = last.statement.body
        row = queries.discovery(self._store, attestation.discovery)
        if row is None or attestation.verdict != "confirmed" or attestation.comparison is None:
            return None
        runs = queries.trials(self._store, self._author.id, row.child, attestation.comparison.split)
        if any(run.lamport > attestation.entry.lamport for run in runs):
            return None
        self.states[row.id] = State.CONFIRMED
        return row, attestation.comparison

    def _seeds(self, row: DiscoveryRow, against: str) -> tuple[int, ...]:
        """This node's own: nobody else knows the salt that they come from."""
        return seeds_of(self._salts.current(), row.id.encode(), against.encode())

    def _split(self) -> SplitChoice:
        salt = self._salts.current()
        return SplitChoice(commit(salt), salt)

    def _reveal(self) -> list[Signed]:
        """State the salts that have served their time, so that others can run again what our verdicts rest on."""
        return [self._reveal_one(salt) for salt in self._salts.unrevealed()]

    def _reveal_one(self, salt: bytes) -> Signed:
        subject = hashlib.sha256(salt).hexdigest()
        reveal = self._author.append("main", subject, lambda entry: Reveal(entry=entry, salt=salt.hex()))
        self._salts.mark_revealed(salt)
        self._report(f"revealed the private split {subject[:8]}, which has served its time")
        return reveal

    async def step(self, row: DiscoveryRow, noise: float) -> list[Signed]:
        """Run a queued discovery's comparison here and conclude; the statements to publish."""
        self._move(row.id, Move.START)
        self._report(f"verifying discovery {row.id[:16]} of {row.author[-8:]}, claimed {row.mean:+.4f} bpb")
        try:
            await trio.to_thread.run_sync(self._salts.use)  # a new one is tried on the whole corpus first
            revealed = self._reveal()
            seeds = self._seeds(row, "parent")
            comparing = self._bench.comparing(row.parent, row.child, seeds, self._split(), noise, give_up_early=False)
            compared = await comparing.run()
            verdict, move, reason = _verdict(row, compared)
            attestation = self._author.append(
                "main",
                row.child,
                lambda entry: Attestation(
                    entry=entry, discovery=row.id, verdict=verdict, reason=reason, comparison=compared.comparison
                ),
            )
        except BaseException:
            self._move(row.id, Move.INTERRUPT)
            raise
        self._move(row.id, move)
        self._report(f"{verdict} discovery {row.id[:16]}: {reason}")
        if verdict != "confirmed" or compared.comparison is None:
            return [*revealed, attestation]
        return [*revealed, attestation, *await self.consider(row, compared.comparison, noise)]

    async def consider(self, row: DiscoveryRow, confirmation: Comparison, noise: float) -> list[Signed]:
        """Adopt a confirmed discovery if it beats the incumbent on the same private split."""
        against = None
        if self._adopter.incumbent == row.child:
            self._move(row.id, Move.DECLINE)
            return []
        if self._adopter.incumbent != row.parent:
            seeds, incumbent = self._seeds(row, "incumbent"), self._adopter.incumbent
            comparing = self._bench.comparing(incumbent, row.child, seeds, self._split(), noise, give_up_early=True)
            with_incumbent = await comparing.run()
            if with_incumbent.decision is not Decision.BETTER:
                self._move(row.id, Move.DECLINE)
                self._report(
                    f"declined discovery {row.id[:16]}: against the incumbent, {with_incumbent.decision.value}"
                )
                return []
            against = with_incumbent.comparison
        mean = (against or confirmation).mean
        adoption = self._adopter.adopt(row.child, row.id, f"discovery of {row.author}, {mean:+.4f} bpb here", against)
        self._move(row.id, Move.ADOPT)
        return [adoption]


def _verdict(row: DiscoveryRow, compared: Compared) -> tuple[Verdict, Move, str]:
    """The verdict on a comparison, and its reason in a sentence."""
    shown = compared.comparison
    numbers = "" if shown is None else (
        f"{shown.mean:+.4f} bpb [{shown.low:+.4f}, {shown.high:+.4f}] over {len(shown.seeds)} pairs on a private split"
    )  # fmt: skip
    if compared.failure is not None:
        whose = "child" if compared.failure.program == row.child else "parent"
        reason = f"the {whose}'s run ended as {str(compared.failure).splitlines()[0][:900]}"
        if whose == "child" and compared.failure.status in REFUTING_STATUSES:
            return "refuted", Move.REFUTE, reason
        return "inconclusive", Move.LEAVE_OPEN, reason
    match compared.decision:
        case Decision.BETTER:
            return "confirmed", Move.CONFIRM, numbers
        case Decision.NOT_BETTER:
            return "refuted", Move.REFUTE, numbers
        case _:
            return "inconclusive", Move.LEAVE_OPEN, numbers
