"""How well numbers are read."""

from mtdiff_core import Figure, Metric, Scorer, UserError, component


class ErrorScorer(Scorer):
    """The distance of numbers from the true ones."""

    def __init__(self, name):
        self.name, self.errors = name, []

    def update(self, batch):
        present = batch.present[self.name]
        off = batch.values[self.name][present] - batch.truth[self.name][present]
        self.errors.append(off.abs().mean(dim=1))

    def figures(self):
        import torch

        from mtdiff_core.intervals import mean_interval

        errors = torch.cat(self.errors) if self.errors else torch.empty(0)
        if len(errors) < 2:
            raise UserError("there are too few readings with a true one")
        return [
            Figure(
                name="reading_error",
                of=(self.name,),
                value=float(errors.mean()),
                interval=mean_interval(errors),
                n=len(errors),
                better="lower",
            )
        ]


@component
class ReadingError(Metric):
    """Mean distance of generated readings from the true ones."""

    needs = "a reading that is generated from something known"

    def scorers(self, known, generated, modalities, real):
        readings = [name for name in generated if type(modalities[name]).__name__ == "Reading"]
        return [ErrorScorer(name) for name in readings] if known else []
