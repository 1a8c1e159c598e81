"""A job of sampling: batch after batch is generated, written and dropped; what is written is never made again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from mtdiff_core.errors import InterruptedRunError, UserError
from mtdiff_core.files import explained, read_text, write_atomically
from mtdiff_core.generation import Generated, Progress, Settings, batch_rows, generate_batch, joined
from mtdiff_core.picture import MAX_CARDS, draw_grid
from mtdiff_core.sampling_job.formats import PARTS, SampleFormat, remove_parts
from mtdiff_core.signals import stop_on_signals
from mtdiff_core.world import ALONE, World

if TYPE_CHECKING:
    from mtdiff_core.diffusion.model import MultiModalDiffusion
    from mtdiff_core.interfaces.modality import Modality
    from mtdiff_core.sampling_job.given import Given

STATE = "job.json"


@attrs.frozen(kw_only=True)
class SamplingJob:
    """Samples in one direction, as many as are asked for.

    Attributes:
        model: The joint model.
        modalities: Its modalities, bound.
        given: What is known.
        settings: How to sample.
        files: Where the samples go.
        world: Processes that have the same job and run it together: they share out the batches, and the main one puts
            everything together.
    """

    model: MultiModalDiffusion
    modalities: Mapping[str, Modality]
    given: Given
    settings: Settings
    files: SampleFormat
    world: World = ALONE

    @property
    def grid(self) -> Path:
        """The picture of the first samples; drawn as soon as they are there."""
        return self.files.folder / "grid.png"

    @property
    def batches(self) -> list[slice]:
        """The rows of each batch. Together with the settings they say all about a batch, so any can be made alone."""
        return batch_rows(self.given.count, self.settings.batch_size)

    def rows_done(self) -> int:
        """Number of samples that are written already."""
        if self.files.path.exists():
            return self.given.count
        return sum(rows.stop - rows.start for i, rows in enumerate(self.batches) if self.files.part(i).exists())

    def run(self, progress: Progress) -> Generated | None:
        """Make what is missing, and put everything together.

        Args:
            progress: Called with the number of sampling steps done, also for batches that are there already.

        Returns:
            The samples that the grid shows, or None if it was drawn before, or by another process.

        Raises:
            UserError: Something cannot be written; what was finished before is kept.
            InterruptedRunError: Someone asked to stop; what was finished before is kept.
        """
        with explained("cannot make the folder", self.files.folder):
            (self.files.folder / PARTS).mkdir(exist_ok=True)
        try:
            with stop_on_signals() as stop_requested:
                shown = self._make_missing(_stopping(progress, stop_requested))
            self.world.wait()
            if self.world.is_main:
                self._put_together()
        except KeyboardInterrupt as error:
            kept = f"{self.rows_done()} of {self.given.count} samples"
            raise InterruptedRunError(f"{kept} are kept in {self.files.folder}") from error
        return shown

    def _put_together(self) -> None:
        if not self.files.path.exists():
            self.files.finish([self.files.part(number) for number in range(len(self.batches))])
        remove_parts(self.files.folder)

    def _make_missing(self, progress: Progress) -> Generated | None:
        """Make this process's share of the batches that are not there; the main one also those for a missing grid."""
        shown: list[Generated] = []
        draws, finished = self.world.from_main(lambda: (not self.grid.exists(), self.files.path.exists()))
        for number, rows in enumerate(self.batches):
            seen = draws and rows.start < MAX_CARDS
            mine = self.world.is_main if seen else number % self.world.size == self.world.rank
            if seen and mine:
                shown.append(self._make(number, rows, progress).first(MAX_CARDS - rows.start))
            elif mine and not finished and not self.files.part(number).exists():
                self._make(number, rows, progress)
            else:
                progress(self.settings.steps)
            if seen and mine and (rows.stop >= MAX_CARDS or rows.stop == self.given.count):
                draw_grid([joined(shown)], self.modalities, self.grid)
        return joined(shown) if shown else None

    def _make(self, number: int, rows: slice, progress: Progress) -> Generated:
        """Make a batch and write its part."""
        given = self.given.rows(rows)
        made = generate_batch(
            self.model, self.modalities, self.given.direction, given.known, rows, self.settings, progress
        )
        self.files.write_part(number, rows.start, made.values)
        return attrs.evolve(made, truth=given.truth)


def _stopping(progress: Progress, stop_requested: Callable[[], bool]) -> Progress:
    """Progress that raises ``KeyboardInterrupt`` once someone asked to stop.

    Python drops an exception that a signal raises while an object is being finalised, and Ctrl-C would be lost with it.
    """

    def count(steps: int) -> None:
        progress(steps)
        if stop_requested():
            raise KeyboardInterrupt

    return count


def begin_job(folder: Path, about: Mapping[str, Any]) -> None:
    """Make the folder of a new job.

    Args:
        folder: Where samples go.
        about: Everything that the samples depend on, as JSON data.

    Raises:
        UserError: It cannot be made.
    """
    with explained("cannot make the folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / STATE, json.dumps(about, indent=1))


def check_same_job(folder: Path, about: Mapping[str, Any]) -> None:
    """Raise ``UserError`` unless the job that was begun in a folder is this one; the message says what differs."""
    file = folder / STATE
    if not file.is_file():
        raise UserError(f"there is no job to go on with: it has no {STATE}", str(folder), "leave --resume out")
    try:
        begun = dict(json.loads(read_text(file)))
    except (ValueError, TypeError) as error:
        raise UserError("is damaged", str(file), "choose another --out, and leave --resume out") from error
    now = json.loads(json.dumps(about))
    changed = [_change(key, begun.get(key), now.get(key)) for key in {**begun, **now} if begun.get(key) != now.get(key)]
    if changed:
        raise UserError(
            f"the job that was begun here has other settings; different: {', '.join(changed)}",
            str(folder),
            "give the same command again, or choose another --out and leave --resume out",
        )


def _change(key: str, begun: Any, now: Any) -> str:
    return f"{key} ({json.dumps(begun)} then, {json.dumps(now)} now)"
