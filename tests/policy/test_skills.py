"""Skills: learnt from what was checked, pooled as the formula says, retired when they stop to help."""

import math

import pytest

from policy.change import change_of
from policy.skills import (
    PATCH_LINES_MAX,
    RENDERED_CHARACTERS_MAX,
    Checked,
    Found,
    Skill,
    Uses,
    fingerprint_in,
    learn,
    pooled,
    rendered,
    same_facts,
    uses_in,
)


def checked(
    number: int = 0, verdict: str = "confirmed", *, weight: float = 1.0, mean: float | None = -0.1,
    half: float = 0.05, hardware: str = "a processor",
) -> Checked:  # fmt: skip
    low, high = (None, None) if mean is None else (mean - half, mean + half)
    return Checked(
        id=f"attestation-{number}", verdict=verdict, weight=weight, mean=mean, low=low, high=high, hardware=hardware
    )  # type: ignore[arg-type]  # fmt: skip


def found(*checks: Checked, name: str = "WIDTH", track: str = "cpu-quick", retracted: bool = False) -> Found:
    change = change_of(f"{name} = 1".encode(), f"{name} = 2".encode())
    assert change is not None
    return Found(
        id=f"discovery-{track}", track=track, change=change, patch="-WIDTH = 1\n+WIDTH = 2", checks=checks,
        retracted=retracted,
    )  # fmt: skip


def skill(*some: Found, uses: Uses = Uses(0, 0), keep_rate: float = 0.05) -> Skill:  # noqa: B008 - immutable
    (one,) = learn(some, {some[0].change.fingerprint: uses}, keep_rate=keep_rate)
    return one


def test_what_was_confirmed_is_a_skill_with_its_evidence() -> None:
    one = skill(found(checked(1), checked(2, "refuted", weight=0.4, mean=0.01)))
    assert one.title == "WIDTH raised"
    assert (one.confirmed, one.refuted, one.comparisons, one.retired) == (1, 1, 2, "")
    assert one.evidence == ("discovery-cpu-quick", "attestation-1", "attestation-2")
    assert one.tags == ("constant",)
    assert one.held == ("cpu-quick on a processor: -0.1000 bpb [-0.1500, -0.0500]",)
    assert fingerprint_in(one.text) == one.fingerprint


@pytest.mark.parametrize(
    "checks",
    [(), (checked(weight=0.0),), (checked(weight=0.4),), (checked(verdict="inconclusive"),), (checked(mean=None),)],
)
def test_what_nobody_of_weight_has_confirmed_is_none(checks: tuple[Checked, ...]) -> None:
    assert learn([found(*checks)], {}, keep_rate=0.05) == []


def test_one_change_in_two_tracks_is_one_skill() -> None:
    one = skill(found(checked(1)), found(checked(2, mean=-0.3), track="gpu-5min"))
    assert [where.partition(" on ")[0] for where in one.held] == ["cpu-quick", "gpu-5min"]
    assert -0.3 < one.mean < -0.1
    assert len(learn([found(checked()), found(checked(), name="DEPTH")], {}, keep_rate=0.05)) == 2


def test_the_pooled_effect_is_that_of_dersimonian_and_laird() -> None:
    """By hand: two effects 0.4 apart with a variance of 0.01 each. Q = 8, tau^2 = (8 - 1) / 100 = 0.07."""
    half = 1.959963984540054 * 0.1
    mean, low, high = pooled([checked(1, mean=-0.5, half=half), checked(2, mean=-0.1, half=half)])
    assert mean == pytest.approx(-0.3)
    assert high - mean == pytest.approx(1.959963984540054 * math.sqrt((0.01 + 0.07) / 2))
    assert mean - low == pytest.approx(high - mean)
    assert pooled([checked(mean=-0.2, half=half)]) == pytest.approx((-0.2, -0.2 - half, -0.2 + half))
    same = pooled([checked(1, mean=-0.2, half=half), checked(2, mean=-0.2, half=half)])
    assert same[2] - same[0] == pytest.approx(half / math.sqrt(2))
    assert pooled([checked(mean=-0.2, half=0.0)])[0] == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("some", "uses", "why"),
    [
        (found(checked(), retracted=True), Uses(0, 0), "retracted"),
        (found(checked(1), checked(2, "refuted")), Uses(0, 0), "refuted as often"),
        (found(checked()), Uses(60, 0), "no more often"),
        (found(checked()), Uses(4, 0), ""),
        (found(checked()), Uses(60, 6), ""),
    ],
)
def test_a_skill_is_retired_when_it_stops_to_help(some: Found, uses: Uses, why: str) -> None:
    one = skill(some, uses=uses)
    assert (why in one.retired) == bool(why) or not one.retired
    assert bool(one.retired) == bool(why)
    assert rendered([one]) == () if why else len(rendered([one])) == 1


def test_the_surest_gain_comes_first_and_retired_ones_last() -> None:
    some = [
        found(checked(half=0.2), name="WIDE"),
        found(checked(half=0.01), name="SURE"),
        found(checked(half=0.001), name="GONE", retracted=True),
    ]
    assert [one.title for one in learn(some, {}, keep_rate=0.1)] == ["SURE raised", "WIDE raised", "GONE raised"]


def test_the_text_tells_its_uses_which_alone_are_no_news() -> None:
    one, used = skill(found(checked())), skill(found(checked()), uses=Uses(7, 2))
    assert uses_in(one.text) == Uses(0, 0)
    assert uses_in(used.text) == Uses(7, 2)
    assert same_facts(one.text, used.text)
    assert not same_facts(one.text, skill(found(checked(1), checked(2))).text)


def test_what_a_stranger_wrote_is_bounded() -> None:
    long = Found(
        id="d", track="t" * 1000, change=found().change, patch="x" * 100_000 + "\n+" * 10_000, checks=(checked(),)
    )
    one = skill(long)
    assert len(one.text) < 8000
    assert len(one.patch.splitlines()) <= PATCH_LINES_MAX + 1
    many = learn([found(checked(), name=f"N{'A' * 30}{n}") for n in range(200)], {}, keep_rate=0.1)
    assert sum(map(len, rendered(many))) <= RENDERED_CHARACTERS_MAX
