"""The report: everything found stands on it, as text that cannot be taken for markup, and it needs nothing else."""

import base64
import copy
import io
import json
import math
import re
from itertools import pairwise

import pytest
import torch
from PIL import Image as Picture

from mtdiff_core import FieldSpec
from mtdiff_core.directions import direction
from mtdiff_core.evaluation.evaluation import figure_to_json
from mtdiff_core.evaluation.markup import element, interval, number
from mtdiff_core.evaluation.plots import Series, density_plot, legend, stratum_edges
from mtdiff_core.evaluation.report import POINTS, crossings, loss_curves, smoothed, thinned, write_report
from mtdiff_core.evaluation.strip import MARGIN, WIDTH, strip
from mtdiff_core.generation import Generated
from mtdiff_core.interfaces.metric import Figure
from mtdiff_core.intervals import WHY_OUTSIDE
from mtdiff_image import Image
from mtdiff_label import Label
from tests.pages import Page

MODALITIES = {
    "image": Image().bind(FieldSpec(shape=(1, 8, 8), dtype="uint8")),
    "label": Label().bind(FieldSpec(shape=(), dtype="int64", classes=("ant", "bee"))),
}
LOG = [{"step": step, "loss/image": 1 / step, "loss/label": 0.5, "learning_rate": 0.1} for step in range(1, 40)]


def figure(name, value, low, high, **more):
    more = {"of": ("image",), "n": 100, "better": "lower", **more}
    return figure_to_json(Figure(name=name, value=value, interval=(low, high), **more))


def judged(known, figures, steps=8, **more):
    asked = direction(known, MODALITIES)
    return {
        "direction": str(asked), "known": list(asked.known), "generated": list(asked.generated), "n": 123,
        "steps": steps, "seconds": 4.56, "figures": figures, "refused": {}, **more,
    }  # fmt: skip


def mean(value):
    return {"value": value, "interval": (value - 0.25, value + 0.25)}


def bound(known, groups):
    parts = {"prior": mean(0.5), "diffusion": mean(32.5), "by_log_snr": [1.0, 0.0, 31.5]}
    return {
        "direction": str(direction(known, MODALITIES)), "n": 77, "steps": 1000, "computed": 6, "nats": mean(46.25),
        "bits_per_dimension": mean(2.125), "error_of_steps": 0.75, "log_snr": [4.0, 0.0, -4.0],
        "groups": [
            {"of": group, "nats": mean(41.0), "reconstruction": dict.fromkeys(group, 8.0625), **parts}
            for group in groups
        ],
    }  # fmt: skip


def result():
    distance = figure("distance", 6.25, 5.5, 7.125, baselines={"test split": 1.875}, features="judge (a network)")
    accuracy = figure(
        "accuracy", 0.9375, 0.90625, 0.96875, of=("label",), better="higher", n=64,
        baselines={"commonest": 0.125, "chance": 0.0625},
    )  # fmt: skip
    psnr = figure("psnr", 17.5, 17.25, 17.75, unit="dB", better="higher")
    by_steps = [judged([], [figure("distance", 60.0 / steps, 50 / steps, 70 / steps)], steps) for steps in (2, 4, 8)]
    return {
        "recipe": "two", "description": "A made-up one.", "training_seed": 3, "step": 1500, "weights": "ab12" * 16,
        "split": "test",
        "settings": {
            "steps": 8, "diffusion_steps": 1000, "sampler": "ancestral", "guidance": {"scale": 1.5, "by_context": True},
            "batch_size": 32, "seed": 5,
        },
        "directions": [
            judged([], [distance], refused={"copies": "the samples are too few"}),
            judged(["image"], [accuracy]),
            judged(["label"], [psnr]),
        ],
        "by_steps": by_steps,
        "bound": [bound([], [["image"], ["label"]]), bound(["label"], [["image"]])],
        "aggregation": {
            "log_snr": [4.0, 2.0, 0.0, -2.0, -4.0],
            "signal_to_noise": {"image": [None, 2.7, 1.0, 0.4, 0.1], "label": [0.0, 0.5, 2.0, 0.5, 0.0]},
        },
    }  # fmt: skip


