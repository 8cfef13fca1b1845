"""Types that several modules exchange, and the letters of dimensions.

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
    """One training or evaluation batch, from the data pipeline to the steps.

    Images and labels are bytes, which `cocosnet_jax.encode` converts to network inputs on the
    device. Floating arrays are used unchanged.

    Attributes:
      image: (b, H, W, 3) uint8, the truth x_B. As floats: in [-1, 1].
      exemplar: (b, H, W, 3) uint8, the exemplar y_B.
      label: (b, H, W, p) uint8, the input x_A before encoding. `p` is 1 for label maps, 2 for
        label maps with a mask of glasses (0 or 1) in the second plane, and C for edge and pose
        maps, whose bytes mean value / 255.
      exemplar_label: like `label`, for the exemplar.
      self_reference: (b,) float32, 1 where the exemplar is the image itself, distorted.
    """

    image: Shaped[Array, "b height width 3"]
    exemplar: Shaped[Array, "b height width 3"]
    label: Shaped[Array, "b height width planes"]
    exemplar_label: Shaped[Array, "b height width planes"]
    self_reference: Float[Array, "b"]


class Outputs(NamedTuple):
    """The result of a translation.

    Attributes:
      image: (b, H, W, 3) in [-1, 1], the translation of the input.
      warped_exemplar: (b, H, W, 3) in [-1, 1], the exemplar warped to the input; None for a plain
        translation network, which has no exemplar.
      warped_mask: (b, h, w, C), the exemplar's mask, warped likewise; None if it was not requested
        or the input domain has no classes.
    """

    image: Float[Array, "b height width 3"]
    warped_exemplar: Float[Array, "b height width 3"] | None
    warped_mask: Float[Array, "b h w classes"] | None
