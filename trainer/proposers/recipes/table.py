"""All recipes, by theme, and their description for readers (docs/recipes.md)."""

from trainer.proposers.recipes.attention import ATTENTION
from trainer.proposers.recipes.ends import EMBEDDING, OUTPUT
from trainer.proposers.recipes.feedforward import FEEDFORWARD
from trainer.proposers.recipes.recipe import Recipe
from trainer.proposers.recipes.schedule import SCHEDULE
from trainer.proposers.recipes.size import SIZE
from trainer.proposers.recipes.stream import NORMS, RESIDUAL
from trainer.proposers.recipes.training import AVERAGING, OPTIMIZER

THEMES: dict[str, tuple[Recipe, ...]] = {
    "Size and budget": SIZE,
    "Attention and positions": ATTENTION,
    "MLP": FEEDFORWARD,
    "Norms": NORMS,
    "Residual stream": RESIDUAL,
    "Embeddings and initialisation": EMBEDDING,
    "Head and loss": OUTPUT,
    "Schedule": SCHEDULE,
    "Optimizer": OPTIMIZER,
    "Averaging of weights": AVERAGING,
}
RECIPES: tuple[Recipe, ...] = tuple(recipe for theme in THEMES.values() for recipe in theme)


def document() -> str:
    """The text of docs/recipes.md: `python -m trainer.proposers.recipes.table > docs/recipes.md`."""
    lines = [
        "# Recipes of the proposer `evolve`",
        "",
        "Structural changes of a program, applied to its syntax tree where its names and shapes allow. In brackets the",
        "prior: expected change in bits per byte at five minutes on an H100, negative is better, from the source or",
        "from published nights of such search, and mostly within the noise of one run. It orders what is tried first;",
        "trials decide.",
        "",
        "Written by `python -m trainer.proposers.recipes.table` from the table itself; a test compares.",
    ]
    for theme, recipes in THEMES.items():
        lines += ["", f"## {theme}"]
        for recipe in recipes:
            lines += [
                "",
                f"**{recipe.name}** ({recipe.expected:+g}): {recipe.hypothesis}.",
                f"Needs: {recipe.needs}. Source: {recipe.source}.",
            ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")
