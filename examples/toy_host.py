"""A whole host in one page: images of noise whose brightness is the group, and a judge that looks at it.

    python examples/toy_host.py

Calibrates a model that draws dark images four times of five toward 50:50, and applies what was found.
"""
from __future__ import annotations

import sys
import tempfile
import types
from pathlib import Path

import numpy as np

package = types.ModuleType("sd_debias")  # as if it were installed
package.__path__ = [str(Path(__file__).resolve().parent.parent)]
sys.modules.setdefault("sd_debias", package)

from sd_debias.core.attribute import parse  # noqa: E402
from sd_debias.core.calibration.plan import planned  # noqa: E402
from sd_debias.core.method.methods import METHODS  # noqa: E402
from sd_debias.core.profile.lookup import entry_for  # noqa: E402
from sd_debias.core.method.draw import rows  # noqa: E402
from sd_debias.core import Host, Places, calibrate  # noqa: E402


class Toy(Host):
    """What a host is: a setting, a judge, and images."""
    setting = dict(host="toy", model="noise")

    def judges(self, attributes):
        def brightness(images):
            bright = np.array([image.mean() > 128 for image in images], np.float32)
            return np.stack([1 - bright, bright], axis=1)  # [N, n] probabilities, a column per group
        return [brightness for _ in attributes], None  # None: nothing measures fidelity to the prompt

    def render(self, prompt, seeds, weights, attributes, method):
        """weights [B, n]: -1 leads to a group, 1 away from it, 0 leaves the image alone."""
        pictures = []
        for seed, row in zip(seeds, weights.tolist(), strict=True):
            noise = np.random.default_rng(seed)
            bright = noise.random() < 0.2 if not any(row) else row[1] < row[0]
            pictures.append(noise.integers(128 * bright, 128 + 127 * bright, (8, 8, 3), np.uint8))
        return pictures


def main(folder: Path) -> str:
    """Calibrate into a folder; the verdict, and the shares of 400 images with the profile."""
    attribute, plan = parse("light: dark | bright"), planned("quick", METHODS["default"], batch_size=10)
    places = Places(profile=folder / "profile.json", lock=folder / "lock", folder=folder,
                    states=folder / "unfinished", best=folder / "best so far.json")
    outcome = calibrate(Toy(), ["a room"], [attribute], METHODS["default"], plan, "toy", places)
    entry, _ = entry_for(outcome.profile, "a room")
    seeds = range(10_000, 10_400)
    images = Toy().render("a room", seeds, rows(entry.steerings, seeds), [attribute], METHODS["default"])
    bright = np.mean([image.mean() > 128 for image in images])
    return f"{outcome.text.splitlines()[1].strip()}\nbright in 400 further images: {bright:.0%}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(main(Path(made)))
