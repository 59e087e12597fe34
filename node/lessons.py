"""Lessons and skills in the ledger: read at the start, checked before a run, stated when they change.

What is decided is in policy/lessons.py and policy/skills.py; here is where statements come from and go to. Lessons are
read from the entries of their kind, the latest READ_MAX; a statement is made when a lesson begins or changes its rung,
so a restart forgets the counts since then.
"""

import hashlib
from collections.abc import Callable

from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed, read_unchecked
from ledger.predicates import PROGRAM_BYTES_MAX
from ledger.predicates import Lesson as LessonStatement
from ledger.predicates import Skill as SkillStatement
from ledger.queries import DiscoveryRow
from ledger.store import Store
from node import story
from node.errors import UserError
from policy.change import Change, change_of
from policy.failures import Outcome
from policy.lessons import Caution, Lesson, Lessons, Refusal
from policy.skills import Checked, Found, Skill, Uses, fingerprint_in, learn, rendered, same_facts, uses_in

READ_MAX = 20_000  # lessons, the latest by Lamport time
DISCOVERIES_MAX = 2_000  # the latest, from which skills are learnt

Standing = Callable[[str], float]
"""What an author's word is worth here, from 0 (a stranger) to 1."""


def strangers(author: str) -> float:
    """The standing of everybody where nothing is known of anybody."""
    return 0.0


def read_lessons(store: Store, track: str, me: str, standing: Standing = strangers) -> Lessons:
    """What the ledger has of lessons in a track; `me` is the peer id whose own they are."""
    sql = """SELECT envelope FROM (SELECT envelope, lamport, id, author FROM entries WHERE kind IN ('lesson', ?)
             ORDER BY lamport DESC, id DESC LIMIT ?)
             WHERE author NOT IN (SELECT author FROM refused WHERE reason = 'equivocation') ORDER BY lamport, id"""
    stated: list[tuple[str, LessonStatement]] = []
    for (envelope,) in store.db.execute(sql, ("urn:waggle:lesson:v1", READ_MAX)):  # checked when they were stored
        signed = read_unchecked(envelope)
        body = signed.statement.body
        if isinstance(body, LessonStatement) and body.track == track:
            stated.append((signed.id, body))
    return Lessons.of(stated, me, standing)


class LessonBook:
    """The lessons and skills of one node in one track."""

    def __init__(self, store: Store, author: Author, track: str, standing: Standing = strangers) -> None:
        self._store, self._author, self._track, self._standing = store, author, track, standing
        self._lessons = read_lessons(store, track, author.id, standing)
        self._changes: dict[tuple[str, str], Change | None] = {}
        self._uses: dict[str, Uses] = {}
        self._stated_skills = own_skills(store, author.id)
        for fingerprint, (_, body) in self._stated_skills.items():
            self._uses[fingerprint] = uses_in(body.text)

    def texts(self) -> tuple[str, ...]:
        """For `Context.lessons`. They hold strangers' words: data, to be quoted."""
        return self._lessons.texts()

    def check(self, parent: bytes, child: bytes, *, own: bool = True) -> Refusal | Caution | None:
        """What the lessons say of a proposal, see `Lessons.check`."""
        return self._lessons.check(parent, child, own=own)

    def observe(self, parent: bytes, child: bytes, outcome: Outcome) -> list[Signed]:
        """Learn from a decided proposal of this node; the statements that were made of it, to be published.

        To be called once for each proposal, also one that the screen refused, and not where the parent's run failed.
        """
        change = change_of(parent, child)
        if change is not None and change.fingerprint in self._stated_skills:
            before = self._uses.get(change.fingerprint, Uses(0, 0))
            self._uses[change.fingerprint] = Uses(before.tried + 1, before.kept + outcome.kept)
        return [self._state(lesson) for lesson in self._lessons.observe(parent, child, outcome)]

    def skills(self, keep_rate: float) -> list[Skill]:
        """What the discoveries of all tracks teach now; `keep_rate` as `policy.skills.learn` has it."""
        return learn_skills(self._store, self._author.id, self._standing, self._uses, keep_rate, self._changes)

    def skill_texts(self, keep_rate: float) -> tuple[str, ...]:
        """For `Context.skills`. They hold strangers' programs: data, to be quoted."""
        return rendered(self.skills(keep_rate))

    def state_skills(self, keep_rate: float) -> list[Signed]:
        """State every skill that is new or says something else than this node last said of it."""
        made: list[Signed] = []
        for skill in self.skills(keep_rate):
            known = self._stated_skills.get(skill.fingerprint)
            if known is None and skill.retired:
                continue  # nobody here has heard of it
            if known is not None and same_facts(known[1].text, skill.text):
                continue
            signed = self._state_skill(skill, None if known is None else known[0])
            body = signed.statement.body
            assert isinstance(body, SkillStatement)
            self._stated_skills[skill.fingerprint] = (signed.id, body)
            made.append(signed)
        return made

    def _state(self, lesson: Lesson) -> Signed:
        signed = self._author.append(
            "main",
            hashlib.sha256(lesson.words.encode()).hexdigest(),
            lambda entry: LessonStatement(
                entry=entry,
                track=self._track,
                fingerprint=lesson.fingerprint,
                failure=lesson.kind,
                rung=lesson.rung.value,
                tried=lesson.tries,
                failed=lesson.failures,
                change=lesson.words,
                replaces=lesson.statement,
                evidence=lesson.evidence,
            ),
        )
        self._lessons.stated(lesson, signed.id)
        return signed

    def _state_skill(self, skill: Skill, replaces: str | None) -> Signed:
        return self._author.append(
            "main",
            hashlib.sha256(skill.text.encode()).hexdigest(),
            lambda entry: SkillStatement(
                entry=entry,
                title=skill.title,
                text=skill.text,
                replaces=replaces,
                retired=bool(skill.retired),
                evidence=skill.evidence,
            ),
        )