def samples(known):
    values = {"image": torch.zeros(2, 1, 8, 8), "label": torch.tensor([0, 1])}
    return Generated(direction=direction(known, MODALITIES), values=values, texts={"label": ["ant", "bee"]})


SHOWN = {str(one.direction): one for one in (samples([]), samples(["image"]))}


@pytest.fixture
def written(tmp_path):
    """Write a report; gives its text."""

    def write(found, shown=SHOWN, log=LOG):
        metrics = tmp_path / "metrics.jsonl"
        metrics.unlink(missing_ok=True)
        if log is not None:
            metrics.write_text("".join(json.dumps(line) + "\n" for line in log))
        write_report(tmp_path / "report.html", found, shown, MODALITIES, metrics)
        return (tmp_path / "report.html").read_text()

    return write


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The text of a full report."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LOG))
    write_report(folder / "report.html", result(), SHOWN, MODALITIES, folder / "metrics.jsonl")
    return (folder / "report.html").read_text()


def test_a_figure_is_missing_from_the_report(whole):
    page = Page(whole)
    distance = page.row(["distance", "1", "of image", "↓ lower"])
    assert distance[4:7] == ["6.25", "5.5 to 7.125", "100"]
    assert distance[-3:] == ["a", "test split", "1.875"]
    assert " by judge (a network)" in page.texts
    accuracy = page.row(["accuracy", "of label", "↑ higher"])
    assert accuracy[3:6] == ["0.9375", "0.9062 to 0.9688", "64"]
    assert accuracy[-6:] == ["a", "commonest", "0.125", "b", "chance", "0.0625"]
    assert page.row(["psnr", "of image", "↑ higher"])[3:7] == ["17.5", "dB", "17.25 to 17.75", "100"]
    assert page.row(["copies"]) == ["copies", "the samples are too few"]


def test_a_unit_is_missing_or_widens_every_column_of_the_steps(written):
    found = result()
    found["by_steps"] = [judged([], [figure("psnr", 15.0 + n, 14, 20, unit="dB")], n) for n in (2, 4)]
    (row,) = (row for row in Page(written(found)).in_rows if row[0] == "psnr of image")
    assert row == ["psnr of image", "dB", "17", "14 to 20", "19", "14 to 20"]


def test_a_value_outside_its_interval_is_not_explained_or_one_inside_is(written, whole):
    assert WHY_OUTSIDE not in Page(whole).text
    found = {**result(), "bound": []}
    high = figure("distance", 9.5, 5.5, 7.125)
    found["directions"][0]["figures"] = [high, figure("other", 6.0, 5.5, 7.125)]
    found["by_steps"][0]["figures"] = [high]
    page = Page(written(found, shown={}, log=None))
    assert page.row(["distance", "of image", "↓ lower"])[3:7] == ["9.5", "5.5 to 7.125", "*", "100"]
    assert page.row(["other", "of image", "↓ lower"])[3:6] == ["6", "5.5 to 7.125", "100"]
    (row,) = (row for row in page.in_rows if row[0] == "distance of image")
    assert row[1:5] == ["9.5", "5.5 to 7.125", "*", "15"]
    assert page.text.count(WHY_OUTSIDE) == 2, "below each table that has a mark"


def test_it_is_not_said_what_was_evaluated_and_how(whole):
    page = Page(whole)
    for said in ("two", "A made-up one.", "1500", "ancestral", "8 of 1000", "1.5, by context", "3", "5", "32"):
        assert said in page.texts
    assert "ab12ab12ab12" in page.texts
    assert "ab12" * 16 not in page.text, "too long to read"
    assert "123 samples in 8 steps, 4.56 s" in page.texts


def test_a_tag_is_left_open_or_a_name_given_twice(whole):
    page = Page(whole)
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) > 20
    assert len(set(names)) == len(names)
    links = [value[1:] for _, one in page.elements for key, value in one.items() if key == "href"]
    cut = re.findall(r"url\(#([^)]*)\)", whole)
    assert links
    assert cut
    assert set(links) | set(cut) <= set(names)


