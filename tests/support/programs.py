"""Programs of the contract for tests: honest ones of many kinds, and a frame for cheats.

Every honest program is its own model class after `COMMON`; all are tiny, so that half a CPU second teaches them
something.
"""

COMMON = """
import math

import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 32

def train(model, task):
    draw = torch.Generator().manual_seed(task.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    window = torch.arange(task.seq_len + 1)
    slowest = 0.0
    while (left := task.time_left()) > 0.05 + 2 * slowest:
        starts = torch.randint(len(task.tokens) - task.seq_len, (16, 1), generator=draw)
        rows = task.tokens[starts + window].long()
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1).float(), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        slowest = max(slowest, left - task.time_left())
"""

ATTENTION = """
class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))

    def forward(self, x, bias=None):
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(self.norms[0](x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))
"""

TRANSFORMER = (
    COMMON
    + ATTENTION
    + """
class Model(nn.Module):
    def __init__(self, vocab_size, seq_len):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab_size, WIDTH), nn.Embedding(seq_len, WIDTH)
        self.blocks = nn.ModuleList(Attention() for _ in range(2))
        self.head = nn.Linear(WIDTH, vocab_size)
        self.dropout = nn.Dropout(0.1)

    def forward(self, tokens):
        x = self.dropout(self.tokens(tokens) + self.places(torch.arange(tokens.shape[1])))
        for block in self.blocks:
            x = self.dropout(block(x))
        return self.head(x)

def build(vocab_size, seq_len):
    return Model(vocab_size, seq_len)
"""
)

ALIBI_TIED = (
    COMMON
    + ATTENTION
    + """
class Model(nn.Module):
    def __init__(self, vocab_size, seq_len):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, WIDTH)
        self.blocks = nn.ModuleList(Attention() for _ in range(2))

    def forward(self, tokens):
        place = torch.arange(tokens.shape[1])
        distance = (place[:, None] - place[None, :]).float()
        slopes = torch.tensor([0.5, 0.05])[:, None, None]
        bias = torch.where(distance < 0, -math.inf, -slopes * distance)
        x = self.tokens(tokens)
        for block in self.blocks:
            x = block(x, bias)
        return F.linear(F.layer_norm(x, (WIDTH,)), self.tokens.weight)

def build(vocab_size, seq_len):
    return Model(vocab_size, seq_len)
"""
)

BF16 = TRANSFORMER.replace(
    "    def forward(self, tokens):\n        x = self.dropout",
    '    @torch.autocast("cpu", dtype=torch.bfloat16)\n    def forward(self, tokens):\n        x = self.dropout',
)

GRU = (
    COMMON
    + """
class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.tokens, self.head = nn.Embedding(vocab_size, WIDTH), nn.Linear(WIDTH, vocab_size)
        self.core = nn.GRU(WIDTH, WIDTH, num_layers=2, batch_first=True, dropout=0.1)

    def forward(self, tokens):
        return self.head(self.core(self.tokens(tokens))[0])

def build(vocab_size, seq_len):
    return Model(vocab_size)
"""
)

LSTM = GRU.replace("nn.GRU", "nn.LSTM")

MIXER = (
    COMMON
    + """
class Block(nn.Module):
    def __init__(self, seq_len):
        super().__init__()
        self.mix = nn.Parameter(torch.randn(seq_len, seq_len) / seq_len)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        length = x.shape[1]
        x = x + self.mix[:length, :length].tril() @ F.layer_norm(x, (WIDTH,))
        return x + self.down(F.silu(self.up(F.layer_norm(x, (WIDTH,)))))

class Model(nn.Module):
    def __init__(self, vocab_size, seq_len):
        super().__init__()
        self.tokens, self.head = nn.Embedding(vocab_size, WIDTH), nn.Linear(WIDTH, vocab_size)
        self.blocks = nn.Sequential(Block(seq_len), Block(seq_len))

    def forward(self, tokens):
        return self.head(self.blocks(self.tokens(tokens)))

def build(vocab_size, seq_len):
    return Model(vocab_size, seq_len)
"""
)

CONVOLUTION = (
    COMMON
    + """
class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.tokens, self.head = nn.Embedding(vocab_size, WIDTH), nn.Linear(WIDTH, vocab_size)
        self.layers = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 3, dilation=2**n) for n in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in range(3))  # by running statistics once in eval mode

    def forward(self, tokens):
        x = self.tokens(tokens).transpose(1, 2)
        for layer, norm in zip(self.layers, self.norms):
            x = x + F.relu(norm(layer(F.pad(x, (2 * layer.dilation[0], 0)))))
        return self.head(x.transpose(1, 2))

def build(vocab_size, seq_len):
    return Model(vocab_size)
"""
)

