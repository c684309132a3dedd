"""The prompts that people write: a profile of "a photo of a doctor" used for twelve other wordings of every occupation.

    python benchmarks/wordings.py                       # hours on two cores, resumable
    python benchmarks/wordings.py --occupations doctor

The profile is the shipped one, profiles/demo-gender.json. A prompt gets what the look-up says (core/profile/lookup.py),
beside a draw for every image, on 200 seeds of the prompt's own. Prompts that name a group and prompts without a person
are looked up too, and images of the latter are compared bit by bit.
Results are kept in rows/wordings.json.gz as they come; wordings.md is their tables.
"""
from __future__ import annotations

from dataclasses import replace

import harness
import numpy as np
from demo_training import artwork, captions
from wordings_texts import CALIBRATED, WITHOUT_PERSONS, WORDINGS, explicit

from sd_debias.core.attribute import GENDER, SKIN_TONE_5
from sd_debias.demo_model.subjects import article
from sd_debias.core.statistics import kl_divergence, shares
from sd_debias.core.method.draw import Steering
from sd_debias.core.profile.file import Profile
from sd_debias.core.profile.lookup import entry_for

PROFILE = Profile.load(harness.ROOT / "profiles" / "demo-gender.json")
N, BLOCK = 200, 30_000_000
HOW = ("nothing", "carried over", "every image")
NONE = Steering.none(2)
LEFT = "without a person"  # the job of these prompts


def jobs() -> list[dict]:
    return [dict(wording=wording, occupation=subject) for subject in artwork.OCCUPATIONS
            for wording in (CALIBRATED, *WORDINGS)] + [dict(wording=LEFT, occupation=LEFT)]


def steered(prompt: str, seeds: range, steering: Steering) -> np.ndarray:
    """Images by a steering; groups' words behind the subject, as the look-up places them."""
    encoded, guided = harness.bench.encoded(PROFILE, prompt), steering != NONE
    return harness.bench.generate(prompt, seeds, PROFILE.attributes if guided else (), [steering] if guided else (),
                                  PROFILE.method, encoded=encoded)[0]


def measure(job: dict) -> tuple[dict, str]:
    """One wording of one occupation, in three ways."""
    if job["wording"] == LEFT:
        return unchanged()
    prompt = job["wording"].replace("a {}", article(job["occupation"])).format(job["occupation"])
    harness.bench.batch_size = 25
    seeds = harness.fresh(prompt, N, BLOCK)
    entry, _ = entry_for(PROFILE, prompt)
    classify, tone = harness.bench.classifier(GENDER), harness.bench.classifier(SKIN_TONE_5)
    unguided = classify(steered(prompt, seeds, NONE)).argmax(1)
    every, found = Steering((0.0, 0.0), (0.0, *GENDER.target), PROFILE.method.unit), {}
    for how, steering in zip(HOW, (NONE, entry.steerings[0], every)):
        images = steered(prompt, seeds, steering)
        labels = classify(images).argmax(1)
        counts = np.bincount(labels, minlength=2)
        drawn = np.array(steering.draws(seeds) if steering.probabilities else [0] * N)
        found[how] = dict(
            counts=counts.tolist(), kl=float(kl_divergence(shares(counts), GENDER.target)),
            regrouped=float(np.mean(labels != unguided)), steered=float(np.mean(drawn > 0)),
            fidelity=float(np.mean(harness.bench.fidelity(images, captions.prompt(job["occupation"])))),
            tones=np.bincount(tone(images).argmax(1), minlength=5).tolist())
    return dict(prompt=prompt, said=list(entry.warnings), how=found), ", ".join(
        f"{how} {part['kl']:.4f}" for how, part in found.items())


def unchanged() -> tuple[dict, str]:
    """Prompts without a person: an image of each with the profile, and one without."""
    changed = []
    for prompt in WITHOUT_PERSONS:
        seeds = harness.fresh(prompt, 2, BLOCK)
        with_it, without = harness.bench.apply(PROFILE, prompt, seeds)[0], harness.bench.generate_anew(prompt, seeds)[0]
        changed += [prompt] * int((with_it != without).any())
    return dict(prompts=len(WITHOUT_PERSONS), images=2 * len(WITHOUT_PERSONS), changed=changed), f"{len(changed)} changed"


