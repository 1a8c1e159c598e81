"""mtdiff bench: how fast a recipe runs on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from mtdiff_core.cli.console import (
    Display,
    choose_device,
    device_option,
    errors,
    load_registry,
    output,
    prepare_process,
)
from mtdiff_core.errors import UserError
from mtdiff_core.files import write_atomically
from mtdiff_core.packaged import find_recipe
from mtdiff_core.recipe.loading import load_recipe


@click.command()
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, such as data.size=32.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How often everything is timed, one after the other; more when the machine is busy.",
)
@click.option("--fast", is_flag=True, help="Without torch.compile, which takes minutes.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Also write every figure to a JSON file.")
@device_option
def bench(recipe: str, overrides: tuple[str, ...], rounds: int, fast: bool, out: Path | None, device: str) -> None:
    """Time RECIPE, a TOML file or the name of a shipped recipe, on this machine; no run is left behind.

    The training step is compared with the same network's forward and backward pass and optimizer alone, the sampling
    step with a forward pass alone. Ratios are medians of rounds, with a 95% interval.

    \b
    Examples:
      mtdiff bench image+label
      mtdiff bench image+label --set data.batch_size=128 --fast --out speed.json
    """  # noqa: D301 - click's own mark for lines to keep as they are
    registry = load_registry()
    loaded = load_recipe(find_recipe(recipe), registry, overrides)
    _check_out(out)
    prepare_process()

    from mtdiff_core.benchmark.benchmark import BenchmarkOptions, benchmark
    from mtdiff_core.evaluation.evaluation import strict_json

    with Display() as display:
        options = BenchmarkOptions(rounds=rounds, compiled=not fast)
        found = benchmark(loaded, registry, choose_device(device), options, display.work)
    if out:
        write_atomically(out, strict_json(found))
    _show(found)
    if out:
        output.print(f"{out}", markup=False)


def _check_out(out: Path | None) -> None:
    """Raise ``UserError`` now, and not after minutes, if the file could not be written."""
    if out and (out.is_dir() or not out.parent.is_dir()):
        what = "is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise UserError(what, f"--out {out}", "expected a file in a folder that is there, such as speed.json")


def _show(found: Mapping[str, Any]) -> None:
    settings = found["settings"]
    hardware = found["environment"]["hardware"]
    space = "x".join(map(str, settings["space"]))
    output.print(
        f"{found['recipe']['name']}: {settings['parameters'] / 1e6:.2f} M parameters, space {space}, batch "
        f"{settings['batch_size']}, {settings['precision']}; {hardware['device']}, {hardware['threads']} threads; "
        f"{settings['rounds']} rounds",
        markup=False,
    )
    _table("step by step", ("", "ms", "images/s", "to bare", "95% interval"), _steps(found))
    _table("parts of a training step", ("", "ms", "share"), _parts(found))
    _table(
        "work done, and its share of what this machine does at most",
        ("", "GFLOP", "GFLOP/s", "of matmul", "of convolution"),
        _work(found),
    )
    _table("training step, computed otherwise", ("", "ms", "speedup", "95% interval", "first step"), _variants(found))
    memory = {name: f"{bytes_ / 2**20:.0f} MiB" for name, bytes_ in found["peak_memory"].items() if bytes_ is not None}
    if memory:
        kind = "of the process" if hardware["device"] == "cpu" else "of tensors"
        output.print(f"peak memory {kind}: " + ", ".join(f"{name} {size}" for name, size in memory.items()))
    for row in found["variants"]:
        if row["error"]:
            errors.print(f"{row['name']} does not work here: {row['error']}", markup=False)


def _table(title: str, heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> None:
    table = Table(box=None, title=title, title_justify="left", title_style="bold")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    output.print(table)


def _steps(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    seconds, ratios, throughput = found["seconds"], found["ratios"], found["images_per_second"]
    for name, against, what in (
        ("training step", "bare training step", "training"),
        ("sampling step", "bare forward", "sampling"),
        ("loading a batch", "", "loading"),
    ):
        if against:
            yield against, _milliseconds(seconds[against]), "", "", ""
        ratio = (f"{ratios[what]['median']:.3f}", _certainty(ratios[what])) if against else ("", "")
        yield name, _milliseconds(seconds[name]), f"{throughput[what]['median']:.4g}", *ratio


def _parts(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, part in found["parts"].items():
        yield name, _milliseconds(part["seconds"]), f"{part['share']['median']:.1%}"


def _work(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, shares in found["share_of_peak"].items():
        flops, seconds = found["flops"][name], found["seconds"][name]["median"]
        of_peaks = [f"{share['median']:.1%}" for share in shares.values()]
        yield name, f"{flops / 1e9:.4g}", f"{flops / seconds / 1e9:.4g}", *of_peaks
    for name, peak in found["peaks"].items():
        yield f"peak: {name}", "", f"{peak['median'] / 1e9:.4g}", "", ""


def _variants(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for row in found["variants"]:
        if row["error"]:
            yield row["name"], "failed", "", "", ""
        else:
            speedup, first = row["speedup"], f"{row['first_step_seconds']:.1f} s"
            ratio = (f"{speedup['median']:.2f}", _certainty(speedup)) if speedup else ("", "")
            yield row["name"], _milliseconds(row["seconds"]), *ratio, first


def _milliseconds(seconds: Mapping[str, Any]) -> str:
    return f"{1000 * seconds['median']:.4g}"


def _certainty(measured: Mapping[str, Any]) -> str:
    return _interval(measured) if len(measured["each"]) > 1 else "timed once"


def _interval(measured: Mapping[str, Any]) -> str:
    low, high = measured["interval"]
    return f"{low:.3f} to {high:.3f}"