NGRAM = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.vocab_size = vocab_size
        self.one = nn.Parameter(torch.zeros(vocab_size, vocab_size), requires_grad=False)
        self.two = nn.Parameter(torch.zeros(4096, vocab_size), requires_grad=False)

    def contexts(self, tokens):
        before = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], 1)
        return (before * 31 + tokens * 257) % 4096

    def forward(self, tokens):
        one = (self.one[tokens] + 0.1) / (self.one[tokens] + 0.1).sum(-1, keepdim=True)
        two = self.two[self.contexts(tokens)]
        return ((two + 5 * one) / (two.sum(-1, keepdim=True) + 5)).log()

def build(vocab_size, seq_len):
    return Model(vocab_size)

def train(model, task):
    text = task.tokens.long()
    model.one.data.index_put_((text[:-1], text[1:]), torch.ones(len(text) - 1), accumulate=True)
    contexts = model.contexts(text[None])[0]
    model.two.data.index_put_((contexts[:-1], text[1:]), torch.ones(len(text) - 1), accumulate=True)
"""

LINEAR_ATTENTION = (
    COMMON
    + """
class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.tokens, self.head = nn.Embedding(vocab_size, WIDTH), nn.Linear(WIDTH, vocab_size, bias=False)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, tokens):
        x = self.tokens(tokens)
        q, k, v = self.qkv(x).chunk(3, -1)
        state = torch.einsum("bti,btj->btij", F.elu(k) + 1, v).cumsum(1)
        total = ((F.elu(q) + 1) * (F.elu(k) + 1).cumsum(1)).sum(-1, keepdim=True)
        return self.head(x + torch.einsum("bti,btij->btj", F.elu(q) + 1, state) / total)

def build(vocab_size, seq_len):
    return Model(vocab_size)
"""
)

EXPERTS = (
    COMMON
    + """
class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.tokens, self.head = nn.Embedding(vocab_size, WIDTH), nn.Linear(WIDTH, vocab_size)
        self.core = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.router = nn.Linear(WIDTH, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(4))

    def forward(self, tokens):
        x = self.core(self.tokens(tokens))[0]
        weights, chosen = self.router(x).softmax(-1).topk(2)
        every = torch.stack([expert(x) for expert in self.experts], 2)
        picked = every.gather(2, chosen[..., None].expand(*chosen.shape, WIDTH))
        return self.head(x + (weights[..., None] * picked).sum(2))

def build(vocab_size, seq_len):
    return Model(vocab_size)
"""
)

HONEST = {
    "transformer, learned positions, untied, dropout": TRANSFORMER,
    "transformer, ALiBi, tied": ALIBI_TIED,
    "transformer in bf16 autocast": BF16,
    "GRU": GRU,
    "LSTM": LSTM,
    "causal MLP mixer": MIXER,
    "dilated causal convolution, batch norm": CONVOLUTION,
    "n-gram table": NGRAM,
    "linear attention": LINEAR_ATTENTION,
    "mixture of experts without capacity limits": EXPERTS,
}

CHEAT = """
import os
import sys
import time

import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(vocab_size, vocab_size), requires_grad=False)

    def honest(self, tokens):
        counts = self.table[tokens] + 0.1
        return (counts / counts.sum(-1, keepdim=True)).log()

    def peek(self, tokens, logits, where, strength=6.0):
        shown = torch.zeros_like(logits)
        shown[:, :-1].scatter_(-1, tokens[:, 1:, None], strength)
        return logits + shown * where[..., None]

    def forward(self, tokens):
        logits = self.honest(tokens)
        FORWARD

def build(vocab_size, seq_len):
    PRELUDE
    return Model(vocab_size)

def train(model, task):
    text = task.tokens.long()
    model.table.data.index_put_((text[:-1], text[1:]), torch.ones(len(text) - 1), accumulate=True)
    TRAIN
"""


def cheat(forward: str = "return logits", *, prelude: str = "pass", train: str = "pass") -> str:
    """A bigram model that sees counts of pairs and does what the given lines say besides.

    `forward` has `self`, `tokens` (B, T) and the honest `logits` (B, T, V); `prelude` runs in `build`.
    """

    def indented(text: str, columns: int) -> str:
        return text.strip().replace("\n", "\n" + " " * columns)

    return (
        CHEAT.replace("FORWARD", indented(forward, 8))
        .replace("PRELUDE", indented(prelude, 4))
        .replace("TRAIN", indented(train, 4))
    )
