import zlib

import jax
import jax.numpy as jnp
import numpy as np

from cocosnet_jax import rng


def numbers(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_keys_follow_from_seed_name_and_step():
    by_hand = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), zlib.crc32(b"train")), 3)
    assert numbers(rng.key(7, "train", 3)) == numbers(by_hand)


def test_all_keys_differ():
    keys = {
        numbers(rng.key(seed, stream, step))
        for seed in range(3)
        for stream in ("init", "train")
        for step in range(5)
    }
    assert len(keys) == 30


def test_step_may_be_traced():
    traced = jax.jit(lambda step: rng.key(0, "train", step))(jnp.int32(5))
    assert numbers(traced) == numbers(rng.key(0, "train", 5))
