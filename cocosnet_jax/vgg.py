"""VGG features, the yardstick of the losses and metrics (SPEC section 6).

The paper reads VGG-19. VGG-16 has one convolution less in each of the stages 3 to 5, and all layers
that the losses read. Figures made with one do not compare with figures made with the other.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cocosnet_jax.nn.activation import relu
from cocosnet_jax.nn.convolution import convolve
from cocosnet_jax.nn.resize import max_pool

Network = Literal["VGG-16", "VGG-19"]
# Convolutions per stage; a stage ends in 2x2 max pooling.
STAGES: dict[Network, tuple[int, ...]] = {"VGG-16": (2, 2, 3, 3, 3), "VGG-19": (2, 2, 4, 4, 4)}
LAYERS: dict[Network, tuple[str, ...]] = {
    network: tuple(f"conv{i}_{j}" for i, n in enumerate(stages, 1) for j in range(1, n + 1))
    for network, stages in STAGES.items()
}
# The layers that the losses read.
LOSS_LAYERS = ("relu1_2", "relu2_2", "relu3_2", "relu4_2", "relu5_2")

# Caffe's means of B, G, R; the release holds them as float32 numbers, in every precision.
CAFFE_MEANS = np.array([0.40760392, 0.45795686, 0.48501961], np.float32)
TORCHVISION_MEANS = np.array([0.485, 0.456, 0.406])
TORCHVISION_DEVIATIONS = np.array([0.229, 0.224, 0.225])

Params = Mapping[str, Mapping[str, Float[Array, "..."]]]


@flax.struct.dataclass
class VggWeights:
    """VGG-16 or VGG-19, and the preprocessing that it was trained with.

    Attributes:
      params: the layers of `LAYERS`, each {"kernel": (3, 3, in, out), "bias": (out,)}.
      preprocessing: `caffe` takes BGR minus means, times 255 (the release's and Keras's
        weights); `torchvision` takes RGB minus means, over deviations.
    """

    params: Params
    preprocessing: Literal["caffe", "torchvision"] = flax.struct.field(
        pytree_node=False, default="caffe"
    )

    @property
    def network(self) -> Network:
        """Which of the two it is; figures made with it should say so."""
        return "VGG-19" if "conv3_4" in self.params else "VGG-16"


def widths(width: int = 64) -> tuple[int, ...]:
    """Output channels of the five stages."""
    return (width, 2 * width, 4 * width, 8 * width, 8 * width)


def preprocess(
    image: Float[Array, "b height width 3"], kind: Literal["caffe", "torchvision"]
) -> Float[Array, "b height width 3"]:
    """Turns RGB in [-1, 1] into what the weights expect."""
    unit = (image + 1) / 2
    if kind == "caffe":
        return (unit[..., ::-1] - CAFFE_MEANS.astype(image.dtype)) * 255
    mean = jnp.asarray(TORCHVISION_MEANS, image.dtype)
    return (unit - mean) / jnp.asarray(TORCHVISION_DEVIATIONS, image.dtype)


def features(
    weights: VggWeights,
    image: Float[Array, "b height width 3"],
    layers: Sequence[str] = LOSS_LAYERS,
    dtype: jnp.dtype | type | None = None,
) -> dict[str, Float[Array, "b _ _ _"]]:
    """Activations after ReLU.

    Args:
      weights: the network.
      image: RGB in [-1, 1].
      layers: names such as `relu4_2`; nothing behind the last of them is computed.
      dtype: of the activations; None follows image and weights.

    Returns:
      name -> (b, H / 2^(stage - 1), W / 2^(stage - 1), width of the stage).
    """
    wanted = set(layers)
    x = preprocess(image, weights.preprocessing)
    found = {}
    for i, count in enumerate(STAGES[weights.network], 1):
        for j in range(1, count + 1):
            layer = weights.params[f"conv{i}_{j}"]
            y, kernel, bias = nn.dtypes.promote_dtype(
                x, layer["kernel"], layer["bias"], dtype=dtype
            )
            x = relu(convolve(y, kernel, padding=1) + bias)
            if f"relu{i}_{j}" in wanted:
                found[f"relu{i}_{j}"] = x
            if len(found) == len(wanted):
                return found
        x = max_pool(x)
    missing = ", ".join(sorted(wanted - set(found)))
    raise ValueError(f"{weights.network} has no layer {missing}")
