"""Shares of stances, corrected for the errors of the classifier that found them.

In: how often the classifier names each stance for answers of each true stance, and which stances it found in the
answers of a model. Out: the shares that the true stances probably have, each with a 95 % interval.

A classifier that takes one opposing answer in ten for a neutral one finds too many neutral answers. If the rows of the
matrix M hold the share of each stance found, by true stance, then the shares found are the true shares times M, and the
true shares follow by inverting M. With two classes this is the estimator of Rogan and Gladen (1978). arXiv 2511.21140
shows why the interval needs both samples: the answers, and the labelled answers that M was measured on.

The correction holds as far as the classifier errs on a model's answers as it errs on the labelled answers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stance.data.metrics import ClassifierAccuracy, Corrected, CorrectedShare
from stance.data.questions import Stance
from stance.evaluation.classifier import STANCES, Verdict

Floats = npt.NDArray[np.float64]
DRAWS, SEED = 4000, 0
PRIOR = 0.5
"""Jeffreys' prior of a multinomial: without it, a classifier that made no error would count as one that makes none."""


def corrected_shares(verdicts: Sequence[Verdict], accuracy: ClassifierAccuracy) -> Corrected | None:
    """Return the corrected share of each stance with its 95 % interval.

    The ends of the interval are quantiles of `DRAWS` pairs of samples: the matrix and the shares found, each drawn from
    its posterior. The result is the same at every call.

    Returns:
        The shares; None if the classifier was measured on no answer of a stance, because M then lacks a row.
    """
    counts = np.array([[accuracy.confusion[true][found] for found in STANCES] for true in STANCES], dtype=np.float64)
    if not counts.sum(axis=1).all():
        return None
    found = np.array([sum(verdict.stance == stance for verdict in verdicts) for stance in STANCES], dtype=np.float64)
    point = true_shares(counts / counts.sum(axis=1, keepdims=True), found / found.sum())
    low, high = np.quantile(_draws(counts, found), [0.025, 0.975], axis=0)
    shares: dict[Stance, Any] = {
        stance: CorrectedShare(
            share=float(point[i]), low=float(min(low[i], point[i])), high=float(max(high[i], point[i]))
        )
        for i, stance in enumerate(STANCES)
    }
    return Corrected(**shares)


def _draws(counts: Floats, found: Floats) -> Floats:
    random = np.random.default_rng(SEED)
    rows = [random.dirichlet(row + PRIOR, DRAWS) for row in counts]
    shares = random.dirichlet(found + PRIOR, DRAWS)
    return np.array([true_shares(matrix, share) for matrix, share in zip(np.stack(rows, axis=1), shares, strict=True)])


def true_shares(matrix: Floats, found: Floats) -> Floats:
    """Return the true shares that explain the shares found.

    Args:
        matrix: Share of each stance found, by true stance. Shape (true stances, stances found); rows add up to 1.
        found: Share of each stance found. Shape (stances,).
    """
    return nearest_shares(np.asarray(np.linalg.lstsq(matrix.T, found, rcond=None)[0], dtype=np.float64))


def nearest_shares(values: Floats) -> Floats:
    """Return the shares, none negative and 1 in total, with the least Euclidean distance from some values.

    An inverted matrix may ask for a negative share. The method is that of Held, Wolfe and Crowder (1974).
    """
    falling = np.sort(values)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(values) + 1)
    shares: Floats = np.maximum(values - excess[np.flatnonzero(falling > excess)[-1]], 0.0)
    return shares
