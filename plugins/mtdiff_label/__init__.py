"""The label: one class out of K."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from mtdiff_core import FieldSpec, Modality, UserError, component, hookimpl, option

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from torch import Tensor
    from torch.distributions import Distribution

    from mtdiff_core import Decoder, Encoder, FeatureShapes, Shape

MTDIFF_PLUGIN_API = "1.0"


@component
class Label(Modality):
    """A class out of K, written into the space as a fixed code and read by an MLP head."""

    example: ClassVar[str] = "0"
    table_kind: ClassVar[str] = "labels"

    hidden: int = option(128, help="width of the head's hidden layer", minimum=1, maximum=65536)
    dropout: float = option(0.2, help="dropout of what the head reads, in training", minimum=0, maximum=0.9)
    codes: str = option(
        "fine",
        help="what class codes are made of: fine = fine detail, which looks least like a picture in a shared space; "
        "white = every frequency, which networks read more easily in a block of its own",
        choices=("fine", "white"),
    )
    code_seed: int = option(0, help="names the set of class codes", minimum=0)

    def check(self, spec: FieldSpec) -> None:
        """A label is an integer scalar out of at least two classes."""
        if spec.shape or spec.dtype != "int64" or not spec.classes:
            raise UserError(f"a label is an integer class, and this field holds {spec}")
        if len(spec.classes) < 2:
            raise UserError(
                f"a label needs at least two classes, and the data has one only: {spec.classes[0]!r}",
                hint="add a second class, or leave the label out of the recipe",
            )

    def encoder(self, slot: Shape) -> Encoder:
        """Fixed unit-RMS codes, one for each class."""
        from mtdiff_label.codec import CodeBook

        return CodeBook(self._codes(slot))

    def decoder(self, slot: Shape, features: FeatureShapes) -> Decoder:
        """An MLP on the pooled features, and a matched filter for the codes."""
        from mtdiff_label.codec import ClassHead

        return ClassHead(features, self.hidden, self.dropout, self._codes(slot))

    def _codes(self, slot: Shape) -> Tensor:
        from mtdiff_core.codecs import fixed_codes

        return fixed_codes(len(self.spec.classes), slot, self.code_seed, fine=self.codes == "fine")

    def prepare(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """Class indices as they are."""
        classes = len(self.spec.classes)
        outside = values[(values < 0) | (values >= classes)]
        if len(outside):
            raise UserError(f"label {int(outside[0])} is outside the range 0 to {classes - 1} of the data's classes")
        return values

    def natural(self, values: Tensor) -> Tensor:
        """Class indices, int64."""
        return values

    def write(self, values: Tensor, folder: Path, stems: Sequence[str]) -> list[Any]:
        """Class names; no files."""
        return self.describe(values)

    def parse(self, text: str) -> Tensor:
        """A class name or index; several, separated by commas."""
        import torch

        words = [text] if text.strip() in self.spec.classes else text.split(",")  # a name may hold a comma
        return torch.tensor([self._index(word.strip()) for word in words])

    def _index(self, word: str) -> int:
        names = self.spec.classes
        if word in names:
            return names.index(word)
        if word.isdecimal() and int(word) < len(names):
            return int(word)
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise UserError(
            f"no class is called {word!r}", hint=f"a class name ({shown}), or an index 0 to {len(names) - 1}"
        )

    def describe(self, values: Tensor, distribution: Distribution | None = None) -> list[str]:
        """Class names; where labels were decoded, each with its probability."""
        names = [self.spec.classes[index] for index in values.tolist()]
        if distribution is None:
            return names
        confidence = distribution.log_prob(values).exp().tolist()
        return [f"{name} ({p:.0%})" for name, p in zip(names, confidence, strict=True)]


@hookimpl
def mtdiff_modalities() -> dict[str, type[Modality]]:
    """The label."""
    return {"label": Label}
