"""Memory that a training keeps for its next step.

A step asks for the same large blocks as the step before. The C library of most Linux systems gives such blocks back as
soon as they are free, and the system fills every page with zeros when they are asked for again. For a small detector
on the CPU these are thirteen thousand pages in every step, up to a tenth of its time.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST = 2**30, 2**25  # bytes; the second is the most that older versions of glibc take


def keep_freed_memory() -> bool:
    """Asks the C library to keep what this process frees, for all that comes after; whether it agreed.

    Only glibc is asked; with other libraries and systems nothing changes. A process with this takes no less memory when
    a large tensor goes than it took at its most, so it is for programs that train and end, not for notebooks.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
