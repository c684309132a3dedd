"""CLIP models beside the web UI's own: in half precision where it uses that, on its device only while they judge; and
the one that its interrogator has, without BLIP.
"""
from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Iterator, Sequence

import numpy as np
import torch
from PIL import Image

from ..core.errors import DebiasError, quoted, short
from ..core.files import writing
from ..core.judge.clip import ClipModel
from ..core.judge.pretrained import Managed

FILE = "ViT-L-14.pt"  # the interrogator's, as OpenAI's package calls it
HUB, HUB_SIZE = "openai/clip-vit-large-patch14", "1.7 GB"
HUB_FILES = ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
             "vocab.json", "merges.txt", "special_tokens_map.json"]


def half() -> bool:
    """Does the host use half precision? On the CPU, and with --no-half, it does not."""
    from modules import devices, shared
    return devices.device.type == "cuda" and not getattr(shared.cmd_opts, "no_half", False)


@contextmanager
def lent(model: Any) -> Iterator[None]:
    """The host's device for a model that lies in memory; Forge makes room by itself, elsewhere it is put back after."""
    from modules import devices
    try:
        from backend import memory_management  # Forge's
        from backend.patcher.base import ModelPatcher
    except ImportError:
        memory_management = None
    if devices.device.type == "cpu":
        yield
    elif memory_management is not None:
        patcher = model.__dict__.get("sd_debias_patcher") or ModelPatcher(
            Managed(model), load_device=memory_management.get_torch_device(), offload_device=torch.device("cpu"))
        model.__dict__["sd_debias_patcher"] = patcher
        memory_management.load_models_gpu([patcher])
        yield
    else:
        model.to(devices.device)
        try:
            yield
        finally:
            model.to("cpu")
            devices.torch_gc()


class PageClip(ClipModel):
    """A transformers model as the page uses it. Raises DebiasError as `ClipModel`."""
    lent = staticmethod(lent)

    def __init__(self, source: str, allow_download: bool = False):
        super().__init__(source, dtype=torch.float16 if half() else torch.float32, allow_download=allow_download)


class InterrogatorClip(ClipModel):
    """The CLIP of the web UI's interrogator, loaded by the web UI itself. Raises DebiasError where its file is not
    there and downloads are not allowed, and on hosts without an interrogator."""
    lent = staticmethod(lent)

    def __init__(self, allow_download: bool = False):
        from modules import shared
        interrogator = getattr(shared, "interrogator", None)
        if interrogator is None or not hasattr(interrogator, "load_clip_model"):
            raise DebiasError("This web UI has no interrogator, so it has no CLIP of its own. Put a CLIP model into "
                              "models/classifiers and choose it.")
        if not file().is_file() and not allow_download:
            raise DebiasError(f"The interrogator's CLIP, {FILE} (890 MB), is not on this machine yet. Press "
                              "'Interrogate CLIP' once on the img2img page, which downloads it, or choose another "
                              "judge.")
        # A copy of its own: what the interrogator keeps, it loads with patchers and precisions of its own.
        self.model, self.preprocess = interrogator.load_clip_model()
        self.model = (self.model.half() if half() else self.model.float()).to("cpu")
        self.name = "ViT-L/14 of the interrogator"
        self.begin()

    def text_features(self, texts: Sequence[str]) -> Any:
        import clip
        with _mixed():
            return self.model.encode_text(clip.tokenize(list(texts), truncate=True).to(self._place.device))

    def image_features(self, arrays: Sequence[np.ndarray]) -> Any:
        pixels = torch.stack([self.preprocess(Image.fromarray(array)) for array in arrays])
        with _mixed():
            return self.model.encode_image(pixels.to(self._place.device, self._place.dtype))

    @property
    def _place(self) -> torch.Tensor:
        return next(self.model.parameters())


def _mixed():
    """OpenAI's layers mix precisions, which torch allows under autocast alone."""
    return torch.autocast("cuda", dtype=torch.float16) if half() else nullcontext()


def file() -> Path:
    """Where the interrogator's CLIP is, once it was downloaded."""
    from modules import shared
    root = getattr(shared.cmd_opts, "clip_models_path", None)
    return Path(root or Path.home() / ".cache" / "clip") / FILE


def cached() -> list[str]:
    """Ids of CLIP and SigLIP models in the hub's local cache."""
    try:
        from huggingface_hub import scan_cache_dir
        repos = scan_cache_dir().repos
    except Exception:  # no cache yet, or one that this version cannot read: nothing to offer
        return []
    return sorted(repo.repo_id for repo in repos if repo.repo_type == "model" and any(
        {"config.json", "model.safetensors"} <= {one.file_name for one in revision.files}
        and any(kind in repo.repo_id.lower() for kind in ("clip", "siglip")) for revision in repo.revisions))


def download(folder: Path) -> str:
    """Fetch `HUB` into a folder of models, whole or not at all; its name there. Raises DebiasError."""
    from huggingface_hub import snapshot_download
    name = HUB.rpartition("/")[2]
    if (folder / name).exists():
        raise DebiasError(f"There is a folder {quoted(name)} in models/classifiers already. Choose it.")
    with writing("The judge", "models/classifiers"):
        folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder, prefix=".download"))
    try:
        snapshot_download(HUB, local_dir=part, allow_patterns=HUB_FILES)
        shutil.rmtree(part / ".cache", ignore_errors=True)  # the hub's own notes
        part.replace(folder / name)
    except Exception as error:  # of the network, the hub and the disk: every kind
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DebiasError(f"{HUB} could not be downloaded: {short(reason)}. Try again, or put a copy into "
                          "models/classifiers.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return name
