"""Statistics of shares: how far the groups of generated images are from the target, and how sure that is.

Shares p and targets t are arrays [..., K] over K groups that sum to 1 along the last axis; counts are images a group.
KL is in nats. Under a perfectly fair model E[KL] = (K - 1) / 2N and 2N KL ~ chi-square(K - 1): no KL means anything
without its N and this floor.
"""
from __future__ import annotations

import math
from statistics import NormalDist
from typing import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .errors import DebiasError, short

NO_IMAGES = ("No image could be classified, so there are no shares to report. Generate more images, or lower the "
             "confidence that the judge asks for.")
# A confusion matrix whose smallest singular value is below this would magnify noise more than twenty times.
SMALLEST_SINGULAR_VALUE = 0.05
NO_TELLING = ("By its check, the judge does not tell the groups apart, so shares cannot be corrected by it. Use "
              "another judge, or merge the groups that it confuses.")


def shares(counts: ArrayLike) -> np.ndarray:
    """p = n_i / N, [..., K]. Raises DebiasError for counts that are negative, not finite, or all zero."""
    return smoothed(counts, alpha=0.0)


def named_shares(names: Sequence[str], shares: Sequence[float]) -> str:
    """Shares in words: "man 50 %, woman 50 %"."""
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in zip(names, shares, strict=True))


def smoothed(counts: ArrayLike, alpha: float = 0.5) -> np.ndarray:
    """Dirichlet-smoothed shares (n_i + alpha) / (N + K alpha), [..., K]: above 0 even for a group that never appears.

    alpha = 1/2 is Jeffreys' prior. Raises DebiasError as `shares` does, and for an alpha below 0.
    """
    n = _counts(counts)
    if not (math.isfinite(alpha) and alpha >= 0):
        raise DebiasError(f"Expected a finite alpha of 0 or more, got {alpha}. 0.5 is the usual choice.")
    return (n + alpha) / (n + alpha).sum(-1, keepdims=True)


def reachable(target: ArrayLike) -> np.ndarray:
    """A target [K] with every share at least .001, as no finite number of images can show a share of exactly 0.

    Against a target of 0 one image, perhaps mislabelled, would be infinitely far away. Raises as `kl_divergence`.
    """
    floor = np.maximum(_simplex(target, "Target shares"), 1e-3)
    return floor / floor.sum()


def kl_divergence(p: ArrayLike, t: ArrayLike) -> np.ndarray | float:
    """KL(p||t) = sum p ln(p / t) in nats, [...]; 0 ln 0 = 0, and inf where p > 0 meets t = 0.

    Raises DebiasError for shares that are negative, not finite, do not sum to 1, or are of another number of groups.
    """
    p, t = pair(p, t)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (np.log(p) - np.log(t)), 0.0)
    return np.maximum(terms.sum(-1), 0.0)


def total_variation(p: ArrayLike, t: ArrayLike) -> np.ndarray | float:
    """1/2 sum |p - t|, [...], in [0, 1]: the share of images that would have to change group. Raises as KL does."""
    p, t = pair(p, t)
    return np.abs(p - t).sum(-1) / 2


def deviation_ratio(p: ArrayLike) -> np.ndarray | float:
    """max |p - 1/K| / (1 - 1/K), [...]: 0 for uniform shares, 1 for a single group, whatever the target is.

    Raises DebiasError as `kl_divergence` does, and for fewer than two groups.
    """
    p = _simplex(p, "Shares")
    groups = p.shape[-1]
    if groups < 2:
        raise DebiasError(f"Expected two groups or more for the deviation ratio, got {groups}.")
    return np.abs(p - 1 / groups).max(-1) / (1 - 1 / groups)


def noise_floor(groups: int, n: float, level: float = 0.95) -> tuple[float, float]:
    """KL that a perfectly fair model shows on n images: (its mean (K - 1) / 2N, its quantile at `level`), in nats.

    groups K counts the groups whose target is above 0; n may be an effective number. Raises DebiasError for no groups,
    no images, or a bad level.
    """
    if groups < 1:
        raise DebiasError(f"Expected one group or more with a target above 0, got {groups}.")
    if not n > 0:
        raise DebiasError(NO_IMAGES)
    return (groups - 1) / (2 * n), _chi2_quantile(groups - 1, checked_level(level)) / (2 * n)


