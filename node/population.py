"""The population of a node in one track: confirmed programs to go on from, to cross with, and to carry over.

What is decided is in policy/archive.py and policy/transfer.py; here is what the ledger says. Into the archive comes
what this node found, and what its own runs confirmed of others' discoveries; others' verdicts, by their standing, close
gaps in a chain, no more.

It is asked before every proposal, in the node's own thread. So it is read as the ledger grows (verdicts.py), and what
costs a reading of a program is done for a few programs each time, the latest first.
"""

import random
from collections.abc import Callable, Iterator, Sequence

from ledger import queries
from ledger.envelope import read_unchecked
from ledger.predicates import PROGRAM_BYTES_MAX, Adoption, Attestation, Comparison, Discovery
from ledger.queries import DiscoveryRow
from ledger.store import Store
from node.lessons import Standing, strangers
from node.transfers import attempt_of, effect_of
from node.verdicts import Judged, Verdicts
from policy.archive import Archive, Cell, Draw, Link, Traits
from policy.change import change_of
from policy.effects import Effects
from policy.plateau import Plateau
from policy.transfer import Found, ToTry, to_try
from trainer.proposers.constants import constants_of
from trainer.proposers.proposal import ProposerError, Relative, Transfer, parse

ADOPTIONS_MAX = 2_000  # own ones, the latest
RELATIVES_MAX = 8
TRANSFERS_FIRST = 8  # given at each proposal; of the rest as many in turn, so that what does not merge blocks nothing
TRANSFERS_READ_MAX = 256
ATTEMPTS_MAX = 1_000  # into this track, the latest
CELLS_AT_ONCE = 2  # each reads a program, some milliseconds
CHANGES_AT_ONCE = 1  # each compares two programs, some tens of milliseconds
OTHERS_WEIGHT_MAX = 0.99  # of a verdict that is not this node's own


