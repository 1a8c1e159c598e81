"""A data set: pictures, and what goes with them. Read your own in open; recipes name its fields."""

from mtdiff_core import DatasetSource, component, hookimpl, option

MTDIFF_PLUGIN_API = "1.0"


@component
class PluginName(DatasetSource):
    """Drawn bars that lie or stand: fields image and label."""

    size: int = option(16, help="height and width in pixels", minimum=8)
    count: int = option(1000, help="pictures to train on; a fifth as many to test", minimum=5)

    def open(self, split):
        import torch  # not above: mtdiff imports this module for every command, and most need no torch

        from mtdiff_core import FieldSpec, TensorSamples
        from mtdiff_core.randomness import generator

        count = self.count if split == "train" else self.count // 5
        random = generator(0, "plugin-name", split)  # the same pictures each time
        labels = torch.randint(2, (count,), generator=random)
        start = torch.randint(1, self.size - 2, (count, 1), generator=random)
        places = torch.arange(self.size)
        bar = (places >= start) & (places < start + 2)  # (count, size)
        lying = bar[:, :, None].expand(-1, -1, self.size)
        pictures = torch.where(labels[:, None, None] == 0, lying, lying.mT)
        fields = {
            "image": FieldSpec(shape=(1, self.size, self.size), dtype="uint8"),
            "label": FieldSpec(shape=(), dtype="int64", classes=("lying", "standing")),
        }
        return TensorSamples(fields, {"image": pictures[:, None].byte() * 255, "label": labels})


@hookimpl
def mtdiff_datasets():
    return {"plugin-name": PluginName}
