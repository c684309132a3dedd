"""Pictures of the demo model for README and ComfyUI's template browser.

    python benchmarks/pictures.py            # docs/balance.gif, and a thumbnail beside each of example_workflows

A thumbnail shows what workflows of its kind end with: images, the same seeds before and after, labels, or shares. The
demo model stands in for a checkpoint.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from pages import DOCS, ROOT
from PIL import Image

from sd_debias.core.attribute import GENDER, SKIN_TONE_5
from sd_debias.core.calibration.standing import in_percent
from sd_debias.core.distribution import summarise
from sd_debias.core.profile.balance import balanced
from sd_debias.core.profile.file import Profile, located
from sd_debias.core.report.chart import LIGHT, contact_sheet, written
from sd_debias.core.report.prompt_chart import share_chart
from sd_debias.diffusers_host.workbench import Workbench, demo, pictures

PROMPT, SEEDS, SHOWN = "a photo of a doctor", range(400, 408), 2200  # milliseconds
MANY = range(400, 460)
SUBJECTS = ("doctor", "teacher", "farmer", "firefighter", "judge", "cook", "mechanic", "pilot")
WIDTH, HEIGHT = 768, 384
WORKFLOWS = ROOT / "example_workflows"


def moving(bench: Workbench) -> None:
    """One batch as the model is, balanced at once, and with a calibrated profile."""
    classify, plain = bench.classifier(GENDER), made(bench)
    frames = []
    for words, profile in (("as the model is", None), ("Balance: gender", balanced("gender")),
                           ("Balance: gender, skin tone", balanced("gender", "skin_tone_3")),
                           ("calibrated: gender", calibrated())):
        shown = made(bench, profile)
        men = float((classify(shown).argmax(1) == 0).mean())
        changed = sum(a.tobytes() != b.tobytes() for a, b in zip(plain, shown))
        said = f"{words}: men and women {in_percent((men, 1 - men))}"
        said += f", {changed} of 8 drawn anew" if changed else ""
        sheet = contact_sheet(shown, columns=8, size=96)
        page = Image.new("RGB", (sheet.width, sheet.height + 34), "white")
        page.paste(sheet, (0, 34))
        written(page, 2, 16, said, 18, LIGHT["text"], sheet.width - 4)
        frames.append(page.quantize(96))
    frames[0].save(DOCS / "balance.gif", save_all=True, append_images=frames[1:], duration=SHOWN, loop=0, optimize=True)


def thumbnails(bench: Workbench) -> dict[str, Image.Image]:
    """By the number of a workflow."""
    plain, profile = made(bench), calibrated()
    stated = [(f"{PROMPT}, a {group}", group) for group in ("man", "woman")]
    audited = made(bench, seeds=MANY)
    found = [share_chart(a, summarise(np.bincount(bench.classifier(a)(audited).argmax(1), minlength=len(a.groups)), a.target))
             for a in (GENDER, SKIN_TONE_5)]
    people = made(bench, balanced("gender", "skin_tone_5"))
    shown = [image for prompt, _ in stated for image in made(bench, prompt=prompt, seeds=SEEDS[:4])]
    return {
        "0": grid(people),
        "1": rows(("as the model is", plain), ("calibrated to 50 : 50", made(bench, profile))),
        "2": grid(made(bench, profile)),
        "3": grid([made(bench, profile, f"a photo of a {subject}")[1] for subject in SUBJECTS], SUBJECTS),
        "4": grid(people),
        "5": charts(*found),
        "6": rows(("as the model is", made(bench, prompt="a photo of a judge")),
                  ("calibrated to 50 : 50", made(bench, profile, "a photo of a judge"))),
        "7": rows(("plain", plain), ("steered to a woman", made(bench, prompt=stated[1][0]))),
        "8": grid(shown, [f"{group}: {GENDER.names[i]}" for (_, group), i in zip(
            [pair for pair in stated for _ in range(4)], bench.classifier(GENDER)(shown).argmax(1), strict=True)]),
        "9": grid(people, [", ".join(a.names[i] for a, i in zip((GENDER, SKIN_TONE_5), found)) for found in zip(
            *(bench.classifier(a)(people).argmax(1) for a in (GENDER, SKIN_TONE_5)))])}


def calibrated() -> Profile:
    return Profile.load(located("demo-gender"))


def made(bench: Workbench, profile: Profile | None = None, prompt: str = PROMPT,
         seeds: Sequence[int] = SEEDS) -> list[Image.Image]:
    return pictures((bench.generate(prompt, seeds) if profile is None else bench.apply(profile, prompt, seeds))[0])


def grid(images: list[Image.Image], captions: Sequence[str] | None = None) -> Image.Image:
    return on_page(contact_sheet(images, columns=4, size=168, captions=captions))


def rows(*parts: tuple[str, list[Image.Image]]) -> Image.Image:
    page = Image.new("RGB", (WIDTH, HEIGHT), "white")
    for i, (words, images) in enumerate(parts):
        top = i * HEIGHT // len(parts) + 16
        written(page, 12, top + 14, words, 22, LIGHT["text"], WIDTH - 24)
        page.paste(contact_sheet(images, columns=8, size=90), (8, top + 40))
    return page


def charts(*found: Image.Image) -> Image.Image:
    page = Image.new("RGB", (max(image.width for image in found), sum(image.height for image in found)), "white")
    for i, image in enumerate(found):
        page.paste(image, (0, sum(one.height for one in found[:i])))
    return on_page(page)


def on_page(image: Image.Image) -> Image.Image:
    page = Image.new("RGB", (WIDTH, HEIGHT), "white")
    image.thumbnail((WIDTH - 16, HEIGHT - 16))
    page.paste(image, ((WIDTH - image.width) // 2, (HEIGHT - image.height) // 2))
    return page


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    models = demo()
    moving(models)
    for number, picture in thumbnails(models).items():
        (name,) = WORKFLOWS.glob(f"{number}_*.json")
        picture.save(name.with_suffix(".jpg"), quality=88)
