"""The detector of a group of rows by its definition, independently of the library: at least so much on each, else
little."""

import numpy as np


def detector(others: np.ndarray, rows: np.ndarray, weights: np.ndarray, least: np.ndarray | float = 1.0) -> np.ndarray:
    """The g that minimises gᵀ others g + Σ w max(0, f − g·h)², by Newton's method on the loss itself.

    `others` is the weighted sum of everything asked for nothing, the ridge's diagonal among it.
    """
    least = np.broadcast_to(least, len(rows))
    below = np.ones(len(rows), dtype=bool)
    for _ in range(200):
        weighted = rows[below].T * weights[below]
        found = np.linalg.solve(others + weighted @ rows[below], weighted @ least[below])
        now = rows @ found < least
        if np.array_equal(now, below):
            return found
        below = now
    raise AssertionError("Newton's method did not come to rest")
