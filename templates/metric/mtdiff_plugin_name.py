"""A metric: a figure of what a model generates. Judge what you care about in figures."""

from mtdiff_core import Figure, Metric, Scorer, UserError, component, hookimpl, option

MTDIFF_PLUGIN_API = "1.0"


class UsualBrightness(Scorer):
    """How many pictures are as bright as most that the model was trained on."""

    def __init__(self, name, share, real):
        self.name, self.share, self.real = name, share, real
        self.seen = []

    def update(self, batch):  # natural values, 0 to 1
        self.seen.append(batch.values[self.name].flatten(1).mean(dim=1))

    def figures(self):
        import torch  # not above: mtdiff imports this module for every command, and most need no torch

        from mtdiff_core.intervals import share_interval

        if not self.seen:
            raise UserError("there is no picture to be judged")
        present = (batch.truth[self.name][batch.present[self.name]] for batch in self.real.batches("train"))
        trained = torch.cat([pictures.flatten(1).mean(dim=1) for pictures in present])
        low, high = trained.quantile((1 - self.share) / 2), trained.quantile((1 + self.share) / 2)
        seen = torch.cat(self.seen)
        usual = (low <= seen) & (seen <= high)
        return [
            Figure(
                name="plugin-name",
                of=(self.name,),
                value=float(usual.double().mean()),
                interval=share_interval(usual),
                n=len(usual),
                better="higher",
                baselines={"training pictures": self.share},
            )
        ]


@component
class PluginName(Metric):
    """Share of generated pictures that are as bright as most training pictures."""

    needs = "a picture that is generated"
    share: float = option(0.95, help="how many training pictures are most", minimum=0.5, maximum=1)

    def scorers(self, known, generated, modalities, real):
        pictures = [name for name in generated if modalities[name].table_kind == "pictures"]
        return [UsualBrightness(name, self.share, real) for name in pictures]


@hookimpl
def mtdiff_metrics():
    return {"plugin-name": PluginName}
