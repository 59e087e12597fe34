"""Recipes of norms and of the residual stream: where it is normalised, what is added to it, and with what weight."""

from trainer.proposers.recipes.common import VECTORS
from trainer.proposers.recipes.recipe import Recipe
from trainer.proposers.recipes.rules import Append, Holding, Knob, Lacks, Needs, Replace, Statement

_SMALL_PROJECTIONS = (
    Replace("GPT.__init__", "nn.init.zeros_(weight)", "nn.init.normal_(weight, std=INIT_STD)", optional=True),
    Replace(
        "Block.__init__",
        "nn.init.zeros_(self.attended.weight)",
        "nn.init.normal_(self.attended.weight, std=0.02)",
        optional=True,
    ),
    Replace(
        "Block.__init__",
        "nn.init.zeros_(self.down.weight)",
        "nn.init.normal_(self.down.weight, std=0.02)",
        optional=True,
    ),
)
_LAST = "logits: Tensor = _1"

NORMS = (
    Recipe(
        name="layer-norm",
        hypothesis="LayerNorm for RMSNorm: the mean is taken out as well",
        needs="F.rms_norm(x, shape)",
        source="Ba et al. 2016, arXiv:1607.06450",
        expected=0.002,
        forms=((Replace("", "F.rms_norm(_1, _2)", "F.layer_norm(_1, _2)"),),),
    ),
    Recipe(
        name="rms-norm",
        hypothesis="RMSNorm for LayerNorm: cheaper, and the mean carries little",
        needs="F.layer_norm(x, shape) without weights",
        source="Zhang and Sennrich 2019, arXiv:1910.07467",
        expected=-0.002,
        forms=((Replace("", "F.layer_norm(_1, _2)", "F.rms_norm(_1, _2)"),),),
    ),
    Recipe(
        name="norm-gains",
        hypothesis="what attention and MLP read has a learned gain per channel: unimportant channels can be "
        "turned down",
        needs="norm(x) before self.up in Block.forward, and Block.attention",
        source="Zhang and Sennrich 2019, arXiv:1910.07467",
        expected=0.001,
        forms=(
            (
                Lacks("attention_gain"),
                Statement(
                    "Block.__init__",
                    "super().__init__()",
                    "self.attention_gain = nn.Parameter(torch.ones(WIDTH))\n"
                    "self.mlp_gain = nn.Parameter(torch.ones(WIDTH))",
                ),
                Replace("Block.forward", "self.up(_1)", "self.up(_1 * self.mlp_gain)"),
                Statement("Block.attention", "batch, length, _ = x.shape", "x = x * self.attention_gain", "before"),
                *VECTORS,
            ),
        ),
    ),
    Recipe(
        name="sandwich-norm",
        hypothesis="what a block adds is normalised too: no layer can flood the stream",
        needs="x = x + ... in Block.forward",
        source="Ding et al. 2021, arXiv:2105.13290; Gemma 2, arXiv:2408.00118",
        expected=0.003,
        forms=(
            (
                Knob("SANDWICH_SCALE = 0.3  # of what a block adds, after its norm"),
                Replace("Block.forward", "x + self.attended(_1)", "x + SANDWICH_SCALE * norm(self.attended(_1))"),
                Replace("Block.forward", "x + self.down(_1)", "x + SANDWICH_SCALE * norm(self.down(_1))"),
                *_SMALL_PROJECTIONS,
            ),
            (
                Knob("SANDWICH_SCALE = 0.3  # of what a block adds, after its norm"),
                Replace("Block.forward", "x + self.attention(*_)", "x + SANDWICH_SCALE * norm(self.attention(*_))"),
                Replace("Block.forward", "x + down", "x + SANDWICH_SCALE * norm(down)"),
                *_SMALL_PROJECTIONS,
            ),
        ),
    ),
    Recipe(
        name="post-norm",
        hypothesis="the stream is normalised after each addition instead of before each block: deep layers "
        "keep their share",
        needs="x = x + ... with norm(x) in Block.forward",
        source="Vaswani et al. 2017, arXiv:1706.03762",
        expected=0.01,
        forms=(
            (
                Replace("Block.forward", "norm(x)", "x"),
                Statement("Block.forward", "x = x + self.attended(_1)", "x = norm(x + self.attended(_1))", "instead"),
                Statement("Block.forward", "x = x + self.down(_1)", "x = norm(x + self.down(_1))", "instead"),
            ),
            (
                Replace("Block.forward", "norm(x)", "x"),
                Statement("Block.forward", "x = x + self.attention(*_)", "x = norm(x + self.attention(*_))", "instead"),
                Statement("Block.forward", "return x + down", "return norm(x + down)", "instead"),
            ),
        ),
    ),
    Recipe(
        name="embedding-norm",
        hypothesis="the embedding is normalised: every token enters with the same size, and rare ones are "
        "heard at once",
        needs="x = self.embedding(tokens) in GPT.forward",
        source="Jordan et al., github.com/KellerJordan/modded-nanogpt",
        expected=-0.003,
        forms=(
            (Statement("GPT.forward", "x = self.embedding(tokens)", "x = norm(self.embedding(tokens))", "instead"),),
        ),
    ),
)

