"""How sure "sure enough" is: calibrations by the usual plans, beside what is true of their answers.

    python benchmarks/sure.py                       # an hour on two cores, resumable
    python benchmarks/sure.py --occupations doctor

Images are made and labelled once an occupation, for every option of a draw, on shuffled, non-consecutive seeds: some
for calibrations, others for the truth. Ten calibrations of each plan then take theirs in an order of their own. An answer's
true shares are q M, with M counted on images that no calibration has seen. Results are kept in rows/sure.json.gz as they come;
sure.md is their tables.
"""
from __future__ import annotations

import harness
import numpy as np
import torch
from demo_training import artwork, captions

from sd_debias.core.attribute import GENDER, SKIN_TONE_5
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import SURE, enough, planned
from sd_debias.core.statistics import drawn_floor, fair_outcomes, kl_divergence, noise_floor, shares, wilson
from sd_debias.core.method.methods import METHODS

METHOD = METHODS["default"]
ATTRIBUTES = {"gender": GENDER, "tone": SKIN_TONE_5}
OCCUPATIONS = artwork.OCCUPATIONS
# Gender of these has decided how few images are answered; that of the others has decided nothing.
CHOSEN_ON = OCCUPATIONS[::2]
# Of tones; on those of others it was seen that many groups need more certainty before a calibration stops.
TONES = CHOSEN_ON[1::2]
REPEATS = 10
ALONE, PUSHED = 800, 200        # images that calibrations may use, without a push and with each one
TRUE_ALONE, TRUE_PUSHED = 1000, 200  # and those that tell the truth
BATCH = 50
FLOOR_IMAGES = 400              # of the table of floors
PLANS = ("quick", "normal")
FEW = dict(images=23, rounds=2, held_out=20, within=5)  # a plan "custom" of at most 89 images
FEWEST = dict(FEW, images=20)  # of at most 80
ABOUT_80 = 0.75, 0.86  # share of the commoner group, in which that plan is measured by itself


def jobs() -> list[dict]:
    return [dict(attribute=attribute, occupation=subject) for attribute in ATTRIBUTES
            for subject in (OCCUPATIONS if attribute == "gender" else TONES)]


def seeds_of(occupation: str, option: int, n: int) -> list[int]:
    """Seeds of an option's images: of all 40-bit numbers, without order."""
    chance = np.random.default_rng([artwork.OCCUPATIONS.index(occupation), option])
    return chance.choice(2 ** 40, n, replace=False).tolist()


def labels_of(attribute, occupation: str, option: int, n: int) -> np.ndarray:
    """Labels [n] of images that are left alone (option 0) or pushed to a group (its number from 1)."""
    prompt, classify = captions.prompt(occupation), harness.bench.classifier(attribute)
    seeds, found = seeds_of(occupation, option, n), []
    push = -METHOD.unit * torch.eye(len(attribute.groups))[[option - 1]] if option else None
    for at in range(0, n, BATCH):
        batch = seeds[at:at + BATCH]
        images, _ = harness.bench.generate_anew(prompt, batch, [attribute] if option else (), method=METHOD,
                                                weights=None if push is None else push.expand(len(batch), -1))
        found.append(classify(images).argmax(1))
    return np.concatenate(found)


class Pictures:
    """Stands for the model: what a calibration asks for comes out of the labelled images, in an order of its own."""

    def __init__(self, labels: list[np.ndarray], repeat: int):
        chance = np.random.default_rng(repeat)
        self.left = [iter(chance.permutation(own)) for own in labels]
        self.groups = len(labels) - 1

    def generate(self, weights, seeds) -> list[np.ndarray]:
        """Images that hold their label; two of their pixels differ, so that they are not of one colour."""
        options = [0 if not row.any() else int(row.argmin()) + 1 for row in weights]
        return [np.array([[[next(self.left[option])] * 3, [255] * 3]], np.uint8) for option in options]

    def classify(self, images) -> list[np.ndarray]:
        return [np.eye(self.groups)[[int(image[0, 0, 0]) for image in images]]]


