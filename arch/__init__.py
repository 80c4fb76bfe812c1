"""CNN architecture design and search in JAX: operators, networks, large-batch training, efficiency, search."""

__version__ = "0.1.0"

# The one name of the mapped data-parallel axis: of pmap, of sync batch norm, of every collective in a step.
AXIS_NAME = "batch"

# Collections in which a network leaves, while it trains, what its loss has beside the logits that it returns: logits of
# auxiliary heads, each with the weight of its loss, and scalars to be added.
AUXILIARY = "auxiliary"
PENALTIES = "penalties"
