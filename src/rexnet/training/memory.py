"""How the C library keeps the memory of a training step on a CPU."""

import ctypes
import platform

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The most that glibc allows, on 64 bits.
_LARGEST_KEPT_BYTES = 32 * 2**20
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets this process use freed memory again instead of giving it back to the system; False where that has no knob.

    A training step allocates the same few gigabytes each time. glibc returns blocks of that size at once, and the
    system clears every page of them again on the next touch: a fifth of a step's time. Blocks above 32 MiB still go
    back, so the peak stays what it was (results/training_step_cpu.jsonl).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    kept = library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES) and library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    return bool(kept)
