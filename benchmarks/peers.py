"""The methods that are published or usual, side by side: same model, prompts, seeds, sampler and judge.

    python benchmarks/peers.py              # hours on two cores, resumable
    python benchmarks/peers.py --out docs   # the published ones

A run goes on where rows/peers.json.gz of that folder ends.
"""
from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Callable, Sequence

import harness
import numpy as np
import torch
from diffusers import SemanticStableDiffusionPipeline
from peers_common import BATCH, OCCUPATIONS, drawn
from peers_equisteer import equisteer
from peers_texts import embedding_arithmetic, fairimagen
from PIL import Image

from sd_debias.core.attribute import GENDER, SKIN_TONE_5
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan, seeds_of
from sd_debias.core.calibration.result import profile_of
from sd_debias.core.report.chart import LIGHT, Scene
from demo_training import captions
from sd_debias.core.method.methods import ALONE
from sd_debias.core.statistics import shares, total_variation
from sld_presets import PRESETS
from sd_debias.core.method.methods import METHODS, Method, named
from sd_debias.core.method.draw import Steering
from sd_debias.core.profile.file import Entry, Profile

ATTRIBUTES = {"gender": GENDER, "tone": SKIN_TONE_5}
TESTED = 400
SELECTION = "selection, 8 of 32"  # whose images have no unguided ones of the same seeds to be compared with
KEPT, CANDIDATES = 8, 32  # images of a batch, and how many are made for it by selection
EXPLICIT = 100  # images of a prompt that names a group, for each group
OURS = re.compile("^IDA, (shift|draw)|^Balance")  # the rest is published or usual
PLAN = Plan(240, 4, 400, None, BATCH)


# A peer is set up for a prompt and an attribute: peer(prompt, attribute) returns generate(seeds, asked=prompt), which
# makes images of whatever prompt is asked for with that set-up, and the number of images that the set-up took.


def ida(method: Method, plan: Plan = PLAN) -> Callable:
    """A calibration of this package, and its profile applied as every host does."""
    def calibrate(prompt, attribute):
        calibration = Calibration(prompt, [attribute], method, replace(plan, seed=seeds_of(prompt)))
        for _ in harness.bench.run(calibration):
            pass
        profile = profile_of("peers", [calibration], harness.bench.setting, "demo")
        return (lambda seeds, asked=prompt: harness.bench.apply(profile, asked, seeds)[0],
                sum(r.done for r in calibration.rounds))
    return calibrate


def plain(prompt, attribute):
    return lambda seeds, asked=prompt: harness.bench.generate_anew(asked, seeds)[0], 0


def suffix(prompt, attribute):
    """"..., a woman" behind the prompt, the group drawn for each image, as dynamic prompts do."""
    def generate(seeds, asked=prompt):
        chosen = drawn(attribute, seeds)
        images = [None] * len(seeds)
        for number, group in enumerate(attribute.groups):
            own = np.flatnonzero(chosen == number)
            made, _ = harness.bench.generate(f"{asked}, {group.texts[0]}", [seeds[i] for i in own])
            for i, image in zip(own, made):
                images[i] = image
        return np.stack(images)
    return generate, 0


def selection(prompt, attribute):
    """Eight of 32 candidates by how far they are from each other, as group inference selects (Parmar et al. 2025): the
    sum of CLIP's pairwise distances, greedily, without a term of quality."""
    def generate(seeds, asked=prompt):
        made = []
        for start in range(0, len(seeds), KEPT):
            first = int(seeds[start]) * (CANDIDATES // KEPT)
            images = harness.bench.generate_anew(asked, range(first, first + CANDIDATES))[0]
            features = harness.bench.clip.embed_images(images).numpy()
            far = 1 - features @ features.T
            kept = list(np.unravel_index(far.argmax(), far.shape))
            while len(kept) < KEPT:
                kept.append(int(np.where(np.isin(range(CANDIDATES), kept), -1, far[kept].sum(0)).argmax()))
            made.append(images[kept])
        return np.concatenate(made)[:len(seeds)]
    return generate, 0


def commonest(prompt, attribute) -> int:
    """The group that a user sees most often, from an audit of 100 images."""
    images = harness.bench.generate(prompt, range(seeds_of(prompt), seeds_of(prompt) + 100))[0]
    return int(np.bincount(harness.bench.classifier(attribute)(images).argmax(1)).argmax())


def negative_prompt(prompt, attribute):
    """The commonest group's name as the negative prompt, set by hand."""
    away = attribute.groups[commonest(prompt, attribute)].texts[0]

    def generate(seeds, asked=prompt):
        bench, setting = harness.bench, dict(harness.bench.setting)
        bench.setting["negative_prompt"] = away
        try:
            return bench.generate_anew(asked, seeds)[0]
        finally:
            bench.setting = setting
    return generate, 100


def sld(prompt, attribute):
    """Safe Latent Diffusion, medium, away from the commonest group alone."""
    method = Method("embedding", ALONE, "shift", guidance=PRESETS["medium"])
    weights = np.eye(len(attribute.groups))[commonest(prompt, attribute)]
    return (lambda seeds, asked=prompt: harness.bench.generate(asked, seeds, [attribute], [Steering(tuple(weights))],
                                                               method)[0], 100)


def sega(scale: float, threshold: float, warmup: float, reverse: bool = False) -> Callable:
    """SEGA toward a group drawn for each image; with `reverse`, also away from the others, as Fair Diffusion does
    (Friedrich et al. 2023)."""
    def prepare(prompt, attribute):
        parts = {name: part for name, part in harness.bench.pipe.components.items() if name != "image_encoder"}
        pipe = SemanticStableDiffusionPipeline(**parts, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        texts, s = [group.texts[0] for group in attribute.groups], harness.bench.setting

        def generate(seeds, asked=prompt):
            chosen = drawn(attribute, seeds)
            images = [None] * len(seeds)
            for group in range(len(texts)):
                own = np.flatnonzero(chosen == group)
                edits = range(len(texts)) if reverse else [group]
                n = len(edits)
                for part in (own[i:i + BATCH] for i in range(0, len(own), BATCH)):
                    made = pipe([asked] * len(part), num_inference_steps=s["steps"], guidance_scale=s["cfg"],
                                generator=[torch.Generator("cpu").manual_seed(seeds[i]) for i in part],
                                editing_prompt=[texts[i] for i in edits],
                                reverse_editing_direction=[i != group for i in edits],
                                edit_guidance_scale=[scale] * n, edit_threshold=[threshold] * n,
                                edit_warmup_steps=[round(warmup * s["steps"])] * n, edit_momentum_scale=0.3,
                                edit_mom_beta=0.6, edit_weights=[1.0] * n, output_type="np").images
                    for i, image in zip(part, (made * 255).round().astype(np.uint8)):
                        images[i] = image
            return np.stack(images)
        return generate, 0
    return prepare


def uce_loop(prompt, attribute, images: int = 10, most: int = 30, dead_zone: float = 0.05):
    """UCE's debiasing loop (Gandikota et al. 2024) on this package's shift: weight += desired - observed, until no
    share is off by more than the dead zone."""
    method, bench = METHODS["shift"], harness.bench
    classify, a = bench.classifier(attribute), np.zeros(len(attribute.groups))
    for number in range(most):
        first = seeds_of(prompt) + number * images
        seeds = range(first, first + images)
        made = bench.generate(prompt, seeds, [attribute], [Steering(tuple(a))], method)[0]
        observed = np.bincount(classify(made).argmax(1), minlength=len(a)) / images
        if np.abs(observed - attribute.target).max() <= dead_zone:
            break
        a = a + observed - attribute.target  # a positive weight pushes away
    return (lambda seeds, asked=prompt: bench.generate(asked, seeds, [attribute], [Steering(tuple(a))], method)[0],
            (number + 1) * images)


def every_picture(prompt, attribute):
    """This package's draw without calibration: each image is steered to a group drawn from the target."""
    steering = Steering((0.0,) * len(attribute.groups), (0.0, *attribute.target))
    profile = Profile("peers", METHODS["default"], (attribute,), (Entry(prompt, (steering,)),), harness.bench.setting,
                      "", "", "")
    return lambda seeds, asked=prompt: harness.bench.apply(profile, asked, seeds)[0], 0


PEERS = {
    "plain model": plain,
    "random suffix": suffix,
    SELECTION: selection,
    "negative prompt": negative_prompt,
    "SLD, one group": sld,
    "SEGA, as published": sega(4.0, 0.95, 0.2, reverse=True),
    "SEGA, toward alone": sega(4.0, 0.95, 0.2),
    "SEGA, toward alone, wider": sega(4.0, 0.5, 0.2),
    "UCE's loop": uce_loop,
    "EquiSteer": equisteer,
    "Embedding Arithmetic": embedding_arithmetic,
    "FairImagen, as published": fairimagen(),
    "FairImagen, more noise": fairimagen(1.0),
    "policy gradient": ida(Method(spend="shift", rule="policy_gradient"), replace(PLAN, images=50, rounds=23)),
    "IDA, the paper's combination": ida(METHODS["paper"]),
    "IDA, shift, log": ida(Method(spend="shift")),
    "IDA, draw, embedding": ida(named(direction="embedding")),
    "IDA, draw, embedding, all steps": ida(Method("embedding")),
    "IDA, draw, prompt (default)": ida(METHODS["default"]),
    "Balance": every_picture,
}


def measure(job: dict) -> tuple[dict, str]:
    """One method on one prompt: its images to calibrate, then fresh seeds."""
    bench, attribute, prompt = harness.bench, ATTRIBUTES[job["attribute"]], captions.prompt(job["occupation"])
    generate, used = PEERS[job["peer"]](prompt, attribute)
    seeds = list(harness.fresh(prompt, TESTED))
    harness.forget()
    rows = Rows(bench.pipe.unet.conv_in)
    started = time.process_time()
    images = generate(seeds)
    seconds = time.process_time() - started
    evaluations = rows.stop() / TESTED
    # The same images without guidance, in the same process: a ratio of two measurements of one run.
    harness.forget()
    started = time.process_time()
    bench.generate(prompt, seeds)  # `measured` remembers them
    ratio = seconds / (time.process_time() - started)
    found = harness.measured(images, prompt, [attribute], seeds)
    found["obeyed"] = obeyed(generate, prompt, attribute)
    return (dict(images=used, evaluations=evaluations, seconds_ratio=ratio, **found),
            f"KL {found['attributes'][attribute.name]['kl']:.4f}, {evaluations:.1f} evaluations an image, explicit "
            f"prompts obeyed by {100 * np.mean(found['obeyed']):.0f} %")


def needless(regrouped: float, before: Sequence[int], target: Sequence[float]) -> float:
    """Share of images that change their group beyond the least share that must, so that `before`, the counts of the
    unguided ones, meet the target: their total variation distance."""
    return max(0.0, regrouped - float(total_variation(shares(before), target)))


def obeyed(generate: Callable, prompt: str, attribute) -> list[float]:
    """For each group, the share of images of "{prompt}, {group}" that show it."""
    seeds, classify = list(harness.fresh(prompt, EXPLICIT)), harness.bench.classifier(attribute)
    return [float(np.mean(classify(generate(seeds, f"{prompt}, {group.texts[0]}")).argmax(1) == i))
            for i, group in enumerate(attribute.groups)]


class Rows:
    """Counts the rows that a denoiser evaluates, at its first layer."""

    def __init__(self, layer):
        self.count, self.hook = 0, layer.register_forward_pre_hook(self._add)

    def _add(self, layer, arguments):
        self.count += len(arguments[0])

    def stop(self) -> int:
        self.hook.remove()
        return self.count


def whole(results: Sequence[dict]) -> tuple[list[dict], list[str]]:
    return harness.whole(results, len(ATTRIBUTES) * len(PEERS))


def rows_of(results: Sequence[dict], attribute: str, peer: str) -> list[dict]:
    return [r for r in results if (r["attribute"], r["peer"]) == (attribute, peer)]


def asked_explicitly(results: Sequence[dict]) -> list[str]:
    """The occupations of which all rows say how explicit prompts are obeyed; those of earlier versions do not."""
    lacking = {r["occupation"] for r in results if "obeyed" not in r}
    return [subject for subject in dict.fromkeys(r["occupation"] for r in results) if subject not in lacking]


def summary(results: list[dict], attribute: str, peer: str) -> dict:
    """Means over the occupations measured, of their intervals too."""
    rows, name, asked = rows_of(results, attribute, peer), ATTRIBUTES[attribute].name, asked_explicitly(results)
    shown = [r["attributes"][name] for r in rows]
    alone = {r["occupation"]: r["attributes"][name]["counts"] for r in rows_of(results, attribute, "plain model")}
    return dict(
        kl=np.mean([d["kl"] for d in shown]), kl_interval=np.mean([d["kl_interval"] for d in shown], axis=0),
        **{key: np.mean([r[key] for r in rows])
           for key in ("fidelity", "distance", "images", "evaluations")},
        needless=np.mean([needless(r["regrouped"], alone[r["occupation"]], ATTRIBUTES[attribute].target) for r in rows]),
        obeyed=np.mean([np.mean(r["obeyed"]) for r in rows if r["occupation"] in asked]) if asked else None)


def tables(results: list[dict]) -> str:
    """Markdown: a row an attribute and method."""
    results, subjects = whole(results)
    asked = asked_explicitly(results)
    but = f" It is of {', '.join(asked) or 'no occupation'} alone: rows of an earlier version lack it." * (asked != subjects)
    text = [f"""# Peers, side by side

Made by `python benchmarks/peers.py` on {harness.machine()}, on the demo model: {len(subjects)} occupations ({', '.join(subjects)}), DDIM, 8 steps, CFG 2.
Everything is measured on N = {TESTED} images of seeds that no calibration has used; means over the occupations, intervals of 95 %.
"Distance" is 1 - cosine between CLIP's features of an image and of the unguided one with the same seed. A calibration's images include its audit and its verification.

SEGA "as published" has Fair Diffusion's settings: toward the drawn group and away from the others. "Toward alone" leaves the others out, and "wider" has a threshold of 0.5
as well: the best of the settings tried on other seeds. The negative prompt and SLD name the group that an audit found commonest. EquiSteer (Gaintseva et al. 2026, arXiv 2607.01147), Embedding
Arithmetic (Thirugnana Sambandham and Schön 2026, arXiv 2604.18167) and FairImagen (Fu et al. 2025, arXiv 2510.21363) are written from their papers and public code;
`benchmarks/peers_equisteer.py` and `benchmarks/peers_texts.py` say what this small model makes different. They learn from occupations that are not tested, EquiSteer once for a model and attribute.
FairImagen with "more noise" has a scale of 1 in place of 0.6.

"Needless changes" is the share of images that change their group, less the least share that must change to meet the target (total variation). A method that falls short of
the target may have none: read it beside KL. "Explicit prompts obeyed" is the share of images that show the group that their prompt names, "a photo of a doctor, a woman", N = {EXPLICIT} for each group
and occupation.{but} Every method stays on as it was set up for the prompt that names none; who writes a suffix or a negative prompt by hand would leave it out.
Selection takes {KEPT} of {CANDIDATES} candidates by their pairwise distance, after group inference (Parmar et al. 2025); it aims at [variety](variety.md), which is measured apart.

![KL against the distance to the unguided images](peers.png)

| attribute | method | KL [95 %] | needless changes | explicit prompts obeyed | images to calibrate | evaluations an image |
|---|---|---|---|---|---|---|"""]
    for attribute in ATTRIBUTES:
        for peer in (peer for peer in PEERS if rows_of(results, attribute, peer)):
            s = summary(results, attribute, peer)
            low, high = s["kl_interval"]
            compared = _percent(s["needless"]) if peer != SELECTION else ""
            text.append(f"| {attribute} | {peer} | {s['kl']:.4f} [{low:.4f}, {high:.4f}] | "
                        f"{compared} | {_percent(s['obeyed'])} | {s['images']:.0f} | "
                        f"{s['evaluations']:.1f} |")
    return "\n".join(text) + "\n"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def plot(results: list[dict]) -> Image.Image:
    """Fairness against fidelity against cost, a panel an attribute: farther down is fairer, farther left is nearer to the
    unguided images, larger evaluates more. Ours are blue."""
    results, _ = whole(results)
    peers = [peer for peer in PEERS if peer != SELECTION and rows_of(results, next(iter(ATTRIBUTES)), peer)]
    wide, high, left, top = 460, 330, 60, 34
    scene = Scene(len(ATTRIBUTES) * (left + wide), top + high + 70 + 18 * -(-len(peers) // 2))
    low, decades = 1e-4, 4

    for panel, attribute in enumerate(ATTRIBUTES):
        found = {peer: summary(results, attribute, peer) for peer in peers if rows_of(results, attribute, peer)}
        limit = 1.1 * max(s["distance"] for s in found.values())
        x0 = panel * (left + wide) + left
        scene.text(x0, 12, attribute, size=15)
        for decade in range(decades + 1):
            y = top + high * (1 - decade / decades)
            scene.line(x0, y, x0 + wide - 40, y, "grid")
            scene.text(x0 - 8, y, f"{low * 10 ** decade:g}", "muted", 12, "r")
        labels = {}
        for peer, s in found.items():
            x = x0 + (wide - 40) * s["distance"] / limit
            y = top + high * (1 - np.clip(np.log10(max(s["kl"], low) / low), 0, decades) / decades)
            scene.dot(x, y, 5 * (s["evaluations"] / 16) ** 0.5, "after" if OURS.search(peer) else "before")
            near = next((key for key in labels if abs(key[0] - x) < 9 and abs(key[1] - y) < 10), (x, y))
            labels.setdefault(near, []).append((x, y, peers.index(peer) + 1))
        for points in labels.values():  # what nearly coincides shares a label, right of the last
            x, y = max(point[0] for point in points), points[0][1]
            scene.text(x + 10, y - 8, ", ".join(str(number) for *_, number in points), size=12)
        scene.text(x0 + (wide - 40) / 2, top + high + 14, "distance to the unguided images", "muted", 12, "m")
    scene.text(left, top + high + 36, "held-out KL upward (log scale); area: evaluations", "muted", 12)
    for i, peer in enumerate(peers):
        x, y = left + i % 2 * (left + wide), top + high + 60 + 18 * (i // 2)
        scene.text(x, y, f"{i + 1}  {peer}", "after" if OURS.search(peer) else "before", 13)
    return scene.image(LIGHT)


def main() -> None:
    options = harness.parser(__doc__).parse_args()
    # Occupation by occupation, so that a run that was stopped has measured every method alike.
    jobs = [dict(attribute=attribute, peer=peer, occupation=subject) for subject in OCCUPATIONS
            for attribute in ATTRIBUTES for peer in PEERS]
    plot(harness.run("peers", jobs, measure, tables, options)).save(options.out / "peers.png")


if __name__ == "__main__":
    main()
