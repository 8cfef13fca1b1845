"""Translation network: generates an image from the warped exemplar (paper 3.2, SPEC section 4)."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from cocosnet_jax.nn import remat
from cocosnet_jax.nn.activation import leaky_relu
from cocosnet_jax.nn.blocks import NonLocalBlock
from cocosnet_jax.nn.condition import Condition
from cocosnet_jax.nn.conv import Conv, activation_dtype
from cocosnet_jax.nn.initial import blank
from cocosnet_jax.nn.resize import resize, upsample
from cocosnet_jax.nn.spade import SpadeBlock, modulated_by_kernels
from cocosnet_jax.settings import ModelSettings

# The first block works at 1 / COARSEST of the image size.
COARSEST = 32


class Generator(nn.Module):
    """Seven SPADE blocks from H / 32 to H, all of which read the condition map.

    Attributes:
      settings: widths and variants.
      code_size: side of the learned constant (`generator_input='constant'`), 1 / 32 of the training
        size; for images of other sizes the constant is resized bilinearly.
      mesh: devices that split the positions of each image, or None.
      samples: devices that split the batch, or None.
    """

    settings: ModelSettings
    code_size: int
    mesh: Mesh | None = None
    samples: Mesh | None = None

    @nn.compact
    def __call__(
        self, condition: Condition, height: int, width: int, *, train: bool
    ) -> Float[Array, "b height width 3"]:
        """Returns (b, height, width, 3) in [-1, 1] for a condition map of any size."""
        s, f = self.settings, self.settings.base_filters
        spectral, dtype = s.spectral_everywhere, activation_dtype(s.dtype)

        def block(
            x: Float[Array, "..."], multiple: int, name: str, *, twice: bool = False
        ) -> Float[Array, "..."]:
            """Of x, or `twice`, of x resized to twice its size."""
            kernels = s.modulation == "pallas"
            on_chip = (
                twice
                and kernels
                # Otherwise the block's shortcut adds the large map.
                and x.shape[-1] != multiple * f
                and modulated_by_kernels(
                    jax.eval_shape(upsample, x), s.generator_norm, self.samples
                )
            )
            module = SpadeBlock(
                multiple * f,
                2 * f,
                s.generator_norm,
                s.condition_resize,
                spectral,
                dtype,
                kernels,
                self.samples,
                upsample=on_chip,
                name=name,
            )
            if twice and not on_chip:
                x = upsample(x)
            # Gamma and beta depend on the condition alone. Without the barrier, XLA might compute
            # them before x, and hold them.
            x, condition_after_x = jax.lax.optimization_barrier((x, condition))
            return remat.apply(module, x, condition_after_x, train=train, what=s.rematerialise)

        if dtype is not None:
            # Once, not in each block: three channels take the memory of 128 on TPUs.
            condition = replace(condition, dense=condition.dense.astype(dtype))
        h, w = height // COARSEST, width // COARSEST
        if s.generator_input == "constant":
            shape = (1, self.code_size, self.code_size, 16 * f)
            code = self.param("code", blank, shape)
            start = jnp.repeat(resize(code, h, w, "bilinear"), condition.dense.shape[0], 0)
        else:
            start = condition.resize(h, w, "nearest").tensor()
        stem = Conv(16 * f, 3, 1, 1, spectral=spectral, dtype=dtype, name="stem")
        x = block(stem(start, train=train), 16, "head")
        x = block(x, 16, "middle_0", twice=True)
        x = block(x, 16, "middle_1")
        x = block(x, 8, "up_0", twice=True)
        x = upsample(block(x, 4, "up_1", twice=True))
        if s.non_local:
            kernels = s.correlation == "pallas"
            attention = NonLocalBlock(dtype, self.mesh, kernels, self.samples, name="attention")
            x = attention(x, train=train)
        x = block(x, 2, "up_2")
        x = block(x, 1, "up_3", twice=True)
        to_image = Conv(3, 3, 1, 1, spectral=spectral, dtype=dtype, name="to_image")
        image = to_image(leaky_relu(x), train=train)
        return jnp.tanh(image.astype(jnp.promote_types(image.dtype, jnp.float32)))
