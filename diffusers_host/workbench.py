"""A diffusers pipeline, its settings and a judge side by side: what the CLI and the Python API work with."""
from __future__ import annotations

import hashlib
import inspect
import re
import warnings
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.attribute import Attribute, parse
from ..core.calibration.loop import HELD_OUT_OFFSET, Calibration
from ..core.calibration.round import AUDIT, HELD_OUT, Round
from ..core.calibration.plan import Plan, planned
from ..core.study.host import Host, advance
from ..core.study.progress import progress_of
from ..core.study.unfinished import Unfinished
from ..core.judge.clip import ClipModel
from ..core.errors import DebiasError, quoted, short
from ..core.files import read_json
from ..core.method.conditioning import Encoded
from ..core.method.methods import METHODS, Method, named
from ..core.profile.file import Profile, located
from ..core.profile.lookup import entry_for
from ..core.method.draw import Steering, check_steered
from .bar import Bar
from .call import is_modular
from .encode import encode, encode_all, of_one_length
from .families import check_family, check_whole_texts, family_of, guidance
from .generate import generate
from .hook import check, check_guider
from .model_folder import check_no_code

PICKLES = (".ckpt", ".pt", ".pth", ".bin")


class Workbench(Host):
    """One diffusers model with its settings and judges: the host of calibrations in Python and on the command line.

    pipe         a diffusers text-to-image pipeline
    clip         classifies, and measures fidelity unless `fidelity` is given; None if nothing is measured
    setting      steps, cfg, width, height, negative_prompt: what the pipeline is called with; recorded in profiles
    judges  by attribute name, instead of CLIP: callables images -> probabilities
    judged_by    further identification of the judges, such as `files.fingerprint` of their folders
    fidelity     f(images, prompt) -> [N]; default: CLIP's similarity of image and prompt
    """
    again = "run the same command again"
    anew = "add --overwrite"

    def __init__(self, pipe, clip: ClipModel | None, *, model: str = "", model_hash: str | None = None, steps: int = 30,
                 cfg: float = 7.5, width: int | None = None, height: int | None = None,
                 negative_prompt: str | None = None, batch_size: int = 4, classifiers: dict | None = None,
                 fidelity: Callable | None = None, judged_by: str = ""):
        if (width is None) != (height is None):
            raise DebiasError(f"Expected both width and height, or neither, got width {width} and height {height}. "
                              "Give both, or neither for the model's own size.")
        if width is not None and height is not None and (width % 8 or height % 8 or min(width, height) < 8):
            raise DebiasError(f"Expected a width and height in multiples of 8, got {width} x {height}. Change them.")
        self.pipe, self.clip, self.batch_size, self.judged_by = pipe, clip, batch_size, judged_by
        self.classifiers, self.fidelity = dict(classifiers or {}), fidelity or (clip and clip.similarity)
        self._zero_shot: dict[tuple, Callable] = {}  # CLIP's, by what the groups are: a name may come with other groups
        self.setting: dict[str, Any] = dict(
            model=model, model_hash=model_hash, sampler=type(pipe.scheduler).__name__, steps=steps, cfg=cfg,
            width=width, height=height, negative_prompt=negative_prompt)
        self.evaluations = 0
        self._encoded: tuple[tuple, Encoded] | None = None
        pipe.set_progress_bar_config(disable=True)

    def generate(self, prompt: str, seeds: Sequence[int], attributes: Sequence[Attribute] = (),
                 steerings: Sequence[Steering] = (), method: Method = METHODS["default"], strength: float = 1.0,
                 weights=None, encoded: Encoded | None = None) -> tuple[np.ndarray, dict]:
        """Images uint8 [N, H, W, 3], one a seed, and what guidance did; as `generate.generate`."""
        s = self.setting
        size = {key: s[key] for key in ("width", "height") if s[key]}
        guider = getattr(self.pipe, "guider", None)  # which holds the scale of guidance, of some
        try:
            images, info = generate(
                self.pipe, prompt, seeds, attributes=attributes, steerings=steerings, weights=weights,
                guidance_strength=strength, method=method, encoded=encoded, batch_size=self.batch_size,
                num_inference_steps=s["steps"], **guidance(self.pipe, s["cfg"], s["negative_prompt"]), **size)
        finally:
            if guider is not None:
                self.pipe.guider = guider
        self.evaluations += len(seeds) * s["steps"] * (2 if s["cfg"] > 1 else 1) + info["extra_evaluations"]
        return images, info

    def encoded(self, profile: Profile, prompt: str, strength: float = 1.0) -> Encoded:
        """A prompt with a profile's groups, placed as `entry_for` says; spares encoding them in every batch."""
        return encode_all(self.pipe, prompt, profile.attributes, profile.method.context,
                          subject=entry_for(profile, prompt)[0].behind(strength))

    def apply(self, profile: Profile | str | Path, prompt: str, seeds: Sequence[int], strength: float = 1.0,
              encoded: Encoded | None = None):
        """Images with the weights of a profile, its file, or the name of a shipped one; see `generate`."""
        if not isinstance(profile, Profile):
            profile = Profile.load(located(str(profile)))
        entry, _ = entry_for(profile, prompt, self.setting["negative_prompt"] or "")
        if encoded is None and strength and any(any(s.weights) or s.probabilities for s in entry.steerings):
            encoded = self.encoded(profile, prompt, strength)
        return self.generate(prompt, seeds, profile.attributes, entry.steerings, profile.method, strength,
                             encoded=encoded)

    def classifier(self, attribute: Attribute) -> Callable:
        """The attribute's judge; CLIP's by default."""
        if attribute.name in self.classifiers:
            return self.classifiers[attribute.name]
        if self.clip is None:
            raise DebiasError(f"Expected a judge for {quoted(attribute.name)}, got none. Give a CLIP model or a "
                              "judge of your own.")
        key = attribute.name, attribute.groups
        if key not in self._zero_shot:
            self._zero_shot[key] = self.clip.classifier(attribute)
        return self._zero_shot[key]

    def check(self, attributes: Sequence[Attribute], method: Method) -> None:
        """Raises DebiasError where this pipeline cannot be guided by a method; said before the first image."""
        if is_modular(self.pipe):
            if method.direction != "prompt":
                check_guider(self.pipe)
        elif family_of(self.pipe) is not None:
            check_family(self.pipe, method)
            if method.direction != "prompt":
                check(self.pipe)
        elif not of_one_length(self.pipe):
            check_whole_texts(self.pipe, attributes, method)
        elif method.direction != "prompt" or not method.guidance.whole:
            check(self.pipe)
            encode(self.pipe, [""])

    def judges(self, attributes: Sequence[Attribute]):
        return [self.classifier(attribute) for attribute in attributes], self.fidelity

    def render(self, prompt: str, seeds: Sequence[int], weights: Tensor, attributes: Sequence[Attribute],
               method: Method) -> Sequence:
        asked = prompt, tuple(attributes), method.context
        if weights.any() and (self._encoded is None or self._encoded[0] != asked):  # once for all rounds
            self._encoded = asked, encode_all(self.pipe, *asked)
        encoded = self._encoded[1] if self._encoded and self._encoded[0] == asked else None
        images, info = self.generate(prompt, seeds, attributes, method=method, weights=weights, encoded=encoded)
        check_steered(weights, info["acted"])
        broken = set(info["broken"])
        return [None if i in broken else image for i, image in enumerate(images)]

    def fingerprint(self) -> object:
        return [self.setting, self.judged_by, pipeline_facts(self.pipe)]

    def run(self, calibration: Calibration) -> Iterator[Round]:
        """Advance a calibration with this model; yields as `Calibration.run`."""
        return advance(self, calibration)

    def calibrate(self, prompt: str, attributes: Attribute | str | Sequence[Attribute | str],
                  method: Method | str = METHODS["default"], plan: Plan | str = "normal",
                  progress: bool = True) -> Calibration:
        """Run a whole calibration; by default until it is within 5 points of the target with 95 % certainty.

        attributes  one or several, as objects or as `attribute.parse` reads them: "gender", "age = 1:1:2"
        method      or the name of one of `METHODS`
        plan        or how sure to be: "quick", "short", "normal" or "sure"
        """
        found = [attributes] if isinstance(attributes, (Attribute, str)) else attributes
        method = named(method) if isinstance(method, str) else method
        plan = planned(plan, method, batch_size=self.batch_size) if isinstance(plan, str) else plan
        calibration = Calibration(prompt, [parse(a) if isinstance(a, str) else a for a in found], method, plan)
        with Bar(not progress, lines=False) as bar:
            for current in self.run(calibration):
                bar(progress_of([calibration], 0, current))
        return calibration

    def carried_over(self, profile: Profile, prompt: str, images: int = 200, seed: int = 0,
                     work: Unfinished | None = None) -> Iterator[Calibration]:
        """Measure a prompt that a profile was not calibrated for, without and with it; yields after each batch. One
        that the profile leaves alone is measured once.

        `rounds` of what is yielded are an audit and the same seeds with the profile, which no calibration uses. `work`
        keeps images of both.
        Raises DebiasError for a prompt that was calibrated.
        """
        entry, known = entry_for(profile, prompt)
        if known:
            raise DebiasError(f"{quoted(prompt)} was calibrated: its figures are in the profile. Give another prompt.")
        self.check(profile.attributes, profile.method)
        first = seed + 2 * HELD_OUT_OFFSET
        plan = Plan(images, rounds=0, held_out=0, batch_size=self.batch_size, seed=first)
        tried = Calibration(prompt, profile.attributes, profile.method, plan)
        none = tuple(Steering.none(len(a.groups)) for a in profile.attributes)
        both = ((AUDIT, none), (HELD_OUT, entry.steerings))
        for kind, steerings in both if any(any(s.weights) or s.probabilities for s in entry.steerings) else both[:1]:
            tried.rounds.append(Round(kind, steerings, tuple(range(first, first + images))))
            for _ in advance(self, tried, work=work):
                yield tried


