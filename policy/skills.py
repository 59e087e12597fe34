"""Skills: what verified discoveries teach, with where it held, by how much, and who has checked.

A skill is about a kind of change (change.py), so discoveries in several tracks and on several parents that make the
same change are one skill. It rests on *comparisons* of the change: those of verdicts count by the weight of who gave
them (1 for this node's own), and a discovery's own claim not at all, as who picks a winner measures it too high.

The effect is the random-effects mean of DerSimonian and Laird (1986, Controlled Clinical Trials 7), with a normal 95 %
interval: each comparison's variance is read off its interval, and where effects differ between tracks and machines by
more than that explains, the interval widens. Effects in different tracks are of different size, so the mean is for
ranking, and `held` says where it comes from.

A skill is learnt when the weight of those who confirmed it is at least CONFIRMED_MIN, and more than that of those who
refuted it. It is retired when that is over, when its discoveries are retracted, or when proposals that use it are kept
no more often than any others are, as far as can be told: the probability that its rate of keeps, Beta(1 + kept,
1 + tried - kept), exceeds the rate of all proposals has fallen below USE_MIN. *Pure.*
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct
from scipy.special import betaincc

from ledger.predicates import EVIDENCE_MAX
from policy.change import Change

SKILLS_MAX = 256
CONFIRMED_MIN = 0.5
USE_MIN = 0.1
USES_MIN = 5  # fewer proposals say nothing about their rate
PATCH_LINES_MAX = 24
PATCH_CHARACTERS_MAX = 1500
HELD_MAX = 6
TITLE_CHARACTERS_MAX = 200
RENDERED_CHARACTERS_MAX = 6000  # of all skills in one proposer's context
_NORMAL_95 = 1.959963984540054

_USES = re.compile(r"^proposed again ([0-9]{1,9}) times, kept ([0-9]{1,9}) times\n", re.MULTILINE)
_FINGERPRINT = re.compile(r"^fingerprint: ([0-9a-f]{64})$", re.MULTILINE)


class Checked(Struct, frozen=True, kw_only=True):
    """A verdict on a discovery, after a comparison by whoever gave it."""

    id: str  # of the attestation
    verdict: Literal["confirmed", "refuted", "inconclusive"]
    weight: float  # 0 to 1: 1 for this node's own, else the author's standing here
    mean: float | None  # bits per byte, child - parent; negative is better; None where nothing was measured
    low: float | None  # 95 % interval
    high: float | None
    hardware: str | None


class Found(Struct, frozen=True, kw_only=True):
    """A discovery with what it changes and who checked it."""

    id: str
    track: str
    change: Change
    patch: str  # unified diff; a stranger's text
    checks: tuple[Checked, ...]
    retracted: bool = False


class Uses(Struct, frozen=True):
    """Proposals that made a change after it was known as a skill."""

    tried: int
    kept: int


class Skill(Struct, frozen=True, kw_only=True):
    """What is known of one kind of change that helped."""

    fingerprint: str
    title: str
    mean: float  # bits per byte, child - parent
    low: float
    high: float
    comparisons: int
    confirmed: int  # verdicts of those with any weight
    refuted: int
    held: tuple[str, ...]  # track and hardware, each with its own effect
    tags: tuple[str, ...]
    patch: str
    uses: Uses
    retired: str  # why; empty while it is used
    evidence: tuple[str, ...]  # discoveries and attestations

    @property
    def text(self) -> str:
        """The body of its statement: facts in lines, then an example. At most about 4,000 characters."""
        used = f"proposed again {self.uses.tried} times, kept {self.uses.kept} times" if self.uses.tried else ""
        lines = [
            self.title,
            f"effect: {_interval(self.mean, self.low, self.high)} over {self.comparisons} checks",
            f"confirmed by {self.confirmed}, refuted by {self.refuted}",
            *(f"held: {where}" for where in self.held),
            *([used] if used else []),
            *([f"retired: {self.retired}"] if self.retired else []),
            f"tags: {', '.join(self.tags)}",
            f"fingerprint: {self.fingerprint}",
            "example:",
            self.patch,
        ]
        return "\n".join(lines)


def fingerprint_in(text: str) -> str | None:
    """Which change a skill's text is about, as `Skill.text` writes it; None for a text of another form."""
    found = _FINGERPRINT.search(text)
    return None if found is None else found[1]


def uses_in(text: str) -> Uses:
    """What a skill's text says of its use."""
    found = _USES.search(text)
    return Uses(0, 0) if found is None else Uses(int(found[1]), int(found[2]))


def same_facts(text: str, other: str) -> bool:
    """Whether two texts of a skill differ in the count of its uses at most, which alone is not worth a statement."""
    return _USES.sub("", text) == _USES.sub("", other)


