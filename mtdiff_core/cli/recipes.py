"""mtdiff recipes: the shipped recipes, and checking one's own."""

from __future__ import annotations

import click
from rich.markup import escape
from rich.table import Table

from mtdiff_core.cli.console import load_registry, output
from mtdiff_core.files import read_text
from mtdiff_core.packaged import find_recipe, packaged_recipes


@click.group(invoke_without_command=True)
@click.pass_context
def recipes(context: click.Context) -> None:
    """List, show and validate recipes."""
    if context.invoked_subcommand is None:
        context.invoke(list_recipes)


@recipes.command("list")
def list_recipes() -> None:
    """List the shipped recipes."""
    import tomllib

    table = Table("recipe", "what it shows", box=None, pad_edge=False)
    for name, path in packaged_recipes().items():
        table.add_row(escape(name), escape(tomllib.loads(path.read_text()).get("description", "")))
    output.print(table)
    output.print("\nmtdiff run RECIPE trains one; mtdiff recipes show RECIPE prints it, to begin your own from.")


@recipes.command()
@click.argument("recipe")
def show(recipe: str) -> None:
    """Print RECIPE, a file or the name of a shipped recipe."""
    click.echo(read_text(find_recipe(recipe)), nl=False)


@recipes.command()
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, such as train.steps=500.")
def validate(recipe: str, overrides: tuple[str, ...]) -> None:
    """Check RECIPE: its keys, its data, and that its parts fit each other."""
    from mtdiff_core.recipe.loading import load_recipe

    loaded = load_recipe(find_recipe(recipe), load_registry(), overrides)

    from mtdiff_core.assembly import assemble, open_training_data
    from mtdiff_core.training.imputation import check_imputable

    data = open_training_data(loaded)
    experiment = assemble(loaded, data.fields)
    if loaded.train.impute_from:
        check_imputable(experiment.model, loaded.diffusion)
    parameters = sum(p.numel() for p in experiment.model.parameters())
    stream = loaded.dataset.stream("train")
    samples = len(data) if stream is None else sum(shard.samples for shard in stream.shards)
    output.print(f"{recipe} is valid: {samples} training samples, {parameters / 1e6:.2f} M parameters", markup=False)
    for direction in loaded.directions():
        output.print(f"  {direction}", markup=False)
