"""The release's figures, to rounding error, for every case in the folder.

COCOSNET_GOLDEN names another folder of cases; `python -m tests.parity` prints the table.
"""

import numpy as np
import pytest

from tests import parity

FLOAT64 = {
    "arrays": 2e-6,  # the figures are stored in float32
    "losses": 1e-10,
    "grad_norm": 1e-8,
    "grad_proj": 1e-8,
    "update_norm": 1e-8,
    "update_proj": 1e-8,
    "buffers": 1e-10,
}
FLOAT32 = {"losses": 1e-4, "image": 1e-3}
REPEATED = {"losses": 1e-10, "grad_norm": 1e-10, "grad_proj": 1e-10}
CASES = parity.cases()


def test_cases_found():
    assert CASES, f"no meta_*.json in {parity.FOLDER}"


@pytest.mark.parametrize(
    ("dtype", "bounds"), [(np.float64, FLOAT64), (np.float32, FLOAT32)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("case", CASES)
def test_release(case, dtype, bounds, record_property):
    worst = parity.measure(case, dtype)
    record_property("parity", parity.line(case, np.dtype(dtype).name, worst))
    assert set(bounds) <= set(worst)
    off = {kind: worst[kind] for kind, bound in bounds.items() if not worst[kind][0] <= bound}
    assert not off


# One has the warped mask's loss, the other that of self exemplars; both that of features.
@pytest.mark.parametrize("case", ["ade20k", "deepfashion"])
def test_losses_are_per_replica(case):
    worst = parity.measure(case, np.float64, parity.HERE, repeat=2)
    assert set(worst) == set(REPEATED)
    assert not {
        kind: worst[kind] for kind, bound in REPEATED.items() if not worst[kind][0] <= bound
    }