def learn(found: Iterable[Found], uses: Mapping[str, Uses], *, keep_rate: float) -> list[Skill]:
    """The skills that discoveries teach, the surest gain first, at most SKILLS_MAX; retired ones at the end.

    `uses` by fingerprint; `keep_rate`: share of all this node's proposals that are kept, 0 to 1.
    """
    groups: dict[str, list[Found]] = {}
    for one in found:
        groups.setdefault(one.change.fingerprint, []).append(one)
    skills = [
        skill
        for fingerprint, group in groups.items()
        if (skill := _skill(group, uses.get(fingerprint, Uses(0, 0)), keep_rate)) is not None
    ]
    return sorted(skills, key=lambda skill: (bool(skill.retired), skill.high, skill.fingerprint))[:SKILLS_MAX]


def _skill(group: Sequence[Found], uses: Uses, keep_rate: float) -> Skill | None:
    checks = [check for one in group for check in one.checks if check.weight > 0]
    measured = [check for check in checks if _measured(check)]
    confirming = [check for check in checks if check.verdict == "confirmed"]
    refuting = [check for check in checks if check.verdict == "refuted"]
    if not measured or sum(check.weight for check in confirming) < CONFIRMED_MIN:
        return None
    mean, low, high = pooled([check for check in measured if check.verdict != "inconclusive"] or measured)
    retired = ""
    if all(one.retracted for one in group):
        retired = "its discoveries are retracted"
    elif sum(check.weight for check in refuting) >= sum(check.weight for check in confirming):
        retired = "it is refuted as often as it is confirmed"
    elif uses.tried >= USES_MIN and betaincc(1 + uses.kept, 1 + uses.tried - uses.kept, keep_rate) < USE_MIN:
        retired = "proposals that use it are kept no more often than others"
    best = max(group, key=lambda one: sum(check.weight for check in one.checks if check.verdict == "confirmed"))
    ids = (*(one.id for one in group), *(check.id for check in checks))
    return Skill(
        fingerprint=best.change.fingerprint,
        title=best.change.words[:TITLE_CHARACTERS_MAX],
        mean=mean,
        low=low,
        high=high,
        comparisons=len(measured),
        confirmed=len(confirming),
        refuted=len(refuting),
        held=tuple(_held(group))[:HELD_MAX],
        tags=best.change.tags,
        patch=_bounded(best.patch),
        uses=uses,
        retired=retired,
        evidence=tuple(dict.fromkeys(ids))[:EVIDENCE_MAX],
    )


def pooled(checks: Sequence[Checked]) -> tuple[float, float, float]:
    """Random-effects mean and 95 % interval of measured effects, (n,) with n >= 1, bits per byte."""
    effects = [(check.mean, _variance(check.low, check.high)) for check in checks if _measured(check)]
    values = [(mean, variance) for mean, variance in effects if mean is not None]
    weights = [1 / variance for _, variance in values]
    total = sum(weights)
    fixed = sum(weight * mean for weight, (mean, _) in zip(weights, values, strict=True)) / total
    spread = sum(weight * (mean - fixed) ** 2 for weight, (mean, _) in zip(weights, values, strict=True))
    scale = total - sum(weight**2 for weight in weights) / total
    between = max(0.0, (spread - (len(values) - 1)) / scale) if len(values) > 1 and scale > 0 else 0.0
    weights = [1 / (variance + between) for _, variance in values]
    mean = sum(weight * value for weight, (value, _) in zip(weights, values, strict=True)) / sum(weights)
    margin = _NORMAL_95 / math.sqrt(sum(weights))
    return mean, mean - margin, mean + margin


def _measured(check: Checked) -> bool:
    return check.mean is not None and check.low is not None and check.high is not None


def _variance(low: float | None, high: float | None) -> float:
    """Of a mean, by its 95 % interval; never 0, which would outweigh everything."""
    width = 0.0 if low is None or high is None else max(0.0, high - low)
    return max((width / (2 * _NORMAL_95)) ** 2, 1e-12)


def _held(group: Sequence[Found]) -> list[str]:
    """Each track and hardware where it was confirmed by somebody with weight, with the effect there."""
    places: dict[str, list[Checked]] = {}
    for one in group:
        for check in one.checks:
            if check.weight > 0 and check.verdict == "confirmed" and _measured(check):
                places.setdefault(f"{one.track} on {check.hardware or 'unknown hardware'}"[:200], []).append(check)
    return [f"{place}: {_interval(*pooled(checks))}" for place, checks in places.items()]


def _interval(mean: float, low: float, high: float) -> str:
    return f"{mean:+.4f} bpb [{low:+.4f}, {high:+.4f}]"


def _bounded(patch: str) -> str:
    lines = patch.splitlines()
    kept = lines[:PATCH_LINES_MAX]
    if len(lines) > len(kept):
        kept.append(f"… {len(lines) - len(kept)} lines more")
    return "\n".join(kept)[:PATCH_CHARACTERS_MAX]


def rendered(skills: Iterable[Skill], characters_max: int = RENDERED_CHARACTERS_MAX) -> tuple[str, ...]:
    """Texts for a proposer's context, best first, with evidence, together no longer than the bound."""
    texts: list[str] = []
    left = characters_max
    for skill in skills:
        if skill.retired:
            continue
        text = f"{skill.text}\nevidence: {', '.join(skill.evidence[:6])}"
        if len(text) > left:
            break
        texts.append(text)
        left -= len(text)
    return tuple(texts)
