"""Requests that arrive together share a batch, and each gets its own result or error."""

import concurrent.futures
import itertools
import threading
import time
from unittest import mock

import numpy as np
import pytest

from cocosnet_jax.errors import UserError
from cocosnet_jax.inference import Translator
from cocosnet_jax.page import batches
from cocosnet_jax.page.studio import Studio
from cocosnet_jax.page.turns import Turns
from cocosnet_jax.pretrained import SHIPPED
from cocosnet_jax.types import Outputs

MOST = 4
WAIT_S = 600  # only what hangs comes near it


class Networks:
    """Stands for them: doubles numbers. The first call waits until it is `let`."""

    def __init__(self):
        self.batches, self.began, self.let = [], threading.Event(), threading.Event()

    def __call__(self, numbers):
        first = not self.batches
        self.batches.append(list(numbers))
        if first:
            self.began.set()
            assert self.let.wait(WAIT_S)
        if any(number < 0 for number in numbers):
            raise UserError(f"{min(numbers)} is negative")
        return [2 * number for number in numbers]


def wait_for_line(turns, count):
    """Waits until so many are in the line."""
    end = time.monotonic() + WAIT_S
    while len(turns._line) != count:
        assert time.monotonic() < end
        time.sleep(0.001)


def ask(turns, networks, asked):
    """Asks for the first, and for the others, in this order, while the networks are busy with it.

    Functions are other work. Returns the futures.
    """

    def call(one):
        return turns.alone(one) if callable(one) else turns.translate(one)

    pool = concurrent.futures.ThreadPoolExecutor(len(asked))
    futures = []
    for place, one in enumerate(asked):
        futures.append(pool.submit(call, one))
        if place == 0:
            assert networks.began.wait(WAIT_S)
        else:
            wait_for_line(turns, place)
    networks.let.set()
    pool.shutdown()
    return futures


@pytest.fixture
def networks():
    return Networks()


def test_requests_that_wait_share_batches(networks):
    turns = Turns(networks, MOST)
    found = ask(turns, networks, range(1, 8))
    assert [future.result() for future in found] == [2, 4, 6, 8, 10, 12, 14]
    assert networks.batches == [[1], [2, 3, 4, 5], [6, 7]]
    # A request alone waits for nobody.
    assert turns.translate(9) == 18
    assert networks.batches[-1] == [9]


def test_an_error_is_only_the_requests_that_caused_it(networks):
    found = ask(Turns(networks, MOST), networks, [1, 2, -3, 4])
    with pytest.raises(UserError, match="-3 is negative"):
        found.pop(2).result()
    assert [future.result() for future in found] == [2, 4, 8]
    assert networks.batches == [[1], [2, -3, 4], [2], [-3], [4]]


def test_other_work_keeps_its_place_in_the_line(networks):
    done = []

    def work():
        done.append(list(networks.batches))
        raise ZeroDivisionError

    found = ask(Turns(networks, MOST), networks, [1, 2, work, 3, 4, 5, 6])
    with pytest.raises(ZeroDivisionError):
        found.pop(2).result()
    assert [future.result() for future in found] == [2, 4, 6, 8, 10, 12]
    # The first translation in the line took three more with it; then came the work.
    assert done == [[[1], [2, 3, 4, 5]]]
    assert networks.batches == [[1], [2, 3, 4, 5], [6]]


def test_a_thread_that_ends_leaves_its_batch_to_others(networks):
    def translate(numbers):
        found = networks(numbers)
        if len(networks.batches) == 2:
            raise SystemExit
        return found

    found = ask(Turns(translate, MOST), networks, [1, 2, 3, 4])
    ended = [future for future in found if future.exception()]
    assert [type(future.exception()) for future in ended] == [SystemExit]
    assert networks.batches[:2] == [[1], [2, 3, 4]]
    results = {future.result() for future in found if future not in ended}
    assert len(results) == 3
    assert results < {2, 4, 6, 8}


def test_many_threads(networks):
    networks.let.set()
    turns = Turns(networks, MOST)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(turns.translate, range(500)))
    assert found == [2 * number for number in range(500)]
    assert sorted(number for batch in networks.batches for number in batch) == list(range(500))
    assert max(map(len, networks.batches)) <= MOST


def test_a_batch_that_is_not_full_is_filled_up():
    sizes = []

    def translate(label, exemplar, exemplar_label):
        assert len(label) == len(exemplar) == len(exemplar_label)
        sizes.append(len(label))
        return Outputs(label / 127.5 - 1, exemplar / 127.5 - 1, None, None, None)

    rng = np.random.default_rng(0)
    pairs = [batches.Pair(*rng.integers(0, 256, (3, 8, 8, 3), np.uint8)) for _ in range(MOST)]
    for count in (1, 2, MOST):
        found = batches.translate(mock.Mock(translate=translate), pairs[:count], MOST)
        assert len(found) == count
        for pair, (result, warped) in zip(pairs, found, strict=False):
            np.testing.assert_array_equal(result, pair.planes)
            np.testing.assert_array_equal(warped, pair.exemplar)
    assert sizes == [1, MOST, MOST]


# Compiles the shipped model twice.
@pytest.mark.parity
def test_each_visitor_gets_what_the_networks_draw_alone(monkeypatch):
    studio = Studio(Translator(SHIPPED), together=MOST)
    pairs = [(studio.scenes[i].planes, studio.scenes[-i].image) for i in range(4)]
    wanted = [studio.translate(*pair, None) for pair in pairs]
    began, let, calls = threading.Event(), threading.Event(), []
    translate = studio.translator.translate

    def slow(label, *given):
        calls.append(len(label))
        began.set()
        assert let.wait(WAIT_S)
        return translate(label, *given)

    monkeypatch.setattr(studio.translator, "translate", slow)
    with concurrent.futures.ThreadPoolExecutor(len(pairs)) as pool:
        futures = [pool.submit(studio.translate, *pairs[0], None)]
        assert began.wait(WAIT_S)
        futures += [pool.submit(studio.translate, *pair, None) for pair in pairs[1:]]
        wait_for_line(studio.turns, 3)
        let.set()
        found = [future.result() for future in futures]
    assert calls == [1, MOST]
    for ours, theirs in zip(found, wanted, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            # Rounding may be another in a batch, by a level of 255.
            np.testing.assert_allclose(one.astype(int), other.astype(int), atol=1)
    different = [np.abs(a[0].astype(int) - b[0]).mean() for a, b in itertools.pairwise(wanted)]
    assert min(different) > 5


def test_a_batch_that_does_not_fit_is_given_up():
    studio = Studio.__new__(Studio)
    studio.turns = Turns(list, MOST)
    studio.translator = mock.Mock(compile=mock.Mock(side_effect=UserError("does not fit")))
    studio._compile_batch()
    studio.translator.compile.assert_called_once_with(MOST)
    assert studio.turns.most == 1
