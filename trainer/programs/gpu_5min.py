"""The baseline of a GPU track: a compact modern GPT, sized for one GPU and five minutes.

A program of the contract: `build` makes the model, `train` fits it in place until the budget is nearly spent, by
`task.time_left()` alone, so that it does not matter whether wall or CPU seconds are counted. `task.device` decides
where it runs; with small constants it runs on a CPU as well, in float32. It never sees validation text and computes no
score. Constants in capitals are the knobs; the asserts below them say which combinations make sense.

Size: 25 million parameters in the blocks, and with 8192 tokens 25 million more in embeddings and head: 200 MB of state,
below the 256 MiB that a trial takes back. A step of 131072 tokens keeps about 40 GB of activations (reckoned: 35 KB
for each token and layer); on a smaller GPU halve BATCH and double ACCUMULATION until it fits.

Architecture: pre-norm decoder with rotary positions (Su et al. 2021, arXiv:2104.09864), RMSNorm without gains (Zhang
and Sennrich 2019, arXiv:1910.07467), normalised queries and keys (Henry et al. 2020, arXiv:2010.04245), squared ReLU
(So et al. 2021, arXiv:2109.08668), embeddings of the tokens mixed into the values of every other layer (after Zhou et
al. 2024, arXiv:2410.17897), learned scales of the residual stream and of a shortcut from the embedding (Jordan et al.,
github.com/KellerJordan/modded-nanogpt), logits capped by tanh (Gemma 2, arXiv:2408.00118).

Optimiser: Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for the matrices of the blocks, AdamW
(Loshchilov and Hutter 2019, arXiv:1711.05101) for embeddings, head and scales, each group with a rate of its own;
constant rates with a linear warm-down (Hägele et al. 2024, arXiv:2405.18392). Initialisation and rates follow nanochat
(Karpathy 2025, github.com/karpathy/nanochat), whose class of model this is.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 512  # of the residual stream
LAYERS = 8
HEADS = 4
MLP_RATIO = 4  # hidden units of the MLP per unit of width
VALUE_EMBEDDINGS = True  # in every other layer
ROTARY_BASE = 100000.0  # longest wavelength of the positions, over 2 pi
QK_GAIN = 1.4  # of normalised queries on normalised keys
SOFTCAP = 15.0  # no logit is larger
EMBEDDING_STD = 0.8
HEAD_STD = 0.001  # nearly uniform predictions at the start

BATCH = 64  # windows of one forward pass
CONTEXT = 2048  # tokens per window; may differ from the context of the evaluation
ACCUMULATION = 1  # forward passes per step
OPTIMIZER = "muon"  # choices: muon, adamw
MATRIX_RATE = 0.03  # of Muon: every update of a square matrix is near-orthogonal, times this
ADAMW_MATRIX_RATE = 2e-3  # in its place with adamw
EMBEDDING_RATE = 0.6
HEAD_RATE = 0.006
SCALE_RATE = 0.02
MOMENTUM = 0.95  # of Muon
BETA1 = 0.8
BETA2 = 0.95
WEIGHT_DECAY = 0.1  # of the matrices
WARMUP_SHARE = 0.01  # of the budget, with the rates rising from zero
WARMDOWN_SHARE = 0.6  # of the budget, with the rates falling to their final value
FINAL_RATE_SHARE = 0.05  # of the peak rates
# Compilation counts against the budget (half a minute or more on a GPU) and needs a C compiler that the sandbox shows.
COMPILE = False

assert WIDTH % HEADS == 0
assert WIDTH // HEADS % 2 == 0  # rotary positions turn pairs of channels
assert CONTEXT >= 8
assert ROTARY_BASE > 1
assert MOMENTUM < 1
assert WARMUP_SHARE + WARMDOWN_SHARE <= 1
assert FINAL_RATE_SHARE <= 1

# Odd polynomials a x + b x^3 + c x^5 that bring singular values towards 1, the best in this order ("Polar Express",
# Amsel et al. 2025, arXiv:2505.16932); the last ones shrunk a little against rounding.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


class Task(Protocol):
    """What the trial hands to `train`."""

    tokens: Tensor  # (N,) integers, the training text
    doc_starts: Tensor  # (D,) int64, offsets into it
    vocab_size: int
    seq_len: int
    device: torch.device | str
    seed: int

    def time_left(self) -> float:
        """Seconds of budget."""


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
        cos, sin = self.cos[: x.shape[-2]].to(x.dtype), self.sin[: x.shape[-2]].to(x.dtype)
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Block(nn.Module):
    """Matrices only: queries, keys and values are apart, because Muon makes each update orthogonal by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)
        self.value = nn.Linear(WIDTH, WIDTH, bias=False)
        self.attended = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, MLP_RATIO * WIDTH, bias=False)
        self.down = nn.Linear(MLP_RATIO * WIDTH, WIDTH, bias=False)
        for matrix in (self.query, self.key, self.value, self.up):
            nn.init.uniform_(matrix.weight, -((3 / WIDTH) ** 0.5), (3 / WIDTH) ** 0.5)  # variance 1 / WIDTH
        nn.init.zeros_(self.attended.weight)  # a block starts as the identity
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor, rotary: Rotary, extra: Tensor | None) -> Tensor:
        """(B, T, WIDTH) to the same; `extra` (B, T, WIDTH) is added to the values."""
        x = x + self.attention(norm(x), rotary, extra)
        hidden: Tensor = self.up(norm(x))
        down: Tensor = self.down(F.relu(hidden).square())
        return x + down

    def attention(self, x: Tensor, rotary: Rotary, extra: Tensor | None) -> Tensor:
        batch, length, _ = x.shape
        value = self.value(x) if extra is None else self.value(x) + extra
        q, k, v = (
            part.view(batch, length, HEADS, WIDTH // HEADS).transpose(1, 2)  # (B, heads, T, channels)
            for part in (self.query(x), self.key(x), value)
        )
        q, k = norm(rotary(q)).to(v.dtype), norm(rotary(k)).to(v.dtype)  # autocast may norm in float32
        scale = QK_GAIN * (WIDTH // HEADS) ** -0.5
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        result: Tensor = self.attended(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return result


class GPT(nn.Module):
    def __init__(self, vocab_size: int, seq_len: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.rotary = Rotary(WIDTH // HEADS, seq_len)
        self.head = nn.Linear(WIDTH, vocab_size, bias=False)
        self.residual_scale = nn.Parameter(torch.ones(LAYERS))
        self.shortcut_scale = nn.Parameter(torch.full((LAYERS,), 0.1))
        self.value_scale = nn.Parameter(torch.full((LAYERS,), 0.5))
        layers = range(LAYERS - 1, -1, -2) if VALUE_EMBEDDINGS else ()  # the last one always
        self.value_embeddings = nn.ModuleDict({str(layer): nn.Embedding(vocab_size, WIDTH) for layer in layers})
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        nn.init.normal_(self.head.weight, std=HEAD_STD)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, T) int64 -> (B, T, V) logits, float32
        x = norm(self.embedding(tokens))
        if torch.is_autocast_enabled(x.device.type):  # the residual stream too, or every addition would be float32
            x = x.to(torch.get_autocast_dtype(x.device.type))
        start = x
        for layer, block in enumerate(self.blocks):
            x = self.residual_scale[layer] * x + self.shortcut_scale[layer] * start
            extra = None
            if str(layer) in self.value_embeddings:
                extra = self.value_scale[layer] * self.value_embeddings[str(layer)](tokens).to(x.dtype)
            x = block(x, self.rotary, extra)
        logits: Tensor = self.head(norm(x)).float()
        return SOFTCAP * torch.tanh(logits / SOFTCAP)


def build(vocab_size: int, seq_len: int) -> nn.Module:
    return GPT(vocab_size, max(seq_len, CONTEXT))


def orthogonal(matrices: Tensor) -> Tensor:
    """(n, rows, columns): each with its singular values brought near 1, its singular vectors kept."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices  # a CPU is slow at bfloat16
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x  # the products are of the smaller side
    x = x / (1.02 * x.norm(dim=(-2, -1), keepdim=True) + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result.to(matrices.dtype)


class Muon:
    """Nesterov momentum, made orthogonal. Matrices of one shape are stacked, for few and large products."""

    def __init__(self, matrices: Sequence[nn.Parameter]) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for matrix in matrices:
            by_shape.setdefault(matrix.shape, []).append(matrix)
        self.groups = [(group, torch.zeros_like(torch.stack(list(group)))) for group in by_shape.values()]

    def step(self, rate: float) -> None:
        with torch.no_grad():
            for group, momentum in self.groups:
                gradient = torch.stack([matrix.grad for matrix in group if matrix.grad is not None])
                momentum.lerp_(gradient, 1 - MOMENTUM)
                update = orthogonal(gradient.lerp(momentum, MOMENTUM))
                update *= max(1.0, update.shape[-2] / update.shape[-1]) ** 0.5  # equal change of outputs (Jordan 2024)
                weights = torch.stack(list(group))
                # Decay only where the update shrinks the weight too (Chen et al. 2025, arXiv:2510.12402).
                update += WEIGHT_DECAY * weights * (update * weights > 0)
                for matrix, change in zip(group, update, strict=True):
                    matrix.add_(change, alpha=-rate)


class Optimizer:
    """Muon for the matrices of the blocks (or AdamW, by OPTIMIZER), AdamW for the rest."""

    def __init__(self, model: GPT) -> None:
        self.model = model
        matrices = list(model.blocks.parameters())
        groups = [
            ([model.embedding.weight, *model.value_embeddings.parameters()], EMBEDDING_RATE, 0.0),
            ([model.head.weight], HEAD_RATE, 0.0),
            ([model.residual_scale, model.shortcut_scale, model.value_scale], SCALE_RATE, 0.0),
        ]
        if OPTIMIZER == "adamw":
            groups.append((matrices, ADAMW_MATRIX_RATE, WEIGHT_DECAY))
        self.muon = Muon(matrices if OPTIMIZER == "muon" else [])
        self.adamw = torch.optim.AdamW(
            [{"params": weights, "lr": rate, "peak": rate, "weight_decay": decay} for weights, rate, decay in groups],
            betas=(BETA1, BETA2),
            eps=1e-10,  # gradients of rare tokens are small
            fused=model.head.weight.is_cuda,
        )

    def step(self, share: float) -> None:
        """One update at a share of the peak rates; gradients are gone afterwards."""
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * share
        self.adamw.step()
        self.muon.step(MATRIX_RATE * share)
        self.model.zero_grad()


def rate_share(progress: float) -> float:
    """Share of the peak rates at a share `progress` of the budget: rise, plateau, fall."""
    rise = progress / WARMUP_SHARE if WARMUP_SHARE > 0 else 1.0
    fall = (1 - progress) / WARMDOWN_SHARE if WARMDOWN_SHARE > 0 else 1.0
    return min(1.0, rise, FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * max(0.0, fall))


def reduced_precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 for training on a GPU. The evaluation calls the model without it, so that a score is of float32."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def train(model: nn.Module, task: Task) -> None:
    assert isinstance(model, GPT)
    budget = task.time_left()
    reserve = 0.01 * budget  # for saving the weights, and for what a step's time does not show
    device = torch.device(task.device)
    model.to(device)
    tokens = task.tokens.to(device)
    window = torch.arange(min(CONTEXT + 1, len(tokens)), device=device)
    draw = torch.Generator().manual_seed(task.seed)
    optimizer = Optimizer(model)
    forward = torch.compile(model) if COMPILE else model  # beside the model, whose state dict keeps its names
    steps_s: deque[float] = deque([0.0], maxlen=20)  # the first step is slow, and says little about the last
    while (left := task.time_left()) > reserve + max(steps_s):
        for _ in range(ACCUMULATION):
            starts = torch.randint(len(tokens) - len(window) + 1, (BATCH, 1), generator=draw).to(device)
            rows = tokens[starts + window].long()  # (BATCH, window)
            with reduced_precision(device):
                logits = forward(rows[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()) / ACCUMULATION
            torch.autograd.backward(loss)
        optimizer.step(rate_share(1 - (left - reserve) / (budget - reserve)))
        if device.type == "cuda":
            torch.cuda.synchronize()  # the clock has to see the step's work, not its queueing
        steps_s.append(left - task.time_left())
