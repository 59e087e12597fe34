"""Recipes of size: how the budget is divided among width, depth, text per step, and number of steps."""

from trainer.proposers.recipes.recipe import Recipe
from trainer.proposers.recipes.rules import Knob, Lacks, Needs, Replace, Statement, Value, times

_DECREMENT = Value("LAYERS", lambda layers: int(layers) - 1 if layers > 1 else None)
_INCREMENT = Value("LAYERS", lambda layers: int(layers) + 1)

SIZE = (
    Recipe(
        name="half-batch",
        repeats=True,
        hypothesis="half the batch at rates divided by the root of two: twice the updates fit the budget, and "
        "the noise of "
        "each update keeps its size",
        needs="BATCH and a learning rate",
        source="square-root scaling, Malladi et al. 2022, arXiv:2205.10287",
        expected=-0.012,
        forms=(
            (times("BATCH", 0.5), times("LEARNING_RATE", 0.707)),
            (
                times("BATCH", 0.5),
                times("MATRIX_RATE", 0.707),
                times("EMBEDDING_RATE", 0.707),
                times("HEAD_RATE", 0.707),
            ),
        ),
    ),
    Recipe(
        name="shorter-windows",
        repeats=True,
        hypothesis="windows of half the length and twice as many of them: attention costs less, and most of "
        "what is learned "
        "early is local",
        needs="BATCH and CONTEXT of 16 or more",
        source="Li et al. 2021, arXiv:2108.06084",
        expected=-0.004,
        forms=((Value("CONTEXT", lambda context: int(context) // 2 if context >= 16 else None), times("BATCH", 2)),),
    ),
    Recipe(
        name="shallower-wider",
        repeats=True,
        hypothesis="one layer less and a wider stream: larger products are cheaper per operation, so more "
        "updates fit the "
        "budget",
        needs="LAYERS of 2 or more, WIDTH, HEADS",
        source="Levine et al. 2020, arXiv:2006.12467",
        expected=0.0,
        forms=((_DECREMENT, times("WIDTH", 1.25, 16)),),
    ),
    Recipe(
        name="deeper-narrower",
        repeats=True,
        hypothesis="one layer more and a narrower stream: depth composes features, and the cost of a step stays",
        needs="LAYERS and WIDTH",
        source="Petty et al. 2023, arXiv:2310.19956",
        expected=-0.004,
        forms=((_INCREMENT, times("WIDTH", 0.8, 16)), (_INCREMENT, times("WIDTH", 0.75, 16))),
    ),
    Recipe(
        name="accumulate",
        hypothesis="gradients of two passes make one update: updates are less noisy for the same memory",
        needs="a training loop of zero_grad, backward, step, without accumulation",
        source="Goyal et al. 2017, arXiv:1706.02677",
        expected=0.02,
        forms=(
            (
                Knob("ACCUMULATION = 2  # backward passes per update"),
                Statement("train", "optimizer = _1", "passes = 0"),
                Statement(
                    "train",
                    "optimizer.zero_grad()",
                    "if passes % ACCUMULATION == 0:\n    optimizer.zero_grad()",
                    "instead",
                ),
                Statement(
                    "train",
                    "torch.autograd.backward(_1)",
                    "torch.autograd.backward(_1 / ACCUMULATION)\npasses += 1\n"
                    "if passes % ACCUMULATION:\n    slowest = max(slowest, left - task.time_left())\n    continue",
                    "instead",
                ),
                Needs("train", "slowest = max(slowest, left - task.time_left())"),
            ),
        ),
    ),
    Recipe(
        name="batch-growth",
        hypothesis="the batch grows over the run: early gradients agree, so few windows show the direction, "
        "and late ones "
        "need the averaging",
        needs="windows drawn by (BATCH, 1) within a budgeted loop",
        source="Smith et al. 2017, arXiv:1711.00489",
        expected=-0.004,
        forms=(
            (
                Knob("BATCH_START_SHARE = 0.5  # of BATCH, at the start; the whole from half of the budget on"),
                Needs("train", "reserve = _1"),
                Needs("train", "budget = _1"),
                Statement(
                    "train",
                    "starts = _1",
                    "grown = min(1.0, BATCH_START_SHARE + 2 * (1 - BATCH_START_SHARE) * "
                    "(1 - (left - reserve) / (budget - reserve)))",
                    "before",
                ),
                Replace("train", "(BATCH, 1)", "(max(1, round(BATCH * grown)), 1)"),
            ),
        ),
    ),
    Recipe(
        name="context-growth",
        hypothesis="windows grow from a quarter of their length: the first updates are cheaper and learn what is local",
        needs="rows = tokens[starts + window] within a budgeted loop",
        source="Li et al. 2021, arXiv:2108.06084",
        expected=-0.004,
        forms=(
            (
                Knob("CONTEXT_START_SHARE = 0.25  # of the window, at the start; the whole from half of the budget on"),
                Needs("train", "reserve = _1"),
                Needs("train", "budget = _1"),
                Statement(
                    "train",
                    "rows = _1",
                    "span = CONTEXT_START_SHARE + 2 * (1 - CONTEXT_START_SHARE) * "
                    "(1 - (left - reserve) / (budget - reserve))",
                    "before",
                ),
                Replace(
                    "train",
                    "tokens[starts + window]",
                    "tokens[starts + window[: max(min(9, len(window)), round(len(window) * min(1.0, span)))]]",
                ),
            ),
        ),
    ),
    Recipe(
        name="bf16",
        hypothesis="training in bfloat16: products are faster where the hardware has them",
        needs="logits = model(...) in train, without autocast",
        source="Kalamkar et al. 2019, arXiv:1905.12322",
        expected=0.02,  # a CPU without bfloat16 units is far slower
        forms=(
            (
                Lacks("autocast"),
                Statement(
                    "train",
                    "logits = model(_1)",
                    "with torch.autocast(rows.device.type, torch.bfloat16):\n    logits = model(_1).float()",
                    "instead",
                ),
            ),
        ),
    ),
)
