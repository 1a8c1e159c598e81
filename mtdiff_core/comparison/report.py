"""comparison.html: recipes side by side, on one page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtdiff_core.evaluation.markup import NOTHING, Html, element, interval, number, table, together
from mtdiff_core.evaluation.page import page
from mtdiff_core.evaluation.plots import Series, legend, steps_plot
from mtdiff_core.evaluation.report import better_way
from mtdiff_core.files import write_atomically


def write_comparison_report(path: Path, found: Mapping[str, Any]) -> None:
    """Write the page. The same input gives the same bytes.

    Args:
        path: Of the page.
        found: What ``comparison.compared`` gives, or ``comparison.json`` holds.

    Raises:
        UserError: The page cannot be written.
    """
    figures = [
        (
            f"figure-{i}",
            f"{one['name']} of {' + '.join(one['of'])}, {one['direction']}",
            _figure(f"plot-{i}", one, found),
        )
        for i, one in enumerate(found["figures"])
    ]
    title = f"Comparison of {', '.join(found['recipes'])}"
    write_atomically(path, page(title, _header(found), [*figures, ("cost", "Time for a step", _cost(found))]))


def _header(found: Mapping[str, Any]) -> Iterable[Html]:
    """What was compared, and under which conditions."""
    reference, *others = found["recipes"]
    yield element("p", "mtdiff comparison", class_="kicker")
    yield element("h1", f"{', '.join(others)} against {reference}")
    yield element("ul", *(element("li", element("b", name), f" {text}") for name, text in found["recipes"].items()))
    about = {
        "Seeds": ", ".join(map(str, found["seeds"])),
        "Training steps": ", ".join(map(str, found["steps"][reference])),
        "Samples in each direction": found["how"]["num"],
        "Judged on": ", ".join(found["how"]["common"]),
    }
    pairs = (element("div", element("dt", name), element("dd", value)) for name, value in about.items())
    yield element("dl", *pairs, class_="about")


def _name(figure: Mapping[str, Any]) -> str:
    return f"{figure['name']} of {' + '.join(figure['of'])}"


def _figure(key: str, figure: Mapping[str, Any], found: Mapping[str, Any]) -> Html:
    """One figure of every recipe, along training."""
    series = [
        Series(
            name=label,
            x=found["steps"][label],
            y=[value["mean"] for value in values],
            low=[(value["interval"] or (None, None))[0] for value in values],
            high=[(value["interval"] or (None, None))[1] for value in values],
        )
        for label, values in figure["values"].items()
    ]
    name = _name(figure)
    alt = f"{name} over training steps, of {', '.join(found['recipes'])}; the table below has the numbers"
    baselines = ", ".join(f"{what} {number(value)}" for what, value in figure["baselines"].items())
    told = [f"n = {figure['n']}", figure["features"], f"beside it: {baselines}" if baselines else ""]
    plot = steps_plot(key, alt, series, "training steps", figure["unit"])
    caption = element("figcaption", better_way(figure["better"]), legend([one.name for one in series]))
    return together(
        [
            element("p", "; ".join(part for part in told if part), class_="note"),
            element("figure", caption, plot, class_="wide"),
            _table(name, figure, found),
        ]
    )


def _table(name: str, figure: Mapping[str, Any], found: Mapping[str, Any]) -> Html:
    """Every recipe at every checkpoint, the difference it makes at the end, and where it is after equal time."""
    reference = found["reference"]
    after = [f"after {share:.0%}" for share in found["shares"]]
    heads = ["recipe", *after, f"{after[-1]}, less {reference}", "ratio", *(f"in the time of {one}" for one in after)]
    rows = []
    for label, values in figure["values"].items():
        pairs = figure["paired"].get(label)
        difference = [_mean(pairs[-1]), number(pairs[-1]["ratio"], 3)] if pairs else [NOTHING, NOTHING]
        timed = [NOTHING if one is None else _mean(one) for one in figure["at_equal_time"][label]]
        rows.append([label, *map(_mean, values), *difference, *timed])
    return table(f"{name}: means over seeds, and 95% intervals", heads, rows)


def _mean(value: Mapping[str, Any]) -> Html:
    mean = element("strong", number(value["mean"]))
    return together([mean, element("small", interval(value["interval"]))]) if value["interval"] else mean


def _cost(found: Mapping[str, Any]) -> Html:
    """What a training step of each recipe takes."""
    rows: list[Sequence[object]] = [
        [label, _median(cost["seconds_per_step"], 1000), _median(cost["ratio"]), f"{found['equal_start'][label]:.1%}"]
        for label, cost in found["cost"].items()
    ]
    heads = ["recipe", "milliseconds", f"ratio to {found['reference']}", f"initial weights of {found['reference']}"]
    title = f"Time for a training step, timed in turns with {found['reference']}: medians, and 95% intervals"
    return table(title, heads, rows)


def _median(value: Mapping[str, Any], unit: float = 1) -> Html:
    bounds = [unit * bound for bound in value["interval"]]
    median = element("strong", number(unit * value["median"], 3))
    return together([median, element("small", interval(bounds))])
