"""What the processes of a cluster do together: meet, agree on a value, and end when one of them fails."""

import logging
import os
import sys
import time
import traceback
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from arch.training.cluster import HEARTBEAT_SECONDS, VERDICT_SECONDS

logger = logging.getLogger(__name__)


def join(address: str | None, count: int | None, index: int | None, seconds: int) -> None:
    """`jax.distributed`, with the other processes; all None where JAX recognises the cluster.

    Args:
      address: HOST:PORT of process 0.
      count: of the processes.
      index: of this one.
      seconds: within which all must come.

    Raises:
      ValueError: this is no cluster, or these are no places in it.
    """
    if not index:
        logger.warning("waiting at most %d s for the other processes", seconds)
    try:
        jax.distributed.initialize(
            address, count, index, initialization_timeout=seconds, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"cluster: --coordinator={address} --num_processes={count} --process_id={index} cannot be joined "
            f"({str(error).strip() or type(error).__name__}); where JAX does not recognise the cluster, give all three"
        ) from error


def from_main_host(value: int) -> int:
    """The value that process 0 gives, on all of them."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def leave_others(error: Exception) -> NoReturn:
    """Ends one process of several after an error, without the end of a program, at which it would wait for the others.

    A collective fails where another process is gone. Then JAX ends this one while it waits, and says which is gone.
    """
    if isinstance(error, jax.errors.JaxRuntimeError):
        reason = str(error).strip().split("\n")[0][:200]
        logger.warning("a step failed (%s); waiting %d s for what others know of it", reason, VERDICT_SECONDS)
        time.sleep(VERDICT_SECONDS)
    traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(1)
