"""LARS: layer-wise adaptive rate scaling, with every detail in which its published readings differ as a field.

You, Gitman and Ginsburg 2017, arXiv:1708.03888, Algorithm 1. For one parameter tensor w with gradient g, weight decay
beta, momentum m, schedule gamma:

  ratio = eta |w| / (|g| + beta |w|);   v = m v + gamma_t ratio (g + beta w);   w = w - v

The printed algorithm lists the trust coefficient eta and never uses it, and computes gamma_t but uses gamma_{t+1}. The
implementations in use differ from it, and from one another, in more. `VARIANTS` has the four readings field by field:

  lecture  (default) the algorithm with both defects mended: eta is there, the rate is gamma_t. Leaves of one dimension
           have neither trust nor decay.
  slide    the algorithm to the letter: no eta, gamma_{t+1} (so the last update of a schedule that ends in 0 has rate
           0), every leaf the same. A leaf that starts at zero (a bias, a zero-initialised scale) has ratio 0 and so
           stays at zero for ever.
  optax    equal to `optax.lars` with its defaults: norm of the decayed gradient, every leaf the same.
  tpu      TensorFlow's and MLPerf's lineage: a list of leaves (norms, biases) without trust and decay, at the raw rate.

The rate of leaves without a ratio of their own, because their norm is zero or the trust mask leaves them out: gamma is
5 to 40 in practice, for eta brings it down a thousandfold. optax and tpu give these leaves the full gamma: with rate 2
and g = 1 a zero bias steps to -2. MLPerf's hyper-parameters were tuned with that; elsewhere it can blow up. The lecture
variant gives them the rate gamma_t eta, momentum SGD at 0.005 to 0.04: |w| / (|g| + beta |w|) is taken as 1 and eta
still applies. It is the one choice under which (gamma, eta) and (gamma eta, 1) are the same algorithm for the whole
tree, as they are in the formula, and it lets tensors that start at zero leave it. Where g is exactly 0 (a branch behind
a zero-initialised scale, at the first step) the formula would shrink w by the factor 1 - gamma eta; here w only decays,
by 1 - gamma eta beta.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from arch.errors import unknown_name
from arch.optim import masks

DENOMINATORS = ("separate", "decayed")
ZERO_NORMS = ("trust_coefficient", "one", "formula")
UNTRUSTED = ("trust_coefficient", "one")


class Variant(NamedTuple):
    """One reading of the algorithm.

    Attributes:
      denominator: "separate" |g| + beta |w|, or "decayed" |g + beta w|.
      trust_coefficient: eta.
      zero_norm: ratio where |w| or the norm of the gradient (of "decayed": of g + beta w) is 0: "trust_coefficient",
        "one", or "formula" (what the formula gives; 0/0, where there is nothing to step along, is 0).
      untrusted: ratio of the leaves that the trust mask leaves out: "trust_coefficient" or "one".
      trust_min_ndim: fewest dimensions of a leaf with a ratio of its own; 0 takes all.
      decay_min_ndim: fewest dimensions of a leaf under weight decay; 0 takes all.
      index_shift: the update of step t uses the rate of step t + index_shift: 0 or 1.
      momentum_form: 10, rate and ratio inside the buffer, v = m v + gamma ratio d, w -= v; or 9, outside,
        v = m v + d, w -= gamma ratio v (the "unscaled" form of TPU pods). Numbers as in Goyal et al., arXiv:1706.02677.
      eps: added to the denominator.
    """

    denominator: str
    trust_coefficient: float
    zero_norm: str
    untrusted: str
    trust_min_ndim: int
    decay_min_ndim: int
    index_shift: int
    momentum_form: int
    eps: float


VARIANTS = {
    "lecture": Variant(
        denominator="separate",
        trust_coefficient=0.001,
        zero_norm="trust_coefficient",
        untrusted="trust_coefficient",
        trust_min_ndim=2,
        decay_min_ndim=2,
        index_shift=0,
        momentum_form=10,
        eps=0.0,
    ),
    "slide": Variant(
        denominator="separate",
        trust_coefficient=1.0,
        zero_norm="formula",
        untrusted="one",
        trust_min_ndim=0,
        decay_min_ndim=0,
        index_shift=1,
        momentum_form=10,
        eps=0.0,
    ),
    "optax": Variant(
        denominator="decayed",
        trust_coefficient=0.001,
        zero_norm="one",
        untrusted="one",
        trust_min_ndim=0,
        decay_min_ndim=0,
        index_shift=0,
        momentum_form=10,
        eps=0.0,
    ),
    "tpu": Variant(
        denominator="separate",
        trust_coefficient=0.001,
        zero_norm="one",
        untrusted="one",
        trust_min_ndim=2,
        decay_min_ndim=2,
        index_shift=0,
        momentum_form=10,
        eps=0.0,
    ),
}


class LarsState(NamedTuple):
    """Updates so far (int32, scalar) and the momentum buffer, a tree like the parameters, at least float32."""

    count: jax.Array
    momentum: Any


def lars(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    trust_coefficient: float | None = None,
    variant: str = "lecture",
    *,
    nesterov: bool = False,
    decay_mask: masks.Mask | None = None,
    trust_mask: masks.Mask | None = None,
    denominator: str | None = None,
    zero_norm: str | None = None,
    untrusted: str | None = None,
    index_shift: int | None = None,
    momentum_form: int | None = None,
    eps: float | None = None,
) -> optax.GradientTransformation:
    """LARS, You et al. 2017 (arXiv:1708.03888); the module's docstring says what the variants are.

    A field that is None is the variant's; see `Variant` for their meaning. Momentum form 10 holds old rates in its
    buffer: where the rate changes by a jump it lags behind it, as in all implementations (no momentum correction).

    Args:
      learning_rate: gamma: number, or schedule `step -> float32`.
      momentum: m, in [0, 1).
      weight_decay: beta, >= 0; inside the ratio and the direction, on the leaves of `decay_mask`.
      trust_coefficient: eta, > 0.
      variant: a key of `VARIANTS`.
      nesterov: the step is m v + gamma ratio d of the new v (form 9: gamma ratio (m v + d)).
      decay_mask: leaves with beta: tree of bool, or function of the parameters; must match one unless beta is 0.
      trust_mask: leaves with a ratio of their own, likewise.
      denominator, zero_norm, untrusted, index_shift, momentum_form, eps: fields of `Variant`.

    Returns:
      Transformation whose updates have the dtype of the parameters; norms are taken in float32, or float64 for float64.

    Raises:
      ValueError: for an unknown name or number among the choices; at the first update for a mask without a match.
    """
    options = _options(
        variant,
        trust_coefficient=trust_coefficient,
        denominator=denominator,
        zero_norm=zero_norm,
        untrusted=untrusted,
        index_shift=index_shift,
        momentum_form=momentum_form,
        eps=eps,
    )
    if decay_mask is None:
        decay_mask = functools.partial(masks.select, min_ndim=options.decay_min_ndim, owner="lars: decay_mask")
    if trust_mask is None:
        trust_mask = functools.partial(masks.select, min_ndim=options.trust_min_ndim, owner="lars: trust_mask")
    leaf = functools.partial(_leaf, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, options=options)

    def update(
        updates: optax.Updates, state: LarsState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, LarsState]:
        if params is None:
            raise ValueError("lars: update needs the parameters for their norms; call update(gradients, state, params)")
        step = state.count + options.index_shift
        rate = learning_rate(step) if callable(learning_rate) else learning_rate
        trusted = masks.resolve(trust_mask, params)
        decayed = masks.resolve(decay_mask if weight_decay != 0.0 else False, params)
        pairs = jax.tree.map(functools.partial(leaf, rate), updates, params, state.momentum, trusted, decayed)
        steps, buffers = jax.tree.transpose(jax.tree.structure(updates), jax.tree.structure((0, 0)), pairs)
        return steps, LarsState(count=optax.safe_increment(state.count), momentum=buffers)

    return optax.GradientTransformation(_init, update)


def _options(variant: str, **given: Any) -> Variant:
    """The variant's fields, replaced by those given that are not None."""
    if variant not in VARIANTS:
        raise unknown_name("lars: variant", variant, VARIANTS)
    options = VARIANTS[variant]._replace(**{name: value for name, value in given.items() if value is not None})
    choices = {"denominator": DENOMINATORS, "zero_norm": ZERO_NORMS, "untrusted": UNTRUSTED}
    for field, names in choices.items():
        if getattr(options, field) not in names:
            raise unknown_name(f"lars: {field}", getattr(options, field), names)
    if options.index_shift not in (0, 1):
        raise ValueError(f"lars: index_shift={options.index_shift} must be 0 (gamma_t) or 1 (gamma_t+1); choose one")
    if options.momentum_form not in (9, 10):
        raise ValueError(
            f"lars: momentum_form={options.momentum_form} must be 9 (rate outside the buffer) or 10 (inside); "
            "choose one"
        )
    return options


