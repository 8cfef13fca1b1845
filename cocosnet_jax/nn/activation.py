"""Activations whose backward pass keeps their output alone.

Their input then need not be written to memory. The next convolution reads the output anyway.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from cocosnet_jax.nn.barrier import barrier
from cocosnet_jax.nn.remat import PRODUCT

SLOPE = 0.2  # of all leaky ReLUs


@jax.custom_vjp
def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """ReLU; its gradient at 0 is 0. Its output is kept as a `PRODUCT`, in place of its input."""
    return jnp.maximum(x, 0)


def _relu_forward(x: Array) -> tuple[Array, Array]:
    # Without the barrier, XLA on CPUs might hold x as well, for the backward pass.
    y = barrier(checkpoint_name(relu(x), PRODUCT))
    return y, y


def _relu_backward(y: Array, grad: Array) -> tuple[Array]:
    return (jnp.where(y > 0, grad, 0),)


relu.defvjp(_relu_forward, _relu_backward)


@jax.custom_vjp
def leaky_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Leaky ReLU with slope 0.2, as in all networks."""
    return jnp.where(x >= 0, x, SLOPE * x)


def _leaky_relu_forward(x: Array) -> tuple[Array, Array]:
    y = leaky_relu(x)
    return y, y


def _leaky_relu_backward(y: Array, grad: Array) -> tuple[Array]:
    # The output has the input's sign.
    return (jnp.where(y >= 0, grad, SLOPE * grad),)


leaky_relu.defvjp(_leaky_relu_forward, _leaky_relu_backward)