def split(labels: list) -> tuple[list, list]:
    """The labels that calibrations may use, and those that tell the truth, by option."""
    used = [ALONE] + [PUSHED] * (len(labels) - 1)
    return [own[:n] for own, n in zip(labels, used)], [own[n:] for own, n in zip(labels, used)]


def calibrated(attribute, used: list[np.ndarray], sure: str, repeat: int, others=(), **numbers) -> Calibration:
    """A whole calibration on labelled images; others are calibrations of earlier prompts of a list, numbers those of
    the plan "custom"."""
    pictures = Pictures(used, repeat)
    calibration = Calibration("an image", [attribute], METHOD, planned(sure, METHOD, batch_size=10, **numbers))
    calibration.learn_from(others)
    for _ in calibration.run(pictures.generate, pictures.classify):
        pass
    return calibration


def listed(results: list[dict], sure: str, together: bool, **numbers) -> np.ndarray:
    """Of each repeat of a list of prompts of an attribute, in an order of its own [REPEATS, prompts, 4]: images begun,
    is it sure by its own account, how far its true shares are from their target, and the share of images that it
    pushes. Not together, each prompt is calibrated by itself."""
    attribute, found = ATTRIBUTES[results[0]["attribute"]], []
    surely, orders = enough(len(attribute.groups)), np.random.default_rng(0)
    results = sorted(results, key=lambda r: artwork.OCCUPATIONS.index(r["occupation"]))
    for repeat in range(REPEATS):
        done, rows = [], []
        for r in [results[i] for i in orders.permutation(len(results))]:
            labels = [np.array(list(map(int, own))) for own in r["labels"]]
            done.append(calibrated(attribute, split(labels)[0], sure, repeat, done if together else [], **numbers))
            q = np.array(done[-1].steerings[0].probabilities or (1.0,) + (0.0,) * len(attribute.groups))
            rows.append((sum(r.done for r in done[-1].rounds), done[-1].certainty(0) >= surely,
                         np.abs(q @ np.array(r["truth"]) - attribute.target).max(), 1 - q[0]))
        found.append(rows)
    return np.array(found, float)


def least(truth: np.ndarray, target: np.ndarray, within: float) -> float:
    """Images that must be left alone so that a share of two is known to `within`, 95 % certain, even if what pushes do
    were known exactly: with p its share among them and m among those pushed to the rarer group, the draw leaves q alone,
    q p + (1 - q) m = t, and the share's variance is q^2 p (1 - p) / N."""
    rarer = int(truth[0].argmin())
    p, m, t = truth[0][rarer], truth[1 + rarer][rarer], target[rarer]
    q = min(1.0, (m - t) / (m - p))
    return (1.96 * q / within) ** 2 * p * (1 - p)