def drawn_floor(matrix: ArrayLike, drawn: Sequence[int], t: ArrayLike, level: float = 0.95, draws: int = 4000,
                seed: int = 0) -> float:
    """The quantile at `level` of KL(p||t), in nats, on images of which number k comes out by row drawn[k] of `matrix`.

    matrix M [n + 1, n], shares by drawn option, as `fair_outcomes` makes them; drawn [N]; t [n], as `reachable`. Draws
    are spread evenly over seeds, so a perfectly fair profile shows less KL than `noise_floor` says of independent
    images, and never more by this function. By simulation.
    """
    matrix, n, t = np.asarray(matrix, float), len(drawn), reachable(t)
    chance = np.random.default_rng(seed)
    counts = sum(chance.multinomial(images, row, draws) for images, row in
                 zip(np.bincount(drawn, minlength=len(matrix)), matrix, strict=True))
    independent = noise_floor(len(t), n, level)[1]
    return float(min(np.quantile(kl_divergence(shares(counts), t), checked_level(level)), independent))


def fair_outcomes(matrix: ArrayLike, q: ArrayLike, t: ArrayLike) -> np.ndarray:
    """M [n + 1, n] with q M = t as nearly as can be: what M lacks is given to the images that are left alone, or, where
    there are none, to every row."""
    matrix, q, t = np.asarray(matrix, float), np.asarray(q, float), np.asarray(t, float)
    off = q @ matrix - t
    moved = np.vstack([matrix[:1] - off / q[0], matrix[1:]]) if q[0] > 0.05 else matrix - off
    moved = np.clip(moved, 1e-6, None)
    return moved / moved.sum(1, keepdims=True)


