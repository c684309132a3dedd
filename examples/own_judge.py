"""A judge of your own: images in, probabilities out.

    python examples/own_judge.py
"""
import numpy as np

import sd_debias as debias
from sd_debias.diffusers_host.workbench import demo


def hair(images):
    """Dark or light hair, by the pixels where the demo model draws it: [N, 2]. A row of zeros would mean that
    it cannot tell."""
    top = np.array([np.asarray(image, float)[6:14, 24:40].mean() for image in images])
    light = (top > 128).astype(float)
    return np.stack([1 - light, light], axis=1)


def main() -> str:
    attribute = "hair colour: dark (with dark hair) | light (with light hair)"
    found = debias.audit(demo().pipe, "a photo of a nurse", attribute, judge=hair, count=24, batch_size=12,
                         progress=False, num_inference_steps=8, guidance_scale=2.0)
    shares = found.shares["hair colour"]
    return ", ".join(f"{group} hair {share:.0%}" for group, share in shares.items())


if __name__ == "__main__":
    print(main())
