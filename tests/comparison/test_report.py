"""The page of a comparison: every number on it, nothing from outside."""

import copy

import pytest

from mtdiff_core.comparison.costs import costs_of
from mtdiff_core.comparison.report import write_comparison_report
from mtdiff_core.comparison.statistics import over_seeds, paired
from tests.pages import Page

PLAIN, JOINT = "image", "image+<b>label"


def curve(*places):
    return [{**over_seeds(values), "each": values} for values in places]


FOUND = {
    "recipes": {PLAIN: "Pictures & nothing else.", JOINT: "Pictures and labels."},
    "reference": PLAIN,
    "seeds": [0, 1],
    "shares": [0.5, 1.0],
    "steps": {PLAIN: [50, 100], JOINT: [50, 100]},
    "how": {"num": 700, "common": ["image"], "metrics": {}},
    "cost": costs_of(PLAIN, {JOINT: {"own": [0.123, 0.126, 0.129], "reference": [0.1, 0.1, 0.1]}}),
    "equal_start": {PLAIN: 1.0, JOINT: 0.9876},
    "figures": [
        {
            "direction": "joint",
            "name": "frechet_distance",
            "of": ["image"],
            "better": "lower",
            "unit": "",
            "features": "judge (a)",
            "n": 700,
            "baselines": {"test split": 0.4321},
            "values": {PLAIN: curve([4.25, 4.75], [2.0, 2.5]), JOINT: curve([8.125, 8.625], [1.0, 1.25])},
            "paired": {JOINT: [paired([8.125, 8.625], [4.25, 4.75]), paired([1.0, 1.25], [2.0, 2.5])]},
            "at_equal_time": {
                PLAIN: [over_seeds([4.25, 4.75]), over_seeds([2.0, 2.5])],
                JOINT: [None, over_seeds([3.0, 3.5])],
            },
        }
    ],
}


@pytest.fixture
def page(tmp_path):
    def write(found):
        write_comparison_report(tmp_path / "comparison.html", found)
        return (tmp_path / "comparison.html").read_text()

    return write


def test_a_number_is_missing_from_the_page(page):
    whole = Page(page(FOUND))
    joint = " ".join(whole.row([JOINT, "8.375"]))
    for number in ("1.125", "−1.125", "0.5", "3.25", "–"):
        assert number in joint
    assert whole.row([PLAIN, "4.5"])
    assert "".join(whole.row([JOINT, "126"])) == JOINT + "126123 to 1291.261.23 to 1.2998.8%"
    assert "test split 0.4321" in whole.text
    assert "judge (a)" in whole.text
    assert len(whole.plots()) == 1


def test_the_page_needs_something_from_outside_or_takes_text_for_markup(page):
    text = page(FOUND)
    assert "<b>label" not in text
    assert "Pictures &amp; nothing else." in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert page(copy.deepcopy(FOUND)) == text


def test_one_seed_or_no_figure_in_common_gives_no_page(page):
    single = copy.deepcopy(FOUND)
    single["seeds"] = [0]
    figure = single["figures"][0]
    figure["values"] = {PLAIN: curve([4.0], [2.0]), JOINT: curve([8.0], [1.0])}
    figure["paired"] = {JOINT: [paired([8.0], [4.0]), paired([1.0], [2.0])]}
    assert Page(page(single)).row([JOINT, "8"])
    Page(page({**FOUND, "figures": []}))
