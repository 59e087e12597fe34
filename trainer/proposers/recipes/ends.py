"""Recipes of both ends of a model: what enters with a token, what leaves as logits, what "
"the loss is, how it all starts."""

from trainer.proposers.recipes.common import TABLES, VECTORS
from trainer.proposers.recipes.recipe import Recipe
from trainer.proposers.recipes.rules import Append, Define, Knob, Lacks, Needs, Replace, Statement, Value

_SMEARED = '''
def smeared(x: Tensor, scale: Tensor) -> Tensor:
    """(B, T, C): each place with a share of the one before it."""
    return torch.cat((x[:, :1], x[:, 1:] + scale * x[:, :-1]), 1)
'''
_PAIRS = '''
def pairs(tokens: Tensor) -> Tensor:
    """(B, T): a row of the table for each token and the one before it."""
    before = F.pad(tokens[:, :-1], (1, 0))
    return (before * 1000003 + tokens) % BIGRAM_ROWS
'''
_EMBEDDED = "self.embedding(tokens)"

EMBEDDING = (
    Recipe(
        name="smear",
        hypothesis="a learned share of the token before is added to each embedding: pairs are known before "
        "the first layer",
        needs="self.embedding(tokens) in GPT.forward",
        source="nanochat and github.com/KellerJordan/modded-nanogpt, records of 2025",
        expected=-0.003,
        forms=(
            (
                Define(_SMEARED, "GPT"),
                Statement(
                    "GPT.__init__", "self.embedding = _1", "self.smear_scale = nn.Parameter(torch.full((1,), 0.1))"
                ),
                Replace("GPT.forward", _EMBEDDED, "smeared(self.embedding(tokens), self.smear_scale)"),
                *VECTORS,
            ),
        ),
    ),
    Recipe(
        name="bigram-hash",
        hypothesis="a hashed embedding of each pair of tokens is added: short-range statistics are looked up, "
        "not computed",
        needs="self.embedding(tokens) in GPT.forward",
        source="hashed n-grams, Clark et al. 2022, arXiv:2103.06874; published nights of search",
        expected=-0.004,
        forms=(
            (
                Knob("BIGRAM_ROWS = 4096  # of the table of hashed pairs"),
                Define(_PAIRS, "GPT"),
                Statement(
                    "GPT.__init__",
                    "self.embedding = _1",
                    "self.bigrams = nn.Embedding(BIGRAM_ROWS, WIDTH)\nnn.init.zeros_(self.bigrams.weight)",
                ),
                Replace("GPT.forward", _EMBEDDED, "(self.embedding(tokens) + self.bigrams(pairs(tokens)))"),
                *TABLES,
            ),
        ),
    ),
    Recipe(
        name="tied-embeddings",
        hypothesis="embedding and head share one matrix: each token's vector learns from both uses",
        needs="self.embedding and self.head in GPT, started above zero",
        source="Press and Wolf 2016, arXiv:1608.05859",
        expected=0.02,
        forms=(
            (
                Lacks("self.head.weight = "),
                Lacks("nn.init.zeros_(self.head.weight)"),
                Needs("GPT.__init__", "self.embedding = _1"),
                Statement("GPT.__init__", "self.head = _1", "self.head.weight = self.embedding.weight"),
                Replace("Optimizer.__init__", "[model.head.weight]", "[]", optional=True),
            ),
        ),
    ),
    Recipe(
        name="larger-embeddings",
        hypothesis="embeddings start large: the token is heard over what the first layers add",
        needs="self.embedding in GPT, started by INIT_STD and not tied",
        source="nanochat, github.com/karpathy/nanochat",
        expected=-0.002,
        forms=(
            (
                Lacks("self.head.weight = "),
                Needs("GPT.__init__", "nn.init.normal_(weight, std=INIT_STD)"),
                Knob("EMBEDDING_STD = 0.4"),
                Append("GPT.__init__", "nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)"),
            ),
        ),
    ),
    Recipe(
        name="fan-in-init",
        hypothesis="matrices start with a variance of one over their inputs: activations keep their size at any width",
        needs="nn.init.normal_(weight, std=INIT_STD)",
        source="LeCun et al. 1998; Yang et al. 2022, arXiv:2203.03466",
        expected=-0.001,
        forms=(
            (
                Lacks("INIT_STD *"),
                Replace(
                    "GPT.__init__",
                    "nn.init.normal_(weight, std=INIT_STD)",
                    "nn.init.normal_(weight, std=INIT_GAIN * weight.shape[-1] ** -0.5)",
                ),
                Replace("", "INIT_STD", "INIT_GAIN", optional=True),
                Value("INIT_GAIN", 0.5),
            ),
        ),
    ),
    Recipe(
        name="small-mlp-init",
        hypothesis="matrices into the MLP start smaller: hidden units begin near the bend of their activation",
        needs="self.up in Block and self.blocks in GPT",
        source="published nights of search on five-minute runs",
        expected=-0.001,
        forms=(
            (
                Needs("Block.__init__", "self.up = _1"),
                Needs("GPT.__init__", "self.blocks = _1"),
                Knob("MLP_INIT_SCALE = 0.4  # of the matrices into the MLP, at the start"),
                Append("GPT.__init__", "for block in self.blocks:\n    block.up.weight.data.mul_(MLP_INIT_SCALE)"),
            ),
        ),
    ),
)