RESIDUAL = (
    Recipe(
        name="layer-scale",
        hypothesis="what attention and MLP add has a learned weight per channel: each layer finds its own step",
        needs="x = x + ... in Block.forward",
        source="Touvron et al. 2021, arXiv:2103.17239",
        expected=-0.001,
        forms=(
            (
                Lacks("attended_scale"),
                Statement(
                    "Block.__init__",
                    "super().__init__()",
                    "self.attended_scale = nn.Parameter(torch.ones(WIDTH))\n"
                    "self.down_scale = nn.Parameter(torch.ones(WIDTH))",
                ),
                Replace("Block.forward", "self.attended(_1)", "self.attended_scale * self.attended(_1)"),
                Replace("Block.forward", "self.down(_1)", "self.down_scale * self.down(_1)"),
                *VECTORS,
            ),
            (
                Lacks("attended_scale"),
                Statement(
                    "Block.__init__",
                    "super().__init__()",
                    "self.attended_scale = nn.Parameter(torch.ones(WIDTH))\n"
                    "self.down_scale = nn.Parameter(torch.ones(WIDTH))",
                ),
                Replace("Block.forward", "self.attention(*_)", "self.attended_scale * self.attention(*_)"),
                Replace("Block.forward", "self.down(_1)", "self.down_scale * self.down(_1)"),
                *VECTORS,
            ),
        ),
    ),
    Recipe(
        name="embedding-shortcut",
        hypothesis="every block sees the embedding again, with a learned weight: which token it was need not "
        "be carried along",
        needs="self.embedding in GPT.forward and block(...), without such a shortcut",
        source="Jordan et al., github.com/KellerJordan/modded-nanogpt",
        expected=-0.007,
        forms=(
            (
                Lacks("shortcut_scale"),
                Statement(
                    "GPT.__init__", "self.embedding = _1", "self.shortcut_scale = nn.Parameter(torch.full((1,), 0.1))"
                ),
                Holding("GPT.forward", "self.embedding(tokens)", "start = x"),
                Statement("GPT.forward", "x = block(*_)", "x = x + self.shortcut_scale * start", "before"),
                *VECTORS,
            ),
        ),
    ),
    Recipe(
        name="residual-scale",
        hypothesis="the stream is weighed anew before each block by a learned scale: old contents can fade",
        needs="x = block(...) in GPT.forward, without such scales",
        source="Jordan et al., github.com/KellerJordan/modded-nanogpt",
        expected=-0.002,
        forms=(
            (
                Lacks("residual_scale"),
                Needs("GPT.forward", "x = block(*_)"),
                Statement("Block.__init__", "super().__init__()", "self.residual_scale = nn.Parameter(torch.ones(1))"),
                Statement("GPT.forward", "x = block(*_)", "x = block.residual_scale * x", "before"),
                *VECTORS,
            ),
        ),
    ),
    Recipe(
        name="graded-scales",
        hypothesis="the learned scales of stream and shortcut start graded by depth: early layers write more, "
        "late ones refine",
        needs="residual_scale of ones and shortcut_scale of a constant, per layer",
        source="nanochat, github.com/karpathy/nanochat",
        expected=-0.001,
        forms=(
            (
                Replace(
                    "GPT.__init__",
                    "nn.Parameter(torch.ones(LAYERS))",
                    "nn.Parameter(torch.linspace(1.15, 1.05, LAYERS))",
                ),
                Replace("GPT.__init__", "torch.full((LAYERS,), 0.1)", "torch.linspace(0.2, 0.05, LAYERS)"),
            ),
        ),
    ),
    Recipe(
        name="depth-scaled-init",
        hypothesis="matrices that write to the stream start small instead of at zero: all layers learn from "
        "the first update",
        needs="such matrices started at zero",
        source="Radford et al. 2019 (GPT-2)",
        expected=0.001,
        forms=(
            (
                Replace(
                    "GPT.__init__",
                    "nn.init.zeros_(weight)",
                    "nn.init.normal_(weight, std=INIT_STD * (2 * LAYERS) ** -0.5)",
                ),
            ),
            (
                Replace(
                    "Block.__init__",
                    "nn.init.zeros_(self.attended.weight)",
                    "nn.init.normal_(self.attended.weight, std=(2 * LAYERS * WIDTH) ** -0.5)",
                ),
                Replace(
                    "Block.__init__",
                    "nn.init.zeros_(self.down.weight)",
                    "nn.init.normal_(self.down.weight, std=(2 * LAYERS * WIDTH) ** -0.5)",
                ),
            ),
        ),
    ),
    Recipe(
        name="zero-projections",
        hypothesis="matrices that write to the stream start at zero: a block starts as the identity and adds "
        "only what helps",
        needs="self.attended and self.down in the blocks of GPT, not started at zero",
        source="Bachlechner et al. 2020, arXiv:2003.04887; Yang et al. 2022, arXiv:2203.03466",
        expected=-0.003,
        forms=(
            (
                Lacks("nn.init.zeros_"),
                Lacks("norm(self.down"),
                Needs("Block.__init__", "self.attended = _1"),
                Needs("Block.__init__", "self.down = _1"),
                Needs("GPT.__init__", "self.blocks = _1"),
                Append(
                    "GPT.__init__",
                    "for block in self.blocks:\n"
                    "    nn.init.zeros_(block.attended.weight)\n    nn.init.zeros_(block.down.weight)",
                ),
            ),
        ),
    ),
    Recipe(
        name="backout",
        hypothesis="a share of the middle layer's stream is taken out before the head: what only served later "
        "layers does not "
        "disturb the prediction",
        needs="x = block(...) and logits: Tensor = ... in GPT.forward",
        source="github.com/KellerJordan/modded-nanogpt, records of 2025",
        expected=-0.002,
        forms=(
            (
                Lacks("backout_scale"),
                Statement(
                    "GPT.__init__", "self.embedding = _1", "self.backout_scale = nn.Parameter(torch.full((1,), 0.2))"
                ),
                Holding("GPT.forward", "self.embedding(tokens)", "outputs: list[Tensor] = []"),
                Statement("GPT.forward", "x = block(*_)", "outputs.append(x)"),
                Statement(
                    "GPT.forward", _LAST, "x = x - self.backout_scale * outputs[(len(outputs) - 1) // 2]", "before"
                ),
                *VECTORS,
            ),
        ),
    ),
    Recipe(
        name="unet-skips",
        hypothesis="what early layers read is added where late layers mirror them, with learned weights: "
        "details need not "
        "pass the middle",
        needs="x = block(...) in GPT.forward",
        source="Bao et al. 2022, arXiv:2209.12152; github.com/KellerJordan/modded-nanogpt",
        expected=-0.002,
        forms=(
            (
                Lacks("skip_scale"),
                Statement(
                    "GPT.__init__", "self.embedding = _1", "self.skip_scale = nn.Parameter(torch.full((LAYERS,), 0.1))"
                ),
                Holding("GPT.forward", "self.embedding(tokens)", "entered: list[Tensor] = []"),
                Statement(
                    "GPT.forward",
                    "x = block(*_)",
                    "if 2 * len(entered) >= LAYERS:\n"
                    "    x = x + self.skip_scale[len(entered)] * entered[LAYERS - 1 - len(entered)]\n"
                    "entered.append(x)",
                    "before",
                ),
                *VECTORS,
            ),
        ),
    ),
)
