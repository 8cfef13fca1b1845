"""Prepared records are made by this code: changed pixels need a new number, and fresh records."""

import hashlib

import numpy as np
import pytest

from cocosnet_jax.data import images
from cocosnet_jax.data.labels import edges, face_parts, pose_drawing
from cocosnet_jax.data.pair_builder import PairBuilder

VERSION = "1.0.0"
SIZE = (72, 64)


def photograph():
    """Stripes, a disc and a square, in whole numbers: (96, 128, 3)."""
    y, x = np.mgrid[:96, :128]
    picture = np.stack([x * 2 % 256, y * 3 % 256, (x + y) * 5 % 256], -1).astype(np.uint8)
    picture[(y - 40) ** 2 + (x - 50) ** 2 < 500] = (200, 30, 90)
    picture[60:90, 80:120] = (10, 220, 160)
    return picture


def label_map():
    y, x = np.mgrid[:96, :128]
    return ((y // 13 + x // 17) % 19).astype(np.int32)


def parts():
    y, x = np.mgrid[:96, :128]
    return {
        name: (y - 30 - 2 * i) ** 2 + (x - 40 - 4 * i) ** 2 < 900 // (i + 1)
        for i, name in enumerate(("skin", "l_brow", "l_eye", "nose", "mouth", "hair"))
    }


def joints():
    found = np.stack([20 + 5.3 * np.arange(18), 10 + 37 * np.arange(18) % 79], -1)
    found[[4, 11]] = np.nan
    return found


# What each drawing was when records of `VERSION` were made.
DRAWN = {
    "photograph": (lambda: images.resize_photograph(photograph(), SIZE), "9add6011a0537148"),
    "label map": (lambda: images.resize_label(label_map(), SIZE), "3a97e405406d2e56"),
    "face parts": (lambda: face_parts.merge_parts(parts()), "279fb7db0489f7a5"),
    "face edges": (
        lambda: edges.face_edges(photograph(), parts(), SIZE),
        "c39a19cd96e5d2f5",
    ),
    "edges found": (lambda: edges.own_edges(photograph(), None, SIZE), "ae544d484e0e7857"),
    "edges given": (
        lambda: edges.own_edges(None, (label_map() == 3).astype(np.uint8) * 255, SIZE),
        "f06687e696649776",
    ),
    "pose": (lambda: pose_drawing.draw_pose(joints(), (96, 128), SIZE), "b702ab7291c96eac"),
}


@pytest.mark.parametrize("what", DRAWN)
def test_changed_pixels_need_a_new_version(what):
    draw, digest = DRAWN[what]
    drawn = np.ascontiguousarray(draw())
    assert drawn.std() > 0
    found = hashlib.sha256(f"{drawn.shape} {drawn.dtype}".encode() + drawn.tobytes()).hexdigest()
    assert found[:16] == digest, (
        f"numbers changed: {what}. Records that were prepared before hold others, so raise"
        " PairBuilder.VERSION (cocosnet_jax/data/pair_builder.py), and here VERSION and the digest"
    )


def test_the_digests_are_of_this_version():
    assert str(PairBuilder.VERSION) == VERSION