LACKS_TEXT = "{} has no text encoder, which guidance needs. Use the whole model."


def load_pipeline(source: str, device: str = "cpu", dtype: torch.dtype = torch.float32, allow_download: bool = False,
                  config: str | None = None, safety_checker: bool = False):
    """A text-to-image pipeline from a diffusers folder, a single-file checkpoint (.safetensors) or a hub id.

    A hub id, or a single file without `config` (a diffusers folder of the same family), needs `allow_download`. Without
    `safety_checker` the model's own is left out, with a warning: images that it blacks out cannot be counted. Raises
    DebiasError for pickles, for folders that are no such pipeline, for devices that are not there, and where loading
    fails.
    """
    import diffusers
    from packaging.version import Version

    path, name = Path(source).expanduser(), quoted(source)
    check_device(device)
    if path.suffix.lower() in PICKLES:
        raise DebiasError(f"{name} is a pickle, which can run code when it is loaded. Use a .safetensors file.")
    precision = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"
    options = {precision: dtype, "local_files_only": not allow_download}
    try:
        if path.is_dir():
            pipe = _of_folder(path, options, name)
        elif path.is_file():
            pipe = _of_file(path, config, options, name)
        elif not allow_download:
            raise DebiasError(f"No folder or file {name}. If it is a hub id, add --allow-download.")
        else:
            folder = diffusers.DiffusionPipeline.download(source, use_safetensors=True)
            check_no_code(Path(folder))
            pipe = _pretrained(str(folder), options)
        pipe.to(device)
    except DebiasError:
        raise
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # the loaders behind this raise every kind of error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DebiasError(f"{name} could not be loaded as a text-to-image pipeline: {short(reason)}") from error
    if getattr(pipe, "text_encoder", None) is None:
        raise DebiasError(LACKS_TEXT.format(name))
    lacking = [part for part in ("tokenizer", "scheduler", "vae") if hasattr(pipe, part) and not getattr(pipe, part)]
    if lacking:
        raise DebiasError(f"{name} has no {' and no '.join(lacking)}. Use the whole model.")
    if not safety_checker and getattr(pipe, "safety_checker", None) is not None:
        warnings.warn("The model's safety checker is switched off while images are measured: images that it blacks "
                      "out could not be counted.")
        pipe.safety_checker = None
    return pipe


