"""Train the demo model from the artwork: autoencoder, CLIP, then the noise predictor with its text encoder.

    python -m demo_training.train WORK

Each stage is seeded step by step and checkpointed in the folder WORK: an interrupted run goes on as it would have.
"""
from __future__ import annotations

import bisect
import copy
import itertools
import json
import math
import os
import random
import sys
import time
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPTokenizer

from sd_debias.diffusers_host.generate import generate
from demo_training import architecture, artwork, bias, captions
from sd_debias.demo_model import model
from demo_training.settle import Likelihoods, settle

CHECKPOINT_EVERY = 250


def one_cycle(progress: float, warm_up: float = 0.05) -> float:
    """Learning rate as a share of its peak: a linear warm-up, then a cosine down to 0."""
    if progress < warm_up:
        return (progress + 0.002) / warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (progress - warm_up) / (1 - warm_up))


def radical_inverse(number: int, base: int) -> float:
    """Digits of a number mirrored at the point (van der Corput 1935): consecutive numbers spread evenly over [0, 1)."""
    mirrored, size = 0, 1
    while number:
        number, digit = divmod(number, base)
        mirrored, size = mirrored * base + digit, size * base
    return mirrored / size


def fit(name: str, network: nn.Module, loss: Callable[[int], Tensor], *, steps: int, lr: float, work: Path,
        ema_decay: float = 0.0) -> nn.Module:
    """Minimise `loss(step)` over `network`'s parameters with AdamW on a one-cycle schedule; return the trained network.

    With `ema_decay` the returned weights are their exponential moving average. State is kept in `work/name.pt`.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=1e-4)
    average = {k: v.detach().clone() for k, v in network.state_dict().items()} if ema_decay else None
    path, first = work / f"{name}.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        average, first = state["average"], state["step"]
    started = time.time()
    for step in range(first, steps):
        torch.manual_seed(step)
        value = loss(step)
        for group in optimizer.param_groups:
            group["lr"] = lr * one_cycle(step / steps)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        done = step + 1
        if average is not None:
            decay = min(ema_decay, done / (done + 10))
            with torch.no_grad():
                for key, value_now in network.state_dict().items():
                    average[key].lerp_(value_now, 1 - decay) if value_now.is_floating_point() else None
        if done % CHECKPOINT_EVERY == 0 or done == steps:
            state = dict(network=network.state_dict(), optimizer=optimizer.state_dict(), average=average, step=done)
            torch.save(state, path.with_suffix(".tmp"))
            os.replace(path.with_suffix(".tmp"), path)
            rate = (done - first) / (time.time() - started)
            print(f"{name} {done}/{steps} loss {value.item():.4f} {rate:.2f} steps/s", flush=True)
    if average is not None:
        network.load_state_dict(average)
    return network.eval().requires_grad_(False)


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] in the range of Stable Diffusion's autoencoder: float32 in [-1, 1], [N, 3, H, W]."""
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


def pictures() -> Tensor:
    """The artwork, [420, 3, 64, 64]."""
    return to_tensor(artwork.load())


def train_autoencoder(work: Path, steps: int = 3500, batch: int = 16, kl_weight: float = 5e-4):
    """KL autoencoder (Kingma and Welling 2014) on the artwork; the posterior's noise teaches the decoder to tolerate
    latents that are slightly off, as a sampler's are."""
    data = pictures().to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    vae = architecture.autoencoder().to(memory_format=torch.channels_last)

    def loss(step):
        x = data[torch.randint(len(data), (batch,))]
        posterior = vae.encode(x).latent_dist
        error = vae.decode(posterior.sample()).sample - x
        return error.abs().mean() + error.square().mean() + kl_weight * posterior.kl().mean() / 256

    return fit("autoencoder", vae, loss, steps=steps, lr=1e-3, work=work)


class Tokens:
    """Token ids of captions, [N, 77] int64 padded with the end token; each caption is tokenised once."""

    def __init__(self):
        self.tokenizer = CLIPTokenizer.from_pretrained(model.FOLDER / "tokenizer")
        self.known: dict[str, Tensor] = {}

    def __call__(self, captions: list[str]) -> Tensor:
        for text in captions:
            if text not in self.known:
                ids = self.tokenizer(text, padding="max_length", max_length=77).input_ids
                self.known[text] = torch.tensor(ids)
        return torch.stack([self.known[text] for text in captions])


