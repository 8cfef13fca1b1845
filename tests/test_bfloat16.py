"""How far bfloat16 activations move the release's figures: what docs/fidelity.md states."""

import numpy as np

from tests import parity

# Of full scale at the worst pixel, and of each loss. Parameters, norms, correlation and losses are
# float32; a mistake there would cost far more. The worst loss, a small mean of logits, depends on
# how a processor rounds: one with AVX-512 has twice the error of one without.
BOUNDS = {"image": 0.05, "losses": 0.1}


def test_bfloat16_stays_near():
    worst = parity.measure("ade20k", np.float32, parity.HERE, bfloat16=True)
    assert not {kind: worst[kind] for kind, bound in BOUNDS.items() if not worst[kind][0] <= bound}
    # Nor is it float32 by mistake.
    assert worst["image"][0] > 1e-3
