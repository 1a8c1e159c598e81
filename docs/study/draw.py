"""The study's table and picture, from what mtdiff compare has written.

    python docs/study/draw.py docs/study/digits.json docs/study/digits.svg

prints the table and draws the picture.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

METRIC = "frechet_distance"


def distance(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The Frechet distance of jointly sampled images, as ``comparison.json`` holds it."""
    (one,) = (one for one in found["figures"] if one["name"] == METRIC and one["direction"] == "joint")
    return one


def ratios(found: Mapping[str, Any], label: str) -> list[tuple[float, list[float]]]:
    """A recipe's distance over the image's own at each share: geometric mean over seeds, and that of each seed."""
    values = distance(found)["values"]
    each = [
        [own / plain for own, plain in zip(mine["each"], its["each"], strict=True)]
        for mine, its in zip(values[label], values[found["reference"]], strict=True)
    ]
    return [(geometric_mean(one), one) for one in each]


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a Markdown table: distance and ratio at each share of the training, and the price of a step."""
    steps = [f"{step:,}" for step in found["steps"][found["reference"]]]
    heads = [f"FD after {steps[0]} steps", *steps[1:], f"ratio after {steps[0]}", *steps[1:]]
    yield "| " + " | ".join(["recipe", *heads, "time of a step"]) + " |"
    yield "|" + "---|" * (2 * len(steps) + 2)
    for label, values in distance(found)["values"].items():
        means = [f"{value['mean']:.2f}" for value in values]
        told, price = ["1"] * len(steps), "1"
        if label != found["reference"]:
            told = [
                f"**{mean:.2f}** ({', '.join(f'{one:.2f}' for one in each)})" for mean, each in ratios(found, label)
            ]
            ratio = found["cost"][label]["ratio"]
            price = f"{ratio['median']:.2f} ({ratio['interval'][0]:.2f} to {ratio['interval'][1]:.2f})"
        yield "| " + " | ".join([f"`{label}`", *means, *told, price]) + " |"


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
    """Read the first argument, draw the second."""
    source, target = map(Path, sys.argv[1:])
    found = json.loads(source.read_text(encoding="utf-8"))
    style = {"svg.hashsalt": "mtdiff", "axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
    with rc_context(style):
        picture(found).savefig(target, facecolor="white", metadata={"Date": None})
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
