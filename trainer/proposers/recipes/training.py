"""Recipes of the optimizer, and of averaging weights."""

from trainer.proposers.recipes.recipe import Recipe
from trainer.proposers.recipes.rules import Append, Define, Drop, Knob, Lacks, Needs, Replace, Statement, times

_ORTHOGONAL = '''
def orthogonal(matrix: Tensor) -> Tensor:
    """(rows, columns): its singular values brought near 1 by five Newton-Schulz steps (Jordan et al. 2024)."""
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if matrix.shape[0] > matrix.shape[1] else x
'''
_MUON = '''
class Muon:
    """Takes matrices out of another optimizer, to give them a Nesterov momentum made orthogonal."""

    def __init__(self, rest: torch.optim.Optimizer, matrices: list[nn.Parameter]) -> None:
        taken = {id(matrix) for matrix in matrices}
        for group in rest.param_groups:
            group["params"] = [weight for weight in group["params"] if id(weight) not in taken]
        self.rest, self.param_groups, self.matrices = rest, rest.param_groups, matrices
        self.momenta = [torch.zeros_like(matrix) for matrix in matrices]

    def zero_grad(self) -> None:
        self.rest.zero_grad()
        for matrix in self.matrices:
            matrix.grad = None

    @torch.no_grad()
    def step(self) -> None:
        self.rest.step()
        rate = MUON_RATE * self.param_groups[0]["lr"] / LEARNING_RATE
        for matrix, momentum in zip(self.matrices, self.momenta):
            if matrix.grad is not None:
                momentum.lerp_(matrix.grad, 1 - MUON_MOMENTUM)
                update = orthogonal(matrix.grad.lerp(momentum, MUON_MOMENTUM))
                matrix.mul_(1 - rate * WEIGHT_DECAY)
                matrix.add_(update, alpha=-rate * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5)
'''
_LION = '''
class Lion(torch.optim.Optimizer):
    """Momentum of which only the sign acts (Chen et al. 2023, arXiv:2302.06675)."""

    def __init__(self, params: object, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                    update = momentum.lerp(weight.grad, 1 - group["betas"][0]).sign_()
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
                    momentum.lerp_(weight.grad, 1 - group["betas"][1])
'''
_STEP = "optimizer.step(*_)"
_ADAMW = "torch.optim.AdamW(model.parameters(), *_)"
_GROUPS = (
    "torch.optim.AdamW([{'params': [weight for name, weight in model.named_parameters() if "
    "'embedding' not in name]%s}, "
    "{'params': [weight for name, weight in model.named_parameters() if 'embedding' in name]%s}], *_)"
)


def _another(name: str) -> tuple[Replace, ...]:
    return (
        Replace(
            "train",
            "torch.optim.AdamW(_1, lr=_2, betas=_3, weight_decay=_4)",
            f"torch.optim.{name}(_1, lr=_2, betas=_3, weight_decay=_4, decoupled_weight_decay=True)",
        ),
    )


