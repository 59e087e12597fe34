"""`waggle why`, `waggle verify`, `waggle adopt`: one discovery at this node, and the owner's word on it."""

from pathlib import Path

import click
from msgspec import Struct

from ledger import queries
from ledger.envelope import peer_id
from ledger.errors import UnknownId
from ledger.predicates import Attestation, Comparison, Discovery
from ledger.queries import arrivals
from ledger.queries.arrivals import ClaimRow, VerdictRow
from ledger.store import Store, readable
from node import status, story
from node.asking import Folder, Wish
from node.courses import OF_VERDICTS, Courses, Dated
from node.doubts import built_on, evidence_of
from node.errors import UserError
from node.home import Home
from node.options import echo_json, home_option, json_option
from node.trust import Trust
from policy.intake import Course, Move, State, Step
from policy.quorum import Tally
from policy.retraction import judge
from policy.standing import Kind
from policy.why import Account, explain

id_argument = click.argument("entry_id", metavar="ID")


class OwnEvidence(Struct, frozen=True, kw_only=True):
    """What this node measured of it: its claim, where it is its own, and each of its verdicts."""

    verdict: str
    reason: str
    split: str | None
    pairs: int
    mean: float | None  # bits per byte, child - parent; negative is better
    low: float | None  # 95 % interval
    high: float | None
    e_value: float | None  # against "no better"; 40 is what confirms a claim


class AuthorWorth(Struct, frozen=True, kw_only=True):
    """What the author's words weigh here, from 0 to 1."""

    author: str
    own: bool
    claims: float
    confirmations: float
    refutations: float
    checked: int  # of its words, run again here
    banned: str | None


class Then(Struct, frozen=True, kw_only=True):
    """What this node did about it afterwards."""

    entry: str
    what: str
    reason: str


class Why(Struct, frozen=True, kw_only=True):
    """How one discovery came to be where it is."""

    discovery: str
    hypothesis: str
    parent: str
    child: str
    claimed: Comparison
    state: str
    steps: tuple[Dated, ...]
    author: AuthorWorth
    voices: Tally
    evidence: tuple[OwnEvidence, ...]
    then: tuple[Then, ...]
    words: tuple[str, ...]  # all of it in sentences


def trusted(home: Home, store: Store, me: str) -> Trust:
    """What authors' words are worth to a home's node by now."""
    courses = Courses(home.courses_file) if home.courses_file.exists() else Courses()
    trust = Trust(store, me, courses.bans)
    trust.refresh()
    return trust


def why(home: Home, store: Store, trust: Trust, courses: Courses, claim: ClaimRow) -> Why:
    """All that a node knows of a discovery's standing with it. Raises `UnknownId` if its entry is gone."""
    signed = store.entry(claim.id)
    if signed is None or not isinstance(signed.statement.body, Discovery):
        raise UnknownId(f"{claim.id} is no discovery of this ledger; see `ledger log --kind discovery`")
    body, own = signed.statement.body, claim.author == trust.me
    steps = courses.steps(claim.id) or [Dated("", step) for step in _by_ledger(trust, claim)]
    standing, voices = trust.standing(claim.author), trust.tally(claim.id)
    running = status.read(home.status_file) if home.is_locked() else None
    account = Account(
        author="this node itself" if own else story.short(claim.author),
        course=Course(tuple(dated.step for dated in steps)),
        standing=standing,
        voices=voices,
        silent=sum(voice.weight == 0 for voice in trust.voices(claim.id)),
        judgement=judge(evidence_of(trust, claim.id, built_on(store, trust.me, claim.track))),
        next_turn="" if running is None else running.next_turn,
    )
    evidence = [_evidence("claimed", "its own runs", body.comparison)] if own else []
    evidence += [_verdict(store, row) for row in trust.own(claim.id)]
    then = tuple(_then(store, trust, claim))
    shown = body.comparison
    lines = [
        f"Claimed: {story.bpb(shown.mean, shown.low, shown.high)} over {len(shown.seeds)} pairs, by changing "
        f"{claim.parent[:8]} to {claim.child[:8]} (bits per byte, below 0 is better): {body.hypothesis}"
    ]
    said = explain(account)
    lines += [line for line in said if not (own and line.startswith("Its author"))]
    if not steps and running is not None and running.track not in ("", claim.track):
        lines.append(f"It is of track {claim.track}; this node works in {running.track}, and leaves it to others.")
    lines += [f"Measured here: {_measured(one)}" for one in evidence]
    lines += [f"Then: {one.what} ({one.entry[: story.ID_SHOWN]}): {one.reason}" for one in then]
    return Why(
        discovery=claim.id,
        hypothesis=body.hypothesis,
        parent=claim.parent,
        child=claim.child,
        claimed=shown,
        state=account.course.state.value,
        steps=tuple(steps),
        author=AuthorWorth(
            author=claim.author,
            own=own,
            claims=standing.weight(Kind.CLAIM),
            confirmations=standing.weight(Kind.CONFIRM),
            refutations=standing.weight(Kind.REFUTE),
            checked=standing.checked,
            banned=None if standing.ban is None else standing.ban.misdeed.value,
        ),
        voices=voices,
        evidence=tuple(evidence),
        then=then,
        words=tuple(lines),
    )


def _by_ledger(trust: Trust, claim: ClaimRow) -> list[Step]:
    """What the ledger alone tells of its way, where this home has noted nothing."""
    if claim.author == trust.me:
        return [Step(Move.ADOPT, State.ADOPTED, f"this node found it itself: {claim.hypothesis}")]
    return [Step(*OF_VERDICTS[row.verdict], row.reason) for row in trust.own(claim.id)]


