import json

import pytest

from benchmarks import learning
from cocosnet_jax.errors import UserError


def test_band_holds_99_of_100_runs():
    found = learning.band([1.0, 2.0, 3.0, 4.0, 5.0])
    # Student's t of 4 degrees of freedom at 0.995 is 4.6041 (tables); s = sqrt(2.5).
    half = 4.6041 * 2.5**0.5 * 1.2**0.5
    assert found["mean"] == 3
    assert found["deviation"] == pytest.approx(1.58114)
    assert [found["low"], found["high"]] == pytest.approx([3 - half, 3 + half], abs=1e-3)


def bands(**other):
    ends = {name: {"low": 0.4, "high": 0.6} for name in learning.NUMBERS}
    return {"seeds": [0, 1, 2], "bands": ends | other}


@pytest.mark.parametrize(("value", "status"), [(0.5, 0), (0.39, 1), (0.61, 1)])
def test_outside_of_the_band_is_a_failure(value, status, capsys):
    found = dict.fromkeys(learning.NUMBERS, 0.5) | {"pck@0.1": value}
    assert learning.report(found, bands()) == status
    assert capsys.readouterr().out.count("outside") == status


def test_a_damaged_file_of_bands_is_named(tmp_path):
    path = tmp_path / "bands.json"
    with pytest.raises(UserError, match=r"bands\.json has no bands"):
        learning.read(path)
    path.write_text(json.dumps(bands(swd={"low": 1})))
    with pytest.raises(UserError, match=r"bands\.json has no bands .*high.*--record"):
        learning.read(path)
    path.write_text(json.dumps(bands()))
    assert learning.read(path) == bands()