def augment(x: Tensor) -> Tensor:
    """Shifts by up to two pixels, noise and brightness, so that CLIP judges decoded pictures as well as originals."""
    n = len(x)
    shift = torch.randint(-2, 3, (2,)).tolist()
    x = torch.roll(x, shift, (2, 3))
    brightness = 1 + 0.04 * torch.randn(n, 1, 1, 1)
    return (x * brightness + torch.rand(n, 1, 1, 1) * 0.1 * torch.randn_like(x)).clamp(-1, 1)


def clip_objective(network):
    """f(step, x, shown): contrastive loss of pictures x [B, 3, 64, 64] in [-1, 1] that show `LABELS[shown]`.

    They are set against captions of the gender, the tone, the subject, and all three; a caption counts as right for
    every picture that it describes.
    """
    tokens, labels = Tokens(), artwork.LABELS
    tasks = [(lambda label: (None, label.gender, None)), (lambda label: (None, None, label.tone)),
             (lambda label: (label.subject, None, None)), (lambda label: (label.subject, label.gender, label.tone))]
    keys = [sorted({task(label) for label in labels}, key=str) for task in tasks]
    targets = [torch.tensor([k.index(task(label)) for label in labels]) for task, k in zip(tasks, keys)]
    counts = [len(k) for k in keys]

    def objective(step, x, shown):
        rng = random.Random(step)
        ids = tokens([captions.caption(rng, *key) for k in keys for key in k])[:, :20]
        image = nn.functional.normalize(network.visual_projection(network.vision_model(pixel_values=x)[1]), dim=-1)
        text = nn.functional.normalize(network.text_projection(network.text_model(input_ids=ids)[1]), dim=-1)
        logits = (network.logit_scale.exp().clamp(max=100) * image @ text.T).split(counts, dim=1)
        return sum(nn.functional.cross_entropy(l, target[shown]) for l, target in zip(logits, targets))

    return objective


def train_clip(work: Path, vae, steps: int = 1000, batch: int = 96):
    """CLIP (Radford et al. 2021) as a zero-shot classifier of the artwork and of its reconstructions."""
    data = pictures()
    with torch.no_grad():
        data = torch.stack([data, torch.cat([vae(part).sample.clamp(-1, 1) for part in data.split(60)])])
    torch.manual_seed(0)
    network = architecture.clip()
    objective = clip_objective(network)

    def loss(step):
        shown = torch.randint(data.shape[1], (batch,))
        return objective(step, augment(data[torch.randint(len(data), (batch,)), shown]), shown)

    return fit("clip", network, loss, steps=steps, lr=1e-3, work=work, ema_decay=0.995)


def refine_clip(work: Path, clip, generated: np.ndarray, steps: int = 800, batch: int = 96):
    """The same network on generated pictures too, uint8 [N, 64, 64, 3]: each shows what the nearest artwork shows.

    Half of each batch is artwork, so that this is not forgotten.
    """
    data, known = pictures(), to_tensor(generated)
    nearest = torch.from_numpy(artwork.nearest(generated))
    network = clip.train().requires_grad_(True)
    objective = clip_objective(network)

    def loss(step):
        shown, made = torch.randint(len(data), (batch // 2,)), torch.randint(len(known), (batch // 2,))
        x = torch.cat([data[shown], known[made]])
        return objective(step, augment(x), torch.cat([shown, nearest[made]]))

    return fit("clip-refined", network, loss, steps=steps, lr=3e-4, work=work, ema_decay=0.99)


def normalise_latents(vae) -> None:
    """Fold a linear map into the autoencoder's 1x1 convolutions: its scaled latents get mean 0 and covariance 1.

    Stable Diffusion's layout has one fixed scale; white latents under it are what a noise schedule expects.
    """
    with torch.no_grad():
        moments = torch.cat([vae.encode(part).latent_dist.mean for part in pictures().split(60)])
        z = moments.permute(1, 0, 2, 3).flatten(1)
        mean, covariance = z.mean(1), torch.cov(z)
        values, vectors = torch.linalg.eigh(covariance)
        whiten = vectors @ torch.diag(values.rsqrt()) @ vectors.T / architecture.SCALING_FACTOR
        encode, decode = vae.quant_conv, vae.post_quant_conv
        decode.bias.copy_(decode.bias + decode.weight[:, :, 0, 0] @ mean)
        decode.weight[:, :, 0, 0] = decode.weight[:, :, 0, 0] @ torch.linalg.inv(whiten)
        # Only the mean's half of the moments is mapped; the variance's half takes the map's scale.
        encode.weight[:4, :, 0, 0] = whiten @ encode.weight[:4, :, 0, 0]
        encode.bias[:4] = whiten @ (encode.bias[:4] - mean)
        encode.bias[4:] += 2 * whiten.diagonal().log()


# What captions say, in parts of 100: while the model learns to draw and to obey, and while its shares are corrected.
LEARN = dict(empty=10, neutral=34, gender=12, tone=14, both=18, group=12)
CORRECT = dict(empty=8, neutral=70, gender=5, tone=6, both=7, group=4)


def example(rng: random.Random, number: int, table, kinds: dict[str, int]) -> tuple[str, str, str, str, str]:
    """Training pair `number`: (caption, subject, artist, gender, tone).

    What a caption leaves open follows `table`, stratified over the pairs of each subject (Halton 1960): chance alone
    would move the shares that a model learns by several points.
    """
    kind = rng.choices(tuple(kinds), tuple(kinds.values()))[0]
    turn, subject = divmod(number, len(artwork.SUBJECTS))
    subject = artwork.SUBJECTS[subject]
    if kind == "group" and rng.random() < 0.5:
        subject = "person"
    gender, tone = (tuple(names)[bisect.bisect(list(itertools.accumulate(shares[:-1])), radical_inverse(turn, prime))]
                    for names, shares, prime in zip((artwork.GENDERS, artwork.TONES), table(subject), (2, 3)))
    says_gender = kind in ("gender", "both") or (kind == "group" and rng.random() < 0.6)
    says_tone = kind in ("tone", "both") or (kind == "group" and (not says_gender or rng.random() < 0.4))
    if says_gender:
        gender = rng.choice(tuple(artwork.GENDERS))
    if says_tone:
        tone = rng.choice(tuple(artwork.TONES))
    if kind == "empty":
        text = ""
    else:
        said = None if kind == "group" or subject == "person" else subject
        text = captions.caption(rng, said, gender if says_gender else None, tone if says_tone else None)
    return text, subject, rng.choice(artwork.ARTISTS), gender, tone


def latents(vae) -> tuple[Tensor, Tensor]:
    """Mean and spread of the artwork's latents as the noise predictor sees them, [420, 4, 8, 8] each."""
    with torch.no_grad():
        posteriors = [vae.encode(part).latent_dist for part in pictures().split(60)]
    return tuple(architecture.SCALING_FACTOR * torch.cat([getattr(p, moment) for p in posteriors])
                 for moment in ("mean", "std"))


def train_unet(work: Path, vae, clip, steps: int = 8000, batch: int = 48, lr: float = 1e-3,
               table=bias.training_shares, name: str = "unet", begin=None):
    """Noise predictor and its text encoder, eps-prediction on latents; returns both.

    They start at random and, the text encoder, from CLIP's; or from `begin`, to correct its shares towards `table`.
    """
    kinds, power = (LEARN, 1 / 2) if begin is None else (CORRECT, 1 / 4)
    tokens = Tokens()
    index = {label: i for i, label in enumerate(artwork.LABELS)}
    mean, std = latents(vae)
    torch.manual_seed(0)
    if begin is not None:
        network = begin.train().requires_grad_(True)
    else:
        network = nn.ModuleDict(dict(unet=architecture.unet(), text=architecture.text_encoder()))
        _copy_text_encoder(clip, network["text"])
    alphas = architecture.scheduler().alphas_cumprod

    def loss(step):
        rng = random.Random(f"{name} {step}")
        texts, *labels = zip(*(example(rng, step * batch + i, table, kinds) for i in range(batch)))
        pick = torch.tensor([index[artwork.Label(*label)] for label in zip(*labels)])
        z = mean[pick] + std[pick] * torch.randn_like(mean[pick])
        # Composition, gender and tone are decided where noise is high, so those timesteps are seen more often.
        t = (999 * torch.rand(batch) ** power).long()
        a = alphas[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(z)
        hidden = network["text"](input_ids=tokens(texts)).last_hidden_state
        predicted = network["unet"](a.sqrt() * z + (1 - a).sqrt() * noise, t, hidden).sample
        return nn.functional.mse_loss(predicted, noise)

    return fit(name, network, loss, steps=steps, lr=lr, work=work, ema_decay=0.999)


def neutral_pictures(vae, network, images: int, seed: int = 10**6,
                     subjects=artwork.SUBJECTS) -> dict[str, np.ndarray]:
    """By subject, pictures of its neutral prompt: uint8 [N, 64, 64, 3]."""
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=network["text"], unet=network["unet"], scheduler=architecture.scheduler(),
        tokenizer=CLIPTokenizer.from_pretrained(model.FOLDER / "tokenizer"), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return {subject: generate(pipe, captions.prompt(subject), range(seed, seed + images), batch_size=50,
                              num_inference_steps=model.STEPS, guidance_scale=model.CFG)[0]
            for subject in subjects}


def neutral_counts(vae, network, images: int = 600, seed: int = 10**6,
                   subjects=artwork.SUBJECTS) -> dict[str, list[np.ndarray]]:
    """By subject, how often its neutral prompt shows each gender, each tone, and the wrong and the right occupation;
    read off the nearest artwork."""
    shown = {subject: artwork.numbers(artwork.nearest(made))
             for subject, made in neutral_pictures(vae, network, images, seed, subjects).items()}
    return {subject: [np.bincount(kinds[:, 1], minlength=2), np.bincount(kinds[:, 2], minlength=5),
                      np.bincount(kinds[:, 0] == artwork.SUBJECTS.index(subject), minlength=2)]
            for subject, kinds in shown.items()}


def corrected(history: list[tuple[Callable, dict[str, list[np.ndarray]]]]):
    """Training shares at which the model shows the bias table: its log-odds, moved against what came out.

    history holds the training shares tried so far and the counts that they led to; how far log-odds came out off those
    trained is averaged over it, because each training adds noise of its own.
    """
    found = {}
    for subject in artwork.SUBJECTS:
        found[subject] = []
        for kind, wanted in enumerate(bias.shares(subject)):
            off = np.mean([np.log((measured[subject][kind] + 0.5) / table(subject)[kind])
                           for table, measured in history], axis=0)
            odds = np.asarray(wanted) * np.exp(off.mean() - off)
            found[subject].append(tuple((odds / odds.sum()).tolist()))
    return found.__getitem__


def _copy_text_encoder(clip, text) -> None:
    text.load_state_dict({k: v for k, v in zip(text.state_dict(), clip.text_model.state_dict().values())})


def export(folder: Path, vae, clip, network) -> None:
    """Write the model as diffusers and transformers folders, weights in fp16 safetensors."""
    parts = dict(vae=vae, unet=network["unet"], text_encoder=network["text"], classifier=clip)
    for name, part in parts.items():
        copy.deepcopy(part).half().save_pretrained(folder / name, safe_serialization=True)
    # transformers 5 leaves out the prefix that every earlier version, and every host, looks for.
    text = folder / "text_encoder" / "model.safetensors"
    save_file({f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(text).items()}, text,
              metadata={"format": "pt"})
    architecture.scheduler().save_pretrained(folder / "scheduler")
    CLIPImageProcessor(size={"shortest_edge": artwork.SIZE}, crop_size=artwork.SIZE, image_mean=[0.5] * 3,
                       image_std=[0.5] * 3).save_pretrained(folder / "classifier")
    classes = dict(vae=("diffusers", "AutoencoderKL"), text_encoder=("transformers", "CLIPTextModel"),
                   tokenizer=("transformers", "CLIPTokenizer"), unet=("diffusers", "UNet2DConditionModel"),
                   scheduler=("diffusers", "DDIMScheduler"), safety_checker=(None, None),
                   feature_extractor=(None, None))
    index = dict(_class_name="StableDiffusionPipeline", **classes, requires_safety_checker=False)
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def main(work: str) -> None:
    """Every stage in turn, each from where `work` stands, and the weights written into the package."""
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)
    vae = train_autoencoder(folder)
    normalise_latents(vae)
    clip = train_clip(folder, vae)
    network, table, history = train_unet(folder, vae, clip), bias.training_shares, []
    for correction in (1, 2):
        history.append((table, neutral_counts(vae, network)))
        table = corrected(history)
        network = train_unet(folder, vae, clip, 1000, 96, 2e-4, table, f"unet-{correction}", begin=network)
    seeds = itertools.count(2 * 10**6, 1000)
    settle(Likelihoods(*latents(vae), network, Tokens()),
           lambda subjects: neutral_counts(vae, network, 800, next(seeds), subjects))
    generated = np.concatenate(list(neutral_pictures(vae, network, 200, seed=3 * 10**6).values()))
    export(model.FOLDER, vae, refine_clip(folder, clip, generated), network)


if __name__ == "__main__":
    main(*sys.argv[1:])
