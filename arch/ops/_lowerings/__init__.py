"""The programs behind the operators, one file a fast path; linear.py makes JAX primitives of them.

Convolution: each of reference.py, depthwise.py, grouped.py, matmul.py, im2col.py and winograd.py has the same three
functions of two arrays and a Geometry: `value(x, kernel)`, `input_gradient(gradient, kernel)` and `kernel_gradient(x,
gradient)`; the fast ones also have `unsupported(geometry, kernel_shape)`. choice.py picks one, by dense.py where there
are no groups, and primitives.py hands it to JAX. shifts.py has the windows and paddings that they share.

Others: max_pooling.py, the derivative of max pooling, and switches.py, that of pooling with indices; rows.py, weighted
sums of pixels at real points; maps.py, linear maps that know their transposes, among them channel_shift.py, moves.py,
resampling.py and window_sum.py, of average pooling.
"""
