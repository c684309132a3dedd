"""A diffusers pipeline, its settings and a classifier side by side: what the CLI and the Python API work with."""
from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Callable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image

from . import pipeline, uncalibrated
from .attribute import Attribute
from .calibrate import AUDIT, HELD_OUT, HELD_OUT_OFFSET, Calibration, Plan, Round
from .classify.clip import ClipModel
from .method import METHODS, Method
from .profile import Profile
from .steering import Steering

PICKLES = (".ckpt", ".pt", ".pth", ".bin")


class Workbench:
    """Generates and classifies with one model at one setting.

    pipe         a diffusers text-to-image pipeline
    clip         classifies, and measures fidelity where `fidelity` is not given; None where nothing is to be measured
    setting      steps, cfg, width, height, negative_prompt: what the pipeline is called with; recorded in profiles
    classifiers  of attributes by name, where CLIP is not to judge: callables images -> probabilities
    fidelity     f(images, prompt) -> [N]; default: CLIP's similarity of picture and prompt
    """

    def __init__(self, pipe, clip: ClipModel | None, *, model: str = "", model_hash: str | None = None, steps: int = 30,
                 cfg: float = 7.5, width: int | None = None, height: int | None = None,
                 negative_prompt: str | None = None, batch_size: int = 4, classifiers: dict | None = None,
                 fidelity: Callable | None = None):
        self.pipe, self.clip, self.batch_size = pipe, clip, batch_size
        self.classifiers, self.fidelity = dict(classifiers or {}), fidelity or (clip and clip.similarity)
        self.setting = dict(model=model, model_hash=model_hash, sampler=type(pipe.scheduler).__name__, steps=steps,
                            cfg=cfg, width=width, height=height, negative_prompt=negative_prompt)
        self.evaluations = 0
        self.first_shares: dict[str, dict] = {}  # by case and prompt: those of the calibrated ones are needed again
        pipe.set_progress_bar_config(disable=True)

    def generate(self, prompt: str, seeds: Sequence[int], attributes: Sequence[Attribute] = (),
                 steerings: Sequence[Steering] = (), method: Method = METHODS["default"], strength: float = 1.0,
                 weights=None, encoded: pipeline.Encoded | None = None) -> tuple[np.ndarray, dict]:
        """Images uint8 [N, H, W, 3], one a seed, and what guidance did; as `pipeline.generate`."""
        s = self.setting
        size = {key: s[key] for key in ("width", "height") if s[key]}
        images, info = pipeline.generate(
            self.pipe, prompt, seeds, attributes=attributes, steerings=steerings, weights=weights,
            guidance_strength=strength, method=method, negative_prompt=s["negative_prompt"], encoded=encoded,
            batch_size=self.batch_size, num_inference_steps=s["steps"], guidance_scale=s["cfg"], **size)
        self.evaluations += len(seeds) * s["steps"] * (2 if s["cfg"] > 1 else 1) + info["extra_evaluations"]
        return images, info

    def apply(self, profile: Profile, prompt: str, seeds: Sequence[int], strength: float = 1.0,
              encoded: pipeline.Encoded | None = None):
        """Images with a profile's calibrated weights; see `generate`."""
        entry, _ = profile.entry(prompt)
        return self.generate(prompt, seeds, profile.attributes, entry.steerings, profile.method, strength,
                             encoded=encoded)

    def classifier(self, attribute: Attribute) -> Callable:
        """The attribute's classifier, CLIP's where no other was given."""
        if attribute.name not in self.classifiers:
            if self.clip is None:
                raise ValueError(f"Nothing here can tell groups of '{attribute.name}' apart. Give a CLIP model or a "
                                 f"classifier of your own.")
            self.classifiers[attribute.name] = self.clip.classifier(attribute)
        return self.classifiers[attribute.name]

    def run(self, calibration: Calibration, save_to: str | Path | None = None) -> Iterator[Round]:
        """Advance a calibration with this model; yields as `Calibration.run`."""
        prompt, attributes, method = calibration.prompt, calibration.attributes, calibration.method
        classifiers = [self.classifier(attribute) for attribute in attributes]
        encoded = None

        def generate(weights, seeds):
            nonlocal encoded
            if encoded is None and weights.any():  # once for all rounds
                encoded = pipeline.encode_all(self.pipe, prompt, attributes, method.context)
            return self.generate(prompt, seeds, attributes, method=method, weights=weights, encoded=encoded)[0]

        return calibration.run(generate, lambda images: [classify(images) for classify in classifiers],
                               self.fidelity and (lambda images: self.fidelity(images, prompt)), save_to)

    def calibrate(self, prompt: str, attributes: Sequence[Attribute], method: Method = METHODS["default"],
                  plan: Plan | None = None) -> Calibration:
        """A whole calibration, run to its end."""
        calibration = Calibration(prompt, attributes, method, plan or Plan(batch_size=self.batch_size))
        for _ in self.run(calibration):
            pass
        return calibration

    def predicted(self, profile: Profile, prompt: str, images: int = 32, seed: int = 0) -> Profile:
        """The profile with predicted weights for a prompt that it was not calibrated for. Of this one and every
        calibrated prompt, `images` are begun, but none is finished. Raises ValueError as `uncalibrated.predicted`."""
        s = self.setting
        size = {key: s[key] for key in ("width", "height") if s[key]}
        known = self.first_shares.setdefault(repr((profile.attributes, images, seed, s)), {})

        def shares_of(text):
            if text not in known:
                known[text] = uncalibrated.first_shares(
                    self.pipe, text, profile.attributes, range(seed, seed + images), batch_size=self.batch_size,
                    negative_prompt=s["negative_prompt"], num_inference_steps=s["steps"], guidance_scale=s["cfg"],
                    **size)
            return known[text]

        return replace(profile, predicted=(*profile.predicted, uncalibrated.predicted(profile, prompt, shares_of)))

    def carried_over(self, profile: Profile, prompt: str, images: int = 200, seed: int = 0) -> Iterator[Calibration]:
        """Measure a prompt that a profile was not calibrated for, without and with it; yields after each batch.

        `rounds` of what is yielded are an audit and the same seeds with the profile, which no calibration uses.
        Raises ValueError for a prompt that was calibrated.
        """
        entry, known = profile.entry(prompt)
        if known:
            raise ValueError(f"'{prompt}' was calibrated: its figures are in the profile. Give another prompt.")
        first = seed + 2 * HELD_OUT_OFFSET
        plan = Plan(images, rounds=0, held_out=0, batch_size=self.batch_size, seed=first)
        tried = Calibration(prompt, profile.attributes, profile.method, plan)
        none = tuple(Steering.none(len(a.groups)) for a in profile.attributes)
        for kind, steerings in ((AUDIT, none), (HELD_OUT, entry.steerings)):
            tried.rounds.append(Round(kind, steerings, tuple(range(first, first + images))))
            for _ in self.run(tried):
                yield tried


