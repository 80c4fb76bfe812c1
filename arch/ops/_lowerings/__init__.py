"""The primitives of arch.ops.conv2d and of max pooling, and the programs behind them, one file a fast path.

Each of reference.py, depthwise.py, grouped.py, matmul.py, im2col.py and winograd.py has the same three functions of two
arrays and a Geometry: `value(x, kernel)`, `input_gradient(gradient, kernel)` and `kernel_gradient(x, gradient)`; the
fast ones also have `unsupported(geometry, kernel_shape)`. choice.py picks one, by dense.py where there are no groups,
and primitives.py hands it to JAX. shifts.py has the windows and paddings that they share, platform.py makes a primitive
whose program depends on the platform, and max_pooling.py has the derivative of max pooling.
"""
