"""What authors' words are worth here, as the ledger shows it: this node's own verdicts beside what others said.

The deciding is in policy/standing.py and policy/quorum.py. This reads the statements once, keeps what it needs in
memory, and goes on from the last entry that it has seen; so it is the same after a restart. Another's verdict counts as
a word only if it was here before this node's own on the same discovery: repeating a published one is free. A node that
lost its ledger and fetched it back has its entries in another order of arrival; there the Lamport times must agree too.
"""

from collections.abc import Callable, Mapping

from ledger.predicates import Verdict
from ledger.queries import arrivals
from ledger.queries.arrivals import ClaimRow, TakenBack, VerdictRow
from ledger.store import Store
from policy.quorum import Tally, Voice, belief_of, tally, voice_strength
from policy.standing import STRANGER, Ban, Interval, Kind, Misdeed, Standing, Word, judge_claim, judge_verdict

GAIN_LEAST = 1e-6  # bits per byte: a verified gain is positive, whatever was measured


def no_bans() -> Mapping[str, Ban]:
    return {}


class Trust:
    """Claims, words about them, and what their authors' words weigh."""

    def __init__(self, store: Store, me: str, bans: Callable[[], Mapping[str, Ban]] = no_bans) -> None:
        """`bans`: those that are not by two histories, which the ledger itself shows."""
        self._store, self.me, self._bans_noted = store, me, bans
        self.claims: dict[str, ClaimRow] = {}  # by id, in order of arrival
        self.gains: list[float] = []  # that this node's own runs confirmed, bits per byte
        self._standings: dict[str, Standing] = {}
        self._weights: dict[str, tuple[float, float, float]] = {}  # of `Kind`, cached
        self._said: dict[str, dict[str, VerdictRow]] = {}  # by discovery: each other author's last verdict
        self._own: dict[str, list[VerdictRow]] = {}  # by discovery: this node's verdicts, oldest first
        self._taken_back: dict[str, dict[str, TakenBack]] = {}  # by discovery and author
        self._judged: set[str] = set()  # ids of own verdicts that have been counted
        self._early: dict[str, VerdictRow] = {}  # own verdicts whose discovery is not here, by id
        self._spoken: dict[str, set[str]] = {}  # by other author: the discoveries on which it gave a verdict
        self._changed: set[str] = set()  # authors whose weight has, since the last `refresh`
        self._banned: dict[str, Ban] = {}
        self._seen = self._refused = 0
        self.words: list[Word] = []  # of others, in the order in which this node judged them

    def refresh(self) -> tuple[list[ClaimRow], set[str]]:
        """Read on: claims that are new, and discoveries of which something new is known.

        Where an author's weight has changed, these are all of which it has spoken.
        """
        newest, refused, start = arrivals.newest(self._store), arrivals.refused(self._store), self._seen
        again: set[str] = set()
        if refused != self._refused:  # entries were removed: what they said is said no more, and their numbers are free
            self._refused, start = refused, 0
            again = {*self._said, *self._taken_back}
            self._said, self._taken_back, self._spoken = {}, {}, {}
        new = [claim for claim in arrivals.claims_since(self._store, start) if claim.id not in self.claims]
        self.claims.update((claim.id, claim) for claim in new)
        touched = again | {claim.id for claim in new if claim.id in self._said or claim.id in self._taken_back}
        for back in arrivals.taken_back_since(self._store, start):
            by_author = self._taken_back.setdefault(back.discovery, {})
            known = by_author.get(back.author)
            if known is None or (known.lamport, known.number) < (back.lamport, back.number):
                by_author[back.author] = back
                touched.add(back.discovery)
        for row in list(self._early.values()):
            self._judge(row)
        for row in arrivals.verdicts_since(self._store, start):  # one after the other: who spoke first matters
            if row.author != self.me:
                if self._hear(row):
                    touched.add(row.discovery)
            elif row.id not in self._judged and row.id not in self._early:
                mine = self._own.setdefault(row.discovery, [])
                mine.append(row)
                mine.sort(key=lambda one: (one.lamport, one.id))
                touched.add(row.discovery)
                self._judge(row)
        self._seen = newest
        if banned := self.read_bans():
            touched |= {claim.id for claim in self.claims.values() if claim.author in banned}
        for author in self._changed:
            touched |= self._spoken.get(author, set())
        self._changed.clear()
        return new, touched

    def _hear(self, row: VerdictRow) -> bool:
        """Take another's verdict in; whether it is new."""
        said = self._said.setdefault(row.discovery, {})
        known = said.get(row.author)
        if known is not None and (known.id == row.id or (known.lamport, known.number) > (row.lamport, row.number)):
            return False
        said[row.author] = row
        self._spoken.setdefault(row.author, set()).add(row.discovery)
        return True

    def read_bans(self) -> set[str]:
        """Take in who is banned by now; the authors whose ban is new."""
        bans = {
            author: Ban(Misdeed.EQUIVOCATION, proof) for author, proof in arrivals.equivocations(self._store).items()
        }
        bans = {**self._bans_noted(), **bans}
        new = bans.keys() - self._banned.keys()
        for author in new:
            self._set(author, self.standing(author).banned(bans[author]))
        self._banned = bans
        return set(new)

    def _judge(self, ours: VerdictRow) -> None:
        """What an own verdict says about the words of others that it was made about."""
        claim = self.claims.get(ours.discovery)
        if claim is None:
            self._early[ours.id] = ours
            return
        self._early.pop(ours.id, None)
        self._judged.add(ours.id)
        interval = None if ours.low is None or ours.high is None else Interval(ours.low, ours.high)
        outcome = judge_claim(ours.verdict, interval, Interval(claim.low, claim.high))
        if outcome is not None and claim.author != self.me:
            self._learn(Word(claim.author, Kind.CLAIM, outcome))
        if ours.verdict == "confirmed" and ours.mean is not None:
            self.gains.append(max(-ours.mean, GAIN_LEAST))
        before = [
            theirs
            for theirs in self._said.get(ours.discovery, {}).values()
            if theirs.number < ours.number and theirs.lamport <= ours.lamport and theirs.author != claim.author
        ]
        for theirs in sorted(before, key=lambda row: row.number):
            judged = judge_verdict(theirs.verdict, ours.verdict)
            if judged is not None:
                self._learn(Word(theirs.author, *judged))

    def _learn(self, word: Word) -> None:
        self.words.append(word)
        self._set(word.author, self.standing(word.author).after(word.kind, word.outcome))

    def _set(self, author: str, standing: Standing) -> None:
        self._standings[author] = standing
        first, second, third = (standing.weight(kind) for kind in Kind)
        self._weights[author] = (first, second, third)
        self._changed.add(author)

    # Authors

    def standing(self, author: str) -> Standing:
        """Of whom nothing was run again here, `STRANGER`."""
        return self._standings.get(author, STRANGER)

    def weight(self, author: str, kind: Kind) -> float:
        """Between 0 and 1; 0 for strangers and banned authors."""
        return self._weights.get(author, (0.0, 0.0, 0.0))[kind.value]

    def word(self, author: str) -> float:
        """What an author's word that something *is* so weighs: the better of its claims and its confirmations.

        Refutations are left out: where most claims fail, refuting all of them is right most of the time.
        """
        return max(self.weight(author, Kind.CLAIM), self.weight(author, Kind.CONFIRM))

    def verdict_weights(self) -> dict[str, float]:
        """Everybody whose verdicts weigh something, for the gate's rule about contradiction."""
        kinds = (Kind.CONFIRM, Kind.REFUTE)
        found = {author: max(self.weight(author, kind) for kind in kinds) for author in self._weights}
        return {author: weight for author, weight in found.items() if weight > 0}

    # Discoveries

    @property
    def verdicts_given(self) -> int:
        """By this node, on discoveries that are here."""
        return len(self._judged)

    def own(self, discovery: str) -> list[VerdictRow]:
        """This node's verdicts on it, oldest first."""
        return self._own.get(discovery, [])

    def own_verdicts(self, discovery: str) -> list[Verdict]:
        """As `own`, where to have claimed it oneself is a confirmation: it is by own runs too."""
        claim = self.claims.get(discovery)
        claimed: list[Verdict] = ["confirmed"] if claim is not None and claim.author == self.me else []
        return [*claimed, *(row.verdict for row in self.own(discovery))]

    def said(self, discovery: str) -> list[VerdictRow]:
        """The last verdict of each other author that it has not taken back since."""
        back = self._taken_back.get(discovery, {})
        return [
            row
            for row in self._said.get(discovery, {}).values()
            if row.author not in back or back[row.author].lamport < row.lamport
        ]

    def taken_back(self, discovery: str, author: str) -> TakenBack | None:
        """The author's retraction of it, if there is one."""
        return self._taken_back.get(discovery, {}).get(author)

    def retracted(self, discovery: str) -> TakenBack | None:
        """The retraction by its own author, if there is one."""
        claim = self.claims.get(discovery)
        return None if claim is None else self.taken_back(discovery, claim.author)

    def voices(self, discovery: str) -> list[Voice]:
        """The verdicts of others, weighted."""
        found = []
        for row in self.said(discovery):
            confirming, refuting = self.weight(row.author, Kind.CONFIRM), self.weight(row.author, Kind.REFUTE)
            weights = {"confirmed": confirming, "refuted": refuting, "inconclusive": max(confirming, refuting)}
            found.append(Voice(row.author, row.verdict, weights[row.verdict]))
        return found

    def tally(self, discovery: str) -> Tally:
        return tally(self.voices(discovery), claimant=self.claims[discovery].author)

    def belief(self, claim: ClaimRow) -> float:
        """How far a claim is trusted before this node has run it, between 0 and 1."""
        weight = self.weight(claim.author, Kind.CLAIM)
        if claim.id not in self._said:
            return weight
        return belief_of(weight, self.voices(claim.id), claimant=claim.author)

    def refuting(self, claim: ClaimRow) -> float:
        """The strength of all who refute it, as `policy.priority.promise` takes it."""
        if claim.id not in self._said:
            return 0.0
        against = [voice for voice in self.voices(claim.id) if voice.verdict == "refuted"]
        return sum(float(voice_strength(voice.weight)) for voice in against if voice.author != claim.author)