def load_pipeline(source: str, device: str = "cpu", dtype: torch.dtype = torch.float32, allow_download: bool = False,
                  config: str | None = None):
    """A text-to-image pipeline from a diffusers folder, a single-file checkpoint (.safetensors) or a hub id.

    A hub id, or a single file without `config` (a diffusers folder of the same family), needs `allow_download`.
    Raises ValueError for pickles, for folders that are no such pipeline, and where loading fails.
    """
    import diffusers
    from diffusers import AutoPipelineForText2Image, StableDiffusionPipeline, StableDiffusionXLPipeline
    from packaging.version import Version

    path = Path(source).expanduser()
    if path.suffix.lower() in PICKLES:
        raise ValueError(f"'{source}' is a pickle, which can run code when it is loaded. Use a .safetensors file.")
    precision = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"
    lacks_text = f"'{source}' has no text encoder, which directions are made with. Use the whole model."
    options = {precision: dtype, "local_files_only": not allow_download}
    try:
        if path.is_dir():
            if not (path / "model_index.json").exists():
                raise ValueError(f"'{source}' has no model_index.json, so it is no diffusers pipeline.")
            if not (json.loads((path / "model_index.json").read_text("utf-8")).get("text_encoder") or [None])[0]:
                raise ValueError(lacks_text)
            pipe = AutoPipelineForText2Image.from_pretrained(str(path), use_safetensors=True, **options)
        elif path.is_file():
            family = StableDiffusionXLPipeline if config and (Path(config) / "text_encoder_2").exists() else \
                StableDiffusionPipeline
            pipe = family.from_single_file(str(path), config=config, **options)
        elif not allow_download:
            raise ValueError(f"No folder or file '{source}'. If it is a hub id, add --allow-download.")
        else:
            pipe = AutoPipelineForText2Image.from_pretrained(source, use_safetensors=True, **options)
        pipe.to(device)
    except json.JSONDecodeError as error:
        raise ValueError(f"'{source}' is damaged: its model_index.json is no JSON ({error}).") from error
    except ValueError:
        raise
    except Exception as error:  # the loaders behind this raise every kind of error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"'{source}' could not be loaded as a text-to-image pipeline: {reason}") from error
    if getattr(pipe, "text_encoder", None) is None:
        raise ValueError(lacks_text)
    if getattr(pipe, "safety_checker", None) is not None:
        pipe.safety_checker = None  # it blacks out pictures that then cannot be counted
    return pipe


def demo(device: str = "cpu", dtype: torch.dtype = torch.float32, **setting) -> Workbench:
    """The embedded demo model, ready to use."""
    from .demo import model
    pipe = load_pipeline(str(model.WEIGHTS), device, dtype)
    clip = model.clip(device)
    setting = {**dict(steps=model.STEPS, cfg=model.CFG, batch_size=50), **setting}
    return Workbench(pipe, clip, model="demo", model_hash=model_hash(model.WEIGHTS),
                     fidelity=model.occupation_right(clip), **setting)


def model_hash(source: str | Path) -> str | None:
    """First ten digits of the SHA-256 of a checkpoint, or of a diffusers folder's denoiser and (first) text encoder."""
    path = Path(source).expanduser()
    files = [path] if path.is_file() else sorted(
        file for part in ("unet", "transformer", "text_encoder") for file in path.glob(f"{part}/*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()[:10]


def pictures(images: np.ndarray) -> list[Image.Image]:
    """uint8 [N, H, W, 3] as PIL images."""
    return [Image.fromarray(image) for image in images]
