"""What is called gradient normalization, in its three readings.

GradNorm balances the losses of several tasks; `normalize_gradients` gives every layer's gradient length one; spectral
normalization and gradient penalty bound the gradient of a critic. Nothing but the name is common to them.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from arch.errors import unknown_name
from arch.norm.weight import output_axis
from arch.ops.conv import Conv
from arch.ops.stochastic import example_keys

LAYERS = ("leaf", "module")


def task_gradient_norms(
    losses: Callable[[Any], jax.Array], shared: Any, *, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """The losses [tasks] and |grad L_i| [tasks], by the parameters of the last shared layer: what GradNorm starts from.

    Paper: Chen et al., GradNorm (arXiv:1711.02257), section 3.1.
    Parameters: none.
    MACs: of a backward pass from each loss to `shared` alone.

    Args:
        losses: parameters -> losses [tasks], means over the examples; all else that they need is closed over.
        shared: the parameters of the last layer that all tasks share, a tree.
        axis_name: the mapped axis over whose devices losses and gradients are averaged; None keeps to this device.

    Returns:
        losses [tasks] and norms [tasks], in the dtype of the losses, float32 at least.
    """
    values, pull = jax.vjp(losses, shared)
    if values.ndim != 1:
        raise ValueError(f"task_gradient_norms: losses={list(values.shape)} must be [tasks]; stack one scalar a task")
    (gradients,) = jax.vmap(pull)(jnp.eye(values.shape[0], dtype=values.dtype))
    if axis_name is not None:
        values, gradients = lax.pmean((values, gradients), axis_name)
    return values, jax.vmap(_length)(gradients).astype(jnp.promote_types(values.dtype, jnp.float32))


def grad_norm_loss(
    weights: jax.Array, norms: jax.Array, losses: jax.Array, initial_losses: jax.Array, alpha: float = 1.5
) -> jax.Array:
    """sum_i |G_i - mean(G) r_i^alpha|, to be minimized over the weights of the tasks, and over nothing else.

    G_i = w_i |grad L_i| is the length of the weighted gradient; r_i, the loss as a share of the initial one relative to
    the mean of these shares, is above 1 for a task that learns slower than the others. mean(G) r_i^alpha is a constant
    to the gradient, as are norms and losses. A step on it, then `renormalize_weights`, after each step of the network,
    which minimizes sum_i w_i L_i.

    Paper: Chen et al., GradNorm (arXiv:1711.02257), section 3.2, equations 1 and 2.
    Parameters: the weights [tasks].
    MACs: 0.

    Args:
        weights: [tasks], above 0; they start at 1.
        norms: [tasks], |grad L_i| without the weight, by the last shared layer; see `task_gradient_norms`.
        losses: [tasks], 0 or above, without the weights.
        initial_losses: [tasks], of the first step; where 0, the task counts as one that learns at no pace.
        alpha: 0 or above; how strongly paces are made equal. The paper takes 1.5, and 0.12 for like tasks.

    Returns:
        A scalar.

    Raises:
        ValueError: arrays that are not all [tasks].
    """
    shapes = {name: jnp.shape(value) for name, value in (("norms", norms), ("losses", losses))}
    shapes |= {"initial_losses": jnp.shape(initial_losses)}
    for name, shape in shapes.items():
        if jnp.ndim(weights) != 1 or shape != jnp.shape(weights):
            raise ValueError(
                f"grad_norm_loss: {name}={list(shape)} must be [tasks] as weights={list(jnp.shape(weights))}; "
                "give one value a task"
            )
    norms, losses, initial_losses = lax.stop_gradient((norms, losses, initial_losses))
    weighted = weights * norms
    shares = jnp.where(initial_losses > 0, losses / _or_one(initial_losses), jnp.ones_like(losses))
    mean_share = shares.mean()
    paces = jnp.where(mean_share > 0, shares / _or_one(mean_share), jnp.ones_like(shares))
    target = lax.stop_gradient(weighted.mean() * paces**alpha)
    return jnp.abs(weighted - target).sum()


def renormalize_weights(weights: jax.Array, minimum: float = 1e-3) -> jax.Array:
    """The weights of the tasks, at least `minimum` and then scaled so that they sum to their number.

    Paper: Chen et al., GradNorm (arXiv:1711.02257), algorithm 1.
    Parameters: none.
    MACs: 0.
    Differs from the paper: the minimum, which keeps a large step from making a weight negative.

    Args:
        weights: [tasks].
        minimum: above 0.

    Raises:
        ValueError: a minimum that is not above 0.
    """
    if not minimum > 0:
        raise ValueError(f"renormalize_weights: minimum={minimum} must be above 0; 0.001 lets a task rest")
    weights = jnp.maximum(weights, minimum)
    return weights * (weights.shape[0] / weights.sum())


def normalize_gradients(per: str = "leaf", epsilon: float = 1e-12) -> optax.GradientTransformation:
    """g / (|g| + epsilon) for the gradient g of every layer; stands before momentum or Adam in a chain.

    Only the direction of a layer's gradient is left, so its rate alone says how far it moves. A zero gradient stays.

    Paper: Yu et al., Block-Normalized Gradient Method (arXiv:1707.04822), section 3.
    Parameters: none.
    MACs: 0, two products an element of the parameters.
    Differs from the paper: epsilon, 0 there.

    Args:
        per: what a layer is: "leaf", each parameter tensor; "module", all tensors of one module together.
        epsilon: 0 or above, added to the length.

    Raises:
        ValueError: an unknown `per`; an epsilon below 0.
    """
    if per not in LAYERS:
        raise unknown_name("normalize_gradients: per", per, LAYERS)
    if not epsilon >= 0:
        raise ValueError(f"normalize_gradients: epsilon={epsilon} must be at least 0; 0 divides by the length alone")

    def update(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        del params
        flat, structure = jax.tree_util.tree_flatten_with_path(updates)
        layers: dict[Any, list[jax.Array]] = {}
        for path, gradient in flat:
            layers.setdefault(path if per == "leaf" else path[:-1], []).append(gradient)
        lengths = {path: _length(gradients) for path, gradients in layers.items()}
        scaled = [_divide(gradient, lengths[path if per == "leaf" else path[:-1]], epsilon) for path, gradient in flat]
        return jax.tree.unflatten(structure, scaled)

    return optax.stateless(update)


def gradient_penalty(critic: Callable[[jax.Array], jax.Array], x: jax.Array, target: float = 1.0) -> jax.Array:
    """(|grad_x D(x)| - target)^2 of each example, [batch, ...] -> [batch]; its mean times 10 is added to D's loss.

    Paper: Gulrajani et al., Improved Training of Wasserstein GANs (arXiv:1704.00028), section 4, equation 3.
    Parameters: none.
    MACs: those of D, forward and backward.

    Args:
        critic: D, from [batch, ...] to one value an example, that depends on this example alone: no batch norm.
        x: [batch, ...]; the paper's are from `interpolate_examples`.
        target: length that a gradient should have.

    Returns:
        [batch], float32 at least; at a zero gradient its own gradient is zero.

    Raises:
        ValueError: a critic of several values an example; integers.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"gradient_penalty: x={x.dtype}{list(x.shape)} must be floating point; convert it")

    def total(x: jax.Array) -> jax.Array:
        values = critic(x)
        if values.size != x.shape[0]:
            raise ValueError(
                f"gradient_penalty: critic(x)={list(values.shape)} must be one value for each of batch={x.shape[0]}; "
                "reduce it to [batch]"
            )
        return values.sum()

    gradient = jax.grad(total)(x)
    gradient = gradient.astype(jnp.promote_types(x.dtype, jnp.float32))
    squares = lax.square(gradient).reshape(x.shape[0], -1).sum(1)
    # The root of 0 has no derivative: it is taken of 1 there.
    lengths = jnp.where(squares > 0, jnp.sqrt(_or_one(squares)), jnp.zeros_like(squares))
    return lax.square(lengths - target)


