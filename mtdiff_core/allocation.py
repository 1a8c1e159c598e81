"""Memory that is freed is kept for the next step, where the C library would give it back to the system at once."""

from __future__ import annotations

import ctypes
import os
import platform

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

KEPT = 1 << 30  # bytes free at the heap's end before any are given back
FROM_THE_HEAP = 1 << 25  # larger blocks are mapped one by one and given back when freed; glibc takes no more than this

# By these a user has already said how memory is to be handled.
USERS_OWN = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Let this process and those that it forks keep up to 1 GiB of freed memory, if the C library is glibc.

    A training step on the CPU frees all that it computed on the way. By default, glibc returns it to the system as soon
    as some 64 MB are free, and the next step waits while the system maps and clears every page anew.

    Returns:
        Whether it does now. It does not with another C library, nor where the user's environment says how glibc is to
        handle memory (``GLIBC_TUNABLES`` and the like).
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in USERS_OWN):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, FROM_THE_HEAP) and mallopt(M_TRIM_THRESHOLD, KEPT))
