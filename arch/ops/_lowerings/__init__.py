"""The convolution primitives of arch.ops.conv and the programs behind them, one file a fast path.

Each of reference.py, depthwise.py, grouped.py and matmul.py has the same three functions of two arrays and a Geometry:
`value(x, kernel)`, `input_gradient(gradient, kernel)` and `kernel_gradient(x, gradient)`; the fast ones also have
`unsupported(geometry, kernel_shape)`. choice.py picks one, primitives.py hands it to JAX.
"""
