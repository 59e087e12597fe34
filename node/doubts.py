"""What speaks against what was believed: marking it, taking it back, running it again, and going back to sound ground.

The deciding is in policy/retraction.py. Nothing here waits or runs: what is to be run again goes into the verifier's
queue, first of all. What this node built on falls only by its own later runs, or when those cannot tell and others'
words are against it; if those words turn, it is run again.
"""

from collections.abc import Callable, Iterable

from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed
from ledger.predicates import EVIDENCE_MAX, Attestation, Comparison, Retraction
from ledger.queries import arrivals
from ledger.store import Store
from node.adoption import Adopter
from node.courses import Courses
from node.trust import Trust
from policy.intake import TRANSITIONS, Move, State
from policy.priority import LOOKS_MAX, look_again
from policy.quorum import Opinion
from policy.retraction import (
    Consequence,
    Evidence,
    Ground,
    Held,
    Judgement,
    judge,
    last_sound,
    taken_up_again,
    unsound,
)
from policy.standing import Misdeed

# How a discovery comes to be run again; one that is queued, or held back, is to be run anyway.
REOPENING = {
    State.CONFIRMED: Move.REOPEN,
    State.ADOPTED: Move.REOPEN,
    State.DECLINED: Move.REOPEN,
    State.INCONCLUSIVE: Move.REOPEN,
    State.DUPLICATE: Move.RELEASE,
}
NOT_RUN = frozenset({State.WAITING, State.QUEUED, State.QUARANTINED})
REASON_CHARS_MAX = 900  # of a statement's line


