import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax import colour_losses, losses

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def contextual_by_hand(x, y, centre):
    """Loops over pairs of positions of one sample, (n, k) each."""
    mean = y.mean(1, keepdims=True) if centre == "channels" else y.mean(0, keepdims=True)
    x, y = x - mean, y - mean
    n, m = len(x), len(y)
    d = np.array(
        [
            [1 - x[i] @ y[j] / np.linalg.norm(x[i]) / np.linalg.norm(y[j]) for j in range(m)]
            for i in range(n)
        ]
    )
    best = np.zeros(n)
    for i in range(n):
        w = np.exp((1 - d[i] / (d[i].min() + 1e-3)) / 0.1)
        best[i] = (w / w.sum()).max()
    return -np.log(best.mean())


@pytest.mark.parametrize("centre", ["channels", "positions"])
def test_contextual_by_formula(centre):
    x, y = RNG.normal(size=(2, 2, 3, 4, 6))
    got = jax.jit(lambda x, y: losses.contextual_layer(x, y, centre))(x, y)
    expected = [
        contextual_by_hand(a.reshape(12, 6), b.reshape(12, 6), centre)
        for a, b in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_contextual_weights_and_pooling():
    shapes = {"relu2_2": (8, 4), "relu3_2": (4, 5), "relu4_2": (4, 6), "relu5_2": (2, 6)}
    x, y = (
        {k: RNG.normal(size=(2, side, side, c)) for k, (side, c) in shapes.items()} for _ in "xy"
    )

    def layer(name, pool):
        def pooled(z):
            b, h, w, c = z.shape
            return z.reshape(b, h // pool, pool, w // pool, pool, c).mean((2, 4))

        a, b = pooled(x[name]), pooled(y[name])
        c = a.shape[-1]
        return np.mean(
            [
                contextual_by_hand(p.reshape(-1, c), q.reshape(-1, c), "channels")
                for p, q in zip(a, b, strict=True)
            ]
        )

    expected = 8 * layer("relu5_2", 1) + 4 * layer("relu4_2", 1) + 2 * layer("relu3_2", 2)

    def both(x, y):
        return [losses.contextual(x, y, "channels", relu2_2) for relu2_2 in (False, True)]

    wanted = [expected, expected + layer("relu2_2", 4)]
    np.testing.assert_allclose(jax.jit(both)(x, y), wanted, rtol=1e-10)


def test_contextual_layer_by_rows_equals_all_rows_at_once(monkeypatch):
    x, y = RNG.normal(size=(2, 2, 6, 4, 5))

    def value_and_gradient():
        def loss(x):
            return jnp.sum(losses.contextual_layer(x, jnp.asarray(y), "channels"))

        return jax.jit(jax.value_and_grad(loss))(x)

    expected = value_and_gradient()
    # Six of the 24 rows at a time.
    monkeypatch.setattr(losses, "CONTEXTUAL_PAIRS", 7 * 24)
    for got, wanted in zip(value_and_gradient(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-14)


def warped_mask(mask, label, exemplar_label, group_size):
    """The loss of a batch of whole groups."""
    _, side, _, classes = mask.shape
    positions = losses.mask_positions(label, exemplar_label, side, classes)
    counts = positions.sum(1).astype(mask.dtype)
    shares = losses.mask_shares(counts, group_size, mask.dtype)
    return losses.warped_mask(mask, label, exemplar_label, shares)


def test_warped_mask_has_no_weight_where_a_class_is_unknown_or_missing():
    mask = RNG.random((1, 2, 2, 4))
    mask /= mask.sum(-1, keepdims=True)
    # At 2 x 2: classes 1, 2 / 0, 3; the exemplar has 0, 1 and 3 there.
    label = np.kron([[1, 2], [0, 3]], np.ones((2, 2), int))[None]
    exemplar = np.kron([[1, 1], [3, 0]], np.ones((2, 2), int))[None]
    got = warped_mask(jnp.asarray(mask), jnp.asarray(label), jnp.asarray(exemplar), 4)
    expected = -(np.log(mask[0, 0, 0, 1] + 1e-10) + np.log(mask[0, 1, 1, 3] + 1e-10))
    assert float(got) == pytest.approx(
        expected / float(np.float32(2) + np.float32(1e-5)), rel=1e-12
    )


def test_samples_that_are_their_own_exemplar_share_the_loss():
    warped, truth = RNG.normal(size=(2, 3, 4, 4, 3))
    q = losses.self_reference_weights(jnp.asarray([0.0, 1.0, 1.0]), 3)
    got = losses.self_warp(warped, truth, q)
    per_sample = np.abs(warped - truth).mean((1, 2, 3))
    assert float(got) == pytest.approx((per_sample[1] + per_sample[2]) / (2 + 1e-5) / 3, rel=1e-12)


def test_colours_are_compared_as_means_of_squares():
    fake, truth = RNG.normal(size=(2, 2, 8, 8, 3))
    q = losses.self_reference_weights(jnp.asarray([1.0, 0.0]), 2)
    got = colour_losses.colour(jnp.asarray(fake), jnp.asarray(truth), 4, q)
    means = (fake - truth)[0].reshape(2, 4, 2, 4, 3).mean((1, 3))
    assert float(got) == pytest.approx(np.abs(means).mean() / (1 + 1e-5) / 2, rel=1e-12)
    # Textures that leave the means of squares as they are cost nothing.
    checks = np.kron(np.ones((4, 4)), [[1.0, -1.0], [-1.0, 1.0]])[None, :, :, None]
    assert (
        float(colour_losses.colour(jnp.asarray(truth + checks), jnp.asarray(truth), 4, q)) < 1e-14
    )


def test_mean_colours_of_classes_are_compared_with_the_exemplars():
    fake, exemplar = RNG.normal(size=(2, 2, 6, 8, 3))
    label, exemplar_label = RNG.integers(0, 4, (2, 2, 6, 8))
    # The first exemplar lacks class 2, no map of the second sample has class 3, and 0 is unknown.
    exemplar_label[0][exemplar_label[0] == 2] = 0
    label[1][label[1] == 3] = exemplar_label[1][exemplar_label[1] == 3] = 1
    got = colour_losses.class_colour(*map(jnp.asarray, (fake, label, exemplar, exemplar_label)), 5)
    wanted = []
    for a, m, b, n in zip(fake, label, exemplar, exemplar_label, strict=True):
        shared = [c for c in range(1, 5) if (m == c).any() and (n == c).any()]
        distances = [np.abs(a[m == c].mean(0) - b[n == c].mean(0)).mean() for c in shared]
        wanted.append(np.average(distances, weights=[(m == c).sum() for c in shared]))
    assert float(got) == pytest.approx(np.mean(wanted), rel=1e-12)
    assert len(shared) == 2
    # Maps that share no class cost nothing, and have no gradient that is not a number.
    apart = jnp.full((2, 6, 8), 1), jnp.full((2, 6, 8), 2)
    value, gradient = jax.value_and_grad(colour_losses.class_colour)(
        jnp.asarray(fake), apart[0], jnp.asarray(exemplar), apart[1], 5
    )
    assert float(value) == 0.0
    assert not np.asarray(gradient).any()


def terms_of_groups(samples, itself, group_size):
    """The three terms that are computed per group, for the same random samples."""
    rng = np.random.default_rng(7)
    mask = rng.random((8, 4, 4, 3))
    mask /= mask.sum(-1, keepdims=True)
    labels = rng.integers(0, 3, (2, 8, 8, 8))
    warped, truth = rng.normal(size=(2, 8, 4, 4, 3))
    fake, real = (
        {name: rng.normal(size=(8, 2, 2, 3)) for name in losses.PSEUDO_EXEMPLAR_WEIGHTS}
        for _ in "ab"
    )

    def take(x):
        return jax.tree.map(lambda y: y[np.asarray(samples)], x)

    def terms(q, fake, real, warped, truth, mask, labels):
        return [
            losses.pseudo_exemplar(fake, real, losses.self_reference_weights(q, group_size)),
            losses.self_warp(warped, truth, losses.self_reference_weights(q, group_size)),
            warped_mask(mask, *labels, group_size),
        ]

    q = np.array(itself, np.float64)
    chosen = (take(x) for x in (fake, real, warped, truth, mask, list(labels)))
    return np.array(jax.jit(terms)(q, *chosen))


def test_groups_equal_the_releases_replicas():
    itself = [0, 1, 1, 0, 0, 0, 1, 0]
    together = terms_of_groups(range(8), itself, 2)
    # The mean of the losses that each replica computes from its own samples.
    replicas = [terms_of_groups([i, i + 1], itself[i : i + 2], 2) for i in range(0, 8, 2)]
    np.testing.assert_allclose(together, np.mean(replicas, 0), rtol=1e-12)
    # One group of all samples gives other losses.
    assert (np.abs(terms_of_groups(range(8), itself, 8) / together - 1) > 1e-3).all()


@pytest.mark.parametrize("samples", [1, 2, 4, 8, 32])
def test_weights_of_groups_do_not_depend_on_the_batch(samples):
    expected = terms_of_groups([3] * 4, [1] * 4, 4)
    found = terms_of_groups([3] * samples, [1] * samples, 4)
    # The 1e-5 in a divisor matters a little more in a smaller group.
    np.testing.assert_allclose(found, expected, rtol=1e-12 if samples >= 4 else 1e-5)


def test_hinges():
    logits = [jnp.asarray([-2.0, 0.5]).reshape(1, 1, 2, 1), jnp.asarray([3.0]).reshape(1, 1, 1, 1)]
    assert float(losses.hinge_generator(logits)) == pytest.approx((0.75 - 3) / 2)
    assert float(losses.hinge_discriminator(logits, real=True)) == pytest.approx(
        ((3 + 0.5) / 2 + 0) / 2
    )
    assert float(losses.hinge_discriminator(logits, real=False)) == pytest.approx(
        ((0 + 1.5) / 2 + 4) / 2
    )


def test_feature_matching_leaves_out_logits():
    fake, real = RNG.normal(size=(2, 2, 5, 1, 2, 2, 3))
    got = losses.discriminator_features(list(map(list, fake)), list(map(list, real)))
    expected = np.abs(fake[:, :4] - real[:, :4]).mean((2, 3, 4, 5)).sum() / 2
    assert float(got) == pytest.approx(expected, rel=1e-12)


def test_pseudo_exemplar_weights():
    names = ["relu1_2", "relu2_2", "relu3_2", "relu4_2", "relu5_2"]
    fake, truth = ({k: RNG.normal(size=(2, 2, 2, 3)) for k in names} for _ in "ab")
    q = losses.self_reference_weights(jnp.asarray([0.0, 1.0]), 2)
    got = losses.pseudo_exemplar(fake, truth, q)
    expected = sum(
        w * np.abs(fake[k][1] - truth[k][1]).mean() / 2 / (1 + 1e-5)
        for k, w in zip(names, [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1], strict=True)
    )
    assert float(got) == pytest.approx(expected, rel=1e-12)


def test_losses_of_bfloat16_are_float32():
    x, y = (jnp.asarray(RNG.normal(size=(1, 4, 4, 8)), jnp.bfloat16) for _ in "xy")
    assert losses.mean_abs(x, y).dtype == jnp.float32
    assert losses.contextual_layer(x, y, "channels").dtype == jnp.float32


def test_contextual_loss_of_bfloat16_pools_in_float32():
    shapes = {"relu5_2": 4, "relu4_2": 4, "relu3_2": 8, "relu2_2": 16}

    def features():
        return {
            name: jnp.asarray(RNG.normal(1, 1, (1, side, side, 8)), jnp.bfloat16)
            for name, side in shapes.items()
        }

    x, y = features(), features()
    widened = ({name: losses.wide(z) for name, z in found.items()} for found in (x, y))
    expected = losses.contextual(*widened, "channels", True)
    assert losses.contextual(x, y, "channels", True) == expected


def test_regularisation_is_the_mean_absolute_difference():
    cycle, exemplar = RNG.normal(size=(2, 2, 3, 4, 3))
    expected = np.abs(cycle - exemplar).mean()
    assert float(losses.regularisation(cycle, exemplar)) == pytest.approx(expected, rel=1e-12)
