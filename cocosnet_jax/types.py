"""Types that several modules exchange, and the letters of dimensions.

Dimension letters, used in every shape annotation of the package (layout NHWC):

    b        samples            height, width   H = W, the image size
    c        channels           classes         C, channels of the input domain x_A
    h, w     correspondence grid, H / stride    n, m   positions of a grid, h * w
    k        width of a feature vector         r      exemplars of one input
    _        any size
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped

Array = jax.Array | np.ndarray


class Batch(NamedTuple):
    """One training or evaluation batch, from the data pipeline to the steps.

    Images and labels are bytes, which `cocosnet_jax.encode` converts to network inputs on the
    device. Floating arrays are used unchanged.

    Attributes:
      image: (b, H, W, 3) uint8, the truth x_B. As floats: in [-1, 1].
      exemplar: (b, H, W, 3) uint8, the exemplar y_B. In a blend, which only translation knows,
        (b * r, H, W, 3): the r exemplars of each input in a row.
      label: (b, H, W, p) uint8, the input x_A before encoding. `p` is 1 for label maps, 2 for
        label maps with a mask of glasses (0 or 1) in the second plane, and C for edge and pose
        maps, whose bytes mean value / 255.
      exemplar_label: like `label`, for the exemplars.
      self_reference: (b,) float32, 1 where the exemplar is the image itself, distorted.
      points, exemplar_points: (b, points, 2), x and y of the same points in image and exemplar, in
        pixels; integers are pixel centres; NaN if a point is absent. None if no points are known,
        as in training.
    """

    image: Shaped[Array, "b height width 3"]
    exemplar: Shaped[Array, "b_r height width 3"]
    label: Shaped[Array, "b height width planes"]
    exemplar_label: Shaped[Array, "b_r height width planes"]
    self_reference: Float[Array, "b"]
    points: Float[Array, "b points 2"] | None = None
    exemplar_points: Float[Array, "b points 2"] | None = None


class Match(NamedTuple):
    """Best matches of the positions of input and exemplar, in both directions.

    Positions are numbered row by row.

    Attributes:
      place: the most similar exemplar position for each input position.
      back: the most similar input position for each exemplar position.
      score: similarity of a position and its `place`; a cosine is -1 to 1.
      mean_place: mean row and column in the exemplar's grid by the softmax.
      entropy: entropy of the softmax over the exemplar's positions, in nats.
    """

    place: Int[Array, "b h w"]
    back: Int[Array, "b h_m w_m"]
    score: Float[Array, "b h w"]
    mean_place: Float[Array, "b h w 2"]
    entropy: Float[Array, "b h w"]


class Outputs(NamedTuple):
    """The result of a translation.

    Attributes:
      image: (b, H, W, 3) in [-1, 1], the translation of the input.
      warped_exemplar: (b, H, W, 3) in [-1, 1], the exemplar warped to the input; None for a plain
        translation network, which has no exemplar.
      warped_mask: (b, h, w, C), the exemplar's mask, warped likewise; None if it was not requested
        or the input domain has no classes.
      matches: name -> match of the positions of input and exemplar. The network's own has the name
        `""`, baselines have others (`metrics.baselines`). None if matches were not requested.
      confidence: (b, h, w), how sharp the match of each position is, 0 to 1 (`warp.confidence`);
        None if it was not requested or there is no exemplar.
    """

    image: Float[Array, "b height width 3"]
    warped_exemplar: Float[Array, "b height width 3"] | None
    warped_mask: Float[Array, "b h w classes"] | None
    matches: dict[str, Match] | None = None
    confidence: Float[Array, "b h w"] | None = None