class Doubts:
    """The discoveries that this node believes no more, and what follows from that."""

    def __init__(
        self,
        store: Store,
        author: Author,
        adopter: Adopter,
        trust: Trust,
        courses: Courses,
        track: str,
        move: Callable[[str, Move, str], State],
        report: Callable[[str], None],
    ) -> None:
        """`move` makes a discovery's move for the verifier, whose queue may change by it."""
        self._store, self._author, self._adopter = store, author, adopter
        self._trust, self._courses, self._track = trust, courses, track
        self._move, self._report = move, report
        self._roots: dict[str, str] = {}  # overturned or refuted here: id to why
        self._changes = 0  # of the roots
        self._looked_at: tuple[int, str] = (0, "")  # changes, and the last adoption, when the ground was last looked at
        self._ground: tuple[str, frozenset[str]] = ("", frozenset())  # of the last adoption

    def in_doubt(self, discovery: str) -> bool:
        """Whether this node is to run it again before anything else."""
        return self._judgement(discovery).consequence is Consequence.RECHECK

    def _judgement(self, discovery: str) -> Judgement:
        return judge(self._evidence(discovery))

    def _evidence(self, discovery: str) -> Evidence:
        return evidence_of(self._trust, discovery, self._ground[1])

    def _look_at_ground(self) -> frozenset[str]:
        """Note what the incumbent rests on now; the discoveries that it did not rest on before."""
        last, (known, before) = queries.last_adoption(self._store, self._author.id, self._track), self._ground
        if last is None or last.id == known:
            return frozenset()
        self._ground = last.id, built_on(self._store, self._author.id, self._track)
        return self._ground[1] - before

    def reconsider(self, touched: Iterable[str]) -> list[Signed]:
        """Judge again the discoveries of which something new is known; the statements that were made of it."""
        made: list[Signed] = []
        for discovery in dict.fromkeys([*touched, *sorted(self._look_at_ground())]):
            if discovery in self._trust.claims:
                made += self._reconsider(discovery)
        return made

    def _reconsider(self, discovery: str) -> list[Signed]:
        state = self._courses.state(discovery)
        own = self._trust.own_verdicts(discovery)
        judged = self._judgement(discovery)
        if state is None or state is State.REJECTED:
            return []
        ban = self._trust.standing(self._trust.claims[discovery].author).ban
        if ban is not None and ban.misdeed is Misdeed.OWN_RECORDS and not own:
            if state in NOT_RUN:
                said = f"its author is banned: {ban.misdeed.value} ({', '.join(ban.proof)})"
                self._move(discovery, Move.OVERTURN, said)
            return []
        if own and own[-1] == "refuted":
            self._root(discovery, "this node's own runs refute it")
        if judged.consequence is Consequence.OVERTURNED and state is not State.VERIFYING:
            self._root(discovery, judged.reason)
            if (state, Move.OVERTURN) in TRANSITIONS:
                self._move(discovery, Move.OVERTURN, judged.reason)
                self._report(f"overturned discovery {discovery[:16]}: {judged.reason}")
            return self._take_back(discovery, judged)
        if state is State.OVERTURNED and taken_up_again(self._evidence(discovery)):
            self._unroot(discovery)
            self._move(discovery, Move.REOPEN, "what spoke against it does so no more")
        elif state is State.OVERTURNED:
            self._root(discovery, self._courses.reason(discovery))
        elif own and own[-1] == "confirmed":
            self._unroot(discovery)  # run again at its owner's wish, it holds after all
        again = REOPENING.get(self._courses.state(discovery) or State.RECEIVED)
        if judged.consequence is Consequence.RECHECK and again is not None:
            if state is State.CONFIRMED:
                self._move(discovery, Move.DECLINE, "it is in doubt before it was adopted")
            self._move(discovery, again, judged.reason)
        elif state is State.WITHHELD:
            if self._trust.tally(discovery).opinion is Opinion.CONFIRMS:
                self._move(discovery, Move.VOUCH, "a quorum of trusted peers confirms it, as this node's own runs did")
        elif state is State.INCONCLUSIVE and look_again(self._trust.tally(discovery), len(own)):
            self._move(discovery, Move.REOPEN, f"trusted peers confirm it: look {len(own) + 1} of {LOOKS_MAX}")
        return []

    def _root(self, discovery: str, why: str) -> None:
        """Mark a discovery: nothing that rests on it is built on. Its descendants are still run against their parents,
        since a change may help without what it was found on (policy/following.py)."""
        if discovery not in self._roots:
            self._roots[discovery] = why
            self._changes += 1

    def _unroot(self, discovery: str) -> None:
        if self._roots.pop(discovery, None) is not None:
            self._changes += 1

    def _take_back(self, discovery: str, judged: Judgement) -> list[Signed]:
        """A retraction, where this node had claimed or confirmed what is overturned, and not taken it back yet."""
        claim, own = self._trust.claims[discovery], self._trust.own_verdicts(discovery)
        mine = claim.author == self._author.id
        # Of one's own, inconclusive runs take nothing back: that others' words count more is no reason to say so.
        if "confirmed" not in own or (mine and own[-1] != "refuted"):
            return []
        if self._trust.taken_back(discovery, self._author.id) is not None:
            return []
        last = self._trust.own(discovery)
        named = [row.id for row in last[-1:]]
        if (back := self._trust.retracted(discovery)) is not None:
            named.append(back.id)
        if Ground.QUORUM in judged.grounds:
            refuting = [voice.author for voice in self._trust.voices(discovery) if voice.weight > 0]
            named += [row.id for row in self._trust.said(discovery) if row.author in refuting]
        signed = self._author.append(
            "main",
            claim.child,
            lambda entry: Retraction(
                entry=entry,
                discovery=discovery,
                reason=judged.reason[:REASON_CHARS_MAX],
                comparison=self._comparison(discovery) if own[-1] == "refuted" else None,
                evidence=tuple(dict.fromkeys(named))[:EVIDENCE_MAX],
            ),
        )
        self._report(f"took back discovery {discovery[:16]}: {judged.reason}")
        return [signed]

    def _comparison(self, discovery: str) -> Comparison | None:
        own = self._trust.own(discovery)
        signed = self._store.entry(own[-1].id) if own else None
        body = None if signed is None else signed.statement.body
        return body.comparison if isinstance(body, Attestation) else None

    def ground(self) -> list[Signed]:
        """Go back to the last sound program, if the incumbent rests on something overturned. For an idle moment."""
        last = queries.last_adoption(self._store, self._author.id, self._track)
        if last is None or self._looked_at == (self._changes, last.id):
            return []
        self._looked_at = (self._changes, last.id)
        if not self._roots:
            return []
        marked = {root: root for root in self._roots}
        fallen = unsound(self._held(last.program, last.discovery), marked)
        if fallen is None:
            return []
        sound = last_sound(
            [
                self._held(one.program, one.discovery)
                for one in arrivals.own_adoptions(self._store, self._author.id, self._track)
                if self._store.blobs.has(one.program)
            ],
            marked,
        )
        if sound.program == last.program:
            return []  # it is held by another, sound discovery as well
        reason = f"back to the last sound program: discovery {fallen[:16]} is believed no more ({self._roots[fallen]})"
        return [self._adopter.adopt(sound.program, sound.discovery, reason[:REASON_CHARS_MAX], None)]

    def rests_on(self, discovery: str) -> str | None:
        """The discovery, believed no more, that this one rests on; None if there is none."""
        return next((one for one in self._chain(discovery) if one in self._roots), None)

    def _held(self, program: str, discovery: str | None) -> Held:
        return Held(program, discovery, () if discovery is None else self._chain(discovery))

    def _chain(self, discovery: str) -> tuple[str, ...]:
        return tuple(row.id for row in queries.ancestors(self._store, discovery))


def built_on(store: Store, me: str, track: str) -> frozenset[str]:
    """The discoveries that a node's incumbent rests on, by id."""
    last = queries.last_adoption(store, me, track)
    if last is None or last.discovery is None:
        return frozenset()
    return frozenset(row.id for row in queries.ancestors(store, last.discovery))


def evidence_of(trust: Trust, discovery: str, ground: frozenset[str]) -> Evidence:
    """What is known of one discovery now. `ground`: what the incumbent rests on, see `built_on`."""
    claim, own = trust.claims[discovery], trust.own_verdicts(discovery)
    ban = trust.standing(claim.author).ban
    return Evidence(
        own=own[-1] if own else None,
        own_earlier=own[-2] if len(own) > 1 else None,
        looks=len(own),
        built_on=discovery in ground,
        opinion=trust.tally(discovery).opinion,
        retracted=trust.retracted(discovery) is not None,
        equivocated=ban is not None and ban.misdeed is Misdeed.EQUIVOCATION,
    )
