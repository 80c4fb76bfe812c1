"""That memory which a step frees is there for the next: a fresh process counts its page faults."""

import subprocess
import sys

PROGRAM = """
import resource, sys
from arch.training.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
import jax, jax.numpy as jnp
step = jax.jit(lambda x: x * 2)
x = jnp.ones((10_000_000,))
for _ in range(20):  # until the heap has room for all that lives at once
    step(x).block_until_ready()
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