def _evidence(verdict: str, reason: str, shown: Comparison | None) -> OwnEvidence:
    return OwnEvidence(
        verdict=verdict,
        reason=reason,
        split=None if shown is None else shown.split,
        pairs=0 if shown is None else len(shown.seeds),
        mean=None if shown is None else shown.mean,
        low=None if shown is None else shown.low,
        high=None if shown is None else shown.high,
        e_value=None if shown is None or shown.p_value == 0 else 1 / shown.p_value,
    )


def _verdict(store: Store, row: VerdictRow) -> OwnEvidence:
    signed = store.entry(row.id)
    body = None if signed is None else signed.statement.body
    return _evidence(row.verdict, row.reason, body.comparison if isinstance(body, Attestation) else None)


def _measured(one: OwnEvidence) -> str:
    if one.mean is None:
        return f"{one.verdict}: {one.reason}"
    split = "the public split" if one.split == "public" else "a private split"
    e_value = "" if one.e_value is None else f", e-value {one.e_value:.3g} against no gain"
    return f"{one.verdict}, {story.bpb(one.mean, one.low, one.high)} over {one.pairs} pairs on {split}{e_value}"


def _then(store: Store, trust: Trust, claim: ClaimRow) -> list[Then]:
    """This node's adoption of it, what it built on afterwards instead, and its retraction."""
    adopted = arrivals.own_adoptions(store, trust.me, claim.track)
    found = []
    for number, one in enumerate(adopted):
        if one.discovery == claim.id:
            found.append(Then(entry=one.id, what="adopted", reason=one.reason))
            if number + 1 < len(adopted):
                following = adopted[number + 1]
                what = f"the node went on to {following.program[:8]}"
                found.append(Then(entry=following.id, what=what, reason=following.reason))
    if (back := trust.taken_back(claim.id, trust.me)) is not None:
        found.append(Then(entry=back.id, what="taken back by this node", reason=back.reason))
    return found


@click.command("why")
@id_argument
@home_option
@json_option
def why_command(entry_id: str, home_path: Path, as_json: bool) -> None:
    """How a discovery came to be where it is at this node: every step with its reason.

    An ID is 8 or more characters of a discovery's id or of its program's SHA-256. Works while a node is running.
    """
    home = Home(home_path)
    challenge = home.challenge()
    with readable(home.ledger_file):
        store = home.store(challenge)
        try:
            me = peer_id(home.key().public_key())
            courses = Courses(home.courses_file) if home.courses_file.exists() else Courses()
            trust = Trust(store, me, courses.bans)
            trust.refresh()
            found = [why(home, store, trust, courses, claim) for claim in _named(store, trust, entry_id)]
        finally:
            store.close()
    if as_json:
        echo_json(found, indent=2)
        return
    for number, one in enumerate(found):
        if number:
            click.echo()
        whose = "this node" if one.author.own else story.short(one.author.author)
        click.echo(f"discovery {one.discovery[: story.ID_SHOWN]} of {whose}")
        for line in one.words:
            click.echo(f"  {story.plain(line)}")


def _named(store: Store, trust: Trust, prefix: str) -> list[ClaimRow]:
    """The discovery of this id, or all that have the program as their child."""
    try:
        entry_id = queries.resolve(store, prefix)
    except UnknownId:
        long_enough = len(prefix) >= queries.ID_PREFIX_MIN
        found = [claim for claim in trust.claims.values() if long_enough and claim.child.startswith(prefix)]
        if not found:  # its text may be missing where claims of it are here, and the other way round
            program = queries.resolve_program(store, prefix)
            raise UserError(
                f"no discovery has the program {program[:16]} as its result; it may be a baseline"
            ) from None
        return found
    if entry_id not in trust.claims:
        raise UserError(f"{prefix} is no discovery; `waggle ledger show {prefix}` says what it is")
    return [trust.claims[entry_id]]


@click.command("verify")
@id_argument
@home_option
def verify_command(entry_id: str, home_path: Path) -> None:
    """Have the node run a discovery before all others, also once more where it has a verdict."""
    _ask("verify", entry_id, home_path)


@click.command("adopt")
@id_argument
@home_option
def adopt_command(entry_id: str, home_path: Path) -> None:
    """Have the node build on a discovery that its own runs confirm, also where it held it back or declined."""
    _ask("adopt", entry_id, home_path)


def _ask(wish: Wish, prefix: str, home_path: Path) -> None:
    home = Home(home_path)
    challenge = home.challenge()
    with readable(home.ledger_file):
        store = home.store(challenge)
        try:
            trust = trusted(home, store, peer_id(home.key().public_key()))
            claims = _named(store, trust, prefix)
            if len(claims) > 1:
                listed = ", ".join(claim.id[: story.ID_SHOWN] for claim in claims[:3])
                raise UserError(f"{len(claims)} discoveries have that program: {listed}. Name one by its id.")
            own = trust.own_verdicts(claims[0].id)
            adopted = arrivals.own_adoptions(store, trust.me, claims[0].track)
        finally:
            store.close()
    if wish == "adopt" and adopted and adopted[-1].discovery == claims[0].id:
        raise UserError(f"this node builds on {claims[0].id[: story.ID_SHOWN]} already; see waggle why {prefix}")
    if wish == "adopt" and own[-1:] != ["confirmed"]:
        said = f"say {own[-1]}" if own else "are still to come"
        raise UserError(
            f"a program is adopted only after this node's own runs confirm it, and they {said}. "
            f"Have it run: waggle verify {prefix}"
        )
    Folder(home.asked).ask(wish, claims[0].id)
    when = "the running node does so next" if home.is_locked() else "the node does so at its next start"
    click.echo(f"{wish} {claims[0].id[: story.ID_SHOWN]}: {when}; see waggle why")
