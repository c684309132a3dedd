"""Two published methods that change a prompt's embedding: Embedding Arithmetic and FairImagen.

Both are written from their papers and public code; settings are theirs unless said.
"""
from __future__ import annotations

import functools
import itertools
from typing import Callable

import numpy as np
import torch
from peers_common import FRAMES, OTHERS, drawn, embedded, pictures, text
from torch import Tensor

from sd_debias.core.attribute import GENDER, SKIN_TONE_5, Attribute

ALPHA = 1.25
# Ten as theirs, none of them tested; all are one token, so that what stands behind them stands at the same places.
BASE = ("scientist", "cook", "artist", "student", "singer", "astronaut", "firefighter", "judge", "pilot", "guard")
NOISE = 0.6
KEPT = 1800 / 2048  # share of the embedding's dimensions


def embedding_arithmetic(prompt: str, attribute: Attribute):
    """Embedding Arithmetic (Thirugnana Sambandham and Schön 2026, arXiv 2604.18167;
    github.com/cvims/EMBEDDING-ARITHMETIC).

        c' = c + 1.25 d_g,   d_g = mean over ten professions of c("profession, group") - c("profession")

    Theirs: the strength, ten professions that are not tested, texts that begin with "a ... portrait of", a group for
    each image. No gate: prompts that name a group are changed too.

    Otherwise here: they change the pooled embedding of FLUX.1-dev and give it empty tokens. This model reads tokens
    alone, so d is taken place by place, from where the profession's text ends. They put the group's word before the
    profession, which would move the profession by a place; here it stands behind it, as this model knows it too. A
    image's group is in a fixed list of theirs; here it comes from our draw, so that all peers send an image to the
    same one.
    """
    directions = arithmetic_directions(attribute)

    def generate(seeds, asked=prompt):
        (c,), (end,) = embedded([asked])
        changed = c.repeat(len(directions), 1, 1)
        changed[:, end:] += ALPHA * directions[:, :len(c) - end]
        chosen = drawn(attribute, seeds)
        return pictures(seeds, lambda part: dict(prompt_embeds=changed[chosen[part]]))
    return generate, 0


def arithmetic_directions(attribute: Attribute) -> Tensor:
    """d of each group [K, L', D], from where the professions' texts end."""
    plain, ends = embedded([text("a portrait of {}", name) for name in BASE])
    assert len(set(ends)) == 1
    named = [embedded([text("a portrait of {}", name, group.texts[0]) for name in BASE])[0]
             for group in attribute.groups]
    return torch.stack([(own - plain).mean(0) for own in named])[:, ends[0]:]


def fairimagen(noise: float = NOISE) -> Callable:
    """FairImagen (Fu, Brown, Shao, Rawal, Delaney and Russell 2025, arXiv 2510.21363;
    github.com/fuzihaofzh/FairImagen).

    X [n, D] are embeddings of texts that name a group, z_i [n] is 1 where a text names group i. Every token becomes

        c' = c P + s^2 <n_g, x> n_g,   n_i = v / |v| with v = (z_i - its mean)^T X,   P = U U^T

    with U the k leading eigenvectors of X^T X among the vectors orthogonal to all n_i: Fair PCA (Kleindessner et al.
    2023). g is a group drawn for each image and x one of that group's texts, drawn too: their "empirical noise".

    Theirs: s = .6, squared as in their code; k as a share, 1800 of 2048 dimensions; X not centred; texts of occupations
    crossed with other groups, sorted by the attribute; the empty prompt stays as it is, as with SDXL. No gate: prompts
    that name a group are changed too.

    Otherwise here: their X are pooled embeddings after a projection. This model has none, so X are the embeddings at
    the texts' ends, which live in the tokens' own space. They have 2,268 texts; here 640 name one of 16 occupations
    that are not tested, a gender and a tone. The group comes from our draw, so that all peers send an image to the
    same one.
    """
    def prepare(prompt: str, attribute: Attribute):
        projection, directions, parts = fair_directions(attribute)

        def generate(seeds, asked=prompt):
            chosen = drawn(attribute, seeds)
            texts = [np.random.default_rng(seed).integers(len(parts[g])) for g, seed in zip(chosen, seeds)]
            own = torch.stack([parts[g][i] for g, i in zip(chosen, texts)])
            added = noise ** 2 * own[:, None] * directions[chosen]
            c, _ = embedded([asked])
            return pictures(seeds, lambda part: dict(prompt_embeds=c @ projection + added[part, None]))
        return generate, 0
    return prepare


@functools.cache
def fair_directions(attribute: Attribute) -> tuple[Tensor, Tensor, list[Tensor]]:
    """P [D, D], n [K, D], and for each group <n, x> of all its texts x."""
    every = list(itertools.product(FRAMES, OTHERS, GENDER.groups, SKIN_TONE_5.groups))
    c, ends = embedded([text(frame, name, *(group.texts[0] for group in groups)) for frame, name, *groups in every])
    x = c[torch.arange(len(c)), ends]
    of = torch.tensor([next(i for i, group in enumerate(attribute.groups) if group in named) for _, _, *named in every])
    projection, directions = fair_pca(x, of, round(KEPT * x.shape[1]))
    return projection, directions, [x[of == i] @ n for i, n in enumerate(directions)]


def fair_pca(x: Tensor, of: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """P [D, D] and n [K, D] from embeddings x [n, D], whose groups' numbers are `of` [n]."""
    x = x.double()
    z = torch.nn.functional.one_hot(of).double()
    v = (z - z.mean(0)).T @ x
    _, sizes, axes = torch.linalg.svd(v)
    free = axes[int((sizes > 1e-9 * sizes[0]).sum()):].T  # orthogonal to all of them
    _, leading = torch.linalg.eigh(free.T @ x.T @ x @ free)
    u = free @ leading[:, -k:]
    return (u @ u.T).float(), torch.nn.functional.normalize(v, dim=1).float()
