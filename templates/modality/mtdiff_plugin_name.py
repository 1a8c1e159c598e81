"""Numbers that are measured in a picture. Measure your own; all else stays as it is."""

from mtdiff_core import Modality, UserError, component, hookimpl, option

MTDIFF_PLUGIN_API = "1.0"
NAMES = ("brightness", "contrast")


def measure(pictures):  # uint8 (B, C, H, W) to float32 (B, 2)
    import torch  # not above: mtdiff imports this module for every command, and most need no torch

    light = pictures.float().flatten(1) / 255
    return torch.stack([light.mean(dim=1), light.std(dim=1)], dim=1)


@component
class PluginName(Modality):
    """What is measured in a picture: its brightness and its contrast."""

    example = "0.3,0.35"
    hidden: int = option(64, help="width of the head's hidden layer", minimum=1)

    def check(self, spec):
        if len(spec.shape) != 3 or spec.dtype != "uint8":
            raise UserError(f"these numbers are measured in a picture, and this field holds {spec}")

    def fit(self, samples, field, workshop):  # once, on the training split; kept with the model
        from torch import cat

        pictures = (samples[index].get(field) for index in range(len(samples)))
        measured = cat([measure(picture[None]) for picture in pictures if picture is not None])
        return {"mean": measured.mean(dim=0), "std": measured.std(dim=0, correction=0).clamp(min=1e-3)}

    def prepare(self, values, generator):  # to mean 0 and variance 1, as all that is added to the space
        return (measure(values) - self.state["mean"]) / self.state["std"]

    def natural(self, values):  # back again, for files and people
        return values * self.state["std"] + self.state["mean"]

    def encoder(self, slot):
        from mtdiff_core.codecs import VectorEncoder, fixed_codes

        return VectorEncoder(fixed_codes(len(NAMES), slot, seed=0))

    def decoder(self, slot, features):
        from mtdiff_core.codecs import VectorGaussianDecoder

        return VectorGaussianDecoder(features, len(NAMES), self.hidden)

    def parse(self, text):  # what follows --given plugin-name=
        from mtdiff_core.codecs import read_vector

        return (read_vector(text, len(NAMES)) - self.state["mean"]) / self.state["std"]

    def describe(self, values, distribution=None):
        rows = self.natural(values).tolist()
        return [", ".join(f"{name} {x:.2f}" for name, x in zip(NAMES, row, strict=True)) for row in rows]


@hookimpl
def mtdiff_modalities():
    return {"plugin-name": PluginName}
