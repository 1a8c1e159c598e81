"""Checkpoints of which every process writes its own parts, by torch.distributed.checkpoint, as safetensors.

checkpoints/step-500/shards/shard-00001-model-00001-of-00001.safetensors     "model/NAME", "ema/NAME", ... of process 0
                            shard-00002-model-00001-of-00001.safetensors     of process 1

Where in the whole each part lies stands in the files' headers as JSON, so any number of processes can read them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from mtdiff_core.errors import UserError
from mtdiff_core.training.parallel import empty_like_part

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def begin_to_write(folder: Path, tensors: Mapping[str, Tensor], group: ProcessGroup) -> Future[Any]:
    """Copy what this process has of all tensors, and write it in the background; all processes have to ask.

    Args:
        folder: Where to; it exists, and is empty.
        tensors: Of the same names in all processes.
        group: Of all processes, for this alone.

    Returns:
        What is done when all processes have written, durably.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own use of what it deprecates
        return cast("Future[Any]", async_save(dict(tensors), storage_writer=writer, process_group=group))


def wait_for(written: Future[Any], step: int, folder: Path) -> None:
    """Wait until all processes have written.

    Raises:
        UserError: One of them could not.
    """
    try:
        written.result()
    except CheckpointException as error:  # it is no Exception
        rank, (cause, _) = min(error.failures.items(), key=lambda item: item[0])
        raise UserError(f"cannot save the checkpoint of step {step}: {cause} (process {rank})", str(folder)) from error


def read(folder: Path, prefix: str, like: Callable[[str], Tensor | None]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by what follows it.

    Args:
        folder: Where they were written.
        prefix: Of names.
        like: Where it gives a tensor of the same shape of which processes have parts, only this one's is read.

    Raises:
        OSError: A file cannot be read.
    """
    reader = HuggingFaceStorageReader(str(folder))
    found: dict[str, Tensor] = {}
    for key, entry in reader.read_metadata().state_dict_metadata.items():
        if key.startswith(prefix) and isinstance(entry, TensorStorageMetadata):
            name = key.removeprefix(prefix)
            found[name] = empty_like_part(like(name), entry.size, entry.properties.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # every process reads by itself
        load({prefix + name: x for name, x in found.items()}, storage_reader=reader, no_dist=True)
    return found