def obeyed() -> list[str]:
    """Of the explicit prompts: those that are not left alone on what they name, or left alone on what they do not."""
    tones = Steering((0.0,) * 5, (0.5, 0.1, 0.1, 0.1, 0.1, 0.1))
    both = replace(PROFILE, attributes=(*PROFILE.attributes, SKIN_TONE_5),
                   entries=tuple(replace(e, steerings=(Steering((0.0, 0.0), (0.5, 0.0, 0.5)), tones)) for e in PROFILE.entries))
    wrong = []
    for prompt, names in explicit():
        entry, _ = entry_for(both, prompt)
        if tuple(s.probabilities == () for s in entry.steerings) != names:
            wrong.append(prompt)
    return wrong


def needless(part: dict, nothing: dict) -> float:
    """Share of images that show another group than unguided ones, beyond the least that the shares' change needs."""
    before, after = (shares(np.array(found["counts"])) for found in (nothing, part))
    return part["regrouped"] - float(np.abs(before - after).sum() / 2)


def tables(results: list[dict]) -> str:
    """Markdown: a row a wording."""
    pictures = [r for r in results if r["wording"] != LEFT]
    pictures, subjects = harness.whole(pictures, 1 + len(WORDINGS))
    explicit_prompts, wrong = list(explicit()), obeyed()
    left = next((r for r in results if r["wording"] == LEFT), None)
    text = [f"""# The prompts that people write

Made by `python benchmarks/wordings.py` on {harness.machine()}: the shipped profile of "a photo of a ..." for {len(subjects)} occupations of the
demo model, used for {len(WORDINGS)} other wordings of each; N = {N} seeds of each prompt's own, which no calibration has used. Means over the occupations, with bootstrap 95 % intervals over these.
*carried over*: the profile's weights. *every image*: each is
steered to a group drawn from the target. "Needless" is the share of images whose group changed beyond the least that the shares need. The demo model reads no emphasis:
brackets and weights are words to it. "Tones moved": how far the shares of five skin tones, not steered, moved with the carried-over weights (total variation), and by chance alone.

| wording | KL: nothing | carried over | every image | needless: carried over, every | occupation shown: nothing, carried over | tones moved, by chance |
|---|---|---|---|---|---|---|"""]
    for wording in (CALIBRATED, *WORDINGS):
        rows = [r for r in pictures if r["wording"] == wording]
        if not rows:
            continue
        kl = {how: float(np.mean([r["how"][how]["kl"] for r in rows])) for how in HOW}
        sure = {how: interval([r["how"][how]["kl"] for r in rows]) for how in HOW}
        extra = [float(np.mean([needless(r["how"][how], r["how"]["nothing"]) for r in rows])) for how in HOW[1:]]
        shown = [float(np.mean([r["how"][how]["fidelity"] for r in rows])) for how in HOW[:2]]
        moved, chance = (float(np.mean(found)) for found in zip(*(tones_moved(r) for r in rows)))
        text.append(f"| `{wording.format('X')}` | {kl['nothing']:.3f} | {kl['carried over']:.4f} {sure['carried over']} | "
                    f"{kl['every image']:.4f} | "
                    f"{', '.join(f'{abs(round(100 * share))} %' for share in extra)} | {shown[0]:.3f}, {shown[1]:.3f} | "
                    f"{moved:.3f}, {chance:.3f} |")
    text += ["", f"Prompts that name a group, of gender, tone or both, in positive and negative wording: {len(explicit_prompts)}, of which "
             f"{len(explicit_prompts) - len(wrong)} are left alone on what they name, and on nothing else."]
    if left:
        text.append(f"Prompts without a person: {left['prompts']}, {left['images']} images, of which {len(left['changed'])} changed.")
    return "\n".join(text) + "\n"


def interval(values: list[float]) -> str:
    """95 % interval of a mean over occupations, by 4,000 bootstrap samples of them."""
    chance = np.random.default_rng(0)
    means = np.array(values)[chance.integers(0, len(values), (4000, len(values)))].mean(1)
    return f"[{np.quantile(means, 0.025):.4f}, {np.quantile(means, 0.975):.4f}]"


def tones_moved(r: dict) -> tuple[float, float]:
    """Total variation of the tones' shares between unguided and carried-over images, and what chance makes of it."""
    before, after = (np.array(r["how"][how]["tones"]) for how in HOW[:2])
    chance = np.random.default_rng(0)
    p, n = shares(before + after), int(before.sum())
    two = chance.multinomial(n, p, (2, 2000)) / n
    return float(np.abs(shares(before) - shares(after)).sum() / 2), float(np.abs(two[0] - two[1]).sum(1).mean() / 2)


if __name__ == "__main__":
    harness.run("wordings", jobs(), measure, tables, harness.parser(__doc__).parse_args())
