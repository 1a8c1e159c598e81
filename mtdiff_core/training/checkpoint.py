"""Checkpoints: safetensors and JSON, written aside and renamed, verified by checksum when read.

checkpoints/step-500/model.safetensors       the weights that are being trained
                     ema.safetensors         their moving average, which samples are made with
                     averages.safetensors    the averages that others are made of, if they are tracked
                     optimizer.safetensors   the optimizer's moments
                     fitted.safetensors      what modalities learnt from the data before training, if they did
                     state.json              everything else, and the checksums of all
checkpoints/latest                           the newest whole one's name
averages/step-167/                           the same, of the averages alone
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import attrs
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer

from mtdiff_core.errors import UserError
from mtdiff_core.files import explained, tensor_file, write_atomically
from mtdiff_core.training.parallel import cut, cut_one

log = logging.getLogger(__name__)

Part = Literal["model", "ema", "averages", "optimizer", "fitted"]
PARTS: tuple[Part, ...] = get_args(Part)
FORMAT = 1
STATE = "state.json"


class Restorable(Protocol):
    """A module, or what takes tensors as a module does."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Its tensors by name."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor], /) -> object:
        """Take them, or raise ``RuntimeError`` where they are not its own."""


class DamagedCheckpointError(UserError):
    """A checkpoint is not what was saved."""


@attrs.frozen(kw_only=True)
class Checkpoint:
    """A whole checkpoint on disk.

    Attributes:
        path: Its folder.
        state: What ``state.json`` holds.
    """

    path: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Finished training steps."""
        return cast("int", self.state["step"])

    def load(self, part: Part) -> dict[str, Tensor]:
        """The tensors of one part, by name; none if it was empty when saved.

        Raises:
            DamagedCheckpointError: The file is missing, or is not what was saved.
        """
        file = self.path / f"{part}.safetensors"
        if file.name not in self.state["sha256"]:
            return {}
        data = _read(file)
        if hashlib.sha256(data).hexdigest() != self.state["sha256"][file.name]:
            raise _damaged(file)
        try:
            return safetensors.torch.load(data)
        except SafetensorError as error:
            raise _damaged(file) from error

    def verify(self, parts: Sequence[Part] = PARTS) -> None:
        """Raise ``DamagedCheckpointError`` unless these parts are what was saved."""
        for name, saved in self.state["sha256"].items():
            file = self.path / name
            if file.stem in parts and hashlib.sha256(_read(file)).hexdigest() != saved:
                raise _damaged(file)

    def restore(self, part: Part, module: Restorable) -> None:
        """Load the tensors of one part into a module.

        Raises:
            UserError: The file is damaged, or holds the weights of another model.
        """
        try:
            module.load_state_dict(cut(self.load(part), module.state_dict()))
        except RuntimeError as error:  # torch's own list of names and shapes; --debug shows it
            raise UserError(
                "does not fit the model of the run's recipe",
                str(self.path),
                "was recipe.toml edited, or a plugin changed, after the checkpoint was saved?",
            ) from error


def _read(file: Path) -> bytes:
    try:
        with explained("cannot read the checkpoint", file):
            return file.read_bytes()
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise _damaged(file, "is damaged: No such file") from error
        raise


def _damaged(file: Path, what: str = "is damaged: its content is not what was saved") -> DamagedCheckpointError:
    return DamagedCheckpointError(what, str(file))


def save_checkpoint(
    folder: Path,
    tensors: Mapping[Part, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int,
    stays: Callable[[int], bool] = lambda step: False,
) -> Path:
    """Save a checkpoint; when this returns, it is on disk as a whole.

    Args:
        folder: The run's ``checkpoints`` folder.
        tensors: Tensors by part and name; a part without tensors gets no file.
        state: JSON data, with the number of finished steps under ``"step"``.
        keep: How many of the newest checkpoints stay.
        stays: Whether the checkpoint of a step stays besides.

    Raises:
        UserError: It cannot be written; nothing of it is left then, and older checkpoints are as before.
    """
    target = checkpoint_folder(folder, state["step"])
    aside = folder / f".{target.name}.partial"
    with explained(f"cannot save the checkpoint of step {state['step']}", folder):
        try:
            for left_over in folder.glob(".step-*.partial"):  # of a save that was killed
                shutil.rmtree(left_over, ignore_errors=True)
            aside.mkdir(parents=True)
            digests = {}
            for part in (part for part in PARTS if tensors.get(part)):
                contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors[part].items()}
                data = tensor_file(contiguous, {"part": part, "step": state["step"]})
                digests[f"{part}.safetensors"] = hashlib.sha256(data).hexdigest()
                _write_synced(aside / f"{part}.safetensors", data)
            _write_synced(aside / STATE, _sealed({**state, "format": FORMAT, "sha256": digests}))
            if target.exists():
                shutil.rmtree(target)
            aside.rename(target)
            _sync_folder(folder)
        except BaseException:  # also a second Ctrl-C
            shutil.rmtree(aside, ignore_errors=True)
            raise
    write_atomically(folder / "latest", target.name + "\n")
    # Later ones are damaged, or resuming would have begun there: they take no room from those that are whole
    for old in [path for path in _whole(folder) if _step_of(path) <= state["step"]][:-keep]:
        if not stays(_step_of(old)):
            shutil.rmtree(old, ignore_errors=True)
    return target


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies in a run's ``checkpoints`` folder."""
    return folder / f"step-{step}"