OPTIMIZER = (
    Recipe(
        name="muon",
        hypothesis="matrices of the blocks take orthogonal updates: all directions learn at one pace, not "
        "only the loud ones",
        needs="optimizer = ... of torch in train, with LEARNING_RATE and WEIGHT_DECAY, model.blocks",
        source="Jordan et al. 2024, kellerjordan.github.io/posts/muon",
        expected=-0.02,
        forms=(
            (
                Knob("MUON_RATE = 0.02  # of orthogonal updates"),
                Knob("MUON_MOMENTUM = 0.95"),
                Define(_ORTHOGONAL, "train"),
                Define(_MUON, "train"),
                Needs("GPT.__init__", "self.blocks = _1"),
                Replace("train", "LEARNING_RATE * _1", "LEARNING_RATE * _1"),
                Statement(
                    "train",
                    "optimizer = _1",
                    "optimizer = Muon(optimizer, [weight for weight in model.blocks.parameters() if weight.ndim == 2])",
                ),
            ),
        ),
    ),
    Recipe(
        name="muon-rows",
        hypothesis="rows of Muon's update are brought to one length: no output unit learns faster than the others",
        needs="update = orthogonal(...) in Muon.step",
        source="after NorMuon, Li et al. 2025, arXiv:2510.05491",
        expected=-0.001,
        forms=(
            (
                Lacks("F.normalize(update"),
                Statement(
                    "Muon.step",
                    "update = orthogonal(_1)",
                    "size = update.norm(dim=(-2, -1), keepdim=True) / update.shape[-2] ** 0.5\n"
                    "update = F.normalize(update, dim=-1) * size",
                ),
            ),
        ),
    ),
    Recipe(
        name="fewer-orthogonal-steps",
        hypothesis="Muon's updates are made orthogonal in fewer steps: nearly as good, and cheaper",
        needs="for a, b, c in POLAR_EXPRESS in orthogonal",
        source="Amsel et al. 2025, arXiv:2505.16932",
        expected=0.0,
        forms=(
            (
                Knob("ORTHOGONAL_STEPS = 4  # of the polynomials below"),
                Replace("orthogonal", "POLAR_EXPRESS", "POLAR_EXPRESS[:ORTHOGONAL_STEPS]"),
            ),
        ),
    ),
    Recipe(
        name="lion",
        hypothesis="only the sign of a momentum acts: one state instead of two, and rare tokens move as far "
        "as common ones",
        needs="torch.optim.AdamW with lr, betas, weight_decay in train; LEARNING_RATE",
        source="Chen et al. 2023, arXiv:2302.06675",
        expected=0.0,
        forms=(
            (
                times("LEARNING_RATE", 0.3),
                times("WEIGHT_DECAY", 3.0),
                Define(_LION, "train"),
                Replace(
                    "train",
                    "torch.optim.AdamW(_1, lr=_2, betas=_3, weight_decay=_4)",
                    "Lion(_1, lr=_2, betas=_3, weight_decay=_4)",
                ),
            ),
        ),
    ),
    Recipe(
        name="nadam",
        hypothesis="Adam with Nesterov's look ahead: it answers sooner to a changed gradient",
        needs="torch.optim.AdamW with lr, betas, weight_decay in train",
        source="Dozat 2016",
        expected=0.0,
        forms=(_another("NAdam"),),
    ),
    Recipe(
        name="radam",
        hypothesis="Adam that waits until its second moment is known: no warm-up has to be guessed",
        needs="torch.optim.AdamW with lr, betas, weight_decay in train",
        source="Liu et al. 2019, arXiv:1908.03265",
        expected=0.001,
        forms=(_another("RAdam"),),
    ),
    Recipe(
        name="fused-adamw",
        hypothesis="the optimizer's arithmetic runs in one kernel: more updates fit the budget",
        needs="torch.optim.AdamW(model.parameters(), ...) in train, not fused",
        source="PyTorch, torch.optim.AdamW",
        expected=-0.003,
        forms=((Lacks("fused="), Replace("train", "torch.optim.AdamW(*_)", "torch.optim.AdamW(*_, fused=True)")),),
    ),
    Recipe(
        name="adam-eps",
        hypothesis="a much smaller eps: gradients of rare tokens are small and should still count",
        needs="torch.optim.AdamW in train, without eps",
        source="Wortsman et al. 2023, arXiv:2309.14322",
        expected=-0.0005,
        forms=(
            (
                Lacks("eps="),
                Knob("ADAM_EPS = 1e-10"),
                Replace("train", "torch.optim.AdamW(*_)", "torch.optim.AdamW(*_, eps=ADAM_EPS)"),
            ),
        ),
    ),
    Recipe(
        name="embedding-rate",
        hypothesis="embeddings learn at a rate of their own: each row is seen rarely and can move further",
        needs="torch.optim.AdamW(model.parameters(), ...) and one rate for all groups",
        source="Yang et al. 2022, arXiv:2203.03466; nanochat",
        expected=-0.003,
        forms=(
            (
                Knob("EMBEDDING_RATE_FACTOR = 4.0  # of the rate of all other weights"),
                Replace("train", _ADAMW, _GROUPS % (", 'factor': 1.0", ", 'factor': EMBEDDING_RATE_FACTOR")),
                Statement(
                    "train",
                    'group["lr"] = LEARNING_RATE * _1',
                    'group["lr"] = group["factor"] * LEARNING_RATE * _1',
                    "instead",
                ),
            ),
        ),
    ),
    Recipe(
        name="embedding-without-decay",
        hypothesis="embeddings are not decayed: rows that are rarely seen keep what they have learned",
        needs="torch.optim.AdamW(model.parameters(), ...), one decay for all groups",
        source="Brown et al. 2020, arXiv:2005.14165; nanochat",
        expected=-0.001,
        forms=(
            (
                Lacks('group["weight_decay"]'),
                Replace("train", _ADAMW, _GROUPS % ("", ", 'weight_decay': 0.0")),
            ),
        ),
    ),
    Recipe(
        name="cautious-decay",
        hypothesis="weights decay only where the gradient shrinks them too: decay never works against learning",
        needs="torch.optim.AdamW with weight_decay=WEIGHT_DECAY in train, optimizer.step()",
        source="Chen et al. 2025, arXiv:2510.12402",
        expected=-0.005,
        forms=(
            (
                Lacks("shrinking"),
                Lacks('group["weight_decay"]'),
                Lacks("class Muon"),
                Replace(
                    "train",
                    "torch.optim.AdamW(_1, lr=_2, betas=_3, weight_decay=WEIGHT_DECAY, *_)",
                    "torch.optim.AdamW(_1, lr=_2, betas=_3, weight_decay=0.0, *_)",
                ),
                Statement(
                    "train",
                    "optimizer.step()",
                    "with torch.no_grad():\n"
                    "    for group in optimizer.param_groups:\n"
                    "        for weight in group['params']:\n"
                    "            if weight.grad is not None:\n"
                    "                shrinking = weight * weight.grad > 0\n"
                    "                weight.sub_(group['lr'] * WEIGHT_DECAY * weight * shrinking)",
                    "before",
                ),
            ),
        ),
    ),
    Recipe(
        name="no-clipping",
        hypothesis="gradients are not clipped: Adam divides by their size anyway, and a pass over all of them is saved",
        needs="nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM) in train",
        source="published nights of search on five-minute runs",
        expected=-0.002,
        forms=(
            (
                Statement("train", "nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)", "", "instead"),
                Drop("GRADIENT_NORM"),
            ),
        ),
    ),
    Recipe(
        name="clipping",
        hypothesis="gradients are clipped by their norm: one odd batch cannot undo many updates",
        needs="optimizer.step(...) in train, without clipping",
        source="Pascanu et al. 2012, arXiv:1211.5063",
        expected=0.003,
        forms=(
            (
                Lacks("clip_grad"),
                Knob("GRADIENT_NORM = 1.0  # gradients are scaled down to this norm"),
                Statement("train", _STEP, "nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)", "before"),
            ),
        ),
    ),
)