def _of_folder(path: Path, options: dict, name: str):
    index = path / "model_index.json"
    if not index.exists():
        raise DebiasError(f"{name} has no model_index.json, so it is not a diffusers pipeline. Name another folder.")
    parts = read_json(index)
    if not isinstance(parts, dict) or not (parts.get("text_encoder") or [None])[0]:
        raise DebiasError(LACKS_TEXT.format(name))
    check_no_code(path)
    lacking = _lacking(path, parts)
    pipe = _pretrained(str(path), {**options, **dict.fromkeys(lacking)})
    if lacking:
        _check_without(pipe, lacking, name)
    return pipe


def _of_file(path: Path, config: str | None, options: dict, name: str):
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    if path.suffix.lower() != ".safetensors":  # diffusers would take it for a pickle
        raise DebiasError(f"Expected a .safetensors file, got {name}. Use one.")
    if config and not Path(config).is_dir():
        raise DebiasError(f"Expected a diffusers folder with --config, got {quoted(config)}. Give the folder of a "
                          "model of the same family.")
    if config and (Path(config) / "model_index.json").exists():
        check_no_code(Path(config))
    family = StableDiffusionXLPipeline if config and (Path(config) / "text_encoder_2").exists() else \
        StableDiffusionPipeline
    return family.from_single_file(str(path), config=config, **options)


