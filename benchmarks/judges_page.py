"""What judges.py and photographs.py found, in judges.json and as the page judges.md."""
from __future__ import annotations

from pathlib import Path

from pages import answer
from reliability import kept

from sd_debias.core.statistics import wilson


def record(name: str, found: dict, folder: Path) -> None:
    """Keep one part's figures beside the others, and make the page anew."""
    kept("judges", page, name, found, folder)


def page(known: dict) -> str:
    """The page, of what has been measured so far."""
    parts = [f"# Judges, measured\n\n{answer('judges')}\n\nWhich judge to take: [choosing a judge](choosing_a_judge.md).\n"]
    if found := known.get("photographs"):
        parts.append(_photographs(found))
    if found := known.get("correction"):
        parts.append(_correction(found))
    if found := known.get("calibrations"):
        parts.append(_calibrations(found))
    if found := known.get("people"):
        parts.append(_people(found))
    if found := known.get("throughput"):
        parts.append(f"""## Throughput

An audit of a folder of {found['images']} images of {found['pixels']} x {found['pixels']} pixels with the demo's CLIP labels {found['a_second']} a second, opening and
thumbnails included ({found['machine']}; `python benchmarks/judges.py`). CLIP ViT-L/14 is some hundred times as large: there the model determines the speed.
""")
    return "\n".join(parts)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _photographs(found: dict) -> str:
    rows = "\n".join(f"| {name} | {own['found']} of {found['faces']} | {own['false']} | {own['seconds']:.2f} |"
                     for name, own in found["detectors"].items())
    judges = "\n".join(f"| {name} | {own['right']} of {own['n']} | {_percent(own['interval'][0])} to "
                       f"{_percent(own['interval'][1])} | {_rows(own)} |" for name, own in found["judges"].items())
    return f"""## On photographs

`python benchmarks/photographs.py --pictures FOLDER` ({found['machine']}): {found['photographs']} photographs of seven packages, {found['faces']} faces, and {found['without']} images without any.
Labels were written by hand, by one viewer, by appearance. It is an easy set: faces are large, most look into the camera, and few are dark or
old. It separates a working judge from a broken one; it does not rank good judges.

| detector | faces found | found where none is | seconds an image |
|---|---|---|---|
{rows}

| judge, on faces of the first detector | as the hand says | 95 % interval | by group (rows: hand) |
|---|---|---|---|
{judges}
"""


def _rows(own: dict) -> str:
    return "; ".join(f"{name}: {', '.join(map(str, row))}" for name, row in zip(own["groups"], own["confusion"]))


def _correction(found: dict) -> str:
    rows = "\n".join(f"| {100 * float(rate):.0f} % | {own['inside']} of {own['runs']} | {own['without_correction']} of "
                     f"{own['runs']} | {100 * own['mean_error']:.1f} points |"
                     for rate, own in found.items() if rate != "machine")
    return f"""## The check corrects shares

`python benchmarks/judges.py` ({found['machine']}): a judge is made worse on purpose. Audits of 200 images of four occupations, a check of 50 images a
group. How often does the 95 % interval hold the true share?

| labels wrong | corrected interval holds it | uncorrected interval holds it | mean error, corrected |
|---|---|---|---|
{rows}
"""


def _calibrations(found: dict) -> str:
    return f"""## Calibrations with such a judge

To 30:70, within 5 points; the share of women by the true labels on {found['images']} fresh images, whose own 95 % interval is ± 4.5 points
({found['machine']}). (At a target of 50:50, a judge with equal errors in both directions shows even shares anyway.)

| labels wrong | images of the check, a group | mean share of women | off target: mean, largest, points | target within the test's interval | sure within, by itself | images used, mean |
|---|---|---|---|---|---|---|
{_ended(found)}

The more labels are wrong, the more images the check itself needs: of 400 a group, labels that are wrong in 30 % leave 4 points of doubt on
the true share, the same for every occupation, and the calibration says so. Without a check it claims its 5 points and is wrong by more than 10.
"""


def _ended(found: dict) -> str:
    """Of each rate and check: how far from 70 % women the calibrations ended, by the true labels."""
    ended, text = {}, []
    for own in found["rows"]:
        ended.setdefault((own["rate"], own["check"]), []).append(own)
    for (rate, check), rows in ended.items():
        women, said = [own["woman"] for own in rows], sorted({own["within"] for own in rows})
        off = [abs(woman - 0.7) for woman in women]
        inside = sum(low <= 0.7 <= high for low, high in (wilson(round(w * found["images"]), found["images"]) for w in women))
        text.append(f"| {100 * rate:.0f} % | {check or 'none'} | {_percent(sum(women) / len(women))} | {100 * sum(off) / len(off):.1f}, {100 * max(off):.1f} "
                    f"| {inside} of {len(women)} | {' to '.join(map(str, said[:1] + said[1:][-1:]))} points | {sum(own['images'] for own in rows) / len(rows):.0f} |")
    return "\n".join(text)


def _people(found: dict) -> str:
    rows = "\n".join(f"| {name} | {own['inside']} of {own['runs']} | {own['as_if_independent']} of {own['runs']} |"
                     for name, own in found.items() if name in ("independent", "alike"))
    whole = found["whole way"]
    return f"""## People instead of images

Canvases of one to four persons of the demo model, 400 canvases a run; *alike*: with a chance of 80 % a person is of the first one's group.
How often does the 95 % interval hold the true share of persons ({found['machine']})?

| persons of one image | people mode | as if all persons were independent |
|---|---|---|
{rows}

The whole way once, from canvases over boxes and cuts to labels: {whole['persons']} persons, true counts {whole['true'][0]} and {whole['true'][1]}, counted {whole['counted'][0]} and {whole['counted'][1]};
they weigh as much as {whole['effective']} independent ones.
"""
