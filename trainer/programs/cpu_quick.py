"""The baseline of the track `cpu-quick`: a small byte-level GPT, trained for about ten seconds of one CPU core.

A program of the contract: `build` makes the model, `train` fits it in place until the budget is nearly spent. It never
sees validation text and computes no score. Constants in capitals are the knobs; the asserts below them say which
combinations make sense, so that a search can respect them before it spends compute.

Architecture: pre-norm decoder with rotary positions (Su et al. 2021, arXiv:2104.09864), RMSNorm without gains (Zhang
and Sennrich 2019, arXiv:1910.07467) and queries and keys normalised (Henry et al. 2020, arXiv:2010.04245). Optimiser:
AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with a trapezoidal rate (Zhai et al. 2022, arXiv:2106.04560).
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 64  # of the residual stream
LAYERS = 2
HEADS = 2
MLP_RATIO = 4  # hidden units of the MLP per unit of width
ACTIVATION = "relu2"  # choices: relu2, gelu, silu
QK_NORM = True  # normalise queries and keys per head
ROTARY_BASE = 10000.0  # longest wavelength of the positions, over 2 pi
INIT_STD = 0.02  # of embedding and input matrices; the matrices that write to the residual stream start at zero

BATCH = 16  # windows per step
CONTEXT = 128  # bytes per window; may differ from the context of the evaluation
LEARNING_RATE = 1e-3
BETA1 = 0.9
BETA2 = 0.95
WEIGHT_DECAY = 0.1
GRADIENT_NORM = 1.0  # gradients are scaled down to this norm
WARMUP_SHARE = 0.02  # of the budget, with the rate rising from zero
WARMDOWN_SHARE = 0.5  # of the budget, with the rate falling to its final value
FINAL_RATE_SHARE = 0.0  # of the peak rate

assert WIDTH % HEADS == 0
assert WIDTH // HEADS % 2 == 0  # rotary positions turn pairs of channels
assert CONTEXT >= 8
assert ROTARY_BASE > 1
assert WARMUP_SHARE + WARMDOWN_SHARE <= 1
assert FINAL_RATE_SHARE <= 1


class Task(Protocol):
    """What the trial hands to `train`."""

    tokens: Tensor  # (N,) uint8, the training text
    doc_starts: Tensor  # (D,) int64, offsets into it
    vocab_size: int
    seq_len: int
    device: str
    seed: int

    def time_left(self) -> float:
        """Seconds of budget."""


def activate(x: Tensor) -> Tensor:
    if ACTIVATION == "relu2":
        return F.relu(x).square()
    return F.gelu(x) if ACTIVATION == "gelu" else F.silu(x)


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],))


class Rotary(nn.Module):
    """Turns each pair of channels by an angle that grows with the position."""

    cos: Tensor
    sin: Tensor

    def __init__(self, channels: int, seq_len: int) -> None:
        super().__init__()
        frequencies = ROTARY_BASE ** -torch.arange(0, 1, 2 / channels)  # (channels / 2,)
        angles = torch.outer(torch.arange(seq_len).float(), frequencies)  # (T, channels / 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, heads, T, channels)
        cos, sin = self.cos[: x.shape[-2]], self.sin[: x.shape[-2]]
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Block(nn.Module):
    def __init__(self, seq_len: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.attended = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, MLP_RATIO * WIDTH, bias=False)
        self.down = nn.Linear(MLP_RATIO * WIDTH, WIDTH, bias=False)
        self.rotary = Rotary(WIDTH // HEADS, seq_len)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, WIDTH)
        x = x + self.attended(self.attention(norm(x)))
        x = x + self.down(activate(self.up(norm(x))))
        return x

    def attention(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads = self.qkv(x).view(batch, length, 3, HEADS, WIDTH // HEADS).transpose(1, 3)
        q, k, v = heads.unbind(2)  # each (B, heads, T, channels)
        if QK_NORM:
            q, k = norm(q), norm(k)
        mixed = F.scaled_dot_product_attention(self.rotary(q), self.rotary(k), v, is_causal=True)
        return mixed.transpose(1, 2).reshape(batch, length, WIDTH)


class GPT(nn.Module):
    def __init__(self, vocab_size: int, seq_len: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, WIDTH)
        self.blocks = nn.ModuleList(Block(seq_len) for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, vocab_size, bias=False)
        for name, weight in self.named_parameters():
            if name.endswith(("attended.weight", "down.weight")):
                nn.init.zeros_(weight)
            else:
                nn.init.normal_(weight, std=INIT_STD)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, T) int64 -> (B, T, V) logits
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(norm(x))
        return logits


def build(vocab_size: int, seq_len: int) -> nn.Module:
    return GPT(vocab_size, max(seq_len, CONTEXT))


def rate_share(progress: float) -> float:
    """Share of the peak rate at a share `progress` of the budget: rise, plateau, fall."""
    rise = progress / WARMUP_SHARE if WARMUP_SHARE > 0 else 1.0
    fall = (1 - progress) / WARMDOWN_SHARE if WARMDOWN_SHARE > 0 else 1.0
    return min(1.0, rise, FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * max(0.0, fall))


def train(model: nn.Module, task: Task) -> None:
    budget = task.time_left()
    reserve = 0.01 * budget  # for what a step's time does not show
    tokens = task.tokens.to(task.device)
    window = torch.arange(min(CONTEXT + 1, len(tokens)), device=task.device)
    draw = torch.Generator().manual_seed(task.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(BETA1, BETA2), weight_decay=WEIGHT_DECAY)
    slowest = 0.0  # seconds of the slowest step so far: the next one must fit as well
    while (left := task.time_left()) > reserve + slowest:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate_share(1 - (left - reserve) / (budget - reserve))
        starts = torch.randint(len(tokens) - len(window) + 1, (BATCH, 1), generator=draw).to(task.device)
        rows = tokens[starts + window].long()  # (BATCH, window)
        logits = model(rows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        slowest = max(slowest, left - task.time_left())
