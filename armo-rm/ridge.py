"""Ridge regression of K objectives on the same embeddings, each with its own missing ratings. NumPy only.

    w_k = argmin_w  sum_{i rated} (w . h_i - p_ik)^2 + alpha |w|^2  =  (H_k^T H_k + alpha I)^-1 H_k^T p_k

No intercept. The rows are seen once, part by part: of them only H^T H is kept, one for all objectives that have their
ratings on the same rows. Rows that miss the same ratings are multiplied together, whatever they miss: they wait until
there are many, for a product of few rows costs as much as writing a whole matrix. One decomposition of H^T H gives the
weights for every alpha. Everything is float64.

Shapes: N rows, D hidden size, K objectives, A alphas.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MOST_WAITING = 16_384  # rows


class GramMatrices:
    """Sums over rows that are enough for the weights: H^T H of every class of objectives, H^T p of every objective."""

    def __init__(self, num_features: int, classes: Sequence[int]):
        """`classes` (K,): objectives of one number are rated on the same rows, see `rated_alike`."""
        self.classes = list(classes)
        self.grams = {number: np.zeros((num_features, num_features)) for number in set(classes)}
        self.moments = np.zeros((len(self.classes), num_features))
        self.counts = np.zeros(len(self.classes), dtype=int)
        self.waiting: dict[bytes, list[tuple[np.ndarray, Array]]] = {}  # rows by which objectives they have ratings of

    def add(self, embeddings: np.ndarray, ratings: Array) -> None:
        """Embeddings (N, D) of any type, ratings (N, K) with nan where there is none."""
        patterns, pattern_of = np.unique(~np.isnan(ratings), axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            if pattern.any():
                rows = pattern_of.reshape(-1) == number
                self.waiting.setdefault(pattern.tobytes(), []).append((embeddings[rows], ratings[rows][:, pattern]))
                self.counts[pattern] += rows.sum()
        while sum(map(_num_rows, self.waiting.values())) > MOST_WAITING:
            self._multiply(max(self.waiting, key=lambda pattern: _num_rows(self.waiting[pattern])))

    def _multiply(self, pattern: bytes) -> None:
        """Take the waiting rows of one pattern into the sums."""
        embeddings, ratings = zip(*self.waiting.pop(pattern), strict=True)
        here = np.concatenate(embeddings, dtype=np.float64)
        objectives = np.flatnonzero(np.frombuffer(pattern, bool))
        product = here.T @ here  # NumPy computes half of it, for it is symmetric
        for class_number in {self.classes[k] for k in objectives}:
            self.grams[class_number] += product
        self.moments[objectives] += np.concatenate(ratings).T @ here

    def weights(self, alphas: Sequence[float]) -> Array:
        """(A, K, D). Raises ValueError for an objective without a rating."""
        for pattern in list(self.waiting):
            self._multiply(pattern)
        if not self.counts.all():
            raise ValueError(f"objective {int(np.argmin(self.counts))} has no rating to fit")
        found = np.empty((len(alphas), *self.moments.shape))
        for number, gram in self.grams.items():
            members = [k for k, its_class in enumerate(self.classes) if its_class == number]
            found[:, members] = ridge_weights(gram, self.moments[members], alphas)
        return found


def _num_rows(parts: Sequence[tuple[np.ndarray, Array]]) -> int:
    return sum(len(embeddings) for embeddings, _ in parts)


def ridge_weights(gram: Array, moments: Array, alphas: Sequence[float]) -> Array:
    """Weights (A, K, D) of H^T H (D, D) and H^T p (K, D), for every alpha from one decomposition.

    >>> x, p = np.array([[1.0, 0], [0, 1], [2, 1]]), np.array([[1.0, 2, 3]])
    >>> ridge_weights(x.T @ x, p @ x, [0.0, 1.0]).round(8).tolist()
    [[[0.66666667, 1.83333333]], [[0.78571429, 1.14285714]]]
    """
    values, vectors = np.linalg.eigh(gram)  # (D,), (D, D)
    values = np.maximum(values, 0)  # rounding leaves some a little below
    turned = moments @ vectors  # (K, D)
    return np.stack([turned / (values + alpha) @ vectors.T for alpha in alphas])


class SquaredErrors:
    """Mean squared errors (A, K) of weights (A, K, D), over rows that come part by part."""

    def __init__(self, weights: Array):
        self.weights = weights
        self.sums = np.zeros(weights.shape[:2])
        self.counts = np.zeros(weights.shape[1], dtype=int)

    def add(self, embeddings: np.ndarray, ratings: Array) -> None:
        """Embeddings (N, D), ratings (N, K) with nan where there is none."""
        num_alphas, num_objectives, num_features = self.weights.shape
        flat = self.weights.reshape(-1, num_features).T  # (D, A K)
        predictions = (np.asarray(embeddings, np.float64) @ flat).reshape(-1, num_alphas, num_objectives)
        errors = predictions - ratings[:, None]  # (N, A, K)
        self.sums += np.nansum(errors**2, axis=0)
        self.counts += (~np.isnan(ratings)).sum(0)

    def means(self) -> Array:
        """(A, K), nan where an objective has no rating."""
        with np.errstate(invalid="ignore"):
            return self.sums / self.counts


def rated_alike(masks: Sequence[bytes]) -> list[int]:
    """Numbers from 0 for digests of the rows on which the objectives have ratings: equal ones get one number.

    >>> rated_alike([b"x", b"y", b"x"])
    [0, 1, 0]
    """
    numbers: dict[bytes, int] = {}
    return [numbers.setdefault(mask, len(numbers)) for mask in masks]