def _init(params: optax.Params) -> LarsState:
    buffers = jax.tree.map(lambda w: jnp.zeros_like(w, dtype=jnp.promote_types(w.dtype, jnp.float32)), params)
    return LarsState(count=jnp.zeros([], jnp.int32), momentum=buffers)


def _leaf(
    rate: jax.typing.ArrayLike,
    gradient: jax.Array,
    weight: jax.Array,
    buffer: jax.Array,
    trusted: bool,
    decayed: bool,
    *,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    options: Variant,
) -> tuple[jax.Array, jax.Array]:
    """Step (to be added, dtype of the weight) and new momentum buffer of one parameter tensor."""
    dtype = jnp.promote_types(jnp.promote_types(gradient.dtype, weight.dtype), jnp.float32)
    g, w, v = gradient.astype(dtype), weight.astype(dtype), buffer.astype(dtype)
    beta = weight_decay if decayed else 0.0
    direction = g + beta * w if decayed else g
    if trusted:
        ratio = _trust_ratio(g, w, direction, beta, options)
    else:
        ratio = _fixed_ratio(options.untrusted, options.trust_coefficient)
    scale = jnp.asarray(rate, dtype) * ratio
    inside, outside = (1.0, scale) if options.momentum_form == 9 else (scale, 1.0)
    entering = inside * direction
    v = momentum * v + entering
    step = momentum * v + entering if nesterov else v
    return (-outside * step).astype(weight.dtype), v.astype(buffer.dtype)


def _trust_ratio(g: jax.Array, w: jax.Array, direction: jax.Array, beta: float, options: Variant) -> jax.Array:
    """eta |w| / denominator, and the policy for zero norms; scalar."""
    weight_norm = jnp.sqrt(jnp.sum(jnp.square(w)))
    gradient_norm = jnp.sqrt(jnp.sum(jnp.square(direction if options.denominator == "decayed" else g)))
    denominator = gradient_norm + options.eps
    if options.denominator == "separate":
        denominator += beta * weight_norm
    ratio = options.trust_coefficient * weight_norm / jnp.where(denominator == 0.0, 1.0, denominator)
    if options.zero_norm == "formula":
        return jnp.where(denominator == 0.0, 0.0, ratio)
    undefined = (weight_norm == 0.0) | (gradient_norm == 0.0)
    return jnp.where(undefined, _fixed_ratio(options.zero_norm, options.trust_coefficient), ratio)


def _fixed_ratio(policy: str, trust_coefficient: float) -> float:
    return {"one": 1.0, "trust_coefficient": trust_coefficient}[policy]
