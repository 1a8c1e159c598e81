"""mtdiff data: turn a data set into shards, and check them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import attrs
import click
import tomli_w

from mtdiff_core.cli.console import Display, load_registry, output, prepare_process
from mtdiff_core.errors import InterruptedRunError, MissingSplitError, UserError
from mtdiff_core.files import write_atomically
from mtdiff_core.interfaces.component import options_of
from mtdiff_core.interfaces.dataset import DatasetSource, Split
from mtdiff_core.packaged import find_recipe, packaged_recipes
from mtdiff_core.recipe.builder import read_component
from mtdiff_core.recipe.loading import apply_override, load_recipe
from mtdiff_core.recipe.sections import DataOptions
from mtdiff_core.suggest import did_you_mean

if TYPE_CHECKING:
    from mtdiff_core.recipe.recipe import Recipe
    from mtdiff_core.registry.registry import Registry

SPLITS: tuple[Split, ...] = get_args(Split)
SHARDS = "webdataset"  # the data set that reads what is packed


@click.group()
def data() -> None:
    """Data sets that are too large for memory: pack them as shards, and check these."""


@data.command()
@click.argument("source")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder; each split gets one in it.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, such as data.path=my/pictures."
)
@click.option("--shard-size", type=click.IntRange(min=1), default=1000, show_default=True, help="Samples in a shard.")
@click.option(
    "--shuffle/--no-shuffle",
    default=True,
    show_default=True,
    help="Shuffle once for all; while it streams, a data set is shuffled within data.shuffle_buffer samples alone.",
)
def pack(source: str, out: Path, overrides: tuple[str, ...], shard_size: int, shuffle: bool) -> None:
    """Turn SOURCE, a data set or the data of a recipe, into shards: tar files that are streamed, without loss.

    If it is stopped, the same command goes on.

    Example: mtdiff data pack image+label --out packed
    """
    registry = load_registry()
    name, dataset, recipe = _find(source, registry, overrides)
    prepare_process()
    target = _Table.of(out, recipe)
    target.check_is_free()
    options = {key: getattr(dataset, key) for key in options_of(type(dataset))}
    made_from = json.loads(json.dumps({"dataset": name, **options}))
    table = {"dataset": SHARDS}
    for split in SPLITS:
        try:
            _pack_split(dataset, split, out / split, shard_size, shuffle, {**made_from, "split": split})
            table[split] = str((out / split).resolve())
        except MissingSplitError:
            continue
        except KeyboardInterrupt as error:
            raise InterruptedRunError("the shards that are finished are kept", "the same command goes on") from error
    target.write(table, recipe)


def _find(source: str, registry: Registry, overrides: Sequence[str]) -> tuple[str, DatasetSource, Recipe | None]:
    """What a user names: the data set's name, itself, and the recipe if it is one."""
    if source in registry.names("dataset") and not Path(source).is_file():
        tables: dict[str, Any] = {"data": {"dataset": source}}
        for override in overrides:
            apply_override(tables, override)
        own = {key: value for key, value in tables.pop("data").items() if key != "dataset"}
        if tables:
            raise UserError(f"{next(iter(tables))!r} is no key of a data set", "--set", "such as data.size=32")
        cls = cast("type[DatasetSource]", registry.get("dataset", source).cls)
        return source, read_component(own, "data", cls, registry, source), None
    try:
        path = find_recipe(source)
    except UserError as error:
        known = [*registry.names("dataset"), *packaged_recipes()]
        raise UserError("is no recipe, and no data set", source, did_you_mean(source, known)) from error
    recipe = load_recipe(path, registry, overrides)
    return recipe.data.dataset, recipe.dataset, recipe


def _pack_split(
    dataset: DatasetSource, split: Split, folder: Path, shard_size: int, shuffle: bool, made_from: dict[str, Any]
) -> None:
    from mtdiff_core.data.packing import pack

    if dataset.stream(split) is not None:
        raise UserError("is a stream itself", made_from["dataset"], "pack what it was made from")
    with Display() as display:
        index = pack(dataset.open(split), folder, shard_size, shuffle, made_from, display.work)
    size = sum(shard.bytes for shard in index.shards) / 2**20
    output.print(f"{folder}: {index.samples} samples in {len(index.shards)} shards, {size:.1f} MB", markup=False)


@attrs.frozen
class _Table:
    """The file that says how to read the shards."""

    path: Path
    what: str

    @classmethod
    def of(cls, out: Path, recipe: Recipe | None) -> _Table:
        """The recipe, with its data from shards, or where there is none the table of the data alone."""
        if recipe is None:
            return cls(out / "dataset.toml", "put this in place of a recipe's [data] table, or beside its batch_size")
        return cls(out / "recipe.toml", "the same recipe, with its data from shards")

    @property
    def heading(self) -> str:
        """The first line, by which an earlier one of ours is known."""
        return f"# {self.what[0].upper()}{self.what[1:]}.\n"

    def check_is_free(self) -> None:
        """Raise ``UserError`` if a file of someone else's lies there."""
        if self.path.exists() and not self.path.read_text(errors="replace").startswith(self.heading):
            raise UserError("would be written over", str(self.path), "choose another folder with --out")

    def write(self, table: dict[str, str], recipe: Recipe | None) -> None:
        """Write it, for the data that ``table`` reads."""
        tables: dict[str, Any] = {"data": table}
        if recipe is not None:
            tables = recipe.to_tables()
            common = {key: value for key, value in tables["data"].items() if key in options_of(DataOptions)}
            tables["data"] = {**common, **table}
        write_atomically(self.path, f"{self.heading}\n{tomli_w.dumps(tables)}")
        output.print(f"{self.path}: {self.what}", markup=False)


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
def check(folder: Path) -> None:
    """Check the shards in FOLDER, or in the folders of its splits, by their checksums, and list what is damaged."""
    from mtdiff_core.data.packing import damage
    from mtdiff_core.data.shards import INDEX

    splits = [folder / split for split in SPLITS if (folder / split / INDEX).is_file()]
    found = 0
    for place in splits or [folder]:
        with Display() as display:
            for line in damage(place, display.work):
                output.print(line, markup=False)
                found += 1
    if found:
        hint = "remove the shards that are damaged: the same `mtdiff data pack` writes again what is not there"
        raise UserError(f"{found} faults, listed above", str(folder), hint)
    output.print(f"{folder}: all shards are as they were written", markup=False)
