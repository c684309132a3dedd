"""EquiSteer, which steers the outputs of cross-attention. Written anew from its paper and public code; settings are theirs
unless said."""
from __future__ import annotations

import functools
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable, Sequence

import harness
import numpy as np
import torch
from harness import FIRST_SEED
from peers_common import FRAMES, OTHERS, drawn, pictures
from torch import Tensor

from sd_debias.core.attribute import GENDER, Attribute
from sd_debias.demo_model.subjects import article

MEASURED = 25  # pictures of each text that thresholds and magnitudes are measured on
EPS = 1e-6


@dataclass(frozen=True)
class Learnt:
    """What a model's pictures tell about an attribute of K groups, by layer, or by step and layer.

    directions  s, unit vectors [K, D]
    thresholds  [K], in the first step
    magnitudes  [K]
    gate        the layer that decides
    images      pictures that were made for it
    """
    directions: list[Tensor]
    thresholds: list[Tensor]
    magnitudes: dict[tuple[int, int], Tensor]
    gate: int
    images: int


@contextmanager
def watched(act: Callable[[int, int, Tensor], Tensor]):
    """act(step, layer, output) stands in for every cross-attention's output [B, tokens, D] in the rows of the prompt.
    Layers are numbered as they run."""
    unet, steps, calls = harness.bench.pipe.unet, harness.bench.setting["steps"], []
    places = ("down_blocks", "mid_block", "up_blocks")
    layers = sorted(((places.index(name.split(".")[0]), module) for name, module in unet.named_modules()
                     if name.endswith("attn2")), key=lambda found: found[0])

    def hook(layer):
        def changed(module, given, output):
            empty, own = output.chunk(2)
            return torch.cat([empty, act((len(calls) - 1) % steps, layer, own)])
        return changed

    hooks = [unet.register_forward_pre_hook(lambda *_: calls.append(1))]
    hooks += [module.register_forward_hook(hook(i)) for i, (_, module) in enumerate(layers)]
    try:
        yield len(layers)
    finally:
        for own in hooks:
            own.remove()


def steered(ca: Tensor, directions: Tensor, added: Tensor) -> Tensor:
    """Outputs ca [B, tokens, D] without what lies in the directions' span, plus added [B, D], at their former length."""
    _, sizes, axes = torch.linalg.svd(directions, full_matrices=False)
    span = axes[sizes > 1e-6 * sizes[0]]
    changed = ca - ca @ span.T @ span + added[:, None]
    return changed / (changed.norm(dim=-1, keepdim=True) + EPS) * ca.norm(dim=-1, keepdim=True)


def equisteer(last: float = 1.0):
    """EquiSteer (Gaintseva, Achara, Slabaugh, Deng and Elezi 2026, arXiv 2607.01147; github.com/Atmyre/EquiSteer)."""
    def prepare(prompt: str, attribute: Attribute):
        learnt = learn(attribute)
        steps = last * harness.bench.setting["steps"]

        def generate(seeds, asked=prompt):
            chosen = torch.as_tensor(drawn(attribute, seeds))
            now = {}

            def call(part):
                now.update(group=chosen[part], free=None)
                return dict(prompt=[asked] * len(part))

            def act(step, layer, ca):
                s = learnt.directions[layer]
                if step == 0 and layer == learnt.gate:
                    now["free"] = ((ca @ s.T).amax(1) <= learnt.thresholds[layer]).all(1)
                if now["free"] is None or step >= steps:
                    return ca
                own = now["group"]
                changed = steered(ca, s, s[own] * learnt.magnitudes[step, layer][own, None])
                return torch.where(now["free"][:, None, None], changed, ca)

            with watched(act):
                return pictures(seeds, call)
        return generate, learnt.images
    return prepare


@functools.cache
def learn(attribute: Attribute) -> Learnt:
    """Directions, thresholds, magnitudes and the gate's layer, from pictures of texts that are not tested."""
    scenes = [(frame.format(article(name))) for frame in FRAMES for name in OTHERS]
    named = [[f"{scene}, {group.texts[0]}" for scene in scenes] for group in attribute.groups]
    contrast = named[::-1] if len(named) == 2 else [scenes] * len(named)
    means = {texts: mean_outputs(texts) for texts in map(tuple, [*named, *contrast])}
    directions = [torch.nn.functional.normalize(torch.stack([means[tuple(own)][layer] - means[tuple(other)][layer]
                                                             for own, other in zip(named, contrast)]), dim=1)
                  for layer in range(len(next(iter(means.values()))))]

    shown = [f"a photo of {subject}" for subject in (("a cook", "a student") if attribute.name == GENDER.name else
                                                     ("a man", "a woman")) for _ in range(MEASURED)]
    neutral = responses(shown, directions)
    explicit = [responses([f"{own}, {group.texts[0]}" for own in shown], directions) for group in attribute.groups]
    magnitudes = {at: torch.stack([own[at][:, g].mean() for g, own in enumerate(explicit)]) for at in neutral}
    thresholds = [(magnitudes[0, layer] + neutral[0, layer].mean(0)) / 2 for layer in range(len(directions))]
    apart = []
    for layer, threshold in enumerate(thresholds):
        over = [(own[0, layer] - threshold).amax(1) for own in (neutral, *explicit)]
        apart.append(float((torch.cat(over[1:])[:, None] > over[0]).float().mean()))
    return Learnt(directions, thresholds, magnitudes, int(np.argmax(apart)),
                  len(means) * len(scenes) + (1 + len(named)) * len(shown))


def mean_outputs(texts: Sequence[str]) -> list[Tensor]:
    """By layer, the mean over texts and places of what cross-attention gives in the first step, [D]."""
    sums = {}

    def add(step, layer, ca):
        if step == 0:
            sums[layer] = sums.get(layer, 0) + ca.mean(1).sum(0)
        return ca

    with watched(add):
        pictures(range(FIRST_SEED, FIRST_SEED + len(texts)), lambda part: dict(prompt=[texts[i] for i in part]))
    return [sums[layer] / len(texts) for layer in sorted(sums)]


def responses(texts: Sequence[str], directions: Sequence[Tensor]) -> dict[tuple[int, int], Tensor]:
    """By step and layer, the largest response to each direction in each picture, [N, K]."""
    found = {}

    def add(step, layer, ca):
        found.setdefault((step, layer), []).append((ca @ directions[layer].T).amax(1))
        return ca

    with watched(add):
        pictures(range(FIRST_SEED, FIRST_SEED + len(texts)), lambda part: dict(prompt=[texts[i] for i in part]))
    return {at: torch.cat(parts) for at, parts in found.items()}
