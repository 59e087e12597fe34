"""Recipes of the learning rate's course over the budget, and of the weight decay's."""

from trainer.proposers.recipes.recipe import Recipe
from trainer.proposers.recipes.rules import Import, Knob, Lacks, Replace, Statement, Value

_FALL = "max(0.0, fall)"  # what is left of the warm-down: 1 at its start, above 1 before it

SCHEDULE = (
    Recipe(
        name="cosine-warmdown",
        hypothesis="the rate falls by half a cosine: it lingers at both ends, where learning and settling are done",
        needs="max(0.0, fall) in rate_share",
        source="Loshchilov and Hutter 2016, arXiv:1608.03983",
        expected=0.001,
        forms=(
            (
                Import("math"),
                Replace("rate_share", _FALL, "(0.5 - 0.5 * math.cos(math.pi * min(1.0, max(0, fall))))"),
            ),
        ),
    ),
    Recipe(
        name="root-warmdown",
        hypothesis="the rate falls as one minus a root: fast at first, with a long end at small rates",
        needs="max(0.0, fall) in rate_share",
        source="Hägele et al. 2024, arXiv:2405.18392",
        expected=-0.0005,
        forms=((Replace("rate_share", _FALL, "(1 - (1 - min(1.0, max(0, fall))) ** 0.5)"),),),
    ),
    Recipe(
        name="power-warmdown",
        hypothesis="the rate falls by a power: more of the end is spent at small rates",
        needs="max(0.0, fall) in rate_share",
        source="polynomial decay, Chen et al. 2016, arXiv:1606.00915",
        expected=0.0,
        forms=(
            (
                Knob("FALL_POWER = 1.5  # 1 is a straight line"),
                Replace("rate_share", _FALL, "min(1.0, max(0, fall)) ** FALL_POWER"),
            ),
        ),
    ),
    Recipe(
        name="linear-to-zero",
        hypothesis="the rate falls in one line from the end of the warm-up to zero: no rate is held longer "
        "than it pays",
        needs="WARMUP_SHARE, WARMDOWN_SHARE and FINAL_RATE_SHARE",
        source="Bergsma et al. 2025, arXiv:2502.15938",
        expected=-0.0005,
        forms=(
            (Value("WARMUP_SHARE", 0.05), Value("WARMDOWN_SHARE", 0.95), Value("FINAL_RATE_SHARE", 0.0)),
            (Value("WARMUP_SHARE", 0.05), Value("WARMDOWN_SHARE", 0.95)),
        ),
    ),
    Recipe(
        name="no-warm-up",
        hypothesis="the full rate from the first update: with normalised inputs and zero-started outputs "
        "nothing needs warming",
        needs="WARMUP_SHARE above zero",
        source="Kosson et al. 2024, arXiv:2410.23922",
        expected=-0.0005,
        forms=((Value("WARMUP_SHARE", 0.0),),),
    ),
    Recipe(
        name="decay-follows-rate",
        hypothesis="weight decay falls with the rate: the end of the run settles instead of shrinking",
        needs="AdamW groups whose rate is LEARNING_RATE times a share, or Muon's decay",
        source="nanochat; D'Angelo et al. 2023, arXiv:2310.04415",
        expected=-0.001,
        forms=(
            (
                Lacks('group["weight_decay"]'),
                Statement(
                    "train",
                    'group["lr"] = LEARNING_RATE * _1',
                    'group["lr"] = LEARNING_RATE * _1\n'
                    'group["weight_decay"] = WEIGHT_DECAY * group["lr"] / LEARNING_RATE',
                    "instead",
                ),
            ),
            (
                Lacks("rate / MATRIX_RATE"),
                Replace(
                    "Muon.step",
                    "WEIGHT_DECAY * weights * _1",
                    "rate / MATRIX_RATE * WEIGHT_DECAY * weights * _1",
                ),
            ),
        ),
    ),
)
