"""`waggle why ID`: how a discovery came to be where it is, in sentences for somebody who did not write this.

Reasons may quote a peer's text, so whoever prints them cleans them as any other peer's words. *Pure.*
"""

from collections.abc import Mapping

from msgspec import Struct

from policy.intake import Course, State
from policy.quorum import Tally
from policy.retraction import Judgement
from policy.standing import Kind, Standing

SENTENCES: Mapping[State, str] = {
    State.RECEIVED: "It has arrived and was not looked at yet.",
    State.WAITING: "It waits.",
    State.SCREENED: "It agrees with its own records; whether the gain is real is open.",
    State.QUEUED: "It is queued for this node's own runs.",
    State.VERIFYING: "This node is running it now.",
    State.CONFIRMED: "This node's own runs show the gain.",
    State.REFUTED: "This node's own runs show no such gain.",
    State.INCONCLUSIVE: "This node's own runs do not decide.",
    State.ADOPTED: "This node builds on it, or did.",
    State.DECLINED: "It holds, and this node builds on something else.",
    State.REJECTED: "It was not worth a run.",
    State.QUARANTINED: "It is held back.",
    State.WITHHELD: "This node's own runs show the gain, and something else about it keeps it from being built on.",
    State.DUPLICATE: "It asks what was asked already.",
    State.OVERTURNED: "It is not believed, or no more: something speaks against it.",
}


class Account(Struct, frozen=True, kw_only=True):
    """All that this node knows of one discovery's standing with it."""

    author: str  # short form
    course: Course
    standing: Standing
    voices: Tally
    silent: int = 0  # verdicts by peers that weigh nothing here
    judgement: Judgement | None = None
    next_turn: str = ""  # of a queued one: why it is or is not next


def explain(account: Account) -> list[str]:
    """One sentence a line: the state first, then the way there, then who speaks for and against it."""
    course = account.course
    lines = [SENTENCES[course.state]]
    lines += [f"{number}. {step.state.value}: {step.reason}" for number, step in enumerate(course.steps, 1)]
    if account.next_turn and course.state is State.QUEUED:
        lines.append(f"Its turn: {account.next_turn}.")
    lines.append(of_author(account.author, account.standing))
    lines.append(of_voices(account.voices, account.silent))
    if account.judgement is not None and account.judgement.grounds:
        lines.append(f"Since then: {account.judgement.reason}.")
    return lines


def of_author(author: str, standing: Standing) -> str:
    """What the author's claims weigh here, and from what that follows."""
    if standing.ban is not None:
        return f"Its author {author} is banned: {standing.ban.misdeed.value} ({', '.join(standing.ban.proof)})."
    if standing.checked == 0:
        return f"Its author {author} is a stranger here: no word of it was run again yet, so it weighs nothing."
    account = standing.account(Kind.CLAIM)
    return (
        f"Its author {author} weighs {standing.weight(Kind.CLAIM):.2f} of 1 as a claimant: of its claims run here, "
        f"{account.good:.1f} held up and {account.bad:.1f} did not (recent ones count more, far off ones twice)."
    )


def of_voices(voices: Tally, silent: int = 0) -> str:
    """Who of the trusted peers confirms or refutes it."""
    if voices.confirmers == voices.refuters == 0:
        spoken = "No peer that this node trusts has run it"
    else:
        spoken = (
            f"Of the peers that this node trusts, {voices.confirmers} confirm it (weight {voices.confirming:.2f}) and "
            f"{voices.refuters} refute it (weight {voices.refuting:.2f})"
        )
    unheard = "1 verdict by a stranger weighs" if silent == 1 else f"{silent} verdicts by strangers weigh"
    return f"{spoken}; {unheard} nothing." if silent else f"{spoken}."
