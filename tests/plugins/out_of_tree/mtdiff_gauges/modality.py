"""Numbers that a data set has for each sample."""

from mtdiff_core import Modality, UserError, component, option


@component
class Reading(Modality):
    """A few numbers, such as what a gauge shows."""

    example = "0.5,0.5"
    hidden: int = option(64, help="width of the head's hidden layer", minimum=1)

    def check(self, spec):
        if len(spec.shape) != 1 or spec.dtype != "float32":
            raise UserError(f"a reading is a few numbers, and this field holds {spec}")

    def prepare(self, values, generator):  # from 0 ... 1 to about mean 0 and variance 1
        return (values - 0.5) * 12**0.5

    def natural(self, values):
        return values / 12**0.5 + 0.5

    def encoder(self, slot):
        from mtdiff_core.codecs import VectorEncoder, fixed_codes

        return VectorEncoder(fixed_codes(*self.spec.shape, slot, seed=0))

    def decoder(self, slot, features):
        from mtdiff_core.codecs import VectorGaussianDecoder

        return VectorGaussianDecoder(features, *self.spec.shape, self.hidden)

    def parse(self, text):
        from mtdiff_core.codecs import read_vector

        return self.prepare(read_vector(text, *self.spec.shape), None)

    def describe(self, values, distribution=None):
        return [" ".join(f"{number:.2f}" for number in row) for row in self.natural(values).tolist()]
