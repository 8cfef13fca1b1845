"""The translation network: an image from the warped exemplar (paper 3.2, SPEC section 4)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from cocosnet_jax.nn import remat
from cocosnet_jax.nn.blocks import NonLocalBlock
from cocosnet_jax.nn.condition import Condition
from cocosnet_jax.nn.conv import Conv, Dtype
from cocosnet_jax.nn.initial import blank
from cocosnet_jax.nn.resize import nearest, resize
from cocosnet_jax.nn.spade import SpadeBlock, leaky_relu
from cocosnet_jax.settings import ModelSettings

# The image is built up from this fraction of its size.
COARSEST = 32


class Generator(nn.Module):
    """Seven SPADE blocks from H / 32 to H; the condition map gives everything that is drawn.

    Attributes:
      settings: widths and variants.
      code_size: side of the learned constant (`generator_input='constant'`): the training size
        divided by 32; at other sizes the constant is resized bilinearly.
      dtype: of the activations.
      over: devices that share the positions of each picture, or None.
    """

    settings: ModelSettings
    code_size: int
    dtype: Dtype | None = None
    over: Mesh | None = None

    @nn.compact
    def __call__(
        self, condition: Condition, height: int, width: int, *, train: bool
    ) -> Float[Array, "b height width 3"]:
        """Draws (b, height, width, 3) in [-1, 1] from a condition map of any size."""
        s, f = self.settings, self.settings.base_filters
        spectral = s.spectral_everywhere

        def block(x: Float[Array, "..."], multiple: int, name: str) -> Float[Array, "..."]:
            module = SpadeBlock(
                multiple * f,
                2 * f,
                s.generator_norm,
                s.condition_resize,
                spectral,
                self.dtype,
                name=name,
            )
            # Gamma and beta need the condition alone: else they might be made early, and kept.
            x, read = jax.lax.optimization_barrier((x, condition))
            return remat.apply(module, x, read, train=train, what=s.rematerialise)

        def upsample(x: Float[Array, "b h w k"]) -> Float[Array, "b h2 w2 k"]:
            return nearest(x, 2 * x.shape[1], 2 * x.shape[2])

        h, w = height // COARSEST, width // COARSEST
        if s.generator_input == "constant":
            shape = (1, self.code_size, self.code_size, 16 * f)
            code = self.param("code", blank, shape)
            start = jnp.repeat(resize(code, h, w, "bilinear"), condition.dense.shape[0], 0)
        else:
            start = condition.resize(h, w, "nearest").tensor()
        stem = Conv(16 * f, 3, 1, 1, spectral=spectral, dtype=self.dtype, name="stem")
        x = block(stem(start, train=train), 16, "head")
        x = block(upsample(x), 16, "middle_0")
        x = block(x, 16, "middle_1")
        x = block(upsample(x), 8, "up_0")
        x = upsample(block(upsample(x), 4, "up_1"))
        if s.non_local:
            x = NonLocalBlock(self.dtype, self.over, name="attention")(x, train=train)
        x = block(x, 2, "up_2")
        x = block(upsample(x), 1, "up_3")
        to_image = Conv(3, 3, 1, 1, spectral=spectral, dtype=self.dtype, name="to_image")
        image = to_image(leaky_relu(x), train=train)
        return jnp.tanh(image.astype(jnp.promote_types(image.dtype, jnp.float32)))
