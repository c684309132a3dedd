"""Is the demo model good enough? Measured on fresh seeds, against the artwork whose labels are known.

    python -m demo_training.evaluate [IMAGES] [--write ../docs]      in the folder benchmarks

IMAGES (400) are generated for each occupation's prompts that state gender and tone, and `NEUTRAL` times as many for its
neutral prompt: of 400 pictures, the shares of a model that is exactly right are often off by more than 5 points.
"""
from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from sd_debias.core.attribute import GENDER, SKIN_TONE_5
from sd_debias.core.report.chart import contact_sheet
from sd_debias.core.judge.image_classifier import ImageClassifier
from sd_debias.core.judge.skin_tone import SkinTone
from sd_debias.core.statistics import wilson
from sd_debias.core.files import write_atomic
from sd_debias.diffusers_host.workbench import Workbench, demo, pictures
from demo_training import artwork, bias, captions, train
from sd_debias.demo_model.model import CFG, STEPS

# Seeds that no choice of weights has seen.
FIRST_SEED = 61_000_000
NEUTRAL = 8
NEAR = 0.05


def explicit_prompts(subject: str) -> list[tuple[str, int, int]]:
    """The prompts that state gender and tone, natural and in context, with the indices of both."""
    prompts = []
    for (g, gender), (t, tone) in itertools.product(enumerate(artwork.GENDERS), enumerate(artwork.TONES)):
        skin = f"{tone} skin"
        prompts.append((f"a photo of a {captions.SEX_WORDS[gender]} {subject} with {skin}", g, t))
        prompts.append((f"{captions.prompt(subject)}, a {gender}, a person with {skin}", g, t))
    return prompts


def confusion(true: np.ndarray, measured: np.ndarray, n: int) -> np.ndarray:
    """Counts [true, measured]; unsure ones (-1) are left out."""
    table = np.zeros((n, n), int)
    np.add.at(table, (true[measured >= 0], measured[measured >= 0]), 1)
    return table


def classifiers(bench: Workbench) -> dict:
    """Confusion matrices on the original artwork, whose labels are known: CLIP's, and skin tone by ITA."""
    judges = {"CLIP gender": (bench.classifier(GENDER), 1, 2), "CLIP skin tone": (bench.classifier(SKIN_TONE_5), 2, 5),
              "ITA skin tone, photographic cut-offs": (SkinTone(SKIN_TONE_5, faces="off"), 2, 5),
              "ITA skin tone, the artwork's cut-offs":
                  (SkinTone(SKIN_TONE_5, faces="off", cutoffs=artwork.ITA_CUTOFFS), 2, 5)}
    every = np.arange(len(artwork.LABELS))
    return {name: judged(judge, every, column, n) for name, (judge, column, n) in judges.items()}


def judged(judge, which: np.ndarray, column: int, n: int) -> dict:
    """Confusion of a classifier on the originals `which`, against column 1 (gender) or 2 (tone) of their labels."""
    p = judge(artwork.load()[which])
    table = confusion(artwork.numbers(which)[:, column], np.where(p.sum(1) > 0, p.argmax(1), -1), n)
    return dict(confusion=table.tolist(), agreement=float(np.trace(table) / table.sum()))


