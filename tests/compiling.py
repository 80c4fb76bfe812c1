"""How tests compile: fast, because their programs are small and run once."""

import functools

import jax

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

quick_jit = functools.partial(jax.jit, compiler_options=QUICK)
