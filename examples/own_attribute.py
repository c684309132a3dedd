"""An attribute of your own, and one text for each image of a batch.

    python examples/own_attribute.py
"""
import numpy as np

import sd_debias as debias
from sd_debias.diffusers_host.workbench import demo

# A name, groups with the words that the prompt gets, and their shares; as those of `core/attributes`.
ATTRIBUTE = "weather: sunny (on a sunny day) | rainy (in the rain) = 50:50"


def main() -> str:
    pipe = debias.balance(demo().pipe, ATTRIBUTE)
    how = dict(num_images_per_prompt=8, num_inference_steps=2, guidance_scale=2.0, output_type="np")
    first, again = (pipe("a photo of a house", generator=seeded(0), **how).images for _ in range(2))
    plain = debias.disable(pipe)("a photo of a house", generator=seeded(0), **how).images
    changed = int((np.abs(first - plain).max(axis=(1, 2, 3)) > 0).sum())
    return f"{changed} of 8 images have a weather; the same seed has the same one: {np.array_equal(first, again)}"


def seeded(seed: int):
    import torch
    return torch.Generator("cpu").manual_seed(seed)


if __name__ == "__main__":
    print(main())
