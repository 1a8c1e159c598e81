"""The kit for data sets."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from mtdiff_core.errors import MissingSplitError, UserError
from mtdiff_core.interfaces.dataset import DatasetSource, FieldSpec, Samples, SampleStream, Split
from mtdiff_core.testing.kit import Kit, check, require, skip

SPLITS: tuple[Split, ...] = ("train", "test")


class DatasetKit(Kit):
    """Checks of a data set. Its options have to name data that is there.

    Attributes:
        looked_at: How many samples of a split are looked at, from its first on.
    """

    kind: ClassVar[str] = "dataset"
    looked_at: ClassVar[int] = 32

    @classmethod
    def source(cls) -> DatasetSource:
        """The data set."""
        return cast("DatasetSource", cls.made())

    @classmethod
    def make_ready(cls) -> None:
        """Opened."""
        cls.splits()

    @classmethod
    def splits(cls) -> dict[Split, Samples]:
        """The splits that there are, opened anew."""
        found: dict[Split, Samples] = {}
        for split in SPLITS:
            try:
                found[split] = cls.source().open(split)
            except MissingSplitError:
                continue
        return found

    @check("open each split, or raise MissingSplitError where there is none")
    def test_splits_hold_the_same_fields(self) -> None:
        """There is something to train on, and what is held out is of its kind."""
        splits = self.splits()
        require("train" in splits, "there is no split 'train'", "give at least this one")
        fields = splits["train"].fields
        require(bool(fields), "fields is empty", "say what samples hold: {name: FieldSpec(...)}")
        for split, samples in splits.items():
            require(
                samples.fields == fields,
                f"the split {split!r} holds {_in_words(samples.fields)}, and 'train' {_in_words(fields)}",
                "give all splits the same fields, with the same shapes, and classes in the same order",
            )

    @check("give as many samples as len() says, each by its index")
    def test_length(self) -> None:
        """Every sample that ``len`` counts is there."""
        for split, samples in self.splits().items():
            count = len(samples)
            require(count > 0, f"the split {split!r} has a length of {count}", "raise MissingSplitError instead")
            for index in sorted({count // 2, count - 1}):
                try:
                    samples[index]
                except (IndexError, KeyError) as error:
                    what = f"len() of the split {split!r} is {count}, and sample {index} is not there ({error!r})"
                    require(False, what, "let len() count the samples that there are")

    @check("give a dict of tensors of the shapes and dtypes that fields says")
    def test_samples_hold_what_fields_say(self) -> None:
        """Values have the declared shape and dtype, classes are below their number."""
        for split, samples in self.splits().items():
            for index in self._indices(samples):
                for name, value in samples[index].items():
                    where = f"sample {index} of {split!r}"
                    require(name in samples.fields, f"{where} has an undeclared field {name!r}", "declare it in fields")
                    if isinstance(value, Tensor):  # what is no tensor stands for something missing
                        _require_kind(value, samples.fields[name], f"{name!r} in {where}")

    @check("leave a field that a sample lacks out of its dict")
    def test_what_is_missing_is_said(self) -> None:
        """No value stands for a missing one, and no field is always missing."""
        for split, samples in self.splits().items():
            seen: set[str] = set()
            for index in self._indices(samples):
                for name, value in samples[index].items():
                    seen.add(name)
                    faked = _faked(value, samples.fields.get(name))
                    require(
                        not faked,
                        f"{name!r} of sample {index} of {split!r} is {faked}",
                        "leave a field that a sample lacks out of its dict: it is then neither aggregated nor learnt",
                    )
            never = sorted(set(samples.fields) - seen)
            require(
                not never,
                f"none of the first samples of {split!r} has {', '.join(never)}",
                f"do not declare what is not there; or look at more: {type(self).__name__}.looked_at = ...",
            )

    @check("draw nothing when a sample is read")
    def test_an_index_always_means_the_same_sample(self) -> None:
        """In any order, as often as one likes."""
        for split, samples in self.splits().items():
            indices = self._indices(samples)
            first = {index: samples[index] for index in indices}
            for index in reversed(indices):
                require(
                    _alike(samples[index], first[index]),
                    f"sample {index} of {split!r} is another when it is read again",
                    "draw nothing when a sample is read: what is random belongs into a modality's prepare or augment",
                )

    @check("let the order of the samples depend on options alone")
    def test_resume(self) -> None:
        """A data set that is opened again goes on where the first one stood."""
        opened = []
        for seed in (1, 2):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                opened.append(self.splits())
        for split, samples in opened[0].items():
            again = opened[1][split]
            require(len(again) == len(samples), f"opened again, {split!r} has another length", "keep it")
            for index in self._indices(samples)[len(self._indices(samples)) // 2 :]:
                require(
                    _alike(samples[index], again[index]),
                    f"opened again, sample {index} of {split!r} is another, so that a run cannot be resumed",
                    "sort what is listed, and draw with a seed that is an option",
                )

    @check("read shards from front to back, from any sample on")
    def test_stream(self) -> None:
        """A stream gives the samples that it counts, from any of them on, and decodes what is asked for."""
        source = self.source()
        stream = source.stream("train")
        if stream is None:
            raise skip("it is not read as a stream")
        samples = source.open("train")
        require(
            stream.fields == samples.fields,
            f"the stream holds {_in_words(stream.fields)}, and open gives {_in_words(samples.fields)}",
            "give both the same fields",
        )
        require(
            stream.shuffle_buffer >= 1 and 0 <= stream.max_bad <= 1,
            f"shuffle_buffer is {stream.shuffle_buffer}, max_bad {stream.max_bad}",
            "at least one sample is held, and max_bad is a share",
        )
        for number, shard in enumerate(stream.shards):
            count = sum(1 for _ in stream.read(number, 0))
            require(
                count == shard.samples,
                f"shard {shard.name!r} gives {count} samples, and says {shard.samples}",
                "count damaged samples too, and give the error in their place",
            )
            start = shard.samples // 2
            whole, rest = (
                self._decoded(stream, stream.read(number, 0), start),
                self._decoded(stream, stream.read(number, start)),
            )
            require(
                len(whole) == len(rest) and all(_alike(*both) for both in zip(whole, rest, strict=True)),
                f"shard {shard.name!r} gives other samples from its {start + 1}th on when it is read from there",
                "read(shard, start) begins with sample start",
            )
        first = self._decoded(stream, stream.read(0, 0))[:1]
        require(
            all(_alike(sample, samples[0]) for sample in first),
            "the stream begins with another sample than open gives first",
            "keep the order of the shards",
        )
        self._require_chosen_fields(stream)

    def _require_chosen_fields(self, stream: SampleStream) -> None:
        packed = next((x for x in stream.read(0, 0) if not isinstance(x, UserError)), None)
        for name in stream.fields:
            given = set(stream.decode(packed, {name}))
            require(given <= {name}, f"decode gives {given} where {name!r} was asked for", "decode what is asked for")

    def _decoded(self, stream: SampleStream, kept: Iterator[Any], start: int = 0) -> list[dict[str, Tensor]]:
        """Some samples of what was read, from the ``start``-th on, without those that are damaged."""
        some = islice(kept, start, start + self.looked_at)
        return [stream.decode(packed, stream.fields) for packed in some if not isinstance(packed, UserError)]

    def _indices(self, samples: Samples) -> list[int]:
        return list(range(min(self.looked_at, max(1, len(samples) - 1))))


def _require_kind(value: Tensor, spec: FieldSpec, what: str) -> None:
    dtype = str(value.dtype).removeprefix("torch.")
    require(
        dtype == spec.dtype and tuple(value.shape) == tuple(spec.shape),
        f"{what} is {dtype} of shape {tuple(value.shape)}, and declared as {spec}",
        "give all samples the shape and dtype that fields says",
    )
    if spec.classes and not spec.shape:
        require(
            int(value) < len(spec.classes),
            f"{what} is class {int(value)} of {len(spec.classes)}",
            "name all classes in fields, in their order",
        )


def _faked(value: Any, spec: FieldSpec | None) -> str:
    """What stands for a missing value, in words; "" if nothing does."""
    if not isinstance(value, Tensor):
        return f"no tensor, but {value!r}"
    if value.is_floating_point() and bool(value.isnan().any()):
        return "not a number"
    if spec is not None and spec.classes and not spec.shape and int(value) < 0:
        return f"class {int(value)}"
    return ""


def _alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two samples hold the same."""
    return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (
            one.shape == other.shape and one.dtype == other.dtype and bool((one == other).logical_or(one != one).all())
        )
    return one is other or one == other


def _in_words(fields: dict[str, FieldSpec]) -> str:
    return ", ".join(f"{name} ({spec})" for name, spec in fields.items()) or "nothing"