OUTPUT = (
    Recipe(
        name="zero-head",
        hypothesis="the head starts at zero: the first prediction is uniform and no update is spent on undoing chance",
        needs="self.head in GPT, not tied and not at zero",
        source="Yang et al. 2022, arXiv:2203.03466",
        expected=-0.001,
        forms=(
            (
                Lacks("self.head.weight = "),
                Lacks("nn.init.zeros_(self.head.weight)"),
                Needs("GPT.__init__", "self.head = _1"),
                Append("GPT.__init__", "nn.init.zeros_(self.head.weight)"),
            ),
        ),
    ),
    Recipe(
        name="softcap",
        hypothesis="logits are capped smoothly: the loss cannot be lowered by ever larger weights",
        needs="return logits in GPT.forward",
        source="Gemma 2, arXiv:2408.00118",
        expected=-0.001,
        forms=(
            (
                Knob("SOFTCAP = 15.0  # no logit is larger"),
                Statement("GPT.forward", "return logits", "return SOFTCAP * torch.tanh(logits / SOFTCAP)", "instead"),
            ),
        ),
    ),
    Recipe(
        name="head-bias",
        hypothesis="the head has a bias that starts at the frequencies of the tokens: they need not be "
        "learned from gradients",
        needs="self.head of nn.Linear(..., bias=False); tokens moved to a device in train",
        source="Karpathy 2019, a recipe for training neural networks",
        expected=-0.001,
        forms=(
            (
                Lacks("self.head.bias"),
                Statement(
                    "GPT.__init__",
                    "self.head = nn.Linear(_1, _2, bias=False)",
                    "self.head = nn.Linear(_1, _2)\nnn.init.zeros_(self.head.bias)",
                    "instead",
                ),
                Statement(
                    "train",
                    "tokens = _1",
                    "counts = torch.bincount(tokens[:1000000].long(), minlength=task.vocab_size) + 1.0\n"
                    "model.head.bias.data.copy_((counts / counts.sum()).log())",
                ),
                *VECTORS,
            ),
        ),
    ),
    Recipe(
        name="label-smoothing",
        hypothesis="targets give a little to all tokens: predictions stay less certain than the text seen so "
        "far allows",
        needs="F.cross_entropy of two arguments in train",
        source="Szegedy et al. 2015, arXiv:1512.00567",
        expected=0.02,
        forms=(
            (
                Knob("LABEL_SMOOTHING = 0.01  # share of each target that is spread over all tokens"),
                Replace("train", "F.cross_entropy(_1, _2)", "F.cross_entropy(_1, _2, label_smoothing=LABEL_SMOOTHING)"),
            ),
        ),
    ),
    Recipe(
        name="z-loss",
        hypothesis="the normaliser of the logits is drawn to one: logits do not drift",
        needs="F.cross_entropy in train",
        source="Chowdhery et al. 2022, arXiv:2204.02311",
        expected=0.001,
        forms=(
            (
                Knob("Z_LOSS = 0.0001  # weight of the squared log normaliser"),
                Replace(
                    "train",
                    "F.cross_entropy(*_)",
                    "(F.cross_entropy(*_) + Z_LOSS * logits.logsumexp(-1).square().mean())",
                ),
            ),
        ),
    ),
)
