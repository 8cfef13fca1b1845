"""The whole translation: correspondence, warp, generator."""

from dataclasses import replace
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Shaped

from cocosnet_jax.correspondence import Correspondence, CorrespondenceNetwork
from cocosnet_jax.encode import Inputs
from cocosnet_jax.generator import COARSEST, Generator
from cocosnet_jax.nn.condition import Condition
from cocosnet_jax.nn.resize import (
    average_pool,
    bilinear,
    from_patches,
    nearest,
    to_patches,
)
from cocosnet_jax.settings import ModelSettings, Settings
from cocosnet_jax.warp import soft_match


class Translation(NamedTuple):
    """Everything that one pass computes; the warp's parts are None without an exemplar.

    Attributes:
      image: the output, (b, H, W, 3) in [-1, 1].
      warped_exemplar: r_{y->x} at H x H.
      correspondence: features of both branches.
      warped_mask: (b, h, w, C), carried as `warped_mask` of the settings says.
      warped_cycle: r_{y->x->y}: (b, h, w, 3), or (b, H, W, 3) where patches are carried.
      cycle_target: what `warped_cycle` should equal.
    """

    image: Float[Array, "b height width 3"]
    warped_exemplar: Float[Array, "b height width 3"] | None = None
    correspondence: Correspondence | None = None
    warped_mask: Float[Array, "b h w classes"] | None = None
    warped_cycle: Float[Array, "..."] | None = None
    cycle_target: Float[Array, "..."] | None = None


class CoCosNet(nn.Module):
    """Correspondence network and translation network (equations 1 to 7).

    Attributes:
      settings: widths and variants.
      code_size: see `Generator`.
      over: devices that share the positions of each picture, or None.
    """

    settings: ModelSettings
    code_size: int
    over: Mesh | None = None

    @nn.compact
    def __call__(
        self,
        inputs: Inputs,
        key: jax.Array,
        give_mask: Shaped[Array, ""] | bool = True,
        *,
        train: bool,
        with_truth: bool = False,
        with_cycle: bool = False,
    ) -> Translation:
        """Translates x_A in the style of y_B.

        Args:
          inputs: the batch.
          key: of the noise that takes the masks' place.
          give_mask: whether masks are given to the correspondence network, or noise.
          train: whether norms use and update batch statistics and spectral vectors.
          with_truth: also adapt x_B, for the alignment loss.
          with_cycle: also warp forth and back, for the regularisation.
        """
        s = self.settings
        dtype = jnp.bfloat16 if s.dtype == "bfloat16" else None
        _, height, width, _ = inputs.image.shape
        generator = Generator(s, self.code_size, dtype, self.over, name="generator")
        if s.generator_condition == "input":
            return Translation(generator(inputs.semantics, height, width, train=train))

        network = CorrespondenceNetwork(s, dtype, name="correspondence")
        found = network(
            inputs.semantics,
            inputs.exemplar,
            inputs.exemplar_semantics,
            inputs.image if with_truth else None,
            inputs.semantics if with_truth else None,
            key=key,
            give_mask=give_mask,
            train=train,
        )
        warp = soft_match(
            found.theta,
            found.phi,
            s.temperature,
            match_kernel=s.match_kernel,
            centre=s.centre,
            correlation=s.correlation,
            over=self.over,
        )

        b, h, w, _ = found.theta.shape

        def flat(x: Float[Array, "b h w k"]) -> Float[Array, "b n k"]:
            return x.reshape(b, h * w, -1)

        def grid(x: Float[Array, "b n k"]) -> Float[Array, "b h w k"]:
            return x.reshape(b, h, w, -1)

        patches = s.warp_upsampling == "patch"
        exemplar = inputs.exemplar
        carried = flat((to_patches if patches else average_pool)(exemplar, s.warp_stride))
        colours = carried.shape[-1]
        together = carried
        if s.warped_mask != "none":
            mask = flat(inputs.exemplar_semantics.resize(h, w, "nearest").tensor())
            if s.warped_mask == "cycle":
                own = inputs.semantics.resize(h, w, "nearest").tensor()
                mask = warp.to_exemplar(flat(own))
            # One product carries colours and masks.
            together = jnp.concatenate([carried, mask.astype(carried.dtype)], -1)
        both = warp.to_input(together)
        small = both[..., :colours]
        warped_mask = grid(both[..., colours:]) if s.warped_mask != "none" else None
        if patches:
            warped = from_patches(grid(small), s.warp_stride)
        elif s.warp_upsampling == "bilinear":
            warped = bilinear(grid(small), height, width)
        else:
            warped = nearest(grid(small), height, width)

        cycle = target = None
        if with_cycle:
            cycle, target = grid(warp.to_exemplar(small)), grid(carried)
            if patches:
                cycle, target = from_patches(cycle, s.warp_stride), exemplar

        if s.generator_condition == "warped_and_input":
            x_a = inputs.semantics
            condition = replace(x_a, dense=jnp.concatenate([warped, x_a.dense], -1))
        elif s.condition_resize == "bilinear" and not patches:
            # Bilinear from h x h straight to each layer's size (supplement, Table 1).
            condition = Condition(grid(small))
        else:
            condition = Condition(warped)
        image = generator(condition, height, width, train=train)
        return Translation(image, warped, found, warped_mask, cycle, target)


def build(settings: Settings) -> CoCosNet:
    """The model of these settings."""
    return CoCosNet(settings.model, settings.data.image_size // COARSEST)
