"""Loads transformers folders: safetensors only, none of their code, and nothing is downloaded unless asked."""
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DebiasError, quoted, short
from ..files import read_json

# Of a model's files: an adapter's weights, and vocabularies that some versions of transformers unpickle.
PICKLED = ("adapter_config.json", "vocab.pkl", "vocab.bin")


class Managed(torch.nn.Module):
    """Holds a model for a host's patchers, which set `device`: a transformers model does not let them."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model, self.device = model, None


def load_model(auto: str, source: str | Path, device: str | torch.device, dtype: torch.dtype,
               allow_download: bool = False) -> torch.nn.Module:
    """The model in `source`, a folder or an id in the local cache, for inference.

    `auto` names transformers' class (AutoModel ...). Raises DebiasError where there are no safetensors weights (a
    pickle can run code when it is loaded), where weights are missing (they would be random numbers), or where loading
    fails.
    """
    folder = folder_of(source)
    if folder is not None and not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        raise DebiasError(f"{quoted(source)} has no .safetensors weights "
                          f"({', '.join(pickled) or 'no weights at all'}), and pickled ones are never loaded. Use a "
                          "safetensors version of the model.")
    model, report = load(auto, source, allow_download, use_safetensors=True, output_loading_info=True)
    missing = sorted(key for key in report["missing_keys"] if not key.endswith("position_ids"))
    if missing:
        raise DebiasError(f"{quoted(source)} lacks {len(missing)} weights of {type(model).__name__}, the first "
                          f"{quoted(missing[0])}, and would answer at random. Use the full model.")
    return model.eval().requires_grad_(False).to(device=device, dtype=dtype)


def load(auto: str, source: str | Path, allow_download: bool = False, **options: Any) -> Any:
    """`auto.from_pretrained(source)` with this module's rules. Raises DebiasError."""
    import transformers

    folder = folder_of(source)
    if folder is None and not allow_download:
        folder = _cached(str(source))  # by a name, some versions ask the hub for other things, whatever they are told
        if folder is None:
            raise DebiasError(f"{quoted(source)} is neither a folder nor a model in the local cache. Give a model's "
                              "folder, or allow the download.")
    found = next((file for file in PICKLED if _holds(folder or str(source), file)), None)
    if found is not None:
        raise DebiasError(f"{quoted(source)} holds {found}, which can make the loader read a pickle. Use a model "
                          "without it; an adapter is merged into its model first.")
    try:
        return getattr(transformers, auto).from_pretrained(str(folder or source), local_files_only=not allow_download,
                                                           trust_remote_code=False, **options)
    except Exception as error:  # the file formats and versions behind this raise every kind of error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DebiasError(f"{quoted(source)} could not be loaded as {auto}: {short(reason)}") from error


def folder_of(source: str | Path) -> Path | None:
    """The folder that is named; None for an id."""
    folder = Path(source).expanduser()
    return folder if os.path.isdir(folder) else None


def _cached(name: str) -> Path | None:
    """Where the hub's local cache holds an id; nobody is asked."""
    from huggingface_hub import try_to_load_from_cache
    for cache in dict.fromkeys((None, os.environ.get("TRANSFORMERS_CACHE"))):
        try:
            found = try_to_load_from_cache(name, "config.json", cache_dir=cache)
        except Exception:  # it is no id
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None


def _holds(place: str | Path, file: str) -> bool:
    """Is a file in the folder, or among those of an id that may be downloaded?"""
    if isinstance(place, Path):
        return (place / file).exists()
    from huggingface_hub import hf_hub_download
    try:
        hf_hub_download(place, file)
    except Exception:  # it is not there, or nobody knows
        return False
    return True


def load_tokenizer(source: str | Path, allow_download: bool = False) -> Any:
    """The folder's tokenizer, to encode texts. Raises DebiasError.

    That of CLIP before transformers 4.42 puts a `decode` of its own into its backend, which holds the tokenizer for as
    long as the process lives (github.com/huggingface/transformers/issues/30930): without it, the tokenizer goes when
    nobody uses it any more.
    """
    tokenizer = load("AutoTokenizer", source, allow_download)
    getattr(getattr(tokenizer, "backend_tokenizer", None), "__dict__", {}).pop("decode", None)
    return tokenizer


def load_image_processor(source: str | Path, allow_download: bool = False) -> Any:
    """The folder's image processor. Raises DebiasError.

    Where torchvision is not installed, transformers 5.17 and others have no AutoImageProcessor, but the folder's own
    kind, which works on PIL images.
    """
    try:
        return load("AutoImageProcessor", source, allow_download)
    except DebiasError as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        folder = folder_of(source) or _cached(str(source))
        kind = read_json(folder / "preprocessor_config.json").get("image_processor_type") if folder else None
        if not isinstance(kind, str):
            raise
        return load(kind.removesuffix("Fast"), source, allow_download)


def preprocess(processor: Any, arrays: Sequence[np.ndarray], model: torch.nn.Module) -> dict:
    """Inputs of `model` for uint8 RGB arrays [H, W, 3] of any sizes, made by the folder's own image processor."""
    from PIL import Image

    # As PIL images the channel axis cannot be mistaken, whatever the size and the version of transformers.
    try:
        inputs = processor(images=[Image.fromarray(array) for array in arrays], return_tensors="pt")
    except ValueError as error:
        if len({array.shape for array in arrays}) == 1:
            raise
        raise DebiasError("This judge takes images of one size, and these differ, as faces that are cut out do. Set "
                          "\"do_resize\": true and its size in the judge's preprocessor_config.json.") from error
    return {key: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
            for key, value in inputs.items()}
