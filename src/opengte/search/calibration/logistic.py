"""Logistic regression, and how good its probabilities are (Brier score, ECE, AUC).

Letters in shapes: n examples, f features.
"""

import numpy as np
import numpy.typing as npt

from opengte.search.calibration.confidence import LogisticModel, ProbabilityScores, Values, sigmoid

RIDGE = 1.0  # on features of deviation one
BINS = 10


def fit_logistic(
    rows: Values, right: Values, used: npt.NDArray[np.bool_] | None = None, ridge: float = RIDGE
) -> LogisticModel:
    """Return the logistic regression of right (n,), 0 or 1, on rows (n, f), by Newton's method.

    Features that are not used (f,) get the weight 0.
    """
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    x = np.column_stack([(rows - mean) / scale, np.ones(len(rows))])
    if used is not None:
        x[:, :-1] *= used
    penalty = np.append(np.full(rows.shape[1], ridge), 1e-6)  # none on the bias
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = sigmoid(x @ weights)
        slope = x.T @ (p - right) + penalty * weights
        curve = (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        step *= min(1.0, 4.0 / max(1e-12, float(np.abs(step).max())))  # far steps overshoot
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return LogisticModel(mean, scale, weights[:-1], float(weights[-1]))


def score_probabilities(p: Values, right: Values) -> ProbabilityScores:
    """Return how good probabilities (n,) of what is right (n,), 0 or 1, are."""
    rate = float(right.mean())
    return ProbabilityScores(
        brier=float(((p - right) ** 2).mean()),
        always=rate * (1 - rate),
        ece=ece(p, right),
        auc=auc(p, right),
        rate=rate,
    )


def ece(p: Values, right: Values) -> float:
    """Return the expected calibration error: ten bins of as many probabilities each."""
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return float(sum(abs(p[i].mean() - right[i].mean()) * len(i) for i in parts) / len(p))


def auc(p: Values, right: Values) -> float | None:
    """Return the chance that a right one has a higher probability than a wrong one."""
    good, bad = np.sort(p[right > 0]), p[right == 0]
    if not len(good) or not len(bad):
        return None
    below = np.searchsorted(good, bad, side="left")
    upto = np.searchsorted(good, bad, side="right")
    return float(1.0 - (below + upto).mean() / 2 / len(good))


def best_threshold(p: Values, right: Values) -> tuple[float, float, float]:
    """Return the threshold with the fewest errors of both kinds, and the share of each.

    Right ones below it are missed, wrong ones from it on are passed; both shares count the same.
    """
    best = (2.0, 0.5, 0.0, 1.0)
    values = np.unique(p)
    for limit in np.concatenate([[0.0], (values[1:] + values[:-1]) / 2]).tolist():
        missed = float((p[right > 0] < limit).mean())
        passed = float((p[right == 0] >= limit).mean())
        best = min(best, (missed + passed, limit, missed, passed))
    return best[1:]
