"""Between ComfyUI's IMAGE tensors [N, H, W, 3] in 0..1 and the pictures of the core."""
from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_uint8(images: Tensor) -> np.ndarray:
    """uint8 [N, H, W, 3]. Raises ValueError for other shapes, no images, and numbers that are not finite."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[-1] != 3 or not images.numel():
        came = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"Expected RGB images [N, height, width, 3], at least one, but {came} came. Images with an "
                         f"alpha channel, masks and latents must be converted first.")
    if not torch.isfinite(images).all():
        raise ValueError("Some images are not finite (black or NaN): does the VAE overflow in half precision? Try "
                         "--fp32-vae, or another VAE.")
    return (images.float() * 255).round().clamp(0, 255).to("cpu", torch.uint8).numpy()


def to_pil(images: Tensor) -> list[Image.Image]:
    """PIL pictures of an IMAGE."""
    return [Image.fromarray(image) for image in to_uint8(images)]


def to_tensor(*pictures: Image.Image) -> Tensor:
    """An IMAGE [1, H, W, 3] of PIL pictures, one below the other on white."""
    width = max(picture.width for picture in pictures)
    page = Image.new("RGB", (width, sum(picture.height for picture in pictures)), "white")
    top = 0
    for picture in pictures:
        page.paste(picture.convert("RGB"), (0, top))
        top += picture.height
    return torch.from_numpy(np.asarray(page).astype(np.float32) / 255)[None]
