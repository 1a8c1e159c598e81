"""Drawn gauges: a bar that fills a picture from below, so wide and so high."""

from mtdiff_core import DatasetSource, component, option


@component
class Gauges(DatasetSource):
    """Bars of all widths and heights: fields image, label and reading (height and width)."""

    size: int = option(16, help="height and width in pixels", minimum=4)
    count: int = option(200, help="samples of each split", minimum=2)

    def open(self, split):
        import torch

        from mtdiff_core import FieldSpec, TensorSamples
        from mtdiff_core.randomness import generator

        reading = torch.rand(self.count, 2, generator=generator(0, "gauges", split))
        places = torch.linspace(0, 1, self.size)
        filled = places.flip(0)[None, :, None] <= reading[:, :1, None]  # (N, H, 1)
        within = (places - 0.5).abs()[None, None] <= reading[:, 1:, None] / 2  # (N, 1, W)
        fields = {
            "image": FieldSpec(shape=(1, self.size, self.size), dtype="uint8"),
            "label": FieldSpec(shape=(), dtype="int64", classes=("low", "high")),
            "reading": FieldSpec(shape=(2,), dtype="float32"),
        }
        image = (filled & within)[:, None].byte() * 255
        return TensorSamples(fields, {"image": image, "label": (reading[:, 0] > 0.5).long(), "reading": reading})