class Population:
    """Confirmed programs of one track, as one node sees them. Everything is bounded and read from the ledger."""

    def __init__(
        self,
        store: Store,
        me: str,
        track: str,
        baseline: str,
        *,
        standing: Standing = strangers,
        effects: Callable[[], Effects] = Effects,
    ) -> None:
        """`me`: this node's peer id. `baseline`: the track's, SHA-256. `standing`: what an author's word is worth here.

        `effects`: the distribution of effects that the search has learnt.
        """
        self._store, self._me, self._track, self._baseline = store, me, track, baseline
        self._standing, self._effects = standing, effects
        self._verdicts = Verdicts(store, me)
        self._archive = Archive(baseline, (), {})
        self._stale = False
        self._unread: list[str] = []  # confirmed programs whose cells are not known, the next one last
        self._turn = 0
        self._comparisons: dict[str, Comparison | None] = {}  # by entry id; what is signed does not change
        self._cells: dict[str, Cell] = {}  # by program
        self._changes: dict[tuple[str, str], str] = {}

    @property
    def archive(self) -> Archive:
        """Levels and elites now."""
        news = self._verdicts.update()
        if news or self._stale:
            links = list(self._links())
            own = dict.fromkeys([*(link.child for link in links if link.weight == 1), self._baseline])
            if news:
                self._unread = [program for program in own if program not in self._cells]
            self._archive = Archive(self._baseline, links, self._cells, self._effects())
            self._stale = False
        return self._archive

    def parent_for_next(self, incumbent: str, rng: random.Random, plateau: Plateau | None = None) -> Draw:
        """Which program is to be changed next, if the node builds on `incumbent` (SHA-256); its text is here.

        Mostly the incumbent; see `Archive.draw`. Whatever it is, the candidate is to be compared with the incumbent.
        `plateau`: the last suggestion since a keep, if any. After a start the archive has more elites at each call.
        """
        self._read_cells()
        drawn = self.archive.draw(incumbent, rng, plateau)
        return drawn if self._text(drawn.parent) is not None else Draw(incumbent, incumbent, "the incumbent")

    def relatives_of(self, parent: str) -> tuple[Relative, ...]:
        """Programs to cross with `parent` (SHA-256), at most RELATIVES_MAX, the largest gain first."""
        found = []
        for elite, ancestor, effect in self.archive.relatives(parent, 2 * RELATIVES_MAX):
            texts = self._text(elite.program), self._text(ancestor)
            if texts[0] is not None and texts[1] is not None:
                found.append(Relative(program=texts[0], ancestor=texts[1], effect=effect))
        return tuple(found[:RELATIVES_MAX])

    def has_relatives(self, incumbent: str) -> bool:
        """Whether there is a program to cross the incumbent with: for `Watch.judge`."""
        return bool(self.archive.relatives(incumbent, 1))

    def has_lineages(self, incumbent: str) -> bool:
        """Whether there is a confirmed program on which the incumbent is not built: for `Watch.judge`."""
        return bool(self.archive.other_lineages(incumbent))

    def transfers_to_try(self) -> tuple[Transfer, ...]:
        """Discoveries of other tracks to be tried in this one, with their texts, the most promising first.

        For `Context.transfers`; the proposer `Transfers` makes proposals of them.
        """
        self._verdicts.update()
        known = self._verdicts.all()
        if all(one.row.track == self._track for one in known):
            return ()
        sources = _sources(self._store)
        confirmed = {one.row.id: found for one in known if (found := self._found(one, sources)) is not None}
        if not self._unread:  # one thing at a time
            self._read_changes([one.row for one in known if one.row.id in confirmed])
        rows = queries.transfers(self._store, track=self._track, limit=ATTEMPTS_MAX)
        tried = [attempt_of(row, row.fate, self._weight_of(row.author)) for row in rows]
        order = to_try(
            list(confirmed.values()), tried, self._track, self._me, origins=sources, limit=TRANSFERS_READ_MAX
        )
        rest = order[TRANSFERS_FIRST:]
        at = self._turn % len(rest) if rest else 0
        self._turn += TRANSFERS_FIRST
        chosen = [*order[:TRANSFERS_FIRST], *(rest[at:] + rest[:at])[:TRANSFERS_FIRST]]
        return tuple(made for one in chosen if (made := self._transfer(one)) is not None)

    def _transfer(self, one: ToTry) -> Transfer | None:
        """With its texts; None while one of them has not arrived."""
        said = self._verdicts.get(one.source)
        assert said is not None, "what is to be tried was read"
        row = said.row
        texts = self._text(row.parent), self._text(row.child)
        if texts[0] is None or texts[1] is None:
            return None
        sql = """SELECT operator FROM claims JOIN entries AS e USING (id)
                 WHERE program = ? AND claims.author = ? AND track = ? ORDER BY e.lamport DESC LIMIT 1"""
        claim = self._store.db.execute(sql, (row.child, row.author, row.track)).fetchone()
        return Transfer(
            source=row.id,
            track=row.track,
            operator="" if claim is None else str(claim[0]),
            ancestor=texts[0],
            program=texts[1],
            effect=one.effect,
        )

    def _links(self) -> Iterator[Link]:
        """Comparisons in this track that count, in causal order."""
        for row, said in self._verdicts.all():
            if row.track != self._track:
                continue
            own = said.get(self._me)
            if row.author == self._me or own is not None:  # whatever others say
                if own is None or own.verdict == "confirmed":
                    yield from self._link(row.id if own is None else own.id, row.parent, row.child)
                continue
            believed = [(self._weight(author), one) for author, one in said.items() if one.verdict == "confirmed"]
            weight, best = max(believed, key=lambda pair: (pair[0], pair[1].id), default=(0.0, None))
            if best is not None and weight > 0 and best.mean is not None:
                assert best.low is not None, "an effect has its interval"
                assert best.high is not None, "an effect has its interval"
                yield Link(
                    parent=row.parent, child=row.child, mean=best.mean, low=best.low, high=best.high, noise=0.0,
                    weight=weight,
                )  # fmt: skip
        yield from self._adoptions()

    def _link(self, entry: str, parent: str, child: str, *, lineage: bool = True) -> Iterator[Link]:
        """By a comparison that this node made and stated in an entry."""
        shown = self._comparison(entry)
        if shown is not None:
            yield Link(
                parent=parent, child=child, mean=shown.mean, low=shown.low, high=shown.high, noise=shown.noise,
                lineage=lineage,
            )  # fmt: skip

    def _adoptions(self) -> Iterator[Link]:
        """Comparisons with the incumbent of then. They count for levels only: neither was made from the other."""
        sql = """SELECT a.id, a.previous, a.program FROM adoptions AS a JOIN entries AS e USING (id)
                 WHERE a.author = ? AND a.track = ? AND a.previous IS NOT NULL ORDER BY e.lamport DESC LIMIT ?"""
        for entry, previous, program in self._store.db.execute(sql, (self._me, self._track, ADOPTIONS_MAX)):
            yield from self._link(entry, previous, program, lineage=False)

    def _comparison(self, entry: str) -> Comparison | None:
        if entry not in self._comparisons:
            sql = "SELECT envelope FROM entries WHERE id = ?"  # checked when it was stored
            body = read_unchecked(self._store.db.execute(sql, (entry,)).fetchone()[0]).statement.body
            found = body.comparison if isinstance(body, Discovery | Attestation | Adoption) else None
            self._comparisons[entry] = found
        return self._comparisons[entry]

    def _weight_of(self, author: str) -> float:
        return 1.0 if author == self._me else self._weight(author)

    def _weight(self, author: str) -> float:
        return min(OTHERS_WEIGHT_MAX, max(0.0, self._standing(author)))

    def _read_cells(self) -> None:
        """Cells of a few more programs. One whose run or text may still come is tried again when there is news."""
        read = 0
        while self._unread and read < CELLS_AT_ONCE:
            program = self._unread.pop()
            traits = self._traits(program)
            if traits is not None:
                self._cells[program] = traits.cell()
                self._stale = True
                read += 1

    def _traits(self, program: str) -> Traits | None:
        """By the first own run that ended well; None without one, or without a text that can be read."""
        text = self._text(program)
        sql = """SELECT e.id FROM entries AS e CROSS JOIN trial_results AS t ON t.entry = e.number
                 WHERE e.subject = ? AND t.track = ? AND t.status = 'ok' AND +e.author = ? ORDER BY e.number LIMIT 1"""
        run = self._store.db.execute(sql, (program, self._track, self._me)).fetchone()
        known = None if text is None or run is None else queries.trial(self._store, run[0])
        if text is None or known is None:
            return None
        try:
            tree = parse(text)
        except ProposerError:
            return None
        result = known[1].result
        return Traits(
            weights_bytes=result.weights_bytes,
            wall_per_budget=result.wall_s / max(result.budget_used_s, 1e-3),
            lines=result.program_lines,
            knobs=len(constants_of(tree)),
        )

    def _text(self, program: str) -> str | None:
        size = queries.program_size(self._store, program)
        if size is None or size > PROGRAM_BYTES_MAX:  # a claim can name any blob
            return None
        try:
            return self._store.blobs.get(program).decode()
        except UnicodeDecodeError:
            return None

    def _found(self, one: Judged, sources: dict[str, tuple[str, str]]) -> Found | None:
        """A discovery that can be tried elsewhere, or stands in the way of that; None where nobody confirmed it."""
        row, said = one
        own = said.get(self._me)
        mine = row.author == self._me or (own is not None and own.verdict == "confirmed")
        if not mine and (own is not None or row.track == self._track):
            return None  # refuted here, or still to be verified here
        confirming = [author for author, word in said.items() if word.verdict == "confirmed"]
        if not mine and not confirming:
            return None
        return Found(
            id=row.id,
            track=row.track,
            source=sources.get(row.id, ("", ""))[0],
            change=self._changes.get((row.parent, row.child), ""),
            effect=effect_of(one, self._me),
            weight=1.0 if mine else min(OTHERS_WEIGHT_MAX, sum(map(self._weight, confirming))),
        )

    def _read_changes(self, rows: Sequence[DiscoveryRow]) -> None:
        """Fingerprints of what a few more discoveries change, the latest first."""
        left = CHANGES_AT_ONCE
        for row in reversed(rows):
            key = row.parent, row.child
            texts = (None, None) if key in self._changes else (self._text(row.parent), self._text(row.child))
            if texts[0] is None or texts[1] is None:
                continue
            if left == 0:
                return
            change = change_of(texts[0].encode(), texts[1].encode())
            self._changes[key] = "" if change is None else change.fingerprint
            left -= 1


def _sources(store: Store) -> dict[str, tuple[str, str]]:
    """Source and track of each discovery that has a source, or is one, as claimed."""
    sql = """SELECT id, coalesce(source, ''), track FROM discoveries WHERE source IS NOT NULL
             UNION SELECT s.id, coalesce(s.source, ''), s.track FROM discoveries AS d
                 JOIN discoveries AS s ON s.id = d.source WHERE d.source IS NOT NULL"""
    return {row[0]: (row[1], row[2]) for row in store.db.execute(sql)}