def wilson(k: ArrayLike, n: ArrayLike, level: float = 0.95) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Wilson's score interval (low, high) of the share k / n (Wilson 1927), element-wise.

    Raises DebiasError for n = 0, for k outside [0, n], and for a bad level.
    """
    k, n = np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    if not (n > 0).all():
        raise DebiasError(NO_IMAGES)
    if not ((0 <= k) & (k <= n)).all() or not np.isfinite(n).all():
        raise DebiasError(f"Expected counts between 0 and n, got {k.tolist()} of {n.tolist()}.")
    z = NormalDist().inv_cdf((1 + checked_level(level)) / 2)
    p, shrink = k / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / shrink
    return np.where(k == 0, 0.0, centre - half)[()], np.where(k == n, 1.0, centre + half)[()]


def dirichlet_interval(counts: ArrayLike, statistic: Callable[[np.ndarray], np.ndarray], level: float = 0.95,
                       draws: int = 4000, seed: int = 0) -> tuple[float, float]:
    """Equal-tailed interval (low, high) of a statistic of the shares, by draws from Dirichlet(n_i + 1/2).

    counts [K]; `statistic` maps shares [draws, K] to [draws], e.g. `deviation_ratio` or
    `lambda p: kl_divergence(p, target)`. A distance from the target is above 0 in every draw, so its low end is too,
    even where the images fit the target: whether they do is `g_test`'s question. The same seed gives the same interval.
    Raises DebiasError for bad counts, a bad level and fewer than one draw.
    """
    counts = vector(counts)
    if draws < 1:
        raise DebiasError(f"Expected one draw or more, got {draws}. Use 4000, for example.")
    drawn = statistic(np.random.default_rng(seed).dirichlet(counts + 0.5, draws))
    tail = (1 - checked_level(level)) / 2
    # "nearest" never interpolates, which would make NaN of two infinite draws.
    low, high = np.quantile(drawn, (tail, 1 - tail), method="nearest")
    return float(low), float(high)


def g_test(counts: ArrayLike, t: ArrayLike) -> tuple[float, float]:
    """Likelihood-ratio test of the target: (G = 2N KL, p-value by chi-square with K - 1 degrees of freedom).

    counts [K], t [K]; a group with target 0 is no degree of freedom, and images in it give G = inf and p = 0.
    Raises DebiasError as `shares` and `kl_divergence` do.
    """
    counts = vector(counts)
    g = 2 * counts.sum() * kl_divergence(shares(counts), t)
    return float(g), _chi2_tail(_aimed(t).sum() - 1, g)


def correct_confusion(measured: ArrayLike, confusion: ArrayLike) -> np.ndarray:
    """Shares [K] of the true groups, from the measured ones and the judge's confusion matrix.

    measured [K], shares or counts; confusion [true, measured], row-stochastic or counts of images whose group is known.
    Maximum likelihood for m = p C on the simplex: the inverse where that lies on it, else EM of the multinomial mixture
    (as Richardson 1972 and Lucy 1974). Raises DebiasError for shapes that do not fit, a true group without images, and
    a matrix too close to singular to invert.
    """
    m = shares(vector(measured))
    c = np.asarray(confusion, dtype=np.float64)
    if c.shape != (len(m), len(m)):
        raise DebiasError(f"Expected a confusion matrix [{len(m)}, {len(m)}], true groups by measured ones, got "
                          f"{list(c.shape)}.")
    if not (np.isfinite(c) & (c >= 0)).all() or not (c.sum(1) > 0).all():
        raise DebiasError("Expected shares or counts, not all 0, in every row of a confusion matrix, got "
                          f"{c.tolist()}.")
    c = c / c.sum(1, keepdims=True)
    smallest = np.linalg.svd(c, compute_uv=False)[-1]
    if smallest < SMALLEST_SINGULAR_VALUE:
        raise DebiasError(f"Expected a judge that tells the groups apart, but the smallest singular value of its "
                          f"confusion matrix is {smallest:.2g}, below {SMALLEST_SINGULAR_VALUE}. Use another one, or "
                          f"merge the groups that it confuses.")
    p = np.linalg.solve(c.T, m)
    if p.min() >= 0:
        return p / p.sum()
    p = np.full(len(m), 1 / len(m))
    for _ in range(20_000):
        before, expected = p, p @ c
        p = p * (c @ (m / np.maximum(expected, np.finfo(float).tiny)))
        if np.abs(p - before).max() < 1e-12:
            break
    return p / p.sum()


def confusion_counts(confusion: ArrayLike) -> np.ndarray:
    """Dirichlet counts [true, measured] of a judge's confusion matrix: what was counted, and one image a row as a
    prior, half of it right. Raises DebiasError for what is no square of counts, or has a row without images."""
    c = np.asarray(confusion, np.float64)
    if c.ndim != 2 or c.shape[0] != c.shape[1] or len(c) < 2 or not (np.isfinite(c) & (c >= 0)).all():
        raise DebiasError(f"Expected a square of counts [true, measured], got {short(c.tolist())}.")
    if not (c.sum(1) > 0).all():
        raise DebiasError("A group of the judge's check has no image that was classified. Check it again, with "
                          "more images.")
    n = len(c)
    return c + 0.5 * np.eye(n) + 0.5 * (1 - np.eye(n)) / (n - 1)


def through(p: ArrayLike, confusion: ArrayLike) -> np.ndarray:
    """p C [..., K]: the shares that a judge measures where the true ones are p, by the means of its confusion matrix.
    """
    c = confusion_counts(confusion)
    return np.asarray(p, np.float64) @ (c / c.sum(1, keepdims=True))


def uncorrupted(measured: np.ndarray, confusion: ArrayLike, seed: int = 1) -> np.ndarray:
    """True shares [draws, K] for draws of the measured ones, m C^-1 with every row of C drawn from its posterior too;
    what falls off the simplex is put back on its edge."""
    chance, counts = np.random.default_rng(seed), confusion_counts(confusion)
    c = np.stack([chance.dirichlet(row, len(measured)) for row in counts], axis=1)  # [draws, true, measured]
    usable = np.linalg.svd(c, compute_uv=False)[:, -1] > SMALLEST_SINGULAR_VALUE / 5
    if not usable.any():
        raise DebiasError(NO_TELLING)
    c = np.where(usable[:, None, None], c, (counts / counts.sum(1, keepdims=True))[None])
    p = np.clip(np.linalg.solve(c.transpose(0, 2, 1), measured[..., None])[..., 0], 0, None)
    return p / p.sum(1, keepdims=True)


def corrected_shares(counts: ArrayLike, confusion: ArrayLike, level: float = 0.95, draws: int = 4000,
                     seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(shares [K], intervals [K, 2]) of the true groups: measured counts [K] corrected by the judge's confusion counts
    [true, measured]. The intervals hold both uncertainties, that of the images and that of the matrix.

    Raises DebiasError as `correct_confusion`.
    """
    counts = vector(counts)
    c = confusion_counts(confusion)
    best = correct_confusion(counts, c / c.sum(1, keepdims=True))
    tail = (1 - checked_level(level)) / 2
    # Neither holds everywhere: of even shares the first is a little too narrow, of uneven ones the second is far too
    # narrow on one side. The wider of both is right in both cases (tests/core/test_check.py).
    both = [np.quantile(drawn, (tail, 1 - tail), axis=0) for drawn in (
        _true_shares(np.round(counts).astype(int), c, draws, seed),
        uncorrupted(np.random.default_rng(seed).dirichlet(counts + 0.5, draws), confusion))]
    low, high = np.minimum(both[0][0], both[1][0]), np.maximum(both[0][1], both[1][1])
    low = np.where(low < 0.5 / counts.sum(), 0.0, low)  # less than half an image: there may be none at all
    return best, np.stack([np.minimum(low, best), np.maximum(high, best)], 1)


