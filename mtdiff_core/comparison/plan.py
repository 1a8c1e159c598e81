"""What a comparison consists of: which recipes, with which seeds, judged where, on what they have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from mtdiff_core.directions import Direction, direction
from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.component import evolved
from mtdiff_core.recipe.builder import build_recipe

if TYPE_CHECKING:
    from mtdiff_core.interfaces.metric import Metric
    from mtdiff_core.recipe.recipe import Recipe
    from mtdiff_core.registry.registry import Registry

CONTROL = " (its views alone)"


@attrs.frozen(kw_only=True)
class Entry:
    """One recipe with one seed.

    Attributes:
        label: What the recipe is called in this comparison.
        seed: Its seed.
        recipe: With that seed, and without pictures during training.
        folder: Its run directory.
    """

    label: str
    seed: int
    recipe: Recipe
    folder: Path


@attrs.frozen(kw_only=True)
class Plan:
    """A comparison.

    Attributes:
        recipes: By label; the first is what the others are compared with.
        seeds: Each recipe is trained with each of them.
        shares: Shares of the training after which models are judged, increasing, in (0, 1].
        metrics: By name.
        asked: Names of metrics that were asked for one by one: one that nothing can be said of is an error then.
        num: Samples in each direction.
        folder: Where runs and results lie.
    """

    recipes: Mapping[str, Recipe]
    seeds: Sequence[int]
    shares: Sequence[float]
    metrics: Mapping[str, Metric]
    asked: Sequence[str] = ()
    num: int
    folder: Path

    def steps(self, recipe: Recipe) -> list[int]:
        """Training steps after which a recipe is judged."""
        return [max(1, round(share * recipe.train.steps)) for share in self.shares]

    def entries(self) -> list[Entry]:
        """All runs, seed by seed, so that an early end leaves whole comparisons behind."""
        return [self._entry(label, seed) for seed in self.seeds for label in self.recipes]

    def _entry(self, label: str, seed: int) -> Entry:
        recipe = self.recipes[label]
        own = attrs.evolve(recipe, head=evolved(recipe.head, seed=seed), train=evolved(recipe.train, grid_every=0))
        return Entry(label=label, seed=seed, recipe=own, folder=self.folder / "runs" / f"{folder_name(label)}-{seed}")

    def common(self) -> tuple[str, ...]:
        """Names of the modalities that all recipes have and learn, of the same type, reading the same field."""
        first, *others = self.recipes.values()
        return tuple(
            name
            for name, entry in first.modalities.items()
            if all(
                recipe.modalities[name].options.weight > 0
                for recipe in self.recipes.values()
                if name in recipe.modalities
            )
            and all(
                name in other.modalities
                and other.modalities[name].options.type == entry.options.type
                and other.modalities[name].options.field == entry.options.field
                for other in others
            )
        )

    def directions(self, recipe: Recipe) -> list[Direction]:
        """Directions that every recipe can be judged in: joint, and from what all have and can be given."""
        names, common = list(recipe.modalities), self.common()
        given = [
            name
            for name in common
            if len(common) > 1 and all(_can_be_given(one, name) for one in self.recipes.values())
        ]
        return [direction([], names), *(direction([name], names) for name in given)]


def _can_be_given(recipe: Recipe, name: str) -> bool:
    try:
        recipe.check_direction(direction([name], list(recipe.modalities)))
    except UserError:
        return False
    return True


def folder_name(label: str) -> str:
    """A label as part of a path."""
    return "".join(letter if letter.isalnum() or letter in "+-_." else "-" for letter in label).strip("-")


def check_comparable(plan: Plan) -> None:
    """Raise ``UserError`` unless the recipes differ in what a comparison is about alone."""
    if len(plan.recipes) < 2:
        raise UserError("there is nothing to compare", "RECIPE", "give two recipes or more, or one and --control")
    labels = " and ".join(plan.recipes)
    if not plan.common():
        raise UserError(f"{labels} share no modality", "RECIPE", "compare recipes that generate something in common")
    _check_same("data.dataset", {n: (type(r.dataset), r.dataset) for n, r in plan.recipes.items()}, "the same data")
    _check_same("data.batch_size", {n: r.data.batch_size for n, r in plan.recipes.items()}, "equal batches")
    _check_same("train.steps", {n: r.train.steps for n, r in plan.recipes.items()}, "equal steps")


def _check_same(key: str, values: Mapping[str, object], wanted: str) -> None:
    first, *others = values.items()
    for name, value in others:
        if value != first[1]:
            raise UserError(
                f"{first[0]} and {name} differ in {key}: {_shown(first[1])} and {_shown(value)}",
                "RECIPE",
                f"a comparison needs {wanted}; --set {key}=... sets it for all",
            )


def _shown(value: object) -> str:
    return repr(value[1] if isinstance(value, tuple) else value)


def with_controls(recipes: Mapping[str, Recipe], registry: Registry) -> dict[str, Recipe]:
    """The recipes and, after each that derives a modality from the anchor's own field, a control.

    The control's network is shown the same extra views, as context, and has no loss of theirs and nothing of them in
    ``z_t``: what an augmentation alone would do.

    Raises:
        UserError: There is nothing to control for.
    """
    found: dict[str, Recipe] = {}
    for label, recipe in recipes.items():
        found[label] = recipe
        views = derived(recipe)
        if views:
            found[label + CONTROL] = _control(recipe, views, registry)
    if len(found) == len(recipes):
        raise UserError("no recipe derives a modality from its anchor's own field", "--control", "leave it out")
    return found


def _control(recipe: Recipe, views: Sequence[str], registry: Registry) -> Recipe:
    tables = recipe.to_tables()
    for name in views:
        tables["modalities"][name] |= {"curve": "none", "weight": 0.0}
    if recipe.diffusion.conditioning != "observe":
        tables["diffusion"] |= {"conditioning": "observe", "observe": list(views)}
    return build_recipe(tables, registry, f"{recipe.name}, control")


def derived(recipe: Recipe) -> list[str]:
    """Modalities that read the same field as the anchor."""
    anchor = recipe.space.anchor
    field = recipe.modalities[anchor].options.field
    return [name for name, entry in recipe.modalities.items() if name != anchor and entry.options.field == field]
