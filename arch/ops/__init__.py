"""The operator catalogue: one idea a file, a pure function on arrays and, where it has parameters, a linen module."""
