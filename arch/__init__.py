"""CNN architecture design and search in JAX: operators, networks, large-batch training, efficiency, search."""

__version__ = "0.1.0"

# The one name of the mapped data-parallel axis: of pmap, of sync batch norm, of every collective in a step.
AXIS_NAME = "batch"
