"""What a process asks of the libraries below JAX, seen from a fresh one."""

import os
import subprocess
import sys

from arch.training.host import one_lapack_thread

PROGRAM = """
import resource, sys
from arch.training.host import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
import jax, jax.numpy as jnp
step = jax.jit(lambda x: x * 2)
x = jnp.ones((10_000_000,))
for _ in range(3):  # until the heap has room for all that lives at once, results that are freed late too
    jax.block_until_ready([step(x) for _ in range(6)])
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_step_finds_its_memory_again():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True).stdout)
        for how in ("keep", "default")
    }
    # A result of 40 MB is 9,766 pages of 4 kB.
    assert faults["default"] > 50_000 and faults["keep"] < faults["default"] / 4, faults


def test_the_number_of_lapack_threads_is_the_users_to_choose(monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    one_lapack_thread()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "4")
    one_lapack_thread()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "4"
