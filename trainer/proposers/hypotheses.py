"""Why a change of a constant might help: one sentence from the words of its name and the direction of the move."""

from collections.abc import Sequence

from trainer.proposers.asserts import Value
from trainer.proposers.constants import Edit, Knob

_BOTH_WAYS = "its present value was not chosen for this budget"
_MECHANISMS: tuple[tuple[frozenset[str], str, str], ...] = (  # words of the name; expected of more; expected of less
    (
        frozenset({"WARMUP"}),
        "a gentler start keeps early updates from undoing each other",
        "less of the budget goes to small early updates",
    ),
    (
        frozenset({"WARMDOWN", "COOLDOWN"}),
        "a longer fall of the rate averages out more gradient noise",
        "more of the budget is spent at the full rate",
    ),
    (
        frozenset({"FINAL"}),
        "the last steps still learn",
        "the last steps settle closer to a minimum",
    ),
    (
        frozenset({"RATE", "LR"}),
        "larger updates go further in the few steps of the budget",
        "smaller updates are less noisy and more stable",
    ),
    (
        frozenset({"BATCH"}),
        "each update averages over more text and is less noisy",
        "more updates fit the budget",
    ),
    (
        frozenset({"CONTEXT", "WINDOW"}),
        "predictions learn to use more of the text before them",
        "cheaper steps let more updates fit the budget",
    ),
    (
        frozenset({"LAYERS", "DEPTH"}),
        "more layers express more per update",
        "a shallower model takes more steps within the budget",
    ),
    (
        frozenset({"WIDTH", "RATIO", "DIM", "HIDDEN"}),
        "a larger model learns more from each byte",
        "a smaller model takes more steps within the budget",
    ),
    (
        frozenset({"HEADS"}),
        "more heads attend to more places at once",
        "fewer heads have more channels each to match on",
    ),
    (
        frozenset({"DECAY"}),
        "stronger decay keeps weights small and updates effective",
        "weaker decay leaves a short run more of what it has learned",
    ),
    (
        frozenset({"BETA", "BETA1", "BETA2", "MOMENTUM"}),
        "a longer average smooths the noise of small batches",
        "a shorter average follows a fast-changing start sooner",
    ),
    (
        frozenset({"STD", "INIT"}),
        "larger initial weights give stronger early gradients",
        "smaller initial weights start closer to a uniform prediction",
    ),
    (
        frozenset({"ROTARY", "ROPE", "THETA"}),
        "longer wavelengths blur far positions less",
        "shorter wavelengths tell near positions apart better",
    ),
    (
        frozenset({"GRADIENT", "GRAD", "CLIP"}),
        "looser clipping lets large gradients act",
        "tighter clipping tames outlying batches",
    ),
)


def hypothesis(edits: Sequence[Edit]) -> str:
    """One sentence: each knob with its old and new value and what is expected of the change."""
    return "; ".join(
        f"{knob.name} from {knob.value!r} to {value!r}: {_mechanism(knob, value)}" for knob, value in edits
    )


def _mechanism(knob: Knob, value: Value) -> str:
    if isinstance(value, bool):
        return "it may earn more than it costs" if value else "it may cost more than it earns at this budget"
    if isinstance(value, str) or isinstance(knob.value, str):
        return "an alternative may learn faster or run cheaper at this budget"
    words = set(knob.name.split("_"))
    for known, more, less in _MECHANISMS:
        if words & known:
            return more if value > knob.value else less
    return _BOTH_WAYS
