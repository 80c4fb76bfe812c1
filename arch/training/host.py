"""What a process asks of the system and of the libraries below JAX, before it imports JAX."""

import ctypes
import os
import signal

PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"


def prepare_host() -> None:
    """`keep_freed_memory` and `one_lapack_thread`: the first lines of a program, before JAX is imported."""
    keep_freed_memory()
    one_lapack_thread()


def one_lapack_thread() -> None:
    """Has each eigendecomposition on a CPU use one thread, unless OPENBLAS_NUM_THREADS says otherwise.

    They come from SciPy's OpenBLAS, whose threads wait for one another longer than they work on the matrices of second
    order pooling: the roots of 8 matrices of 256 x 256 took 1.5 times as long on two cores with two threads. It is read
    when the library is loaded, at the first decomposition.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def keep_freed_memory() -> bool:
    """Tells glibc's malloc not to give freed memory back to the system; call it before JAX is imported.

    XLA on CPU takes one block for all that a step computes, and frees it. By default glibc returns it to the system,
    and the next step pays for every page of it again: of a ShuffleNet v2 training step (1x, 224 pixels, batch 8) of
    253 ms, 100 ms. The price is that the process stays as large as it ever was. Threads that are there already keep
    memory of their own, which this does not reach: hence before the import.

    Returns:
        Whether it took effect; False where the C library is not glibc. There, nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # One heap (M_ARENA_MAX), since those of further threads cannot hold such blocks; none of the blocks mapped on its
    # own (M_MMAP_MAX); and its end never cut off (M_TRIM_THRESHOLD, the largest value there is).
    options = {-8: 1, -4: 0, -1: 2**31 - 1}
    return all(mallopt(option, value) for option, value in options.items())


def die_with(parent: int) -> None:
    """Has the system kill this process when its parent ends, on Linux.

    Args:
        parent: process id of the one that started this one, from its main thread.
    """
    try:
        ctypes.CDLL("libc.so.6").prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:  # it ended before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def share_cores(num_parallel: int) -> list[frozenset[int]]:
    """The cores of this process in so many equal parts, neighbours together; all for each where there are too few."""
    if not hasattr(os, "sched_getaffinity"):
        return [frozenset()] * num_parallel
    cores = sorted(os.sched_getaffinity(0))
    size = len(cores) // num_parallel
    if size == 0:
        return [frozenset(cores)] * num_parallel
    return [frozenset(cores[index * size : (index + 1) * size]) for index in range(num_parallel)]


def share_devices(num_parallel: int, variable: str = "") -> list[dict[str, str]]:
    """What the environment of each of so many processes of this machine says of devices.

    Args:
      num_parallel: processes at a time.
      variable: such as CUDA_VISIBLE_DEVICES: process i gets the i-th of the devices that it lists here, or i where it
        is not set. "": all see all devices, and take of a GPU's memory what they need, as the first would take three
        quarters at once.

    Raises:
      ValueError: it lists too few.
    """
    if not variable:
        return [{} if num_parallel == 1 or PREALLOCATE in os.environ else {PREALLOCATE: "false"}] * num_parallel
    listed = [name for name in os.environ.get(variable, "").split(",") if name]
    if listed and len(listed) < num_parallel:
        raise ValueError(
            f"{num_parallel} processes at a time must be at most the {len(listed)} devices of {variable}="
            f"{','.join(listed)}; lower it"
        )
    return [{variable: name} for name in (listed or map(str, range(num_parallel)))][:num_parallel]
