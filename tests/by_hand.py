"""What the correlation compares, written straight from its definition."""

import numpy as np


def features_by_hand(x, side, centre):
    """(h * w, k * side^2): loops over positions and neighbours."""
    (h, w, k), reach = x.shape, side // 2
    found = []
    for i in range(h):
        for j in range(w):
            row = []
            for di in range(-reach, reach + 1):
                for dj in range(-reach, reach + 1):
                    inside = 0 <= i + di < h and 0 <= j + dj < w
                    row.append(x[i + di, j + dj] if inside else np.zeros(k))
            found.append(np.concatenate(row))
    rows = np.array(found)
    rows = rows - rows.mean(1 if centre == "channels" else 0, keepdims=True)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
