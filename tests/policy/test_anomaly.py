"""What is held back, why, and until when; and that simpler at an equal score is a keep."""

import random

from msgspec.structs import replace

from policy.anomaly import Limits, Measures, Until, after_runs, before_runs, losses, simpler, too_good
from policy.quorum import Tally

ORDINARY = Measures(peak_memory_bytes=3e8, weights_bytes=5e5, wall_s=14.0, program_lines=150)
VERIFIED = (0.02, 0.03, 0.05, 0.04, 0.02, 0.1, 0.06, 0.03, 0.01, 0.08)


def test_a_gain_far_beyond_what_was_verified_is_too_good() -> None:
    assert too_good(0.2, 3.0, VERIFIED, Limits()) is None
    reason = too_good(2.0, 3.0, VERIFIED, Limits())
    assert reason is not None
    assert "10 gains verified here" in reason


def test_before_there_is_a_history_only_the_absurd_is_held_back() -> None:
    assert before_runs(0.4, 3.0, VERIFIED[:3]).clear
    held = before_runs(1.6, 3.0, VERIFIED[:3])
    assert not held.clear
    assert held.until is Until.FULL_CHECK


def test_few_of_what_was_drawn_like_the_history_is_held_back() -> None:
    rng = random.Random(1)
    gains = [0.03 * rng.lognormvariate(0, 1) for _ in range(1000)]
    held = sum(not before_runs(gain, 3.0, gains[:30]).clear for gain in gains[30:])
    assert held < 10


def test_a_fabricator_cannot_move_the_history_by_few_large_claims() -> None:
    assert too_good(2.0, 3.0, (*VERIFIED, 2.0, 2.0, 2.0), Limits()) is not None


def test_each_loss_has_its_reason() -> None:
    assert losses(ORDINARY, replace(ORDINARY, weights_bytes=1e6, wall_s=20.0), Limits()) == []
    for change, words in (
        ({"peak_memory_bytes": 1e9}, "peak memory"),
        ({"weights_bytes": 3e6}, "weights"),
        ({"wall_s": 40.0}, "wall time"),
        ({"program_lines": 400}, "150 to 400 lines"),
    ):
        (reason,) = losses(ORDINARY, replace(ORDINARY, **change), Limits())
        assert words in reason
    assert losses(replace(ORDINARY, program_lines=5), replace(ORDINARY, program_lines=30), Limits()) == []


def test_after_the_runs_failed_audits_other_splits_and_silent_peers_hold_a_claim_back() -> None:
    assert after_runs((ORDINARY, ORDINARY), Tally()).clear
    assert after_runs(None, Tally(confirming=0.4, confirmers=1, refuters=3)).clear
    held = after_runs(None, Tally(refuters=3), audits_failed=2, not_carried_over=["the public split shows no gain"])
    assert len(held.reasons) == 3
    assert held.until is Until.PEOPLE


def test_an_equal_score_with_fewer_lines_is_a_keep() -> None:
    assert "20 lines fewer" in (simpler(-0.006, 0.004, 0.01, 150, 130) or "")
    assert simpler(-0.006, 0.012, 0.01, 150, 130) is None  # may be worse
    assert simpler(-0.02, 0.004, 0.01, 150, 130) is None  # too few pairs to call it equal
    assert simpler(-0.006, 0.004, 0.01, 150, 150) is None
    assert simpler(-0.006, 0.004, 0.01, 150, 148) is None  # two lines are not worth it
    assert simpler(0.0, 0.0, 0.0, 10, 9) is not None
