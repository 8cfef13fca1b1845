"""What travels between the rooms of the program, and the letters of its shapes.

Dimension letters, used in every shape annotation of the package (layout NHWC):

    b        samples            height, width   H = W, the image size
    c        channels           classes         C, channels of the input domain x_A
    h, w     correspondence grid, H / stride    n, m   positions of a grid, h * w
    k        width of a feature vector         _      any size
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Shaped

Array = jax.Array | np.ndarray


class Batch(NamedTuple):
    """One training or evaluation batch, as the data pipeline makes it and the steps take it.

    Everything is carried in bytes; the steps turn it into network inputs on the device
    (`cocosnet_jax.encode`). Floating arrays are taken as they are.

    Attributes:
      image: (b, H, W, 3) uint8, the truth x_B. As floats: in [-1, 1].
      exemplar: (b, H, W, 3) uint8, the exemplar y_B.
      label: (b, H, W, p) uint8, the input x_A before encoding. `p` is 1 for label maps, 2 for
        label maps with a mask of glasses (0 or 1) in the second plane, and C for edge and pose
        maps, whose bytes mean value / 255.
      exemplar_label: as `label`, for the exemplar.
      self_reference: (b,) float32, 1 where the exemplar is the image itself, distorted.
    """

    image: Shaped[Array, "b height width 3"]
    exemplar: Shaped[Array, "b height width 3"]
    label: Shaped[Array, "b height width planes"]
    exemplar_label: Shaped[Array, "b height width planes"]
    self_reference: Float[Array, "b"]


class Outputs(NamedTuple):
    """What a translation yields.

    Attributes:
      image: (b, H, W, 3) in [-1, 1], the translation of the input.
      warped_exemplar: (b, H, W, 3) in [-1, 1], the exemplar at the places of the input, or None
        for a plain translation network, which reads no exemplar.
      warped_mask: (b, h, w, C), the exemplar's mask carried by the same warp, or None where
        the input domain has no classes, or none was asked for.
    """

    image: Float[Array, "b height width 3"]
    warped_exemplar: Float[Array, "b height width 3"] | None
    warped_mask: Float[Array, "b h w classes"] | None
