"""Checkpoints: safetensors and JSON, written aside and renamed, verified by checksum when read.

checkpoints/step-500/model.safetensors       the weights that are being trained
                     ema.safetensors         their moving average, which samples are made with
                     averages.safetensors    the averages that others are made of, if they are tracked
                     optimizer.safetensors   the optimizer's moments
                     fitted.safetensors      what modalities learnt from the data before training, if they did
                     state.json              everything else, and the checksums of all
                     shards/                 in place of the first four, if each process has written its parts
checkpoints/latest                           the newest whole one's name
averages/step-167/                           the same, of the averages alone
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
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
from mtdiff_core.training import shards
from mtdiff_core.training.parallel import cut

log = logging.getLogger(__name__)

Part = Literal["model", "ema", "averages", "optimizer", "fitted"]
PARTS: tuple[Part, ...] = get_args(Part)
FORMAT = 2
STATE = "state.json"
SHARDS = "shards"


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

    def has(self, part: Part) -> bool:
        """Whether a part was saved, and was not empty."""
        return f"{part}.safetensors" in self.state["sha256"] or part in self.state["sharded"]

    def checksum(self, part: Part) -> str:
        """What tells a saved part from another; that of its file, or of the files of all parts."""
        if part not in self.state["sharded"]:
            return cast("str", self.state["sha256"][f"{part}.safetensors"])
        of_shards = {name: digest for name, digest in self.state["sha256"].items() if name.startswith(SHARDS)}
        return hashlib.sha256(json.dumps([part, of_shards], sort_keys=True).encode()).hexdigest()

    def load(self, part: Part, like: Callable[[str], Tensor | None] = lambda name: None) -> dict[str, Tensor]:
        """The tensors of one part, by name; none if it was empty when saved.

        Args:
            part: Which.
            like: By name, what to be like: where it gives a tensor of which processes have parts, so has the result.

        Raises:
            DamagedCheckpointError: A file is missing, or is not what was saved.
        """
        if not self.has(part):
            return {}
        file = self.path / f"{part}.safetensors"
        try:
            if part in self.state["sharded"]:
                self.verify([part])
                return shards.read(self.path / SHARDS, f"{part}/", like)
            data = _read(file)
            if hashlib.sha256(data).hexdigest() != self.state["sha256"][file.name]:
                raise _damaged(file)
            return {name: cut(tensor, like(name)) for name, tensor in safetensors.torch.load(data).items()}
        except SafetensorError as error:
            raise _damaged(file) from error

    def verify(self, parts: Sequence[Part] = PARTS) -> None:
        """Raise ``DamagedCheckpointError`` unless these parts are what was saved."""
        wanted = {f"{part}.safetensors" for part in parts}
        any_sharded = bool(set(parts) & set(self.state["sharded"]))
        for name, saved in self.state["sha256"].items():
            file = self.path / name
            needed = name in wanted or (any_sharded and name.startswith(SHARDS))
            if needed and hashlib.sha256(_read(file)).hexdigest() != saved:
                raise _damaged(file)

    def restore(self, part: Part, module: Restorable) -> None:
        """Load the tensors of one part into a module.

        Raises:
            UserError: The file is damaged, or holds the weights of another model.
        """
        try:
            module.load_state_dict(self.load(part, module.state_dict().get))
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
    aside = begin_checkpoint(folder, state["step"])
    with _all_or_nothing(aside, state["step"]):
        digests = {}
        for part in (part for part in PARTS if tensors.get(part)):
            contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors[part].items()}
            data = tensor_file(contiguous, {"part": part, "step": state["step"]})
            digests[f"{part}.safetensors"] = hashlib.sha256(data).hexdigest()
            _write_synced(aside / f"{part}.safetensors", data)
        target = _publish(aside, {**state, "sha256": digests, "sharded": []})
    _thin(folder, state["step"], keep, stays)
    return target


def begin_checkpoint(folder: Path, step: int) -> Path:
    """An empty folder to write a checkpoint in, aside; what is left over of saves that were killed goes.

    Raises:
        UserError: It cannot be made.
    """
    aside = folder / f".{checkpoint_folder(folder, step).name}.partial"
    with _all_or_nothing(aside, step):
        for left_over in folder.glob(".step-*.partial"):
            shutil.rmtree(left_over, ignore_errors=True)
        aside.mkdir(parents=True)
    return aside


def seal_checkpoint(
    aside: Path,
    written: Future[Any],
    fitted: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
    stays: Callable[[int], bool] = lambda step: False,
) -> Path:
    """Make a checkpoint of what all processes have written into the folder that :func:`begin_checkpoint` gave.

    Args:
        aside: That folder.
        written: Done when they have.
        fitted: What modalities have learnt, which the main process alone writes.
        state: As for :func:`save_checkpoint`, and under ``"sharded"`` which parts they have written.
        keep: As for :func:`save_checkpoint`.
        stays: As for :func:`save_checkpoint`.

    Raises:
        UserError: As :func:`save_checkpoint`.
    """
    with _all_or_nothing(aside, state["step"]):
        shards.wait_for(written, state["step"], aside.parent)
        if fitted:
            _write_synced(aside / "fitted.safetensors", tensor_file(fitted, {"part": "fitted", "step": state["step"]}))
        files = sorted(path for path in aside.rglob("*") if path.is_file())
        digests = {str(file.relative_to(aside)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        target = _publish(aside, {**state, "sha256": digests})
    _thin(aside.parent, state["step"], keep, stays)
    return target


@contextmanager
def _all_or_nothing(aside: Path, step: int) -> Iterator[None]:
    with explained(f"cannot save the checkpoint of step {step}", aside.parent):
        try:
            yield
        except BaseException:  # also a second Ctrl-C
            shutil.rmtree(aside, ignore_errors=True)
            raise


def _publish(aside: Path, state: Mapping[str, Any]) -> Path:
    """Give a checkpoint its state and its name."""
    target = checkpoint_folder(aside.parent, state["step"])
    _write_synced(aside / STATE, _sealed({**state, "format": FORMAT}))
    if target.exists():
        shutil.rmtree(target)
    aside.rename(target)
    _sync_folder(aside.parent)
    return target


def _thin(folder: Path, step: int, keep: int, stays: Callable[[int], bool]) -> None:
    """Name the newest checkpoint, and remove those that are not to stay."""
    write_atomically(folder / "latest", checkpoint_folder(folder, step).name + "\n")
    # Later ones are damaged, or resuming would have begun there: they take no room from those that are whole
    for old in [path for path in _whole(folder) if _step_of(path) <= step][:-keep]:
        if not stays(_step_of(old)):
            shutil.rmtree(old, ignore_errors=True)


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


def load_optimizer_tensors(optimizer: Optimizer, model: nn.Module, checkpoint: Checkpoint) -> None:
    """Undo :func:`optimizer_tensors`, which a checkpoint holds."""
    own = dict(model.named_parameters())
    tensors = checkpoint.load("optimizer", lambda key: own.get(key.rpartition(":")[0]))
    parameters = {name: (i, parameter) for i, (name, parameter) in enumerate(model.named_parameters())}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition(":")
        index, parameter = parameters[name]
        state.setdefault(index, {})[entry] = _laid_out_like(parameter, tensor)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _laid_out_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A moment with its parameter's strides: fused optimizers pair the two by place in memory, channels_last or not."""
    return torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor
