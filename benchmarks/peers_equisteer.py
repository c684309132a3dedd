"""EquiSteer, a published method that steers what cross-attention gives. It is written anew from its paper and public
code; settings are theirs unless said.
"""
from __future__ import annotations

import functools
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable, Iterator, Sequence

import harness
import torch
from peers_common import FRAMES, OTHERS, drawn, pictures, text
from torch import Tensor
from torch.nn.functional import normalize

from sd_debias.core.attribute import GENDER, Attribute

MEASURED = 25  # images of each text that thresholds and lengths are measured on
SHOWN = ("a cook", "a student")  # of gender; of other attributes a man and a woman


@dataclass(frozen=True)
class Learnt:
    """What a model's own images tell about an attribute of K groups.

    directions  s by layer, unit vectors [K, D]
    lengths     alpha by (step, layer), [K]
    thresholds  t by layer, of the first step, [K]
    gate        the layer that decides
    images      images that were made to learn it
    """
    directions: list[Tensor]
    lengths: dict[tuple[int, int], Tensor]
    thresholds: list[Tensor]
    gate: int
    images: int


def equisteer(prompt: str, attribute: Attribute):
    """EquiSteer (Gaintseva, Achara, Slabaugh, Deng and Elezi 2026, arXiv 2607.01147; github.com/Atmyre/EquiSteer).

    x are a cross-attention's outputs at the places of an image. For each group i and layer:

        s_i = u / |u|,  u = mean x under texts that name i - mean x under texts that do not, in the first step
        r_i = max of <x, s_i> over the places
        t_i = midpoint of the mean r_i under texts that name i and under those that do not
        alpha_i = mean r_i under texts that name i, in each step

    Gate: in the first step, one layer decides. A prompt is taken to name a group where r_i > t_i for any i in its
    image there, and the image is left alone. Any other has a group g drawn, and from that layer on, in every layer
    and step,

        x' = x - (projection of x on the span of all s) + alpha_g s_g,   brought back to the length of x

    Theirs: all of this; directions of the first step in every step; of two groups, each is set against the other, of
    more, against texts that name none; r is measured on two occupations for gender, on "a man" and "a woman" for other
    attributes; alpha as in the paper (their code takes t for it unless told otherwise); all steps, as with SDXL and
    SANA (the first 20 of 50 with Stable Diffusion 1.5 and 2.1); the rows of the empty prompt stay as they are.

    Otherwise here: the texts are those that this model knows, 16 occupations that are not tested in four frames, which
    are 64 pairs where they have 126 or 210. Each pair has a seed of its own, where they use one for all. The directions
    come from the model itself, where they take a distilled one's for the large models. They chose the gate's layer by
    hand; here it is the one that best tells the measured images apart. Their code does not say how many images they
    measure r on: here 25 of each text. The group comes from our draw, so that all peers send an image to the same one.
    """
    learnt = learn(attribute)

    def generate(seeds, asked=prompt):
        chosen = torch.as_tensor(drawn(attribute, seeds))
        group = free = None

        def call(part):
            nonlocal group, free
            group, free = chosen[part], None
            return dict(prompt=[asked] * len(part))

        def act(step, layer, x):
            nonlocal free
            s = learnt.directions[layer]
            if (step, layer) == (0, learnt.gate):
                free = ~over(x, s, learnt.thresholds[layer])
            if free is None:
                return x
            changed = steered(x, s, learnt.lengths[step, layer][group, None] * s[group])
            return torch.where(free[:, None, None], changed, x)

        with watched(act):
            return pictures(seeds, call)
    return generate, learnt.images


def over(x: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """Which images name a group [B], by outputs [B, places, D], directions [K, D] and thresholds [K]."""
    return (response(x, s) > t).any(1)


def response(x: Tensor, s: Tensor) -> Tensor:
    """r [B, K] of outputs [B, places, D] to directions [K, D]."""
    return (x @ s.T).amax(1)


def steered(x: Tensor, s: Tensor, added: Tensor) -> Tensor:
    """x' [B, places, D] of outputs x, directions s [K, D] and what is added, [B, D]."""
    _, sizes, axes = torch.linalg.svd(s, full_matrices=False)
    span = axes[sizes > 1e-6 * sizes[0]]  # two groups set against each other have one direction
    changed = x - x @ span.T @ span + added[:, None]
    return normalize(changed, dim=-1) * x.norm(dim=-1, keepdim=True)


@functools.cache
def learn(attribute: Attribute) -> Learnt:
    """Directions, lengths, thresholds and the gate's layer, from images of texts that are not tested."""
    words = [group.texts[0] for group in attribute.groups]
    scenes = [(frame, name) for frame in FRAMES for name in OTHERS]
    own = [mean_outputs([text(*scene, word) for scene in scenes]) for word in words]
    other = own[::-1] if len(own) == 2 else [mean_outputs([text(*scene) for scene in scenes])] * len(own)
    directions = [normalize(torch.stack([a[layer] - b[layer] for a, b in zip(own, other)]), dim=1)
                  for layer in range(len(own[0]))]

    subjects = SHOWN if attribute.name == GENDER.name else ("a man", "a woman")
    shown = [f"a photo of {subject}" for subject in subjects for _ in range(MEASURED)]
    plain = responses(shown, directions)
    named = [responses([f"{scene}, {word}" for scene in shown], directions) for word in words]
    lengths = {at: torch.stack([r[at][:, i].mean() for i, r in enumerate(named)]) for at in plain}
    thresholds = [(lengths[0, layer] + plain[0, layer].mean(0)) / 2 for layer in range(len(directions))]
    return Learnt(directions, lengths, thresholds, gate_of(plain, named, thresholds),
                  (len(own) + (len(own) > 2)) * len(scenes) + (1 + len(named)) * len(shown))


def gate_of(plain: dict, named: Sequence[dict], thresholds: Sequence[Tensor]) -> int:
    """The layer at which the largest r - t is most often larger in an image that names a group than in one that does
    not (the area under the ROC curve)."""
    areas = []
    for layer, t in enumerate(thresholds):
        none, some = ((r - t).amax(1) for r in (plain[0, layer], torch.cat([r[0, layer] for r in named])))
        areas.append(float((some[:, None] > none).float().mean()))
    return areas.index(max(areas))


def mean_outputs(texts: Sequence[str]) -> list[Tensor]:
    """By layer, the mean output [D] in the first step, over an image of each text."""
    sums: dict[int, Tensor] = {}

    def add(step, layer, x):
        if step == 0:
            sums[layer] = sums.get(layer, 0) + x.mean(1).sum(0)
        return x

    _watch(texts, add)
    return [sums[layer] / len(texts) for layer in sorted(sums)]


def responses(texts: Sequence[str], directions: Sequence[Tensor]) -> dict[tuple[int, int], Tensor]:
    """By step and layer, r of an image of each text, [N, K]."""
    found: dict[tuple[int, int], list[Tensor]] = {}

    def add(step, layer, x):
        found.setdefault((step, layer), []).append(response(x, directions[layer]))
        return x

    _watch(texts, add)
    return {at: torch.cat(parts) for at, parts in found.items()}


def _watch(texts: Sequence[str], act: Callable) -> None:
    with watched(act):
        pictures(range(len(texts)), lambda part: dict(prompt=[texts[i] for i in part]))


@contextmanager
def watched(act: Callable[[int, int, Tensor], Tensor]) -> Iterator[None]:
    """act(step, layer, x) stands in for what each cross-attention gives, [B, places, D], in the rows of the prompt.
    Layers are numbered as they run."""
    unet, steps, calls = harness.bench.pipe.unet, harness.bench.setting["steps"], []
    names = [name for name, _ in unet.named_modules() if name.endswith("attn2")]
    names.sort(key=lambda name: ("down_blocks", "mid_block", "up_blocks").index(name.split(".")[0]))

    def hook(layer):
        def changed(module, given, output):
            empty, own = output.chunk(2)
            return torch.cat([empty, act((len(calls) - 1) % steps, layer, own)])
        return changed

    hooks = [unet.register_forward_pre_hook(lambda *_: calls.append(None))]
    hooks += [unet.get_submodule(name).register_forward_hook(hook(i)) for i, name in enumerate(names)]
    try:
        yield
    finally:
        for own in hooks:
            own.remove()