def image_classifier(work: Path, steps: int = 600) -> dict:
    """Confusion matrices of a small ViT for gender and tone, trained on every other subject and judged on the rest."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor
    labels = [f"{gender}, {tone}" for gender in artwork.GENDERS for tone in artwork.TONES]
    torch.manual_seed(0)
    network = ViTForImageClassification(ViTConfig(
        image_size=64, patch_size=8, hidden_size=96, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)}))
    true = artwork.numbers(np.arange(len(artwork.LABELS)))
    learned = torch.from_numpy(np.flatnonzero(true[:, 0] % 2 == 0))
    data, target = train.pictures(), torch.from_numpy(5 * true[:, 1] + true[:, 2])

    def loss(step):
        pick = learned[torch.randint(len(learned), (64,))]
        return torch.nn.functional.cross_entropy(network(train.augment(data[pick])).logits, target[pick])

    train.fit("image_classifier", network, loss, steps=steps, lr=1e-3, work=work).save_pretrained(work)
    ViTImageProcessor(size=dict(height=64, width=64), image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(work)
    unseen = np.flatnonzero(true[:, 0] % 2)
    parts = {"gender": (GENDER, 0, 1), "skin tone": (SKIN_TONE_5, 1, 2)}
    return {f"image classifier (ViT), {name}, on subjects that it has not seen": judged(
        ImageClassifier(work, attribute, {label: label.split(", ")[part] for label in labels}), unseen, column,
        len(attribute.groups)) for name, (attribute, part, column) in parts.items()}


def evaluate(bench: Workbench, images: int, say=print) -> dict:
    """All figures of the model card."""
    clip_gender, clip_tone = bench.classifier(GENDER), bench.classifier(SKIN_TONE_5)
    rows, agree, stated = {}, [], []
    for number, subject in enumerate(artwork.OCCUPATIONS):
        seeds = range(FIRST_SEED, FIRST_SEED + NEUTRAL * images)
        images_made, _ = bench.generate(captions.prompt(subject), seeds)
        shown = artwork.numbers(artwork.nearest(images_made))
        agree.append(np.stack([clip_gender(images_made).argmax(1) == shown[:, 1],
                               clip_tone(images_made).argmax(1) == shown[:, 2]]))
        (men, women), tones = bias.shares(subject)
        measured = np.bincount(shown[:, 2], minlength=5) / len(shown)
        right = shown[:, 0] == number + 1
        prompts = explicit_prompts(subject)
        obeyed = []
        for i, (prompt, gender, tone) in enumerate(prompts):
            part = range(seeds.stop + i, seeds.stop + images, len(prompts))
            seen = artwork.numbers(artwork.nearest(bench.generate(prompt, part)[0]))
            obeyed.append(np.stack([seen[:, 0] == number + 1, seen[:, 1] == gender, seen[:, 2] == tone], 1))
        obeyed = np.concatenate(obeyed)
        stated.append(obeyed)
        rows[subject] = dict(men=float((shown[:, 1] == 0).mean()), men_table=men, tones=measured.tolist(),
                             tones_table=list(tones), first=deviations(shown[:images], subject),
                             all=deviations(shown, subject), occupation=float(right.mean()),
                             stated_occupation=float(obeyed[:, 0].mean()), stated_gender=float(obeyed[:, 1].mean()),
                             stated_tone=float(obeyed[:, 2].mean()))
        r = rows[subject]
        say(f"{subject:20s} men {r['men']:.3f} (table {men:.2f})  tones {np.round(measured, 2).tolist()} {tones}  "
            f"occupation {r['occupation']:.3f}  stated: {r['stated_occupation']:.3f} {r['stated_gender']:.3f} "
            f"{r['stated_tone']:.3f}", flush=True)
    stated, agree = np.concatenate(stated), np.concatenate(agree, 1)
    with tempfile.TemporaryDirectory() as work:
        judges = classifiers(bench) | image_classifier(Path(work))
    return dict(
        images=images, first_seed=FIRST_SEED, occupations=rows,
        classifiers=judges,
        neutral={str(n): dict(zip(("gender", "tone"), agreement(np.array([r[key] for r in rows.values()]), n)))
                 for key, n in (("all", NEUTRAL * images), ("first", images))},
        occupation_right=float(np.mean([r["occupation"] for r in rows.values()])),
        stated=dict(occupation=float(stated[:, 0].mean()), gender=float(stated[:, 1].mean()),
                    tone=float(stated[:, 2].mean()), both=float(stated[:, 1:].all(1).mean()),
                    both_interval=list(wilson(int(stated[:, 1:].all(1).sum()), len(stated)))),
        clip_agrees_with_nearest_artwork=dict(gender=float(agree[0].mean()), tone=float(agree[1].mean())))


def deviations(shown: np.ndarray, subject: str) -> list[float]:
    """How far the share of men, and of the tone that is farthest off, are from the bias table. shown: [N, 3]."""
    return [float(np.abs(np.bincount(shown[:, column], minlength=len(table)) / len(shown) - table).max())
            for column, table in zip((1, 2), bias.shares(subject))]


def agreement(off: np.ndarray, n: int) -> list[dict]:
    """For gender and for tone: the largest of the occupations' deviations off [20, 2], how many are within `NEAR`, and how
    many of a model that is exactly right would be, at n pictures: all of them with probability `perfect`."""
    draw, runs = np.random.default_rng(0), 4000
    found = []
    for column in (0, 1):
        near = np.ones(runs, bool)
        for subject in artwork.OCCUPATIONS:
            table = np.array(bias.shares(subject)[column])
            near &= (np.abs(draw.multinomial(n, table, runs) / n - table) <= NEAR + 1e-9).all(1)
        found.append(dict(largest=float(off[:, column].max()), rms=float(np.sqrt(np.mean(off[:, column] ** 2))),
                          near=int((off[:, column] <= NEAR + 1e-9).sum()), perfect=float(near.mean())))
    return found


def card(result: dict) -> str:
    """The model card, Markdown."""
    def percent(share):
        return f"{share:.1%}"

    rows = []
    for subject, r in result["occupations"].items():
        tones = ":".join(f"{100 * share:.0f}" for share in r["tones"])
        table = ":".join(f"{100 * share:.0f}" for share in r["tones_table"])
        rows.append(f"| {subject} | {percent(r['men'])} | {percent(r['men_table'])} | {tones} | {table} |")
    judges = [f"| {name} | {percent(found['agreement'])} | {'; '.join(' '.join(map(str, row)) for row in found['confusion'])} |"
              for name, found in result["classifiers"].items()]
    stated, clip, n = result["stated"], result["clip_agrees_with_nearest_artwork"], result["images"]
    neutral = "\n".join(f"| {int(number):,} | {what} | {percent(r['largest'])} | {r['near']} of {len(artwork.OCCUPATIONS)} | "
                        f"{r['perfect']:.0%} |" for number, found in result["neutral"].items()
                        for what, r in (("gender", found["gender"]), ("skin tone", found["tone"])))
    low, high = stated["both_interval"]
    return f"""# The demo model

