"""The study's table and picture, from what mtdiff compare has written.

    python docs/study/draw.py docs/study/digits-*.json docs/study/digits.svg

prints the table and draws the picture. Several files are of the same comparison with other seeds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

METRIC = "frechet_distance"


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Comparisons of the same recipes with different seeds, as one: the distances of all seeds, in order.

    Raises:
        SystemExit: They are not of the same comparison, or share a seed.
    """
    first, seeds = parts[0], [seed for part in parts for seed in part["seeds"]]
    if any(part[key] != first[key] for part in parts for key in ("recipes", "reference", "steps", "how")):
        sys.exit("these are not the same comparison: recipes, steps or how models were judged differ")
    if len(set(seeds)) < len(seeds):
        sys.exit(f"a seed is there twice: {seeds}")
    each = [distance(part) for part in parts]
    values = {
        label: [[value for one in each for value in one["values"][label][i]["each"]] for i in range(len(of_first))]
        for label, of_first in each[0]["values"].items()
    }
    equal_time = {
        label: [fmean(seen) if (seen := _at_equal_time(each, label, i)) else None for i in range(len(of_first))]
        for label, of_first in values.items()
    }
    return {**first, "seeds": seeds, "values": values, "at_equal_time": equal_time}


def _at_equal_time(each: Sequence[Mapping[str, Any]], label: str, place: int) -> list[float]:
    """A recipe's distance when the reference had come to a checkpoint, as often as there are seeds that say so."""
    found = [one["at_equal_time"][label][place] for one in each]
    return [value["mean"] for value in found if value for _ in range(value["seeds"])]


def distance(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The Frechet distance of jointly sampled images, as ``comparison.json`` holds it."""
    (one,) = (one for one in found["figures"] if one["name"] == METRIC and one["direction"] == "joint")
    return one


def ratios(found: Mapping[str, Any], label: str) -> list[tuple[float, list[float]]]:
    """A recipe's distance over the image's own at each share: geometric mean over seeds, and that of each seed."""
    values = found["values"]
    each = [
        [own / plain for own, plain in zip(mine, its, strict=True)]
        for mine, its in zip(values[label], values[found["reference"]], strict=True)
    ]
    return [(geometric_mean(one), one) for one in each]


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a Markdown table: distances, ratios, the price of a step, and the ratio when the image alone is done."""
    steps = [f"{step:,}" for step in found["steps"][found["reference"]]]
    heads = [f"FD after {steps[0]} steps", *steps[1:], f"ratio after {steps[0]}", *steps[1:]]
    yield "| " + " | ".join(["recipe", *heads, "time of a step", "ratio at equal time"]) + " |"
    yield "|" + "---|" * (2 * len(steps) + 3)
    for label, values in found["values"].items():
        means = [f"{fmean(value):.2f}" for value in values]
        told, price, at_equal_time = ["1"] * len(steps), "1", "1"
        if label != found["reference"]:
            told = [
                f"**{mean:.2f}** ({', '.join(f'{one:.2f}' for one in each)})" for mean, each in ratios(found, label)
            ]
            ratio = found["cost"][label]["ratio"]
            price = f"{ratio['median']:.2f} ({ratio['interval'][0]:.2f} to {ratio['interval'][1]:.2f})"
            then = found["at_equal_time"][label][-1]
            at_equal_time = f"{then / fmean(found['values'][found['reference']][-1]):.2f}" if then else "-"
        yield "| " + " | ".join([f"`{label}`", *means, *told, price, at_equal_time]) + " |"


def groups(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """Recipes by what they add to the image: what their names begin with."""
    result: dict[str, list[str]] = {}
    for label in found["recipes"]:
        if label != found["reference"]:
            result.setdefault(label.partition("-")[0].partition(" ")[0], []).append(label)
    return result


def picture(found: Mapping[str, Any]) -> Figure:
    """A panel for each thing that is added: the ratio to the image alone along training, each seed a thin line."""
    found_groups = groups(found)
    figure = Figure(figsize=(3.6 * len(found_groups), 3.6), layout="constrained")
    panels = figure.subplots(1, len(found_groups), sharey=True, squeeze=False)[0]
    for panel, (group, labels) in zip(panels, found_groups.items(), strict=True):
        _panel(panel, found, labels)
        panel.set_title(f"image + {group}", loc="left", fontweight="bold")
    panels[0].set_ylabel("Fréchet distance, image alone = 1")
    return figure


def _panel(panel: Any, found: Mapping[str, Any], labels: Sequence[str]) -> None:
    steps = found["steps"][found["reference"]]
    panel.axhline(1, color="0.35", linewidth=1.2)
    for index, label in enumerate(labels):
        means, each = zip(*ratios(found, label), strict=True)
        panel.plot(steps, each, color=f"C{index}", linewidth=0.8, alpha=0.45)  # a line a seed
        panel.plot(steps, means, color=f"C{index}", linewidth=2.2, marker="o", label=label)
    panel.set_yscale("log")
    ticks = [0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5]
    panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_yticks([], minor=True)
    panel.set_xticks(steps)
    panel.set_xlabel("training steps")
    panel.grid(color="0.88")
    panel.legend(frameon=False, fontsize=8)


def main() -> None:
    """Read all arguments but the last, and draw that."""
    *sources, target = map(Path, sys.argv[1:])
    found = joined([json.loads(source.read_text(encoding="utf-8")) for source in sources])
    style = {"svg.hashsalt": "mtdiff", "axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
    with rc_context(style):
        picture(found).savefig(target, facecolor="white", metadata={"Date": None})
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
