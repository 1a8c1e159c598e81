"""How much memory something takes at its peak."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): resets the peak resident set size


def peak_memory(run: Callable[[], object], device: torch.device) -> int | None:
    """Bytes at the peak of a run: on an accelerator of tensors, on a CPU of the whole process.

    None where the system cannot say.
    """
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)
        run()
        torch.accelerator.synchronize(device)
        return torch.accelerator.max_memory_allocated(device)
    try:
        _CLEAR.write_text(_RESET_PEAK)
        run()
        (line,) = [line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
    except (OSError, ValueError):
        return None
    return int(line.split()[1]) * 1024
