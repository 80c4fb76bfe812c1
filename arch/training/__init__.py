"""Pure training and evaluation steps, the state they carry, and how it is kept on disk. Needs the `[train]` extra."""