def _true_shares(counts: np.ndarray, confusion: np.ndarray, draws: int, seed: int, chains: int = 200, warm: int = 40
                 ) -> np.ndarray:
    """Draws [draws, K] from the posterior of the true shares p, by Gibbs sampling with the true group of every image
    as what is missing (Tanner and Wong 1987): given p and C, images that were measured as j are of group i with
    chances p_i C_ij; given those, p (prior 1/K a group, Perks 1947) and the rows of C are Dirichlet. Nothing falls off
    the simplex and has to be put back, as with m C^-1, whose intervals are too narrow where one of many groups has
    nearly all images.
    """
    chance, k = np.random.default_rng(seed), len(counts)
    c = np.stack([chance.dirichlet(row, chains) for row in confusion], axis=1)  # [chains, true, measured]
    # They begin at m C^-1, which is right where there are many images: there they barely move.
    measured = chance.dirichlet(counts + 0.5, chains)
    p = np.clip(np.linalg.solve(c.transpose(0, 2, 1) + 1e-9 * np.eye(k), measured[..., None])[..., 0], 1e-3, None)
    p = p / p.sum(1, keepdims=True)
    kept = []
    for step in range(warm + -(-draws // chains)):
        joint = p[:, :, None] * c + 1e-300
        z = np.stack([chance.multinomial(counts[j], joint[:, :, j] / joint[:, :, j].sum(1, keepdims=True))
                      for j in range(k)], axis=2)  # [chains, true, measured]
        p = _dirichlet(chance, z.sum(2) + 1 / k)
        c = _dirichlet(chance, z + confusion)
        if step >= warm:
            kept.append(p)
    return np.concatenate(kept)[:draws]


def _dirichlet(chance: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    """One draw for each row of counts [..., K]."""
    drawn = np.maximum(chance.standard_gamma(counts), 1e-300)
    return drawn / drawn.sum(-1, keepdims=True)


def _counts(counts: ArrayLike) -> np.ndarray:
    n = np.asarray(counts, dtype=np.float64)
    if n.ndim == 0 or n.shape[-1] == 0:
        raise DebiasError(f"Expected counts [..., K], one per group, got {short(counts)}.")
    if not (np.isfinite(n) & (n >= 0)).all():
        raise DebiasError(f"Expected finite counts of 0 or more, got {short(n.tolist())}.")
    if not (n.sum(-1) > 0).all():
        raise DebiasError(NO_IMAGES)
    return n


def vector(counts: ArrayLike) -> np.ndarray:
    n = _counts(counts)
    if n.ndim != 1:
        raise DebiasError(f"Expected the counts [K] of one set of images, got {list(n.shape)}.")
    return n


def _simplex(p: ArrayLike, name: str) -> np.ndarray:
    p = np.asarray(p, dtype=np.float64)
    if p.ndim == 0 or not (np.isfinite(p) & (p >= 0)).all() or not (np.abs(p.sum(-1) - 1) < 1e-4).all():
        raise DebiasError(f"{name} must be finite, not negative, and sum to 1, got {short(p.tolist())}.")
    return p


def pair(p: ArrayLike, t: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, t = _simplex(p, "Shares"), _simplex(t, "Target shares")
    if p.shape[-1] != t.shape[-1]:
        raise DebiasError(f"Expected a target share for each of {p.shape[-1]} groups, got {t.shape[-1]}.")
    return p, t


def _aimed(t: ArrayLike) -> np.ndarray:
    return np.asarray(t, dtype=np.float64) > 0


def checked_level(level: float) -> float:
    if not 0 < level < 1:
        raise DebiasError(f"Expected a level between 0 and 1, got {level}. 0.95 is the usual choice.")
    return level


def _chi2_tail(df: float, x: float) -> float:
    from scipy.special import chdtrc
    return float(x <= 0) if df == 0 else float(chdtrc(df, x))


def _chi2_quantile(df: float, level: float) -> float:
    from scipy.special import chdtri
    return 0.0 if df == 0 else float(chdtri(df, 1 - level))
