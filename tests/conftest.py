"""Eight simulated CPU devices for every test, set before anything imports jax, and a compilation cache on disk."""

import os
import signal
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# Subprocesses of the tests (train.py) share the cache with the tests.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "arch-tests-jax-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # of thousands of small programs

import jax
import pytest

# As in a terminal: what a shell starts in the background ignores Ctrl-C, and so does all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """The fast tests are thousands of small programs, most of whose time is LLVM's; the slow ones are as users run."""
    if "not slow" in config.option.markexpr:
        os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"


@pytest.fixture
def x64():
    """float64 for one test."""
    with jax.enable_x64(True):
        yield