def test_the_page_needs_something_from_elsewhere(whole):
    page = Page(whole)
    for tag, attributes in page.elements:
        for key, value in attributes.items():
            if key in ("src", "href", "xlink:href", "srcset", "data"):
                assert value.startswith(("#", "data:")), (tag, key, value)
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]*)\)", whole))
    assert not re.search(r"https?://|@import|<script|<link|<\?xml|<!DOCTYPE svg", whole)


def test_a_plot_keeps_its_colours_on_a_dark_page(whole):
    plots = re.findall(r'<svg class="plot".*?</svg>', whole, flags=re.DOTALL)
    assert plots
    for plot in plots:
        assert "var(--ink)" in plot
        assert not re.search(r"#[0-9a-f]{6}\b", plot)
        assert "<style" not in plot, "it would hold for the whole page"
    defined = set(re.findall(r"(--[\w-]+):", whole))
    assert set(re.findall(r"var\((--[\w-]+)\)", whole)) <= defined


def test_the_samples_are_not_drawn_or_not_described(whole):
    drawn = Page(whole).all("img")
    assert [one["alt"] for one in drawn] == [
        "Grid of 2 samples of joint → image + label",
        "Grid of 2 samples of image → label",
    ]
    for one in drawn:
        kind, data = one["src"].split(",")
        assert kind == "data:image/png;base64"
        with Picture.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert min(picture.size) > 64


def test_a_plot_is_missing_or_has_no_words(whole):
    starts = [
        "distance over sampling steps",
        "Loss of image",
        "Loss of label",
        "Nats of image",
        "Nats of label",
        "Nats of image",
        "Signal to noise over log-SNR of image, label",
    ]
    found = Page(whole).plots()
    assert len(found) == len(starts)
    assert all(words.startswith(start) for words, start in zip(found, starts, strict=True))


def test_a_number_of_steps_is_missing(whole):
    page = Page(whole)
    assert page.row(["figure", "2 steps"]) == ["figure", "2 steps", "4 steps", "8 steps"]
    (row,) = (row for row in page.in_rows if row[0] == "distance of image")
    assert row[1:] == ["30", "25 to 35", "15", "12.5 to 17.5", "7.5", "6.25 to 8.75"]
    assert page.row(["seconds"])[1:] == ["4.56"] * 3


def test_a_term_of_the_bound_is_missing(whole):
    page = Page(whole)
    row = page.row(["joint → image + label", "46.25"])
    assert row[2:] == ["46 to 46.5", "2.125", "1.875 to 2.375", "77", "6 of 1000", "0.75"]
    groups = [row for row in page.in_rows if row[1:2] == ["41"]]
    assert [row[0] for row in groups] == ["image", "label", "image"]
    assert groups[0][1:] == ["41", "40.75 to 41.25", "0.5", "0.25 to 0.75", "32.5", "32.25 to 32.75", "8.062"]


def test_a_table_has_no_headings(whole):
    page = Page(whole)
    tables = len(page.all("table"))
    assert tables > 6
    assert len(page.all("caption")) == len(page.all("thead")) == tables
    scopes = [one["scope"] for one in page.all("th")]
    assert scopes.count("row") == len(page.all("tr")) - tables


