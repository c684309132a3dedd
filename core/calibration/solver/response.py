"""How shares answer to shift weights: p = softmax(b - A a), fitted to all rounds; our own design.

A [n, n] is a matrix and no slope, since pushing away from one group lands on its neighbours: of five skin tones, mostly
on the next ones. A = s (1 + E) with a scale s that the first round of pushes tells, and deviations E that further ones
tell. Priors: log s is normal around the log of what its direction showed on the demo model, with a spread that lets a
round overrule it; E is normal around 0; Dirichlet-1/2 pseudo-counts keep b finite where a group never appeared.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np
import torch
from torch import Tensor

# s: how much a weight of 1 changes the log-share of its group, and the standard deviation of its logarithm.
SLOPES, SPREAD = {"prompt": 3.0, "embedding": 0.7}, 1.0
TOWARD = 2.3              # of `embedding`, evaluated toward
DEVIATION = 0.3           # standard deviation of each entry of E
RIDGE = 0.0125            # of s: in directions in which A barely moves the shares, a step is short
FIRST_STEP = 0.7


@dataclass(frozen=True)
class Response:
    """The fit.

    b [n] centred, log-shares without weights; matrix A [n, n]; scale s
    guessed  was nothing pushed yet, so that s is the prior's?
    covariance  of (b, A) [n + n n], by Laplace's approximation: in these the log-shares are linear
    """
    b: np.ndarray
    matrix: np.ndarray
    scale: float
    guessed: bool
    covariance: np.ndarray

    def expected(self, weights: Sequence[float]) -> np.ndarray:
        """Shares [n] under weights a [n], by the fit itself."""
        p = np.exp(self.b - self.matrix @ np.asarray(weights))
        return p / p.sum()

    def shares(self, weights: Sequence[float], draws: int = 2000, seed: int = 0) -> np.ndarray:
        """Shares [draws, n] under weights a [n], drawn from the posterior."""
        b, matrix = self._drawn(draws, seed)
        log_p = b - matrix @ np.asarray(weights)
        p = np.exp(log_p - log_p.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True)

    def _drawn(self, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """b [draws, n] and A [draws, n, n] of the posterior."""
        n, mode = len(self.b), np.concatenate([self.b, self.matrix.ravel()])
        x = np.random.default_rng(seed).multivariate_normal(mode, self.covariance, draws, method="eigh")
        return x[:, :n], x[:, n:].reshape(-1, n, n)

    def safest(self, log_target: np.ndarray, start: np.ndarray, draws: int = 256) -> np.ndarray:
        """a [n], centred, of the least KL(p || t) on average over the posterior, sought from `start`: weights far from
        those that were tried are not trusted as those near them are."""
        with torch.inference_mode(False), torch.enable_grad():  # hosts call from within inference mode
            b, matrix = map(torch.from_numpy, self._drawn(draws, 0))
            log_t = torch.from_numpy(log_target)
            a = torch.from_numpy(np.array(start, float)).requires_grad_()
            optimizer = torch.optim.LBFGS([a], max_iter=60, line_search_fn="strong_wolfe")

            def closure() -> Tensor:
                optimizer.zero_grad()
                log_p = torch.log_softmax(b - matrix @ (a - a.mean()), 1)
                value = (log_p.exp() * (log_p - log_t)).sum(1).mean()
                value.backward()
                return value

            optimizer.step(closure)
            found = a.detach().numpy()
        return found - found.mean() if np.isfinite(found).all() else start

    def weights(self, log_target: np.ndarray, last: np.ndarray) -> np.ndarray:
        """a [n], centred, at which the shares are the target's, as far as A can tell: the step from the last weights
        a' that solves A (a - a') = b - A a' - log t on centred vectors, by least squares with a ridge. Where A barely
        moves the shares it is a part of the way, and the next step another. Of a guessed scale only a part as well,
        for overshooting is worse than a further round."""
        centre = np.eye(len(self.b)) - 1 / len(self.b)
        moved = centre @ self.matrix @ centre
        normal = moved.T @ moved + (RIDGE * self.scale) ** 2 * np.eye(len(self.b))
        step = centre @ np.linalg.solve(normal, moved.T @ centre @ (self.b - self.matrix @ last - log_target))
        return last + (FIRST_STEP * step if self.guessed else step)


def fit(weights: Sequence[Sequence[float]], counts: Sequence[np.ndarray], slope: float) -> Response:
    """Maximum a posteriori fit to rounds of weights a [n] and counts [n]; the first is the audit, with weights of 0.
    slope is the middle of the prior of s between two groups; of more, each weight is felt by more neighbours."""
    with torch.inference_mode(False), torch.enable_grad():  # hosts call from within inference mode
        a = torch.tensor(np.array(weights), dtype=torch.float64)
        c = torch.tensor(np.array(counts), dtype=torch.float64)
        n = a.shape[1]
        c = c + 0.5 / len(c)
        first = (c[0] / c[0].sum()).log()
        start = torch.tensor([float(np.log(slope * n / 2))], dtype=torch.float64)
        x = torch.cat([first - first.mean(), start, torch.zeros(n * n, dtype=torch.float64)]).requires_grad_()

        def loss(x: Tensor) -> Tensor:
            b, matrix = _parts(x, n)
            log_p = torch.log_softmax(b - a @ matrix.T, dim=1)
            prior = (x[n] - start[0]) ** 2 / (2 * SPREAD ** 2) + (x[n + 1:] ** 2).sum() / (2 * DEVIATION ** 2)
            return -(c * log_p).sum() + prior + b.mean() ** 2

        optimizer = torch.optim.LBFGS([x], max_iter=300, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss(x)
            value.backward()
            return value

        optimizer.step(closure)
        found = x.detach()
        b, matrix = _parts(found, n)
        b, scale, even = b - b.mean(), float(found[n].exp()), torch.eye(n, dtype=torch.float64).flatten()

        def surprise(y: Tensor) -> Tensor:
            return -(c * torch.log_softmax(y[:n] - a @ y[n:].reshape(n, n).T, dim=1)).sum()

        known = torch.autograd.functional.hessian(surprise, torch.cat([b, matrix.flatten()]))
        prior = scale ** 2 * (DEVIATION ** 2 * torch.eye(n * n, dtype=torch.float64)
                              + SPREAD ** 2 * torch.outer(even, even))
        known[:n, :n] += 1e-2  # only differences of b count
        known[n:, n:] += torch.linalg.inv(prior)
        covariance = torch.linalg.pinv(known, hermitian=True)
    return Response(b.numpy(), matrix.numpy(), scale, not a.any(), covariance.numpy())


def _parts(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """b [n] and A [n, n] of the parameters (b, log s, E)."""
    return x[:n], x[n].exp() * (torch.eye(n, dtype=x.dtype) + x[n + 1:].reshape(n, n))
