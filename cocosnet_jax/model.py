"""The whole model: correspondence network, warp and translation network."""

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
from cocosnet_jax.warp import blend, confidence, soft_match


class Translation(NamedTuple):
    """The results of one forward pass; without an exemplar, only the image.

    Attributes:
      image: the output, (b, H, W, 3) in [-1, 1].
      warped_exemplar: r_{y->x}, resized to H x W.
      correspondence: features of both branches.
      warped_mask: (b, h, w, C), warped as the setting `warped_mask` says.
      warped_cycle: r_{y->x->y}, the exemplar warped to the input and back: (b, h, w, 3), or
        (b, H, W, 3) if the warp moves patches.
      cycle_target: the exemplar in the form of `warped_cycle`.
      confidence: (b, h, w), see `warp.confidence`.
    """

    image: Float[Array, "b height width 3"]
    warped_exemplar: Float[Array, "b height width 3"] | None = None
    correspondence: Correspondence | None = None
    warped_mask: Float[Array, "b h w classes"] | None = None
    warped_cycle: Float[Array, "..."] | None = None
    cycle_target: Float[Array, "..."] | None = None
    confidence: Float[Array, "b h w"] | None = None


class CoCosNet(nn.Module):
    """Correspondence network and translation network (equations 1 to 7).

    Attributes:
      settings: widths and variants.
      code_size: see `Generator`.
      mesh: devices that split the positions of each image, or None.
      samples: devices that split the batch, or None.
    """

    settings: ModelSettings
    code_size: int
    mesh: Mesh | None = None
    samples: Mesh | None = None

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
        with_confidence: bool = False,
    ) -> Translation:
        """Translates x_A in the style of y_B, or of a blend of r exemplars per input.

        Training takes one exemplar per input: for a blend, truth, cycle and gradients are not
        defined.

        Args:
          inputs: the batch.
          key: of the noise that replaces masks: one, or one for each sample.
          give_mask: whether the correspondence network gets masks, or noise.
          train: whether norms use and update batch statistics and spectral vectors.
          with_truth: whether to adapt the truth x_B as well, for the alignment loss.
          with_cycle: whether to warp the exemplar to the input and back, for L_reg.
          with_confidence: whether to measure how sharp the match is; it has no derivative.
        """
        s = self.settings
        if self.mesh is not None and self.mesh.size > 1:
            s = replace(s, modulation="plain")  # A kernel needs whole rows and their neighbours.
        _, height, width, _ = inputs.image.shape
        generator = Generator(s, self.code_size, self.mesh, self.samples, name="generator")
        if not s.needs_exemplar:
            return Translation(generator(inputs.semantics, height, width, train=train))

        network = CorrespondenceNetwork(s, self.samples, name="correspondence")
        correspondence = network(inputs, key, give_mask, train=train, with_truth=with_truth)
        b, h, w, _ = correspondence.theta.shape
        r = correspondence.phi.shape[0] // b
        warp = soft_match(
            correspondence.theta if r == 1 else jnp.repeat(correspondence.theta, r, 0),
            correspondence.phi,
            s.temperature,
            match_kernel=s.match_kernel,
            centre=s.centre,
            correlation=s.correlation,
            mesh=self.mesh,
            samples=self.samples,
        )

        def flat(x: Float[Array, "_ h w k"]) -> Float[Array, "_ n k"]:
            return x.reshape(x.shape[0], h * w, -1)

        def grid(x: Float[Array, "_ n k"]) -> Float[Array, "_ h w k"]:
            return x.reshape(x.shape[0], h, w, -1)

        patches = s.warp_upsampling == "patch"
        exemplar = inputs.exemplar
        colours = flat((to_patches if patches else average_pool)(exemplar, s.warp_stride))
        channels = colours.shape[-1]
        values = colours
        if s.warped_mask != "none":
            mask = flat(inputs.exemplar_semantics.resize(h, w, "nearest").tensor())
            if s.warped_mask == "cycle":
                input_mask = inputs.semantics.resize(h, w, "nearest").tensor()
                mask = warp.to_exemplar(flat(input_mask))
            # One product warps colours and mask.
            values = jnp.concatenate([colours, mask.astype(colours.dtype)], -1)
        certainty = None
        if r > 1 or with_confidence:
            blended = blend(warp, values, r)
            warped_values = blended.values
            certainty = confidence(blended.entropy, r * h * w).reshape(b, h, w)
        else:
            warped_values = warp.to_input(values)
        warped_colours = warped_values[..., :channels]
        warped_mask = grid(warped_values[..., channels:]) if s.warped_mask != "none" else None
        if patches:
            warped = from_patches(grid(warped_colours), s.warp_stride)
        elif s.warp_upsampling == "bilinear":
            warped = bilinear(grid(warped_colours), height, width)
        else:
            warped = nearest(grid(warped_colours), height, width)

        cycle = target = None
        if with_cycle:
            cycle, target = grid(warp.to_exemplar(warped_colours)), grid(colours)
            if patches:
                cycle, target = from_patches(cycle, s.warp_stride), exemplar

        # Of two nearest resizes, the second alone gives the same, since h divides the height. The
        # gradient then is a map of h x w, not of a picture.
        once = s.warp_upsampling == s.condition_resize == "nearest"
        if s.generator_condition == "warped_and_input":
            x_a = inputs.semantics
            if once and not x_a.dense.shape[-1]:
                condition = replace(x_a, dense=grid(warped_colours))
            else:
                condition = replace(x_a, dense=jnp.concatenate([warped, x_a.dense], -1))
        elif once or (s.condition_resize == "bilinear" and not patches):
            # Each layer resizes it from h x w directly to its own size (supplement, Table 1).
            condition = Condition(grid(warped_colours))
        else:
            condition = Condition(warped)
        image = generator(condition, height, width, train=train)
        return Translation(image, warped, correspondence, warped_mask, cycle, target, certainty)


def build(settings: Settings, samples: Mesh | None = None, mesh: Mesh | None = None) -> CoCosNet:
    """Returns the model that these settings describe.

    Args:
      settings: of the run.
      samples: devices that split the batch, or None.
      mesh: devices that split the positions of each image, or None.
    """
    code_size = settings.data.image_size // COARSEST
    return CoCosNet(settings.model, code_size, mesh, samples)