def test_words_of_the_data_are_taken_for_markup(written):
    evil = "<b>\"&amp;'$x_"
    found = result()
    found["recipe"] = found["description"] = evil
    found["settings"]["sampler"] = evil
    odd = figure(evil, 1.0, 0.5, 1.5, of=(evil,), baselines={evil: 0.25}, features=evil, unit=evil)
    found["directions"][0].update(direction=evil, figures=[odd], refused={evil: evil})
    found["by_steps"] = [{**found["directions"][0], "steps": steps} for steps in (2, 8)]
    found["bound"][0]["direction"] = evil
    found["bound"][0]["groups"][0].update(of=[evil], reconstruction={evil: 1.0})
    found["aggregation"]["signal_to_noise"][evil] = [1.0] * 5
    log = [{"step": 1, f"loss/{evil}": 1.0}, {"step": 2, f"loss/{evil}": 0.5}]
    page = Page(written(found, {evil: samples([])}, log))
    assert len(page.all("b")) == 3, "the marks of three baselines, and no more"
    assert page.text.count(evil) >= 15
    assert any(evil in one.get("aria-label", "") for one in page.all("svg"))


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_numbers_that_are_not_finite_break_the_page(written, nothing):
    def without(data):
        if isinstance(data, dict):
            return {key: without(value) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [without(value) for value in data]
        return nothing if isinstance(data, float) else data

    found = without(result())
    found["aggregation"]["log_snr"] = result()["aggregation"]["log_snr"]
    for one in found["bound"]:
        one["log_snr"] = [4.0, 0.0, -4.0]
    page = Page(written(found))
    assert page.row(["psnr", "of image", "↑ higher"])[3:5] == ["–", "dB"]
    assert "nan" not in page.text.lower()
    assert "None" not in page.text
    assert page.plots() == [words for words in page.plots() if words.startswith("Loss")]


def test_an_infinite_value_hides_the_finite_ones(written):
    found = {**result(), "bound": []}
    found["by_steps"][0]["figures"][0].update(value=math.inf, interval=[1.0, math.inf])
    page = Page(written(found, shown={}, log=None))
    (row,) = (row for row in page.in_rows if row[0] == "distance of image")
    assert row[1:5] == ["∞", "1 to ∞", "15", "12.5 to 17.5"]
    assert any(words.startswith("distance over") for words in page.plots())


def test_a_poor_evaluation_has_no_page(written):
    found = result()
    found.update(description="", by_steps=[], bound=[], directions=[judged(["image"], [])])
    page = Page(written(found, shown={}, log=None))
    assert [one["id"] for one in page.all("section")] == ["direction-0", "steps", "training", "bound", "aggregation"]
    for said in ("No metric has a figure", "Only one number", "no log of its training", "bound was not computed"):
        assert said in page.text
    assert not page.all("img")


def test_no_direction_and_no_signal_break_the_page(written):
    found = result()
    found.update(directions=[], by_steps=[], bound=[])
    found["aggregation"]["signal_to_noise"] = {"image": [0.0, None, 0.0, 0.0, 0.0]}
    page = Page(written(found, shown={}, log=[]))
    assert not page.plots()
    assert page.row(["image", "nowhere"])


def test_one_stratum_of_steps_breaks_the_bound(written):
    found = {**result(), "by_steps": [], "bound": [bound(["label"], [["image"]])]}
    found["bound"][0]["log_snr"], found["bound"][0]["groups"][0]["by_log_snr"] = [1.0], [33.5]
    page = Page(written(found, shown={}, log=None))
    assert "too few steps were computed for a curve" in page.texts
    assert not any(words.startswith("Nats") for words in page.plots())


def test_the_same_evaluation_gives_another_page(written, whole):
    assert written(copy.deepcopy(result())) == whole


def test_a_users_plotting_style_changes_the_page(written):
    import matplotlib

    before = dict(matplotlib.rcParams)
    few = {**result(), "bound": [], "by_steps": []}
    plain = written(few, log=None)
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.facecolor": "red"}):
        assert written(few, log=None) == plain
    assert dict(matplotlib.rcParams) == before


def test_a_line_that_was_cut_off_loses_the_curves(tmp_path):
    log = tmp_path / "metrics.jsonl"
    lines = [
        '{"step": 1, "loss/image": 2.0, "learning_rate": 1.0}',
        '{"step": 2, "loss/image": null}',
        '{"step": 3, "lo',
    ]
    log.write_text("\n".join(lines))
    assert loss_curves(log) == {"image": ([1], [2.0])}
    assert loss_curves(tmp_path / "none.jsonl") == {}


def test_thinning_or_smoothing_shifts_a_curve():
    steps = [float(step) for step in range(1, 10 * POINTS + 1)]
    at, values = thinned((steps, [3 * step for step in steps]))
    assert POINTS / 2 < len(at) <= POINTS
    assert values == pytest.approx([3 * step for step in at])
    assert smoothed(values, 7) == pytest.approx(values), "a straight line stays where it is"
    assert smoothed([0.0, 0.0, 3.0, 0.0, 0.0], 1) == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_a_stratum_has_another_width():
    assert stratum_edges([-4.0, 0.0, 4.0]) == [-6.0, -2.0, 2.0, 6.0]


def test_a_density_is_not_divided_by_the_width(monkeypatch):
    from matplotlib.axes import Axes

    drawn, real = [], Axes.stairs
    monkeypatch.setattr(Axes, "stairs", lambda axes, *args, **how: drawn.append(args) or real(axes, *args, **how))
    density_plot("key", "words", [4.0, 0.0, -4.0], [8.0, 0.0, 2.0], 0)
    heights, edges = drawn[0]
    assert heights == [0.5, 0.0, 2.0]
    assert edges == [-6.0, -2.0, 2.0, 6.0]


def test_a_crossing_is_elsewhere():
    found = crossings(Series(name="", x=[4.0, 2.0, 0.0, -2.0, -4.0], y=[0.0, 0.5, 2.0, 0.5, None]))
    assert found == pytest.approx([-1.0, 1.0])


@pytest.mark.parametrize(
    ("value", "low", "high", "baselines"),
    [(0.5, 0.25, 0.75, {"a": 1.0, "b": 0.0}), (2.0, 3.0, 4.0, {"a": 3.5}), (1.0, 1.0, 1.0, {}), (1e308, -1e308, 0, {})],
)
def test_a_small_drawing_misplaces_a_number(value, low, high, baselines):
    page = Page(strip(figure("x", value, low, high, baselines=baselines)))
    everything = [value, low, high, *baselines.values()]
    left, right = min(everything), max(everything)

    def place(x):
        share = (x / 2 - left / 2) / (right / 2 - left / 2) if right > left else 0.5
        return pytest.approx(MARGIN + share * (WIDTH - 2 * MARGIN), abs=0.06)

    assert float(page.all("circle")[0]["cx"]) == place(value)
    (bar,) = page.all("rect")
    assert float(bar["x"]) == place(low)
    assert float(bar["width"]) >= 1
    marks = [float(one["x1"]) for one in page.all("line") if one["class"] == "baseline"]
    assert marks == [place(x) for x in baselines.values()]


def test_marks_of_equal_baselines_lie_on_each_other():
    page = Page(strip(figure("x", 0.0, 0.0, 0.0, baselines={str(i): 1.0 for i in range(5)})))
    at = sorted(float(one["x"]) for one in page.all("text"))
    assert all(after - before >= 9 for before, after in pairwise(at))
    assert at[-1] <= WIDTH


def test_numbers_are_not_read_as_they_should_be():
    assert [number(x) for x in (0.123456, -2.0, 1500, None, math.inf, -math.inf, math.nan)] == [
        "0.1235", "−2", "1500", "–", "∞", "−∞", "–",
    ]  # fmt: skip
    assert [interval(x) for x in (None, (None, None), (-1.0, None))] == ["–", "–", "−1 to –"]


def test_an_attribute_is_not_escaped():
    assert element("p", "a<b", title='"<&', class_=None) == '<p title="&quot;&lt;&amp;">a&lt;b</p>'


def test_two_of_many_series_look_the_same():
    strokes = re.findall(r"<li>(<svg.*?</svg>)", str(legend([f"recipe {i}" for i in range(30)])))
    assert len(strokes) == len(set(strokes)) == 30


def test_the_curve_of_a_short_run_is_invisible(tmp_path):
    line = {"step": 4, "loss/image": 0.5}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    write_report(tmp_path / "report.html", result(), SHOWN, MODALITIES, tmp_path / "metrics.jsonl")
    text = (tmp_path / "report.html").read_text()
    start = text.index("Loss of image in training")
    plot = text[start : text.index("</svg>", start)]
    assert '<use href="#' in plot
    assert "fill: var(--series-0)" in plot, "no dot"