def own_skills(store: Store, me: str) -> dict[str, tuple[str, SkillStatement]]:
    """The latest skill statements of an author, by fingerprint: id and body."""
    found: dict[str, tuple[str, SkillStatement]] = {}
    sql = "SELECT envelope FROM entries WHERE author = ? AND kind = 'skill' ORDER BY lamport, id"
    for (envelope,) in store.db.execute(sql, (me,)):
        signed = read_unchecked(envelope)
        body = signed.statement.body
        if isinstance(body, SkillStatement) and (fingerprint := fingerprint_in(body.text)) is not None:
            found[fingerprint] = (signed.id, body)
    return found


def learn_skills(
    store: Store,
    me: str,
    standing: Standing,
    uses: dict[str, Uses],
    keep_rate: float,
    changes: dict[tuple[str, str], Change | None],
) -> list[Skill]:
    """What the latest DISCOVERIES_MAX discoveries teach. `changes` remembers what was compared, by both programs."""
    found: list[Found] = []
    for row in queries.discoveries(store)[-DISCOVERIES_MAX:]:
        if store.is_banned(row.author) or not (row.confirmed or row.author == me):
            continue
        change = _change(store, row, changes)
        if change is not None:
            checks = _checks(store, row, me, standing)
            found.append(
                Found(
                    id=row.id,
                    track=row.track,
                    change=change,
                    patch=_patch(store, row),
                    checks=checks,
                    retracted=row.retracted,
                )
            )
    return learn(found, uses, keep_rate=keep_rate)


def _change(store: Store, row: DiscoveryRow, changes: dict[tuple[str, str], Change | None]) -> Change | None:
    key = (row.parent, row.child)
    if key not in changes:
        sizes = [queries.program_size(store, program) for program in (row.parent, row.child)]
        if None in sizes:
            return None  # it may still arrive
        if any(size is not None and size > PROGRAM_BYTES_MAX for size in sizes):  # a claim can name any blob
            changes[key] = None
            return None
        changes[key] = change_of(store.blobs.get(row.parent), store.blobs.get(row.child))
    return changes[key]


def _checks(store: Store, row: DiscoveryRow, me: str, standing: Standing) -> tuple[Checked, ...]:
    latest = {said.author: said for said in queries.attestations(store, row.id) if said.author != row.author}
    withdrawn = {taken.author for taken in queries.retractions(store, row.id)}
    return tuple(
        Checked(
            id=said.id,
            verdict=said.verdict,
            weight=1.0 if author == me else min(1.0, max(0.0, standing(author))),
            mean=said.mean,
            low=said.low,
            high=said.high,
            hardware=said.hardware,
        )
        for author, said in latest.items()
        if author not in withdrawn and not store.is_banned(author)
    )


def _patch(store: Store, row: DiscoveryRow) -> str:
    try:
        return story.plain_lines(story.program_diff(store, row.parent, row.child))
    except UserError:
        return ""


def trials_of(store: Store, program: str, author: str) -> tuple[str, ...]:
    """Ids of an author's latest trials of a program, at most 8: the evidence of what became of it."""
    sql = """SELECT t.id FROM trials AS t JOIN entries AS e USING (id) WHERE t.program = ? AND t.author = ?
             ORDER BY e.lamport DESC, e.id LIMIT 8"""
    return tuple(row[0] for row in store.db.execute(sql, (program, author)))
