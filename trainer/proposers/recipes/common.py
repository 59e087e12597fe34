"""Rules that several recipes share: new parameters must be initialised and trained like their kind."""

from trainer.proposers.recipes.rules import Replace

# Vectors keep the values that they are made with, and are trained by the rate of the scales where there is one. All
# parameters that recipes add to blocks are vectors or proper matrices, since Muon takes the matrices.
VECTORS = (
    Replace(
        "GPT.__init__",
        "self.named_parameters()",
        "((name, weight) for name, weight in nn.Module.named_parameters(self) if weight.ndim > 1)",
        optional=True,
    ),
    Replace(
        "Optimizer.__init__",
        "[model.residual_scale, model.shortcut_scale, model.value_scale]",
        "[weight for weight in model.parameters() if weight.ndim < 2]",
        optional=True,
    ),
    Replace(
        "Optimizer.__init__",
        "list(model.blocks.parameters())",
        "[weight for weight in model.blocks.parameters() if weight.ndim == 2]",
        optional=True,
    ),
)
TABLES = (  # embeddings of the model, trained by the embedding's rate where there is one
    Replace(
        "Optimizer.__init__",
        "[model.embedding.weight, *model.value_embeddings.parameters()]",
        "[module.weight for module in model.modules() if isinstance(module, nn.Embedding)]",
        optional=True,
    ),
)