def interpolate_examples(real: jax.Array, fake: jax.Array, key: jax.Array, ids: jax.Array | None = None) -> jax.Array:
    """e * real + (1 - e) * fake, with e ~ U(0, 1) for each example: where the gradient penalty is taken.

    Paper: Gulrajani et al., Improved Training of Wasserstein GANs (arXiv:1704.00028), section 4, algorithm 1.
    Parameters: none.
    MACs: 0.

    Args:
        real, fake: [batch, ...], of equal shapes.
        key: a jax.random key, the same on every device.
        ids: [batch], the examples' positions in the global batch; None stands for 0, 1, 2, ...

    Raises:
        ValueError: unequal shapes.
    """
    if real.shape != fake.shape:
        raise ValueError(
            f"interpolate_examples: real={list(real.shape)} must have the shape of fake={list(fake.shape)}; crop either"
        )
    ids = jnp.arange(real.shape[0]) if ids is None else ids
    draw = jax.vmap(lambda each: jax.random.uniform(each, (1,) * (real.ndim - 1), real.dtype))
    return fake + draw(example_keys(key, ids)) * (real - fake)


def spectral_sigma(kernel: jax.Array, u: jax.Array, num_steps: int = 1, axis: int = -1) -> tuple[jax.Array, jax.Array]:
    """The largest singular value of a kernel as a matrix [all other axes, output channels], by power iteration.

    num_steps times v = W u / |W u| and u = W^T v / |W^T v|; sigma = v^T W u with v anew. u and v are constants to the
    gradient.

    Paper: Miyato et al., Spectral Normalization (arXiv:1802.05957), section 2.1 and appendix A.
    Parameters: none.
    MACs: (2 * num_steps + 2) * the size of the kernel, whatever the batch.

    Args:
        kernel: [kernel_height, kernel_width, in_features / groups, features], or any other shape.
        u: [features], the right singular vector found so far, not zero.
        num_steps: 0 or above.
        axis: of the output channels.

    Returns:
        sigma, a scalar of float32 at least, and the new u. At num_steps=0 sigma is |W u| for the normalized u.
    """
    dtype = jnp.promote_types(kernel.dtype, jnp.float32)
    matrix = jnp.moveaxis(kernel, axis, -1).reshape(-1, kernel.shape[axis]).astype(dtype)
    fixed = lax.stop_gradient(matrix)
    u = _unit(lax.stop_gradient(u).astype(dtype))
    # bfloat16 passes of an accelerator's matrix unit would cost three digits of sigma.
    dot = functools.partial(jnp.dot, precision=lax.Precision.HIGHEST)

    def step(_: jax.Array | int, u: jax.Array) -> jax.Array:
        return _unit(dot(_unit(dot(fixed, u)), fixed))

    # A loop compiles once, however many steps; the first stays outside, so that u varies over devices as W does.
    u = step(0, u) if num_steps else u
    u = lax.fori_loop(1, num_steps, step, u) if num_steps > 1 else u
    return dot(_unit(dot(fixed, u)), dot(matrix, u)), u


