"""Settle the trained model's neutral shares on the bias table by moving one token embedding an occupation.

Training meets the table only as far as its own noise allows, and each further training adds as much again. A token's
embedding is the opposite: it moves the shares of its own occupation alone, along directions that are known (the
gradients of each group's likelihood), and what comes out can be measured as exactly as one likes.
"""
from __future__ import annotations

import itertools
from typing import Callable

import numpy as np
import torch
from torch import Tensor

from . import architecture, artwork, bias, captions

# Beyond this distance (an embedding's norm is about 0.5) the gradients no longer tell what a step does.
LARGEST_STEP = 0.12
# Guidance makes log-odds answer more strongly than the likelihood alone (measured).
RESPONSE = 1.3


def likelihood_gradients(mean: Tensor, std: Tensor, network, tokens: Callable, subject: str, draws: int = 4,
                         batch: int = 96) -> Tensor:
    """d log p(group | neutral prompt) / d embedding of the subject's first token: [2 + 5, D], centred by attribute.

    By the evidence bound, -1/2 integral of |noise - eps|^2 over the log signal-to-noise ratio (Kingma et al. 2021), on
    the artwork's latents mean, std [420, 4, 8, 8]. Timesteps and noise are common to all groups, which are compared.
    """
    alphas = architecture.scheduler().alphas_cumprod
    log_snr = torch.log(alphas / (1 - alphas))
    table = network["text"].get_input_embeddings().weight
    ids = tokens([captions.prompt(subject)])
    row = first_token(tokens, subject)
    shape = len(artwork.GENDERS), len(artwork.TONES)
    found = torch.zeros(*shape, table.shape[1])
    for draw in range(draws):
        torch.manual_seed(1000 * artwork.SUBJECTS.index(subject) + draw)
        # Below t = 200 a picture's groups are plain to see and the text adds nothing.
        even = (torch.arange(batch // 2) + torch.rand(batch // 2)) / (batch // 2)
        t = (200 + 799 * even).long().repeat(2)
        weight = 799 * (log_snr[t - 1] - log_snr[t])
        a = alphas[t].view(-1, 1, 1, 1)
        noise, spread = torch.randn(batch, *mean.shape[1:]), torch.randn(batch, *mean.shape[1:])
        for g, k in itertools.product(*map(range, shape)):
            shown = [i for i, label in enumerate(artwork.LABELS) if (label.subject, label.gender, label.tone) ==
                     (subject, tuple(artwork.GENDERS)[g], tuple(artwork.TONES)[k])]
            pick = torch.tensor(shown).repeat_interleave(batch // 2)
            z = mean[pick] + std[pick] * spread
            hidden = network["text"](input_ids=ids).last_hidden_state.expand(batch, -1, -1)
            predicted = network["unet"](a.sqrt() * z + (1 - a).sqrt() * noise, t, hidden).sample
            log_p = -0.5 * (weight * (predicted - noise).square().flatten(1).sum(1)).mean()
            found[g, k] += torch.autograd.grad(log_p, table)[0][row] / draws
    return torch.cat([found.mean(1), found.mean(0)]) - found.mean((0, 1))


def first_token(tokens: Callable, subject: str) -> int:
    """Its row in the table of embeddings; no two occupations share theirs."""
    return tokens.tokenizer(subject).input_ids[1]


def step(gradients: Tensor, counts: list[np.ndarray], subject: str) -> Tensor:
    """The shortest move [D] that takes the counted shares to the bias table, as far as `LARGEST_STEP` allows."""
    wanted = []
    for counted, share in zip(counts, bias.shares(subject)):
        off = np.log(share) - np.log(counted + 0.5)
        wanted.append(off - off.mean())
    j = gradients.double()
    gram = j @ j.T
    ridge = 0.01 * torch.linalg.matrix_norm(gram, 2) * torch.eye(len(j), dtype=j.dtype)
    move = j.T @ torch.linalg.solve(gram + ridge, torch.from_numpy(np.concatenate(wanted)) / RESPONSE)
    return (move * min(1.0, LARGEST_STEP / float(move.norm()))).float()


def farthest(counts: list[np.ndarray], subject: str) -> float:
    """Largest distance of a share from the bias table."""
    return max(float(np.abs(counted / counted.sum() - share).max())
               for counted, share in zip(counts, bias.shares(subject)))


def settle(mean: Tensor, std: Tensor, network, tokens: Callable, count: Callable, rounds: int = 6,
           near: float = 0.03) -> None:
    """Measure and move, in turn, the token of every occupation whose shares are farther than `near` from its table.

    count(subjects) -> {subject: [counts of genders, counts of tones]} of their neutral prompts, fresh seeds each time.
    A move that made things worse is taken back by half; the nearest place that was measured is kept.
    """
    network.eval().requires_grad_(False)
    table = network["text"].get_input_embeddings().weight.requires_grad_(True)
    best, moves, moving = {}, {}, list(artwork.OCCUPATIONS)
    for number in range(rounds):
        counted, left = count(moving), []
        for subject in moving:
            row, distance = first_token(tokens, subject), farthest(counted[subject], subject)
            if subject not in best or distance < best[subject][0]:
                best[subject] = distance, table[row].detach().clone()
                if distance <= near:
                    continue
                moves[subject] = step(likelihood_gradients(mean, std, network, tokens, subject), counted[subject],
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
            table[first_token(tokens, subject)] = embedding
    table.requires_grad_(False)