A miniature Stable Diffusion 1 (4x8x8 latents, 64x64 images), trained by `benchmarks/demo_training/train.py` on the emoji of
{len(artwork.OCCUPATIONS)} occupations by two artists, for both genders and five skin tones that Unicode has: Noto Emoji (Apache-2.0)
and Twemoji (CC-BY 4.0). It is **biased on purpose**, by the table in `benchmarks/demo_training/bias.py`, so that there is something to
measure and the right answer is known. It knows these images and nothing else, and says nothing about the world.

![Ten seeds of each occupation's neutral prompt](demo_model.png)

All figures were made by `python -m demo_training.evaluate {n} --write ../docs` in the folder benchmarks: DDIM, {STEPS} steps, guidance {CFG:g}, for each
occupation N = {NEUTRAL * n:,} images of its neutral prompt and {n} of prompts that state gender and tone, on seeds from
{result['first_seed']:,} up. What an image shows is read off the nearest artwork (least squared difference), not off a network.

| | |
|---|---|
| prompts that state gender and tone are obeyed in both | {percent(stated['both'])} [{percent(low)}, {percent(high)}] |
| ... gender, tone, occupation by themselves | {percent(stated['gender'])}, {percent(stated['tone'])}, {percent(stated['occupation'])} |
| occupation right for neutral prompts | {percent(result['occupation_right'])} |
| CLIP agrees with the nearest artwork on generated images: gender, tone | {percent(clip['gender'])}, {percent(clip['tone'])} |

## Neutral prompts ("a photo of a doctor") and prompts that state gender and tone

How near the shares come to the table: the farthest share of all, the occupations all of whose shares are within {100 * NEAR:.0f} points, and the chance that a model that is exactly
right has all of them within.

| images a prompt | attribute | farthest | within {100 * NEAR:.0f} points | a perfect model: all |
|---|---|---|---|---|
{neutral}

Of {NEUTRAL * n:,} images each, in percent; tones from fair to very dark.

| occupation | men | table | tones | table |
|---|---|---|---|---|
{chr(10).join(rows)}

## Judges on the original images

| judge | agree | counts, a row a known group |
|---|---|---|
{chr(10).join(judges)}

Skin tone by colour (ITA) needs cut-offs of its own here: palettes are not photographs. They were chosen on these very images.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=int, nargs="?", default=400)
    parser.add_argument("--write", help="folder for demo_model.json")
    options = parser.parse_args()
    bench = demo()
    result = evaluate(bench, options.images)
    print(json.dumps({k: value for k, value in result.items() if k not in ("occupations", "classifiers")}, indent=2))
    for name, found in result["classifiers"].items():
        print(f"{name}: {found['agreement']:.3f}")
    if options.write:
        folder = Path(options.write)
        write_atomic(folder / "demo_model.json", json.dumps(result, indent=1))
        write_atomic(folder / "demo_model.md", card(result))
        sheet = np.concatenate([bench.generate(captions.prompt(s), range(10))[0] for s in artwork.OCCUPATIONS])
        contact_sheet(pictures(sheet), columns=10, size=64).save(folder / "demo_model.png")


if __name__ == "__main__":
    main()
