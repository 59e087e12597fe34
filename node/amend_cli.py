"""`waggle amend`: the constitution, and how its maintainers change its limits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ledger import queries
from ledger.author import Author
from ledger.predicates import Amendment, Entry
from ledger.queries import governing
from ledger.store import Store
from node import story
from node.charter import Charter, default_constitution
from node.errors import UserError
from node.home import Home
from node.options import echo_json, home_option, json_option
from policy.amendments import Fate, Proposal, change_fault
from policy.constitution import Constitution, from_toml
from trainer.challenge import Challenge

REASON_CHARS_MAX = 1000  # of a statement


@click.group("amend")
def amend_group() -> None:
    """The constitution in force, and changes of its limits by the swarm's maintainers."""


@amend_group.command("show")
@click.option("--default", "of_default", is_flag=True, help="The one that new swarms get, of this version of Waggle.")
@home_option
def show_command(of_default: bool, home_path: Path) -> None:
    """Print the constitution in force as TOML: edit a copy, and propose that."""
    found = default_constitution() if of_default else _opened(home_path)[2].constitution()
    click.echo(story.plain_lines(found.to_toml()))


@amend_group.command("propose")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--reason", required=True, metavar="TEXT", help="For the other maintainers to read, in the ledger.")
@home_option
def propose_command(file: Path, reason: str, home_path: Path) -> None:
    """Propose FILE, an edited copy of what `show` prints, as the constitution. That is your vote for it as well."""
    home, _, charter, store = _opened(home_path)
    try:
        wanted = from_toml(file.read_text())
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not text in UTF-8: {error}") from error
    before = charter.constitution()
    if (fault := change_fault(before, wanted)) is not None:
        raise UserError(f"{file} cannot amend the constitution in force: {fault}. Start from `waggle amend show`.")
    author = _maintainer(home, charter, store)
    store.blobs.put(wanted.canonical())  # first: who hears of the proposal asks for its text
    stated = author.append("main", wanted.digest(), _amendment(before.digest(), None, reason))
    click.echo(f"proposed {stated.id}")
    _tell(charter, stated.id)


@amend_group.command("ratify")
@click.argument("proposal_id", metavar="ID")
@click.option("--reason", default="", metavar="TEXT", help="For others to read, in the ledger.")
@home_option
def ratify_command(proposal_id: str, reason: str, home_path: Path) -> None:
    """Vote for a proposal. ID: 8 or more characters of its id, as `list` shows it."""
    home, _, charter, store = _opened(home_path)
    wanted = queries.resolve(store, proposal_id)
    found = next((one for one in charter.history().proposals if one.motion.id == wanted), None)
    if found is None:
        raise UserError(f"{wanted} is no proposal by a maintainer; see `waggle amend list`.")
    if found.fate is not Fate.OPEN:
        raise UserError(f"{wanted} is not open: it is {_fate(found)}. See `waggle amend list`.")
    if charter.text(found.motion.constitution) is None:
        raise UserError(
            "the text of that proposal has not arrived: nobody should ratify what cannot be read. Sync first."
        )
    author = _maintainer(home, charter, store)
    seats = charter.seats()
    voted = {found.motion.author} | {
        one.author for one in governing.motions(store, seats) if one.proposal == found.motion.id
    }
    if seats[author.id] in {seats[peer] for peer in voted if peer in seats}:
        raise UserError("this node's seat has voted for that proposal already.")
    motion = found.motion
    stated = author.append("main", motion.constitution, _amendment(motion.previous, motion.id, reason))
    click.echo(f"ratified by {stated.id}")
    _tell(charter, motion.id)


@amend_group.command("list")
@home_option
@json_option
def list_command(home_path: Path, as_json: bool) -> None:
    """The constitutions of this swarm, and every proposal with its votes and what it would change."""
    _, challenge, charter, store = _opened(home_path)
    past, term = charter.history(), charter.term()
    reasons = {row.id: row.reason for row in governing.motions(store, charter.seats())}
    if as_json:
        echo_json({
            "clock": store.clock(),
            "maintainers": challenge.maintainers,
            "in_force": term,
            "terms": past.terms,
            "waiting_for": past.waiting_for,
            "proposals": [{**_as_json(one), "why": reasons[one.motion.id]} for one in past.proposals],
        })  # fmt: skip
        return
    click.echo(f"clock      {store.clock()}; {len(challenge.maintainers)} maintainers")
    for one in past.terms:
        mark = "in force" if one == term else "before" if one.since < term.since else "from then on"
        click.echo(f"{mark:<12} {one.constitution[:12]}  since Lamport time {one.since}")
    for proposal in past.proposals:
        motion = proposal.motion
        head = (
            f"{motion.id[: story.ID_SHOWN]}  by {story.short(motion.author)}  {_fate(proposal)}: {reasons[motion.id]}"
        )
        click.echo(story.plain(head))
        for line in _changes(charter.text(motion.previous), charter.text(motion.constitution)):
            click.echo(story.plain(f"    {line}"))
    if past.waiting_for is not None:
        click.echo(f"the text of {past.waiting_for[:12]} has not arrived yet; the one before stays in force here")


def _opened(path: Path) -> tuple[Home, Challenge, Charter, Store]:
    home = Home(path)
    challenge = home.challenge()
    store = home.store(challenge)
    return home, challenge, Charter(store, challenge), store


def _maintainer(home: Home, charter: Charter, store: Store) -> Author:
    """This node's author. Raises `UserError` if it has no vote."""
    author = Author(store, home.key())
    if author.id not in charter.seats():
        listed = ", ".join(charter.seats())
        raise UserError(f"{author.id} is no maintainer of this swarm; those are {listed}. Send them your proposal.")
    return author


def _amendment(previous: str, proposal: str | None, reason: str) -> Callable[[Entry], Amendment]:
    if len(reason) > REASON_CHARS_MAX:
        raise UserError(f"a reason of {len(reason)} characters; {REASON_CHARS_MAX} are enough.")
    return lambda entry: Amendment(entry=entry, previous=previous, proposal=proposal, reason=reason)


def _tell(charter: Charter, proposal: str) -> None:
    """What has become of it, and how others learn of it."""
    found = next(one for one in charter.history().proposals if one.motion.id == proposal)
    click.echo(_fate(found))
    click.echo("others learn of it while this node runs (waggle start, or waggle start --observe)", err=True)


def _fate(proposal: Proposal) -> str:
    match proposal.fate:
        case Fate.OPEN:
            return f"open, {proposal.votes} of {proposal.needed} votes"
        case Fate.VOID:
            return f"void: {proposal.reason}"
        case Fate.WAITING | Fate.RATIFIED:
            waiting = ", its text has not arrived" if proposal.fate is Fate.WAITING else ""
            return f"ratified by {proposal.votes} votes, in force from Lamport time {proposal.since} on{waiting}"


def _changes(before: Constitution | None, after: Constitution | None) -> list[str]:
    """The limits that differ."""
    if before is None or after is None:
        return ["its text has not arrived"]
    return [
        f"{name}: {before.limits[name].value:g} → {limit.value:g} {limit.unit} ({limit.reason})"
        for name, limit in sorted(after.limits.items())
        if name in before.limits and limit != before.limits[name]
    ]


def _as_json(proposal: Proposal) -> dict[str, Any]:
    motion = proposal.motion
    return {
        "id": motion.id, "author": motion.author, "lamport": motion.lamport, "constitution": motion.constitution,
        "previous": motion.previous, "votes": proposal.votes, "needed": proposal.needed,
        "fate": proposal.fate.name.lower(), "since": proposal.since, "void_because": proposal.reason,
    }  # fmt: skip