def find_checkpoint(
    folder: Path, wanted: Callable[[int], bool] = lambda step: True, parts: Sequence[Part] = PARTS
) -> Checkpoint | None:
    """The newest whole checkpoint of a run; None if there is none.

    Where newer ones are damaged, a warning says so and what is used in their place.

    Args:
        folder: The run's ``checkpoints`` folder.
        wanted: Whether the checkpoint of a step will do.
        parts: Those that are going to be loaded, and have to be whole.

    Raises:
        UserError: All those wanted are damaged; or one was written by another version, or cannot be read.
    """
    damaged = None
    for path in [path for path in reversed(_whole(folder)) if wanted(_step_of(path))]:
        try:
            checkpoint = read_checkpoint(path)
            checkpoint.verify(parts)
        except DamagedCheckpointError as error:
            if not path.exists():  # thinned meanwhile, by the run that saves them
                return find_checkpoint(folder, wanted, parts)
            damaged = damaged or error
            continue
        if damaged:
            log.warning("%s; the checkpoint of step %d is used", damaged, checkpoint.step)
        return checkpoint
    if damaged:
        steps = ", ".join(map(str, steps_of_checkpoints(folder)))
        raise UserError(str(damaged), hint=f"none that would do is whole, of steps {steps}") from damaged
    return None


def steps_of_checkpoints(folder: Path) -> list[int]:
    """Steps that there are checkpoints of, in order."""
    return [_step_of(path) for path in _whole(folder)]


def snapshots(folder: Path) -> list[Checkpoint]:
    """All of a folder's checkpoints, in order.

    Raises:
        UserError: As :func:`read_checkpoint`.
    """
    return [read_checkpoint(path) for path in _whole(folder)]


def remove_checkpoint(folder: Path, step: int) -> None:
    """Remove the checkpoint of a step."""
    shutil.rmtree(checkpoint_folder(folder, step), ignore_errors=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint's state.

    Raises:
        DamagedCheckpointError: It is not what was saved.
        UserError: It was written by another version.
    """
    file = path / STATE
    text = _read(file).decode(errors="replace")
    try:
        state = json.loads(text)
    except json.JSONDecodeError as error:
        raise _damaged(file) from error
    if not isinstance(state, dict) or _sealed({k: v for k, v in state.items() if k != "seal"}) != text.encode():
        raise _damaged(file)
    if state["format"] != FORMAT:
        raise UserError(f"has format {state['format']}; this version reads format {FORMAT}", str(file))
    return Checkpoint(path=path, state=state)


def _sealed(state: dict[str, Any]) -> bytes:
    """The state as JSON with a checksum of itself."""
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    return json.dumps({**state, "seal": digest}, indent=1, sort_keys=True).encode()


def _whole(folder: Path) -> list[Path]:
    """Folders of whole checkpoints, oldest first; those being written have other names."""
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(found, key=_step_of)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """An optimizer's state as ``"parameter name:entry"`` tensors."""
    names = [name for name, _ in model.named_parameters()]
    state = optimizer.state_dict()["state"]
    return {f"{names[index]}:{key}": value for index, entries in state.items() for key, value in entries.items()}


def load_optimizer_tensors(optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Undo :func:`optimizer_tensors`."""
    parameters = {name: (i, parameter) for i, (name, parameter) in enumerate(model.named_parameters())}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition(":")
        index, parameter = parameters[name]
        state.setdefault(index, {})[entry] = _laid_out_like(parameter, tensor)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _laid_out_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A moment with its parameter's strides: fused optimizers pair the two by place in memory, channels_last or not."""
    tensor = cut_one(tensor, parameter)
    return torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor
