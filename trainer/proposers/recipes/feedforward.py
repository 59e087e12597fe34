"""Recipes of the MLP: its activation, its gate, what it reads."""

from trainer.proposers.recipes.recipe import Recipe
from trainer.proposers.recipes.rules import Define, Knob, Lacks, Replace, Statement, Value

_SHIFTED = '''
def shifted(x: Tensor) -> Tensor:
    """(B, T, C): the first half of the channels as they were one place before."""
    half = x.shape[-1] // 2
    before = F.pad(x[:, :-1, :half], (0, 0, 1, 0))
    return torch.cat((before, x[..., half:]), -1)
'''


def _activation(name: str) -> tuple[tuple[Value] | tuple[Replace], ...]:
    return (
        (Value("ACTIVATION", name),),
        (Replace("Block.forward", "F.relu(_1).square()", f"F.{name}(_1)"),),
    )


FEEDFORWARD = (
    Recipe(
        name="gelu",
        hypothesis="GELU in the MLP: it is smooth and lets small negative inputs through",
        needs="ACTIVATION, or a squared ReLU in Block.forward",
        source="Hendrycks and Gimpel 2016, arXiv:1606.08415",
        expected=0.01,
        forms=_activation("gelu"),
    ),
    Recipe(
        name="silu",
        hypothesis="SiLU in the MLP: smooth like GELU, and cheaper",
        needs="ACTIVATION, or a squared ReLU in Block.forward",
        source="Ramachandran et al. 2017, arXiv:1710.05941",
        expected=0.01,
        forms=_activation("silu"),
    ),
    Recipe(
        name="relu2",
        hypothesis="squared ReLU in the MLP: sparse, and better for its cost than smooth activations",
        needs="F.gelu or F.silu of one argument, in Block.forward",
        source="So et al. 2021, arXiv:2109.08668",
        expected=-0.008,
        forms=(
            (Replace("Block.forward", "F.gelu(_1)", "F.relu(_1).square()"),),
            (Lacks("self.gated"), Replace("Block.forward", "F.silu(_1)", "F.relu(_1).square()")),
        ),
    ),
    Recipe(
        name="leaky-relu2",
        hypothesis="the squared ReLU leaks: hidden units that are off still learn",
        needs="a squared ReLU",
        source="github.com/KellerJordan/modded-nanogpt, records of 2025",
        expected=-0.001,
        forms=(
            (
                Knob("LEAK = 0.5  # slope below zero, before squaring"),
                Replace("", "F.relu(_1).square()", "F.leaky_relu(_1, LEAK).square()"),
            ),
        ),
    ),
    Recipe(
        name="swiglu",
        hypothesis="a gated MLP of as many parameters: products of two views express more than one activation",
        needs="self.up and self.down of MLP_RATIO * WIDTH",
        source="Shazeer 2020, arXiv:2002.05202",
        expected=-0.002,
        forms=(
            (
                Replace("Block.__init__", "MLP_RATIO * WIDTH", "(MLP_RATIO * WIDTH * 2 // 3)"),
                Statement("Block.__init__", "self.up = _1", "self.gated = _1"),
                Value("ACTIVATION", "silu"),
                Replace("Block.forward", "activate(self.up(_1))", "activate(self.gated(_1)) * self.up(_1)"),
            ),
            (
                Replace("Block.__init__", "MLP_RATIO * WIDTH", "(MLP_RATIO * WIDTH * 2 // 3)"),
                Statement("Block.__init__", "self.up = _1", "self.gated = _1"),
                Replace("Block.forward", "self.up(_1)", "F.silu(self.gated(_1)) * self.up(_1)"),
                Replace("Block.forward", "F.relu(hidden).square()", "hidden"),
            ),
        ),
    ),
    Recipe(
        name="mlp-shift",
        hypothesis="half of what the MLP reads comes from the place before: pairs of neighbours need no attention",
        needs="self.up(...) in Block.forward",
        source="token shift, Peng et al. 2023, arXiv:2305.13048",
        expected=-0.002,
        forms=(
            (
                Define(_SHIFTED, "Block"),
                Replace("Block.forward", "self.up(_1)", "self.up(shifted(_1))"),
            ),
        ),
    ),
    Recipe(
        name="parallel-block",
        hypothesis="attention and MLP read the same input: the block is shorter to compute",
        needs="attention and MLP added one after the other in Block.forward",
        source="Wang and Komatsuzaki 2021 (GPT-J); Chowdhery et al. 2022, arXiv:2204.02311",
        expected=0.005,
        forms=(
            (
                Lacks("aside"),
                Statement("Block.forward", "x = x + self.attended(_1)", "aside = self.attended(_1)", "instead"),
                Statement("Block.forward", "x = x + self.down(_1)", "x = x + aside + self.down(_1)", "instead"),
            ),
            (
                Lacks("aside"),
                Statement("Block.forward", "x = x + self.attention(*_)", "aside = self.attention(*_)", "instead"),
                Statement("Block.forward", "return x + down", "return x + aside + down", "instead"),
            ),
        ),
    ),
    Recipe(
        name="no-dropout",
        hypothesis="no dropout: a run that sees each text about once has nothing to gain from it",
        needs="nn.Dropout",
        source="Geiping and Goldstein 2022, arXiv:2212.14034",
        expected=-0.01,
        forms=((Replace("", "nn.Dropout(*_)", "nn.Identity()"),),),
    ),
)
