"""Two published methods that change a prompt's embedding: Embedding Arithmetic and FairImagen.

Both are written anew from their papers and public code; settings are theirs unless said.
"""
from __future__ import annotations

import functools
import itertools

import numpy as np
import torch
from peers_common import FRAMES, OTHERS, drawn, embedded, pictures, text
from torch import Tensor

from sd_debias.core.attribute import GENDER, SKIN_TONE_5, Attribute

ALPHA = 1.25
# Ten, as theirs, none of them tested; all are one token, so that what stands behind them stands at the same places.
BASE = ("scientist", "cook", "artist", "student", "singer", "astronaut", "firefighter", "judge", "pilot", "guard")
NOISE = 0.6
KEPT = 1800 / 2048  # share of the embedding's dimensions


def embedding_arithmetic(prompt: str, attribute: Attribute):
    """Embedding Arithmetic (Thirugnana Sambandham and Schön 2026, arXiv 2604.18167; github.com/cvims/EMBEDDING-ARITHMETIC).

        c' = c + 1.25 d_g,   d_g = mean over ten professions of c("profession, group") - c("profession")

    Theirs: the strength 1.25, ten professions that are not tested, "a portrait of" in the texts of d, a target group for
    each picture (from a fixed list there, from our draw here, so that all peers send a picture to the same group). No
    gate: prompts that name a group are changed too.

    Otherwise here: they change the pooled embedding of FLUX.1-dev and leave its tokens empty; this model reads tokens
    alone, so d is taken place by place, from where the profession's text ends. They put the group's word before the
    profession, which would move the profession by a place; here it stands behind, where this model knows it too.
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
    named = [embedded([text("a portrait of {}", name, group.texts[0]) for name in BASE])[0] for group in attribute.groups]
    return torch.stack([(own - plain).mean(0) for own in named])[:, ends[0]:]


def fairimagen(noise: float = NOISE, kept: float = KEPT):
    """FairImagen (Fu, Brown, Shao, Rawal, Delaney and Russell 2025, arXiv 2510.21363; github.com/fuzihaofzh/FairImagen).

        c' = c P + s^2 (n_g . x) n_g      for every token, with
        n_g proportional to (z_g - mean z_g)^T X, of length 1;   P = U U^T, U the k leading eigenvectors of X^T X in
        the space orthogonal to all n_g (Fair PCA, Kleindessner et al. 2023)

    X [n, D] are embeddings of texts that name a group, z_g [n] says which name group g. A picture's g is drawn, x is one
    of that group's texts, drawn too: "empirical noise", s = .6.

    Theirs: s = .6, applied twice as in their code; k = 1800 of 2048 dimensions, here the same share of 56; X not centred;
    texts of occupations crossed with other groups, sorted by the attribute; the empty prompt stays as it is, as in their
    pipeline for SDXL. No gate: prompts that name a group are changed too.

    Otherwise here: their X are pooled embeddings after a projection; this model has none, so X are embeddings at the end
    of the text, which live in the tokens' own space. 640 texts of 16 occupations that are not tested, where they have
    2,268; these name gender and tone. The group comes from our draw, so that all peers send a picture to the same one.
    """
    def prepare(prompt, attribute):
        projection, directions, projected = fair_projection(attribute, kept)

        def generate(seeds, asked=prompt):
            chosen = drawn(attribute, seeds)
            own = [projected[g][np.random.default_rng(seed).integers(len(projected[g]))] for g, seed in zip(chosen, seeds)]
            change = noise ** 2 * torch.stack(own)[:, None] * directions[chosen]
            (c,), _ = embedded([asked])
            return pictures(seeds, lambda part: dict(prompt_embeds=c @ projection + change[part, None]))
        return generate, 0
    return prepare


@functools.cache
def fair_projection(attribute: Attribute, kept: float) -> tuple[Tensor, Tensor, list[Tensor]]:
    """P [D, D], n [K, D], and for each group the n_g . x of its texts."""
    names = [(name, *groups) for name in OTHERS for groups in itertools.product(GENDER.groups, SKIN_TONE_5.groups)]
    c, ends = embedded([text(frame, name, *(group.texts[0] for group in groups))
                        for frame in FRAMES for name, *groups in names])
    x = c[torch.arange(len(c)), ends]
    of = torch.tensor([next(i for i, group in enumerate(attribute.groups) if group in groups) for _, *groups in names]
                      * len(FRAMES))
    projection, directions = fair_pca(x, of, round(kept * x.shape[1]))
    return projection, directions, [x[of == g] @ n for g, n in enumerate(directions)]


def fair_pca(x: Tensor, of: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """P [D, D] and n [K, D] of embeddings x [n, D], whose groups are `of` [n]."""
    x = x.double()
    z = torch.nn.functional.one_hot(of).double()
    means = (z - z.mean(0)).T @ x
    _, sizes, axes = torch.linalg.svd(means)
    free = axes[int((sizes > 1e-9 * sizes[0]).sum()):].T  # orthogonal to all of them
    _, leading = torch.linalg.eigh(free.T @ x.T @ x @ free)
    u = free @ leading[:, -k:]
    return (u @ u.T).float(), (means / means.norm(dim=1, keepdim=True)).float()