AVERAGING = (
    Recipe(
        name="weight-ema",
        hypothesis="the result is a running average of the weights: the noise of the last updates averages out",
        needs="optimizer = ... and optimizer.step(...) in train",
        source="Polyak and Juditsky 1992; Izmailov et al. 2018, arXiv:1803.05407",
        expected=-0.002,
        forms=(
            (
                Lacks("averages ="),
                Knob("EMA_DECAY = 0.95  # of the average of the weights, per update"),
                Statement(
                    "train",
                    "optimizer = _1",
                    "averages = [weight.detach().clone() for weight in model.parameters()]\nupdates = 0",
                ),
                Statement(
                    "train",
                    _STEP,
                    "updates += 1\n"
                    "with torch.no_grad():\n"
                    "    for average, weight in zip(averages, model.parameters()):\n"
                    "        average.lerp_(weight, 1 - min(EMA_DECAY, updates / (updates + 10)))",
                ),
                Append(
                    "train",
                    "with torch.no_grad():\n"
                    "    for average, weight in zip(averages, model.parameters()):\n"
                    "        weight.copy_(average)",
                ),
            ),
        ),
    ),
    Recipe(
        name="tail-average",
        hypothesis="the result is the mean of the weights over the last part of the run: it lies nearer the "
        "middle of the valley",
        needs="a loop with budget and left, optimizer = ... and optimizer.step(...) in train",
        source="Izmailov et al. 2018, arXiv:1803.05407; Kaddour 2022, arXiv:2209.14981",
        expected=-0.001,
        forms=(
            (
                Lacks("averages ="),
                Knob("AVERAGE_SHARE = 0.1  # of the budget, at its end, over which weights are averaged"),
                Needs("train", "budget = _1"),
                Needs("train", "reserve = _1"),
                Statement(
                    "train",
                    "optimizer = _1",
                    "averages = [torch.zeros_like(weight) for weight in model.parameters()]\naveraged = 0",
                ),
                Statement(
                    "train",
                    _STEP,
                    "if left < AVERAGE_SHARE * budget:\n"
                    "    averaged += 1\n"
                    "    with torch.no_grad():\n"
                    "        for average, weight in zip(averages, model.parameters()):\n"
                    "            average.lerp_(weight, 1 / averaged)",
                ),
                Append(
                    "train",
                    "if averaged:\n"
                    "    with torch.no_grad():\n"
                    "        for average, weight in zip(averages, model.parameters()):\n"
                    "            weight.copy_(average)",
                ),
            ),
        ),
    ),
)