class SpectralNorm(nn.Module):
    """Base for a layer that computes with W / sigma(W): a linear map that stretches nothing, once sigma is found.

    To be put before any layer with a parameter "kernel", as those of arch.norm.weight:

        class SpectralNormDepthwiseConv(SpectralNorm, DepthwiseConv): ...

    `kernel` stays W. `u` is in the collection `batch_stats`, and moves wherever that is mutable, which is in training.
    Of a convolution sigma is that of the kernel as a matrix, as in the paper, not that of the map.

    Paper: Miyato et al., Spectral Normalization (arXiv:1802.05957), section 2.1.
    Parameters: those of the layer; state u [features].
    MACs: those of the layer and of `spectral_sigma`.
    Differs from the paper: the first u is found by `num_init_steps` steps, as in torch, not random.

    Attributes:
        num_steps: of the power iteration, at each training step.
        num_init_steps: as many when the layer is made.
    """

    num_steps: int = 1
    num_init_steps: int = 15

    @nn.nowrap
    def param(self, name: str, init_fn: Callable[..., Any], *init_args: Any, **init_kwargs: Any) -> Any:
        """Declares a parameter; "kernel" comes back normalized."""
        kernel = super().param(name, init_fn, *init_args, **init_kwargs)
        if name != "kernel":
            return kernel
        axis = output_axis(self)

        def first_u() -> jax.Array:
            dtype = jnp.promote_types(kernel.dtype, jnp.float32)
            start = jax.random.normal(self.make_rng("params"), (kernel.shape[axis],), dtype)
            return spectral_sigma(kernel, start, self.num_init_steps, axis)[1]

        u = self.variable("batch_stats", "u", first_u)
        moves = self.is_mutable_collection("batch_stats") and not self.is_initializing()
        sigma, moved = spectral_sigma(kernel, u.value, self.num_steps if moves else 0, axis)
        if moves:
            u.value = moved.astype(u.value.dtype)
        return (kernel / _or_one(sigma)).astype(kernel.dtype)


class SpectralNormConv(SpectralNorm, Conv):
    """A convolution, dense, grouped or depthwise, under spectral normalization."""


class SpectralNormDense(SpectralNorm, nn.Dense):
    """A dense layer under spectral normalization."""


def _length(gradients: Any) -> jax.Array:
    """|g| over all leaves, float32 at least; neither very large nor very small values are lost in their squares."""
    leaves = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in jax.tree.leaves(gradients)]
    largest = jnp.stack([jnp.max(jnp.abs(leaf), initial=0.0) for leaf in leaves]).max()
    return largest * jnp.sqrt(sum(jnp.sum(lax.square(leaf / _or_one(largest))) for leaf in leaves))


def _divide(gradient: jax.Array, length: jax.Array, epsilon: float) -> jax.Array:
    return (gradient.astype(length.dtype) / _or_one(length + epsilon)).astype(gradient.dtype)


def _unit(vector: jax.Array) -> jax.Array:
    """The vector with length 1; zero stays zero."""
    return vector / _or_one(jnp.linalg.norm(vector))


def _or_one(divisor: jax.Array) -> jax.Array:
    """The divisor, or 1 where it is not above 0."""
    return jnp.where(divisor > 0, divisor, jnp.ones_like(divisor))
