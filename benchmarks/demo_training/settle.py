"""Settle the trained model's neutral shares on the bias table by moving one token embedding an occupation.

Training meets the table only as far as its own noise allows, and each further training adds as much again. A token's
embedding is the opposite: it moves the shares of its own occupation alone, along directions that are known (the
gradients of each group's likelihood), and what comes out can be measured as exactly as one likes.

The weights in the package went through several such runs. For some tokens the mean of two measured places was taken;
for some the shares' answer along the gradients was measured on the same seeds, and solved for. For "office worker" and
"judge", whose tones these gradients missed, the shares were differentiated through the whole sampler instead.
"""
from __future__ import annotations

from typing import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from demo_training import architecture, artwork, bias, captions

# Beyond this distance (an embedding's norm is about 0.5) the gradients no longer tell what a step does.
LARGEST_STEP = 0.12
# Guidance makes log-odds answer more strongly than the likelihood alone (measured).
RESPONSE = 1.3
# What a nat toward another occupation costs, against a nat of a group's log-odds that is missed.
ANOTHER_OCCUPATION = 0.05
# A share of pictures of another occupation is as bad as a share this many times as far off the table.
WRONG = 4


class Likelihoods:
    """Gradients of the log-likelihood of pictures by one token's embedding, by the evidence bound (Kingma et al. 2021):
    log p = -1/2 integral of |noise - eps|^2 over the log signal-to-noise ratio.

    mean, std are the artwork's latents [420, 4, 8, 8]. Noise and timesteps are the same for all pictures of one subject
    and draw, whose likelihoods are compared.
    """

    def __init__(self, mean: Tensor, std: Tensor, network, tokens: Callable, batch: int = 96):
        self.mean, self.std, self.network, self.tokens, self.batch = mean, std, network, tokens, batch
        self.alphas = architecture.scheduler().alphas_cumprod
        self.log_snr = torch.log(self.alphas / (1 - self.alphas))

    def gradient(self, subject: str, shown: Sequence[int], seed: int) -> Tensor:
        """d log p(pictures `shown` | neutral prompt) / d embedding of the subject's first token, [D]."""
        torch.manual_seed(seed)
        # Below t = 200 a picture's groups are plain to see and the text adds nothing.
        t = (200 + 799 * (torch.arange(self.batch) + torch.rand(self.batch)) / self.batch).long()
        weight, a = 799 * (self.log_snr[t - 1] - self.log_snr[t]), self.alphas[t].view(-1, 1, 1, 1)
        noise, spread = torch.randn(2, self.batch, *self.mean.shape[1:])
        pick = torch.tensor(shown).repeat(-(-self.batch // len(shown)))[:self.batch]
        z = self.mean[pick] + self.std[pick] * spread
        ids = self.tokens([captions.prompt(subject)])
        hidden = self.network["text"](input_ids=ids).last_hidden_state.expand(self.batch, -1, -1)
        predicted = self.network["unet"](a.sqrt() * z + (1 - a).sqrt() * noise, t, hidden).sample
        log_p = -0.5 * (weight * (predicted - noise).square().flatten(1).sum(1)).mean()
        table = self.network["text"].get_input_embeddings().weight
        return torch.autograd.grad(log_p, table)[0][first_token(self.tokens, subject)]

    def of_groups(self, subject: str, draws: int = 4) -> Tensor:
        """[2 + 5, D], genders and tones, each less its attribute's mean."""
        found = torch.stack([torch.stack([torch.stack([
            self.gradient(subject, _pictures(subject, gender, tone), draw) for draw in range(draws)]).mean(0)
            for tone in artwork.TONES]) for gender in artwork.GENDERS])
        return torch.cat([found.mean(1), found.mean(0)]) - found.mean((0, 1))

    def of_others(self, subject: str) -> Tensor:
        """[20, D], every other subject's pictures less the subject's own."""
        every = torch.stack([self.gradient(subject, _pictures(other), 0) for other in artwork.SUBJECTS])
        own = artwork.SUBJECTS.index(subject)
        return torch.cat([every[:own], every[own + 1:]]) - every[own]


def _pictures(subject: str, gender: str | None = None, tone: str | None = None) -> list[int]:
    return [i for i, label in enumerate(artwork.LABELS) if label.subject == subject
            and gender in (None, label.gender) and tone in (None, label.tone)]


def first_token(tokens: Callable, subject: str) -> int:
    """Its row in the table of embeddings; no two occupations share theirs."""
    return tokens.tokenizer(subject).input_ids[1]


def step(groups: Tensor, others: Tensor, counts: Sequence[np.ndarray], subject: str) -> Tensor:
    """The shortest move [D] that takes the counted shares to the bias table and leaves the occupation what it is, as
    far as `LARGEST_STEP` allows."""
    wanted = []
    for counted, share in zip(counts, bias.shares(subject)):
        off = np.log(share) - np.log(counted + 0.5)
        wanted.append(off - off.mean())
    j, b = groups.double(), ANOTHER_OCCUPATION * others.double()
    normal = j.T @ j + b.T @ b + 0.01 * torch.linalg.matrix_norm(j @ j.T, 2) * torch.eye(j.shape[1], dtype=j.dtype)
    move = torch.linalg.solve(normal, j.T @ torch.from_numpy(np.concatenate(wanted)) / RESPONSE)
    return (move * min(1.0, LARGEST_STEP / float(move.norm()))).float()


def farthest(counts: Sequence[np.ndarray], subject: str) -> float:
    """Largest distance of a share of genders or tones from the bias table, or `WRONG` times the share of pictures of
    another occupation. counts: by gender, by tone, and of pictures with the wrong and the right occupation."""
    off = max(float(np.abs(counted / counted.sum() - share).max())
              for counted, share in zip(counts, bias.shares(subject)))
    return max(off, WRONG * float(counts[2][0] / counts[2].sum()))


def settle(likelihoods: Likelihoods, count: Callable, rounds: int = 6, near: float = 0.03) -> None:
    """Measure and move, in turn, the token of every occupation whose shares are farther than `near` from its table.

    count(subjects) -> {subject: counts as in `farthest`} of their neutral prompts, fresh seeds each time. A move that
    made things worse is taken back by half; the nearest place that was measured is kept.
    """
    network = likelihoods.network.eval().requires_grad_(False)
    table = network["text"].get_input_embeddings().weight.requires_grad_(True)
    best, moves, moving = {}, {}, list(artwork.OCCUPATIONS)
    for number in range(rounds):
        counted, left = count(moving), []
        for subject in moving:
            row, distance = first_token(likelihoods.tokens, subject), farthest(counted[subject], subject)
            if subject not in best or distance < best[subject][0]:
                best[subject] = distance, table[row].detach().clone()
                if distance <= near:
                    continue
                moves[subject] = step(likelihoods.of_groups(subject), likelihoods.of_others(subject), counted[subject],
                                      subject)
            else:
                moves[subject] = moves[subject] / 2
            left.append(subject)
            with torch.no_grad():
                table[row] = best[subject][1] + moves[subject]
        moving = left
        print(f"settling, round {number + 1}: {len(moving)} occupations left", flush=True)
    with torch.no_grad():
        for subject, (_, embedding) in best.items():
            table[first_token(likelihoods.tokens, subject)] = embedding
    table.requires_grad_(False)
