"""The kit for modalities: what passes between the data, the user and the model.

Letters for shapes: B batch, c channels of the slot, H W height and width of the space.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.dataset import FieldSpec
from mtdiff_core.interfaces.modality import Modality
from mtdiff_core.randomness import generator
from mtdiff_core.testing.codec import CodecChecks
from mtdiff_core.testing.kit import CheckFailure, check, require, skip
from mtdiff_core.testing.subject import BATCH, ROWS, Subject, fitted, made_subject
from mtdiff_core.testing.values import field_of, field_values

LACKING = 4  # every so-manieth sample lacks the field, where some do
NONSENSE = ("", "no such value: ?!", "/no/such/file", "~nobody-of-that-name/file")


class ModalityKit(CodecChecks):
    """Checks of a modality.

    Attributes:
        field: What the field that it reads holds; by default the first of the usual kinds that it takes.
        size: Height and width of the space; by default the field's own, or 8x8 where it has none.
        texts: What a user may write for it, each one or more values; each is read.
        bad_texts: What nobody may write; none if every text means something.
    """

    kind: ClassVar[str] = "modality"
    field: ClassVar[FieldSpec | None] = None
    size: ClassVar[tuple[int, int] | None] = None
    texts: ClassVar[tuple[str, ...]] = ()
    bad_texts: ClassVar[tuple[str, ...]] = NONSENSE

    def values(self, count: int, generator: torch.Generator) -> Tensor:
        """Values as the data set has them, ``(count, *field.shape)``, that differ; override it to give real ones."""
        modality = cast("Modality", self.made())
        return field_values(modality.bind(self.field_spec(modality)), count, generator)

    @classmethod
    def field_spec(cls, modality: Modality) -> FieldSpec:
        """What the field holds."""
        return cls.field or field_of(modality, cls.__name__)

    @classmethod
    def make_ready(cls) -> None:
        """Bound, and fitted."""
        cls.subject()

    @classmethod
    @cache
    def subject(cls) -> Subject:
        """The modality with values of its own, made once."""
        modality = cast("Modality", cls.made())
        spec = cls.field_spec(modality)
        values = cls().values(ROWS, generator(0, "kit", "values"))
        expected = (ROWS, *spec.shape)
        if tuple(values.shape) != expected or str(values.dtype) != f"torch.{spec.dtype}":
            raise CheckFailure(
                f"{cls.__name__}.values gave {_kind(values)}, and the field holds {spec}",
                f"give a tensor of shape {expected} and dtype {spec.dtype}, or say what the field holds: "
                f"{cls.__name__}.field = FieldSpec(...)",
            )
        size = cls.size or ((spec.shape[-2], spec.shape[-1]) if len(spec.shape) > 1 else (8, 8))
        return made_subject(modality, spec, values, size)

    @check("prepare takes rows of field values and gives a row of model values for each; natural gives one for each")
    def test_values_keep_their_rows(self) -> None:
        """``prepare``, ``augment`` and ``natural`` give a row for each row; model values are float32 or int64."""
        subject = self.subject()
        values = subject.prepared()
        require(
            len(values) == BATCH and values.dtype in (torch.float32, torch.int64) and values.device.type == "cpu",
            f"prepare gave {_kind(values)} on {values.device} for {BATCH} rows",
            "give float32 or int64 on the host, a row for each row",
        )
        require(
            bool(values.isfinite().all()),
            "prepare gave values that are not finite",
            f"mend prepare, or give {type(self).__name__} a method values with values as the data has them",
        )
        augmented = subject.modality.augment(values.clone(), generator(0, "kit", "augment"))
        require(
            augmented.shape == values.shape and augmented.dtype == values.dtype,
            f"augment made {_kind(augmented)} of {_kind(values)}",
            "change values, not their shape or dtype",
        )
        natural = subject.modality.natural(values)
        require(
            len(natural) == BATCH and bool(natural.isfinite().all()),
            f"natural gave {_kind(natural)} for {BATCH} rows, or values that are not finite",
            "give a finite value for each row, as users read and write it",
        )

    @check("leave out samples that lack the field: if field in sample; derive gives a row, any, for each of them too")
    def test_it_learns_from_what_is_there(self) -> None:
        """``fit`` and ``derive`` take samples that lack the field, and give the same whenever they are asked."""
        modality = cast("Modality", self.made())
        if type(modality).fit is Modality.fit and type(modality).derive is Modality.derive:
            raise skip("it neither learns nor derives anything")
        values = type(self)().values(ROWS, generator(0, "kit", "values"))
        lacking, learnt = range(0, ROWS, LACKING), []
        with torch.random.fork_rng():
            for seed in (1, 2):
                torch.manual_seed(seed)
                learnt.append(fitted(modality, self.subject().modality.spec, values, lacking))
        (first, derived), (second, again) = learnt
        require(
            all(
                torch.allclose(x.double(), second.state[name].double(), equal_nan=True)
                for name, x in first.state.items()
            ),
            "fit learns something else when torch's global generators stand elsewhere",
            "draw from a generator that is seeded with workshop.seed",
        )
        require(
            all(bool(x.isfinite().all()) for x in first.state.values() if x.is_floating_point()),
            "fit learns what is not finite where some samples lack the field",
            "leave them out: if field in sample",
        )
        if derived is not None and again is not None:
            there = torch.tensor([index not in lacking for index in range(ROWS)])
            require(
                len(derived) == ROWS and torch.allclose(derived[there], again[there]),
                f"derive gave {_kind(derived)} for {ROWS} samples, or other values when it was asked again",
                "give a row for each sample, and draw from a generator that is seeded with workshop.seed",
            )

    @check("draw from the generator that is passed in, row by row")
    def test_prepare_is_deterministic_under_its_generator(self) -> None:
        """``prepare`` and ``augment`` draw from their generator alone, and for each row by itself."""
        subject = self.subject()
        for name in ("prepare", "augment"):
            rows = subject.rows[:BATCH] if name == "prepare" else subject.prepared()
            first = self._drawn(name, rows, 1)
            require(
                self._drawn(name, rows, 2).equal(first),
                f"{name} gives other values when torch's global generators stand elsewhere",
                "draw from the generator that is passed in: torch.rand(..., generator=generator)",
            )
            others = torch.cat([rows[:1], subject.rows[-BATCH + 1 :] if name == "prepare" else rows[1:].flip(0)])
            require(
                self._drawn(name, others, 1)[0].equal(first[0]),
                f"what {name} makes of a row changes with the other rows of its batch",
                "treat each row by itself: where several processes train, the rows of others are not there",
            )

    def _drawn(self, method: str, rows: Tensor, seed: int) -> Tensor:
        """What a method gives where the global generator stands at ``seed``; rows must stay as they are."""
        before = rows.clone()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            given = getattr(self.subject().modality, method)(rows, generator(0, "kit", method)).clone()
        require(rows.equal(before), f"{method} changes the values that it is given", "work on a copy")
        return cast("Tensor", given)

    @check("a text that cannot be read is the user's fault: raise UserError, saying what can be read")
    def test_parse_rejects_bad_text(self) -> None:
        """``parse`` reads what can be read, and answers all else with a ``UserError``."""
        modality, values = self.subject().modality, self.subject().prepared(1)
        for text in self.texts:
            read = modality.parse(text)
            require(
                read.shape[1:] == values.shape[1:] and read.dtype == values.dtype and len(read) > 0,
                f"parse({text!r}) gave {_kind(read)}, and prepare gives {_kind(values)}",
                "give model values as prepare does, one or more",
            )
        if not self.bad_texts:
            raise skip("no text is said to be bad")
        for text in self.bad_texts:
            try:
                read = modality.parse(text)
            except UserError:
                continue
            except Exception as error:
                raise CheckFailure(
                    f"parse({text!r}) ended in {type(error).__name__}: {error}",
                    "raise UserError(what is wrong, hint=what can be read) for whatever cannot be read",
                ) from error
            raise CheckFailure(
                f"parse({text!r}) took it for {_kind(read)}",
                f"raise UserError, or, if it means something: {type(self).__name__}.bad_texts = (...)",
            )
        for text in ("nan", "inf"):
            with suppress(UserError):
                read = modality.parse(text)
                require(
                    bool(read.isfinite().all()), f"parse({text!r}) took it for a number", "refuse what is not finite"
                )

    @check("natural undoes what parse does: both speak of the same numbers")
    def test_numbers_are_read_as_they_are_written(self) -> None:
        """Where users write numbers, ``parse`` reads natural values as what ``natural`` made them of."""
        modality, values = self.subject().modality, self.subject().prepared()
        for value, natural in zip(values, modality.natural(values), strict=True):
            if not natural.is_floating_point() or natural.ndim > 1:
                raise skip("it is for values that are a number or a few")
            text = ",".join(str(number) for number in natural.reshape(-1).tolist())
            try:
                read = modality.parse(text)
            except UserError as refused:
                raise skip("its texts are no numbers") from refused
            if read.shape != (1, *value.shape):
                raise skip("its texts are no numbers")
            require(
                torch.allclose(read[0].float(), value.float(), rtol=1e-3, atol=1e-3),
                f"natural gave {text} for the model value {_listed(value)}, and parse({text!r}) gave {_listed(read)}",
                "undo in natural all that prepare does, the mean and the scale, and do in parse what prepare does",
            )

    @check("render gives uint8 pictures (B, 3, h, w), describe a list of texts; either may be None, not both")
    def test_render_gives_a_picture(self) -> None:
        """``render`` gives pictures, or ``describe`` words, one for each value."""
        subject = self.subject()
        values = subject.prepared()
        with torch.no_grad():
            decoded = subject.decoder()(subject.random_features(), subject.noisy_slot())
        for shown, distribution in ((values, None), (decoded.mode, decoded)):
            picture, words = subject.modality.render(shown), subject.modality.describe(shown, distribution)
            require(
                picture is not None or words is not None,
                "render and describe both give None",
                "define one of them, or nobody will see what was generated",
            )
            if picture is not None:
                require(
                    picture.dtype == torch.uint8 and picture.ndim == 4 and picture.shape[:2] == (BATCH, 3),
                    f"render gave {_kind(picture)} for {BATCH} values",
                    f"give uint8 pictures of shape ({BATCH}, 3, h, w), of values that were generated too",
                )
            if words is not None:
                require(
                    len(words) == BATCH and all(isinstance(word, str) for word in words),
                    f"describe gave {words!r} for {BATCH} values",
                    "give a text for each value",
                )

    @check("write files below the folder, make it if need be, and give JSON data for each value")
    def test_write_gives_what_a_manifest_can_hold(self) -> None:
        """``write`` gives an entry of JSON for each value, and the files that it names."""
        modality, values = self.subject().modality, self.subject().prepared()
        stems = [f"{index:03}" for index in range(BATCH)]
        with tempfile.TemporaryDirectory() as beside:
            folder = Path(beside) / "files"
            entries = modality.write(values, folder, stems)
            require(len(entries) == BATCH, f"write gave {len(entries)} entries for {BATCH} values", "give one for each")
            for entry in entries:
                named = isinstance(entry, str) and entry.startswith(f"{folder.name}/")
                require(
                    not named or (Path(beside) / entry).is_file(),
                    f"write names the file {entry!r}, which is not there",
                    "write files into the folder that is passed in, and name them relative to the one above",
                )
        options: Mapping[str, Any] = modality.table_options()
        for what, data in (("write", entries), ("table_options", options)):
            require(_is_json(data), f"{what} gave {data!r}, which is no JSON", "give texts, numbers, lists and dicts")


def _is_json(data: Any) -> bool:
    try:
        json.dumps(data, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _listed(values: Tensor) -> str:
    """Numbers in words."""
    return ", ".join(f"{number:.4g}" for number in values.reshape(-1).tolist())


def _kind(values: Tensor) -> str:
    """A tensor in words."""
    return f"{str(values.dtype).removeprefix('torch.')} of shape {tuple(values.shape)}"
