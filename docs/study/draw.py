"""The study's table and picture, from what mtdiff compare has written.

    python docs/study/draw.py docs/study/digits.json docs/study/digits.svg

prints the table and draws the picture.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from mtdiff_core.comparison.statistics import over_seeds

METRIC = "frechet_distance"


def distance(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The Frechet distance of jointly sampled images, as ``comparison.json`` holds it."""
    (one,) = (one for one in found["figures"] if one["name"] == METRIC and one["direction"] == "joint")
    return one


def ratios(found: Mapping[str, Any], label: str) -> list[dict[str, Any]]:
    """The geometric mean over seeds of a recipe's distance over the image's own, and its interval, at each share."""
    values = distance(found)["values"]
    result = []
    for own, plain in zip(values[label], values[found["reference"]], strict=True):
        logs = over_seeds([math.log(a / b) for a, b in zip(own["each"], plain["each"], strict=True)])
        interval = logs["interval"] and [math.exp(bound) for bound in logs["interval"]]
        result.append({"mean": math.exp(logs["mean"]), "interval": interval})
    return result


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a Markdown table: distance and ratio at each share of the training, and the price of a step."""
    shares = [f"{share:.0%}" for share in found["shares"]]
    steps = found["steps"][found["reference"]]
    heads = [f"FD after {step} steps ({share})" for step, share in zip(steps, shares, strict=True)]
    yield "| " + " | ".join(["recipe", *heads, *(f"ratio, {share}" for share in shares), "time of a step"]) + " |"
    yield "|" + "---|" * (2 * len(shares) + 2)
    for label, values in distance(found)["values"].items():
        means = [f"{value['mean']:.2f}" for value in values]
        told = [_ratio(one) for one in ratios(found, label)] if label != found["reference"] else ["1"] * len(shares)
        yield "| " + " | ".join([label, *means, *told, f"x {found['cost'][label]['ratio']['median']:.2f}"]) + " |"


def _ratio(one: Mapping[str, Any]) -> str:
    if one["interval"] is None:
        return f"{one['mean']:.2f}"
    low, high = one["interval"]
    return f"{one['mean']:.2f} ({low:.2f} to {high:.2f})"


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
    values = distance(found)["values"]
    panel.axhline(1, color="0.35", linewidth=1.2)
    for index, label in enumerate(labels):
        for seed in range(len(found["seeds"])):
            pairs = zip(values[label], values[found["reference"]], strict=True)
            each = [own["each"][seed] / plain["each"][seed] for own, plain in pairs]
            panel.plot(steps, each, color=f"C{index}", linewidth=0.8, alpha=0.45)
        means = [one["mean"] for one in ratios(found, label)]
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