def measure(job: dict) -> tuple[dict, str]:
    """The images of one occupation, and the calibrations on them."""
    attribute = ATTRIBUTES[job["attribute"]]
    n, runs = len(attribute.groups), []
    both = [labels_of(attribute, job["occupation"], option, ALONE + TRUE_ALONE if option == 0 else PUSHED + TRUE_PUSHED)
            for option in range(n + 1)]
    used, rest = split(both)
    truth = np.array([shares(np.bincount(own, minlength=n)) for own in rest])
    for sure in PLANS:
        for repeat in range(REPEATS):
            calibration = calibrated(attribute, used, sure, repeat)
            steering = calibration.steerings[0]
            q = np.array(steering.probabilities or (1.0,) + (0.0,) * n)
            if steering.push != METHOD.unit:
                raise RuntimeError(f"{job}: a stronger push was asked for, of which there are no images")
            true = q @ truth
            drawn = np.array(steering.draws(range(FLOOR_IMAGES)))
            runs.append(dict(
                sure=sure, begun=sum(r.done for r in calibration.rounds),
                certainty=calibration.certainty(0),
                off=float(np.abs(true - attribute.target).max()), kl=float(kl_divergence(true, attribute.target)),
                said=any("does not meet" in warning for warning in calibration.warnings), q=q.tolist(),
                fair_floor=drawn_floor(fair_outcomes(truth, q, attribute.target), drawn, attribute.target),
                fair_exceeds=exceeds(fair_outcomes(truth, q, attribute.target), drawn, attribute.target)))
    covered = {sure: sum(r["off"] <= SURE[sure].within for r in runs if r["sure"] == sure) for sure in PLANS}
    begun = {sure: float(np.mean([r["begun"] for r in runs if r["sure"] == sure])) for sure in PLANS}
    labels = ["".join(map(str, own)) for own in both]
    return dict(truth=truth.tolist(), runs=runs, labels=labels), f"{begun} images begun, {covered} of {REPEATS} within the margin"


def exceeds(matrix: np.ndarray, drawn: np.ndarray, target, draws: int = 4000) -> float:
    """Share of a perfectly fair profile's runs whose KL is above the 95 % point of independent images."""
    chance = np.random.default_rng(0)
    counts = sum(chance.multinomial(images, row, draws)
                 for images, row in zip(np.bincount(drawn, minlength=len(matrix)), matrix))
    return float(np.mean(kl_divergence(shares(counts), target) > noise_floor(len(target), len(drawn))[1]))


