"""Between ComfyUI's IMAGE tensors [N, H, W, 3] in 0..1 and the images of the core."""
from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.errors import DebiasError


def pictures(images: Tensor) -> list[np.ndarray | None]:
    """Each image as uint8 [H, W, 3]; None for one that is not finite, which no judge may see."""
    finite = torch.isfinite(images).flatten(1).all(1).tolist() if isinstance(images, Tensor) and len(images) else []
    return [image if good else None for image, good in zip(to_uint8(images), finite, strict=True)]


def to_uint8(images: Tensor) -> np.ndarray:
    """uint8 [N, H, W, 3], black where pixels are not finite. Raises DebiasError for other shapes and no images."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[-1] != 3 or not images.numel():
        came = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise DebiasError(f"Expected RGB images [N, height, width, 3], at least one, got {came}. Convert images with "
                          "an alpha channel, masks and latents first.")
    return (images.float().nan_to_num(0, 0, 0) * 255).round().clamp(0, 255).to("cpu", torch.uint8).numpy()


def to_pil(images: Tensor) -> list[Image.Image]:
    """PIL images of an IMAGE."""
    return [Image.fromarray(image) for image in to_uint8(images)]


def to_tensor(*pictures: Image.Image) -> Tensor:
    """An IMAGE [1, H, W, 3] of PIL images, one below the other on white."""
    width = max(picture.width for picture in pictures)
    page = Image.new("RGB", (width, sum(picture.height for picture in pictures)), "white")
    top = 0
    for picture in pictures:
        page.paste(picture.convert("RGB"), (0, top))
        top += picture.height
    return torch.from_numpy(np.asarray(page).astype(np.float32) / 255)[None]
