"""`waggle lessons` and `waggle skills`: what failures and verified discoveries have taught."""

from pathlib import Path

import click
import msgspec

from ledger.envelope import peer_id
from ledger.store import readable
from node import story
from node.home import Home
from node.lessons import learn_skills, own_skills, read_lessons
from node.options import echo_json, home_option, json_option
from node.tracks import choose_track
from node.why_cli import trusted
from policy.lessons import Rung
from policy.skills import uses_in

SHOWN_MAX = 100


@click.command("lessons")
@home_option
@click.option("--track", metavar="NAME", help="Track of the challenge. Default: its first for the CPU.")
@click.option("--all", "with_retired", is_flag=True, help="Retired lessons too.")
@json_option
def lessons_command(home_path: Path, track: str | None, with_retired: bool, as_json: bool) -> None:
    """Kinds of change that fail, the most strictly enforced first. Peers' lessons are prose here."""
    home = Home(home_path)
    challenge = home.challenge()
    with readable(home.ledger_file):
        store = home.store(challenge)
        chosen = choose_track(challenge, track)
        me = peer_id(home.key().public_key())
        known = read_lessons(store, chosen, me, trusted(home, store, me).word).all()
        store.close()
    shown = [lesson for lesson in known if with_retired or lesson.rung is not Rung.RETIRED]
    if as_json:
        echo_json([{**msgspec.to_builtins(lesson), "text": lesson.text} for lesson in shown])
        return
    for lesson in shown[:SHOWN_MAX]:
        click.echo(story.plain(f"{lesson.rung.value:<17}  {lesson.text}"))
        if lesson.evidence:
            click.echo(f"{'':<17}  evidence {' '.join(found[: story.ID_SHOWN] for found in lesson.evidence[-3:])}")
    if len(shown) > SHOWN_MAX:
        click.echo(f"… {len(shown) - SHOWN_MAX} more; --json has all")
    if not shown:
        click.echo(f"no lessons yet in the track {chosen}")


@click.command("skills")
@home_option
@click.option("--all", "with_retired", is_flag=True, help="Retired skills too.")
@json_option
def skills_command(home_path: Path, with_retired: bool, as_json: bool) -> None:
    """Kinds of change that verified discoveries showed to help, the surest gain first."""
    home = Home(home_path)
    challenge = home.challenge()
    with readable(home.ledger_file):
        store = home.store(challenge)
        me = peer_id(home.key().public_key())
        stated = own_skills(store, me)
        uses = {fingerprint: uses_in(body.text) for fingerprint, (_, body) in stated.items()}
        known = learn_skills(store, me, trusted(home, store, me).word, uses, 0.0, {})
        store.close()
    shown = [skill for skill in known if with_retired or not skill.retired]
    if as_json:
        echo_json([{**msgspec.to_builtins(skill), "text": skill.text} for skill in shown])
        return
    for skill in shown[:SHOWN_MAX]:
        click.echo(story.plain_lines(skill.text))
        click.echo(f"evidence: {' '.join(found[: story.ID_SHOWN] for found in skill.evidence[:6])}\n")
    if len(shown) > SHOWN_MAX:
        click.echo(f"… {len(shown) - SHOWN_MAX} more; --json has all")
    if not shown:
        click.echo("no skills yet: they are learnt from discoveries that this node has confirmed")