def tables(results: list[dict]) -> str:
    """Markdown: plans by attribute, then one row an occupation."""
    text = [f"""# How sure is sure enough

Made by `python benchmarks/sure.py` on {harness.machine()}. {REPEATS} calibrations of every plan and occupation with the default method, to even shares. They take images from {ALONE} that
were left alone and {PUSHED} of every push; the true shares of an answer are counted on {TRUE_ALONE:,} and {TRUE_PUSHED} others, so that they are known within about a point
and a half themselves. "Begun" counts all images. "Covered": every true share lies within the margin, with Wilson's 95 % interval (calibrations of one occupation share
images). "Said": the verification found the answer off its target, by chance in about 1 of 20.

| attribute | plan | margin, points | occupations | calibrations | images begun: mean, most | sure by its own account | covered | mean deviation, points | largest | mean KL | said |
|---|---|---|---|---|---|---|---|---|---|---|---|"""]
    for attribute in ATTRIBUTES:
        rows = [r for r in results if r["attribute"] == attribute]
        for sure in PLANS if rows else ():
            runs = [run for r in rows for run in r["runs"] if run["sure"] == sure]
            off, begun = np.array([run["off"] for run in runs]), [run["begun"] for run in runs]
            covered = int(sum(off <= SURE[sure].within))
            low, high = wilson(covered, len(runs))
            text.append(f"| {attribute} | {sure} | {100 * SURE[sure].within:g} | {len(rows)} | {len(runs)} | {np.mean(begun):.0f}, {max(begun)} "
                        f"| {sum(run['certainty'] >= enough(len(ATTRIBUTES[attribute].groups)) for run in runs)} | {covered} [{low:.1%}, {high:.1%}] | {100 * off.mean():.1f} "
                        f"| {100 * off.max():.1f} | {np.mean([run['kl'] for run in runs]):.4f} | {sum(run['said'] for run in runs)} |")
    gender, tones = ([r for r in results if r["attribute"] == attribute] for attribute in ATTRIBUTES)
    if len(gender) == len(OCCUPATIONS) and len(tones) == len(TONES):
        alone = [least(np.array(r["truth"]), np.array(GENDER.target), SURE["normal"].within) for r in gender]
        text.append(f"""
## A list of prompts

Lists of these prompts, {REPEATS} times each, in an order of its own each time, in which the effect of pushes on earlier prompts counts a little. An answer that pushes as few
images as can be needs many: the share of images that are left alone takes about {np.mean(alone):.0f} per prompt to know, from {min(alone):.0f} to {max(alone):.0f} by prompt, beside the verification.
Where a plan ends before that, its answer pushes more images, if that makes it sure. That rule and the plan of {FEW['images']} images were chosen with an eye on
{len(CHOSEN_ON)} occupations, all those of tones among them; the {len(OCCUPATIONS) - len(CHOSEN_ON)} others test it.

| attribute | plan | prompts | margin, points | images begun per prompt: mean, most | sure by its own account | covered | largest deviation, points | images that are pushed |
|---|---|---|---|---|---|---|---|---|""")
        few, fewest = (f"{plan['images']} images a round, {plan['rounds']} rounds" for plan in (FEW, FEWEST))
        seen = [r for r in gender if r["occupation"] in CHOSEN_ON]
        other = [r for r in gender if r["occupation"] not in CHOSEN_ON]
        uneven = [r for r in other if ABOUT_80[0] <= max(r["truth"][0]) <= ABOUT_80[1]]
        for rows, said, which, sure, together, numbers in (
                (gender, "normal", "all", "normal", True, {}), (gender, few, "all", "custom", True, FEW),
                (other, few, "those that decided nothing", "custom", True, FEW),
                (seen, few, "those it was chosen on", "custom", True, FEW),
                (other, f"{few}, each prompt by itself", "those that decided nothing", "custom", False, FEW),
                (seen, f"{few}, each prompt by itself", "those it was chosen on", "custom", False, FEW),
                (uneven, f"{fewest}, each prompt by itself", f"of those, with {ABOUT_80[0]:.0%} to {ABOUT_80[1]:.0%} of one group",
                 "custom", False, FEWEST),
                (tones, few, "those it was chosen on", "custom", True, FEW)):
            begun, certain, off, pushed = listed(rows, sure, together, **numbers).reshape(-1, 4).T
            covered = int((off <= SURE["normal"].within).sum())
            low, high = wilson(covered, len(off))
            text.append(f"| {rows[0]['attribute']} | {said} | {len(rows)}, {which} | {100 * SURE['normal'].within:g} | {begun.mean():.0f}, {begun.max():.0f} "
                        f"| {certain.sum():.0f} of {len(off)} | {covered} of {len(off)} [{low:.1%}, {high:.1%}] | {100 * off.max():.1f} | {pushed.mean():.0%} |")
    text.append(f"""
## Floors of draws

Draws are spread evenly over the seeds, so a fair profile's shares vary less than those of independent images. Of {FLOOR_IMAGES} images: the 95 % point of KL of a fair profile with these
draws, by simulation; that of independent images; and how often the fair profile exceeds the latter, as 5 % of independent ones do. Means over the answers of the plan "normal".

| attribute | floor of these draws: mean, least, most of the occupations | of independent images | fair profile above the latter: mean, most |
|---|---|---|---|""")
    text += floors(results)
    return "\n".join(text) + "\n"


def floors(results: list[dict]) -> list[str]:
    """The table's rows."""
    rows = []
    for attribute in ATTRIBUTES:
        own = [r for r in results if r["attribute"] == attribute]
        if not own:  # not measured so far
            continue
        floor, above = ([np.mean([run[key] for run in r["runs"] if run["sure"] == "normal"]) for r in own]
                        for key in ("fair_floor", "fair_exceeds"))
        rows.append(f"| {attribute} | {np.mean(floor):.4f}, {min(floor):.4f}, {max(floor):.4f} | {noise_floor(len(own[0]['truth'][0]), FLOOR_IMAGES)[1]:.4f} "
                    f"| {np.mean(above):.2%}, {max(above):.2%} |")
    return rows


if __name__ == "__main__":
    harness.run("sure", jobs(), measure, tables, harness.parser(__doc__).parse_args())
