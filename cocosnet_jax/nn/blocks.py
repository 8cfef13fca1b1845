"""Residual block of the feature block, and the non-local block (SPEC sections 2 and 3)."""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from cocosnet_jax.nn import flash, instance
from cocosnet_jax.nn.conv import Conv, Dtype
from cocosnet_jax.nn.initial import blank
from cocosnet_jax.nn.norms import BatchNorm, instance_norm
from cocosnet_jax.nn.platform import by_platform
from cocosnet_jax.nn.resize import max_pool
from cocosnet_jax.nn.streaming import DENSE_POSITIONS, Side, attend


class ResidualBlock(nn.Module):
    """Conv3, norm, PReLU, conv3, norm, add, PReLU, all of one width; padding is by reflection.

    Both PReLUs share one slope, as in the release. With kernels, x must have the type that the
    block computes in.

    Attributes:
      norm: `instance` (release) or `batch` (paper, section E).
      spectral: whether both convolutions have spectral norm; in the release they do not.
      dtype: of the activations.
      kernels: whether TPUs normalise by the kernels of `nn.instance`, where these fit.
      samples: devices that split the batch, or None. XLA splits all but the kernels by itself.
    """

    norm: Literal["instance", "batch"] = "instance"
    spectral: bool = False
    dtype: Dtype | None = None
    kernels: bool = False
    samples: Mesh | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        slope = self.param("slope", blank, ())
        by_kernels = self.kernels and self.norm == "instance" and instance.fits(x, self.samples)

        def prelu(y: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
            return jnp.where(y >= 0, y, slope.astype(y.dtype) * y)

        def conv(
            y: Float[Array, "b _ _ c"], index: int, padding: Literal[0, "reflect"] = "reflect"
        ) -> Float[Array, "b h w c"]:
            layer = Conv(
                y.shape[-1],
                3,
                1,
                padding,
                spectral=self.spectral,
                dtype=self.dtype,
                keep_input=by_kernels,
                # The norm cancels a bias. Its gradient, the sum of a map, is zero; rounded, it
                # would only let Adam move the bias at random.
                add_bias=not by_kernels,
                name=f"conv_{index}",
            )
            return layer(y, train=train)

        def normalise(y: Float[Array, "b h w c"], index: int) -> Float[Array, "b h w c"]:
            if self.norm == "instance":
                return instance_norm(y)
            return BatchNorm(name=f"norm_{index}")(y, train=train)

        y = conv(x, 0)
        if by_kernels:
            activate = functools.partial(instance.activate, samples=self.samples)
            y = conv(activate(y, slope, padded=True), 1, 0)
            return activate(y, slope, x.astype(y.dtype), padded=False)
        y = conv(prelu(normalise(y, 0)), 1)
        return prelu(x + normalise(y, 1))


class NonLocalBlock(nn.Module):
    """Self-attention of every position to 2x2 max-pooled positions (SPEC section 2).

    The gain `gamma` is initially 0, which makes the block the identity.

    Attributes:
      dtype: of the activations; the softmax is computed in float32 or wider.
      mesh: devices that split the positions of each image when attention is streamed, or None.
      kernels: whether TPUs stream attention by the kernels of `nn.flash`, unless devices split the
        positions.
      samples: devices that split the batch, or None.
    """

    dtype: Dtype | None = None
    mesh: Mesh | None = None
    kernels: bool = False
    samples: Mesh | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape

        def project(y: Float[Array, "..."], features: int, name: str) -> Float[Array, "..."]:
            conv = Conv(features, 1, use_bias=False, spectral=True, dtype=self.dtype, name=name)
            return conv(y, train=train)

        def pool(y: Float[Array, "b h w k"]) -> Float[Array, "b m k"]:
            return max_pool(y).reshape(b, -1, y.shape[-1])

        theta = project(x, max(c // 8, 1), "theta").reshape(b, h * w, -1)
        phi = pool(project(x, max(c // 8, 1), "phi"))
        g = pool(project(x, c // 2, "g"))
        if h * w > DENSE_POSITIONS:
            attended = self._stream(theta, phi, g)
        else:
            wide = jnp.promote_types(g.dtype, jnp.float32)
            logits = jnp.einsum("bnk,bmk->bnm", theta, phi, preferred_element_type=wide)
            attention = jax.nn.softmax(logits, -1).astype(g.dtype)
            attended = jnp.einsum("bnm,bmk->bnk", attention, g)
        attended = attended.reshape(b, h, w, -1)
        gamma = self.param("gamma", blank, ())
        return x + gamma.astype(x.dtype) * project(attended, c, "o")

    def _stream(
        self, theta: Float[Array, "b n k"], phi: Float[Array, "b m k"], g: Float[Array, "b m v"]
    ) -> Float[Array, "b n v"]:
        """softmax(theta phi^T) g, without the n x m matrix, in the type of g."""
        dtype = g.dtype

        def plain(*arguments: Array) -> Array:
            wide = jnp.promote_types(dtype, jnp.float32)
            theta, phi, g = (y.astype(wide) for y in arguments)
            rows, columns = (Side.of_vectors(y) for y in (theta, phi))
            found = attend(rows, columns, g, 1.0, precision=None, mesh=self.mesh)
            return found.astype(dtype)

        def kernel(theta: Array, phi: Array, g: Array) -> Array:
            rows, columns = (flash.Side.of_vectors(y) for y in (theta, phi))
            # As TPUs multiply by default, and so in the plain way.
            found = flash.attend(rows, columns, g, 1.0, products="bfloat16", mesh=self.samples)
            return found.astype(dtype)

        # Mosaic compiles no product over a single channel, which the narrowest networks have.
        several = theta.shape[-1] > 1
        if not (self.kernels and several and flash.usable(len(theta), self.mesh, self.samples)):
            return plain(theta, phi, g)
        return by_platform(theta, phi, g, tpu=kernel, default=plain)