def _pretrained(source: str, options: dict):
    """The folder's or the hub's pipeline for text-to-image, else the one that it names itself."""
    from diffusers import AutoPipelineForText2Image, DiffusionPipeline
    try:
        return AutoPipelineForText2Image.from_pretrained(source, use_safetensors=True, **options)
    except ValueError as error:
        if "can't find a pipeline linked to" not in str(error):
            raise
    pipe = DiffusionPipeline.from_pretrained(source, use_safetensors=True, **options)
    if "prompt" not in inspect.signature(type(pipe).__call__).parameters:
        raise DebiasError(f"{quoted(source)} is a {type(pipe).__name__}, which takes no prompt. Use a text-to-image "
                          "pipeline.")
    return pipe


def _lacking(path: Path, parts: dict) -> list[str]:
    """Further text encoders and their tokenizers that a folder names and does not hold, such as SD 3's T5: the pipeline
    goes without them."""
    return [name for name, kind in parts.items() if re.fullmatch(r"(text_encoder|tokenizer)_\d", name)
            and isinstance(kind, list) and kind[0] and not (path / name).is_dir()]


def _check_without(pipe, lacking: list[str], name: str) -> None:
    """Raises DebiasError for a pipeline that cannot encode a text without its further encoders."""
    try:
        family = family_of(pipe)
        family.encode(pipe, "a doctor") if family else encode(pipe, ["a doctor"])
    except Exception as error:  # pipelines miss them in many ways
        raise DebiasError(f"{name} lacks {' and '.join(lacking)}, which a {type(pipe).__name__} needs. Put these "
                          "parts into the folder, or load the pipeline in Python and give it to "
                          "sd_debias.diffusers_host.workbench.Workbench.") from error
    warnings.warn(f"{name} lacks {' and '.join(lacking)}; the pipeline works without.")


def check_device(device: str) -> None:
    """Raises DebiasError for a device that cannot compute here."""
    try:
        torch.zeros(1, device=device).sum().item()
    except Exception as error:  # torch raises several kinds for names, drivers and devices
        raise DebiasError("Expected a device that computes here, such as cpu, cuda or mps, got "
                          f"{quoted(str(device))}, which does not "
                          f"({short(str(error).strip().splitlines()[0] if str(error).strip() else error)}).") \
            from error


def demo(device: str = "cpu", dtype: torch.dtype = torch.float32, **setting) -> Workbench:
    """The embedded demo model, ready to use."""
    from ..demo_model import model
    pipe = load_pipeline(str(model.FOLDER), device, dtype)
    clip = model.clip(device)
    setting = {**dict(steps=model.STEPS, cfg=model.CFG, batch_size=50), **setting}
    return Workbench(pipe, clip, model="demo", model_hash=model_hash(model.FOLDER),
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


def model_name(source: str) -> str:
    """A file's or folder's own name, since its place is nobody's business; a hub's whole id."""
    return Path(source).name if Path(source).expanduser().exists() else source


def _plain(config: object) -> list:
    """A cache's kind and its numbers: callbacks in it have another address in every run."""
    return [] if config is None else [type(config).__name__, {
        name: value for name, value in sorted(vars(config).items())
        if isinstance(value, (str, int, float, bool, type(None)))}]


def pipeline_facts(pipe) -> dict:
    """What of a pipeline decides its images beside its files, as plain values: sampler's settings, precision and kind
    of device, LoRAs with their weights, a cache of steps, and whether the denoiser is compiled."""
    denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    loras: dict[str, set] = {}
    for module in denoiser.modules() if isinstance(denoiser, torch.nn.Module) else ():
        for name, scale in getattr(module, "scaling", {}).items() if hasattr(module, "lora_A") else ():
            loras.setdefault(name, set()).add(float(scale))
    config = getattr(pipe.scheduler, "config", {})
    return dict(pipeline=type(pipe).__name__, dtype=str(getattr(pipe, "dtype", "")), device=pipe.device.type,
                sampler={key: str(value) for key, value in sorted(config.items()) if not key.startswith("_")},
                loras={name: sorted(scales) for name, scales in sorted(loras.items())},
                cache=_plain(getattr(denoiser, "_cache_config", None)),
                compiled=getattr(denoiser, "_compiled_call_impl", None) is not None)


def pictures(images: np.ndarray) -> list[Image.Image]:
    """uint8 [N, H, W, 3] as PIL images."""
    return [Image.fromarray(image) for image in images]
