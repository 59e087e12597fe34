"""Recipes of attention: queries and keys, positions, what is attended to, and what is done with it."""

from trainer.proposers.recipes.common import TABLES, VECTORS
from trainer.proposers.recipes.recipe import Recipe
from trainer.proposers.recipes.rules import Define, Knob, Lacks, Needs, Parameter, Replace, Statement

_RECENT = '''
def recent(length: int, device: torch.device) -> Tensor:
    """(T, T): the places that each place attends to, itself and the last ones before it."""
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril() & ones.triu(1 - ATTENTION_WINDOW)
'''
_SPLIT = "q, k, v = _1"

ATTENTION = (
    Recipe(
        name="qk-norm",
        hypothesis="queries and keys are normalised: attention logits stay bounded, so larger rates are stable",
        needs="q, k, v split from one matrix by unbind in Block.attention, norm(), no QK norm yet",
        source="Henry et al. 2020, arXiv:2010.04245",
        expected=-0.005,
        forms=(
            (
                Lacks("norm(q)"),
                Lacks("norm(rotary(q"),
                Statement("Block.attention", "q, k, v = heads.unbind(2)", "q, k = norm(q), norm(k)"),
            ),
        ),
    ),
    Recipe(
        name="qk-gain",
        hypothesis="normalised queries are scaled up: attention can be sharper than unit vectors allow",
        needs="q, k = norm(q), norm(k) in Block.attention",
        source="nanochat, github.com/karpathy/nanochat",
        expected=-0.001,
        forms=(
            (
                Knob("QK_GAIN = 1.2  # of normalised queries on normalised keys"),
                Replace("Block.attention", "(norm(q), norm(k))", "(QK_GAIN * norm(q), norm(k))"),
            ),
        ),
    ),
    Recipe(
        name="learned-query-gain",
        hypothesis="each head learns the scale of its queries: some heads attend sharply and others broadly",
        needs="q, k, v and q, k = ... in Block.attention",
        source="Henry et al. 2020, arXiv:2010.04245",
        expected=-0.001,
        forms=(
            (
                Lacks("query_gain"),
                Statement("Block.__init__", "super().__init__()", "self.query_gain = nn.Parameter(torch.ones(HEADS))"),
                Statement("Block.attention", "q, k = _1", "q = q * self.query_gain.view(-1, 1, 1).to(q.dtype)"),
                *VECTORS,
            ),
        ),
    ),
    Recipe(
        name="norm-before-rotary",
        hypothesis="queries and keys are normalised before they are turned, as a rotation keeps the norm and "
        "the norm's "
        "rounding then does not disturb the angles",
        needs="norm(rotary(...))",
        source="published nights of search on five-minute runs",
        expected=-0.0005,
        forms=((Replace("Block.attention", "norm(rotary(_1))", "rotary(norm(_1))"),),),
    ),
    Recipe(
        name="partial-rotary",
        hypothesis="only part of the channels turn with the position: the others match content wherever it stands",
        needs="frequencies = ... in Rotary.__init__",
        source="Black et al. 2022, arXiv:2204.06745",
        expected=-0.001,
        forms=(
            (
                Knob("ROTARY_SHARE = 0.5  # of the channels that turn, the fastest ones"),
                Statement(
                    "Rotary.__init__",
                    "frequencies = _1",
                    "frequencies = frequencies * (torch.arange(len(frequencies)) < ROTARY_SHARE * len(frequencies))",
                ),
            ),
        ),
    ),
    Recipe(
        name="no-positions",
        hypothesis="no rotary positions: the causal mask alone lets a model tell positions, and steps are cheaper",
        needs="Rotary.forward that returns a concatenation",
        source="Kazemnejad et al. 2023, arXiv:2305.19466",
        expected=0.01,
        forms=(
            (
                Statement("Rotary.forward", "cos, sin = _1", "", "instead"),
                Statement("Rotary.forward", "a, b = _1", "", "instead"),
                Statement("Rotary.forward", "return torch.cat(*_)", "return x", "instead"),
            ),
        ),
    ),
    Recipe(
        name="learned-positions",
        hypothesis="a learned vector for each position is added to the embedding: the first layer knows places as such",
        needs="self.embedding(tokens) in GPT.forward, seq_len in GPT.__init__",
        source="Radford et al. 2019 (GPT-2)",
        expected=0.003,
        forms=(
            (
                Lacks("self.positions"),
                Statement(
                    "GPT.__init__",
                    "self.embedding = _1",
                    "self.positions = nn.Embedding(seq_len, WIDTH)\nnn.init.zeros_(self.positions.weight)",
                ),
                Replace(
                    "GPT.forward",
                    "self.embedding(tokens)",
                    "(self.embedding(tokens) + self.positions.weight[: tokens.shape[1]])",
                ),
                *TABLES,
            ),
        ),
    ),
    Recipe(
        name="short-window",
        hypothesis="attention sees the recent places only: near text matters most, and a narrow view is learned sooner",
        needs="scaled_dot_product_attention with is_causal=True",
        source="Beltagy et al. 2020, arXiv:2004.05150",
        expected=-0.001,
        forms=(
            (
                Knob("ATTENTION_WINDOW = 32  # places, itself included"),
                Define(_RECENT, "Block"),
                Replace(
                    "Block.attention",
                    "F.scaled_dot_product_attention(_1, _2, _3, is_causal=True)",
                    "F.scaled_dot_product_attention(_1, _2, _3, attn_mask=recent(length, x.device))",
                ),
            ),
            (
                Knob("ATTENTION_WINDOW = 256  # places, itself included"),
                Define(_RECENT, "Block"),
                Replace(
                    "Block.attention",
                    "F.scaled_dot_product_attention(_1, _2, _3, is_causal=True, *_)",
                    "F.scaled_dot_product_attention(_1, _2, _3, attn_mask=recent(length, x.device), *_)",
                ),
            ),
        ),
    ),
    Recipe(
        name="multi-query",
        hypothesis="all heads share one set of keys (and of values, where those are alone): fewer parameters, "
        "cheaper steps",
        needs="one qkv matrix, or apart query, key and value matrices",
        source="Shazeer 2019, arXiv:1911.02150",
        expected=0.01,
        forms=(
            (
                Replace(
                    "Block.__init__",
                    "nn.Linear(WIDTH, 3 * WIDTH, bias=False)",
                    "nn.Linear(WIDTH, WIDTH + 2 * (WIDTH // HEADS), bias=False)",
                ),
                Statement("Block.attention", "heads = _1", "", "instead"),
                Statement(
                    "Block.attention",
                    "q, k, v = heads.unbind(2)",
                    "parts = self.qkv(x).split((WIDTH, WIDTH // HEADS, WIDTH // HEADS), -1)\n"
                    "q, k, v = (part.unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2) for part in parts)\n"
                    "k, v = k.expand_as(q), v.expand_as(q)",
                    "instead",
                ),
            ),
            (
                Statement(
                    "Block.__init__",
                    "self.key = nn.Linear(WIDTH, WIDTH, bias=False)",
                    "self.key = nn.Linear(WIDTH, WIDTH // HEADS, bias=False)",
                    "instead",
                ),
                Replace(
                    "Block.attention",
                    "part.view(batch, length, HEADS, WIDTH // HEADS)",
                    "part.unflatten(-1, (-1, WIDTH // HEADS))",
                ),
                Replace(
                    "Block.attention",
                    "F.scaled_dot_product_attention(q, k, *_)",
                    "F.scaled_dot_product_attention(q, k.expand_as(q), *_)",
                ),
            ),
        ),
    ),
    Recipe(
        name="key-shift",
        hypothesis="keys mix in those of the place before: a head finds what followed something in one layer "
        "instead of two",
        needs="q, k, v = ... in Block.attention",
        source="token shift, Peng et al. 2023, arXiv:2305.13048; on keys in published nights of search",
        expected=-0.003,
        forms=(
            (
                Knob("KEY_SHIFT = 0.3  # share of the key before in each key"),
                Statement(
                    "Block.attention",
                    _SPLIT,
                    "k = torch.cat((k[:, :, :1], (1 - KEY_SHIFT) * k[:, :, 1:] + KEY_SHIFT * k[:, :, :-1]), 2)",
                ),
            ),
        ),
    ),
    Recipe(
        name="attention-gate",
        hypothesis="each head's output is gated by its input: a head can say nothing where it found nothing",
        needs="mixed.transpose(1, 2) in Block.attention",
        source="Qiu et al. 2025, arXiv:2505.06708",
        expected=-0.002,
        forms=(
            (
                Lacks("self.gate"),
                Statement(
                    "Block.__init__",
                    "super().__init__()",
                    "self.gate = nn.Linear(WIDTH, HEADS, bias=False)\nnn.init.zeros_(self.gate.weight)",
                ),
                Statement(
                    "Block.attention",
                    "mixed = _1",
                    "mixed = mixed * (2 * torch.sigmoid(self.gate(x))).transpose(1, 2)[..., None]",
                ),
                *VECTORS,
            ),
        ),
    ),
    Recipe(
        name="value-embeddings",
        hypothesis="an embedding of the token itself is added to the values: a head can pass on what a token is, at no "
        "cost in products",
        needs="q, k, v = heads.unbind(2), block(x) and self.attention(...), without such embeddings",
        source="after Zhou et al. 2024, arXiv:2410.17897",
        expected=-0.005,
        forms=(
            (
                Lacks("value_embedding"),
                Statement(
                    "GPT.__init__", "self.embedding = _1", "self.value_embedding = nn.Embedding(vocab_size, WIDTH)"
                ),
                Replace("GPT.forward", "block(x)", "block(x, self.value_embedding(tokens))"),
                Parameter("Block.forward", "extra: Tensor"),
                Parameter("Block.attention", "extra: Tensor"),
                Replace("Block.forward", "self.attention(_1)", "self.attention(_1, extra)"),
                Needs("Block.attention", "q, k, v = _1"),
                Statement(
                    "Block.attention",
                    _SPLIT,
                    "v = v + extra.view(batch, length, HEADS, WIDTH // HEADS).transpose(1, 2)",
                ),
            ),
        ),
    ),
)
