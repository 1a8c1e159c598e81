"""A data set of pairs for recipes to name: pictures with squares, what each pixel is, and the same by night."""

from textwrap import dedent

import pytest

SQUARES = """
    import torch

    from mtdiff_core import DatasetSource, FieldSpec, component, hookimpl
    from mtdiff_core.data.samples import TensorSamples


    @component
    class Squares(DatasetSource):
        "A square somewhere on a plain ground: fields image, map (255 at the border of the picture) and night."

        def open(self, split):
            random = torch.Generator().manual_seed(0 if split == "train" else 1)
            left, top = torch.randint(0, 5, (2, 64, 1, 1), generator=random)
            place = torch.arange(8)
            inside = (place >= left) & (place < left + 4) & (place[:, None] >= top) & (place[:, None] < top + 4)
            classes = inside.byte() * torch.randint(1, 3, (64, 1, 1), generator=random, dtype=torch.uint8)
            image = (40 + 100 * classes)[:, None]
            classes[:, [0, -1]] = 255
            fields = {
                "image": FieldSpec(shape=(1, 8, 8), dtype="uint8"),
                "map": FieldSpec(shape=(8, 8), dtype="uint8", classes=("ground", "grey", "white")),
                "night": FieldSpec(shape=(1, 8, 8), dtype="uint8"),
            }
            return TensorSamples(fields, {"image": image, "map": classes, "night": image // 4})


    @hookimpl
    def mtdiff_datasets():
        return {"squares": Squares}
"""


@pytest.fixture
def squares(tmp_path, monkeypatch):
    """Install the data set ``squares``, as pip would leave it on disk."""
    site = tmp_path / "site"
    information = site / "squares-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "squares_of_a_test.py").write_text(dedent(SQUARES))
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: squares\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[mtdiff]\nsquares = squares_of_a_test\n")
    monkeypatch.syspath_prepend(site)
