"""docs/balance.gif: one batch of the demo model as it is, balanced at once, and with a calibrated profile.

    python benchmarks/moving_picture.py --out docs
"""
from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.standing import in_percent
from sd_debias.core.profile.balance import balanced
from sd_debias.core.profile.file import Profile, located
from sd_debias.core.report.chart import LIGHT, contact_sheet, written
from sd_debias.diffusers_host.workbench import demo, pictures

PROMPT, SEEDS, SHOWN = "a photo of a doctor", range(400, 408), 2200  # milliseconds


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=Path("results"))
    out = options.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    bench = demo()
    classify = bench.classifier(GENDER)
    plain = pictures(bench.generate(PROMPT, SEEDS)[0])
    frames = []
    for words, profile in (("as the model is", None), ("Balance: gender", balanced("gender")),
                           ("Balance: gender, skin tone", balanced("gender", "skin_tone_3")),
                           ("calibrated: gender", Profile.load(located("demo-gender")))):
        shown = plain if profile is None else pictures(bench.apply(profile, PROMPT, SEEDS)[0])
        men = float((classify(shown).argmax(1) == 0).mean())
        changed = sum(a.tobytes() != b.tobytes() for a, b in zip(plain, shown))
        said = f"{words}: men and women {in_percent((men, 1 - men))}"
        said += f", {changed} of 8 drawn anew" if changed else ""
        frames.append(framed(shown, said))
    path = out / "balance.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=SHOWN, loop=0, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} kB")


def framed(images: list, words: str) -> Image.Image:
    """The images in two rows, with what they are above."""
    sheet = contact_sheet(images, columns=8, size=96)
    page = Image.new("RGB", (sheet.width, sheet.height + 34), "white")
    page.paste(sheet, (0, 34))
    written(page, 2, 16, words, 18, LIGHT["text"], sheet.width - 4)
    return page.quantize(96)


if __name__ == "__main__":
    main()
