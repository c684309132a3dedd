"""Many jobs over the API of a running AUTOMATIC1111 server: plain images, images with a profile, audits and
calibrations by script and by route, up to three at once; some are cancelled at a random moment, and cancelled
calibrations are started again later, until they end.
"""
from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from soak_watch import Different, Watch, folder_of, temporary

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "webui"))

import real  # noqa: E402  # of the tests: how a server is spoken to
from settings import CALIBRATE, SCRIPT, debias, keys, payload, save_profile  # noqa: E402

# MB per 100 runs. The smallest runs decode 4 images of 64 x 64 in 32 bits, 0.2 MB: kept of every run they are 20 MB.
BOUNDS = dict(memory=10.0)
EACH = 100
CHECKED = 20  # after so many runs the plain images are compared
KINDS = {"plain": 3, "applied": 3, "audit": 4, "calibration": 4}  # how often, relatively
PAGE = dict(batch_size=4, steps=4)
COUNT = 8  # images of an audit
PLAN = dict(images=COUNT, rounds=1, held_out=4)
PROFILE = "soak"


@dataclass
class Run:
    kind: str
    seed: int
    name: str  # of the profile, where one is calibrated

    @property
    def calibrates(self) -> bool:
        return self.kind == "calibration"


class Host:
    """The server; a run returns whether it came to its end, and raises Different where what it says is wrong."""

    def __init__(self, url: str, folder: Path):
        os.environ.update(A1111_PATH=str(folder), A1111_URL=url)
        self.server = real.Server("A1111", ROOT)
        save_profile(self.server.profiles, PROFILE)
        self.weights = keys(self.pictures(True)[1][0])["Debias weights"]

    def post(self, **given) -> tuple[list[str], list[str]]:
        """Images, as the host encodes them, and infotexts; none of a run that was cancelled before its first."""
        answer = self.server.call("/sdapi/v1/txt2img", payload(override_settings=dict(return_grid=False), **PAGE, **given))
        return answer["images"], json.loads(answer["info"])["infotexts"]

    def pictures(self, applied: bool, seed: int = 1) -> tuple[list[str], list[str]]:
        return self.post(seed=seed, **(debias(name=PROFILE) if applied else {}))

    def run(self, run: Run) -> bool:
        if run.kind in ("plain", "applied"):
            return self.said(run, self.pictures(run.kind == "applied", run.seed)[1])
        return self.by_script(run)

    def said(self, run: Run, texts: list[str]) -> bool:
        """What infotexts claim: of plain images nothing, of others this profile with its weights, or why not."""
        for text in texts:
            found = keys(text)
            wrong = found if run.kind == "plain" else found.get("Debias profile") != PROFILE or "Debias failed" in found or (
                found.get("Debias weights") != self.weights and not found.get("Debias", "").startswith("not applied"))
            if wrong or ("Debias weights" in found and "Debias" in found):
                raise Different(f"Expected an infotext of {run.kind} images, got {text}")
        return bool(texts) and all("Debias" not in keys(text) for text in texts)

    def by_script(self, run: Run) -> bool:
        given = {**CALIBRATE, **PLAN, "name": run.name} if run.calibrates else dict(work="audit", count=COUNT)
        texts = self.post(seed=run.seed, script_name=SCRIPT, script_args=[{**given, "judge": "demo"}])[1]
        return bool(texts) and self.ended(run, texts[0])

    def ended(self, run: Run, text: str) -> bool:
        """Whether it came to its end by its own words. Raises Different where there is no such result, or a result of
        one that did not."""
        complete = "Interrupted" not in text
        counted = f"N = {COUNT}" in text
        saved = run.calibrates and (self.server.profiles / f"{run.name}.json").exists()
        if complete and not counted or complete != saved and run.calibrates:
            raise Different(f"Expected the result of {run.kind} {run.name}, which is {'' if saved else 'not '}saved, got "
                            f"{text}")
        return complete

    def cancel(self, run: Run, chance: random.Random) -> bool:
        """Interrupt what runs; False where nothing runs."""
        working = bool(self.server.call("/sdapi/v1/progress")["state"]["job"])
        self.server.call("/sdapi/v1/interrupt", {})
        return working


def soak(url: str, pid: int, runs: int, seed: int) -> dict:
    folder = folder_of(pid, "--data-dir")
    host, chance, count = Host(url, folder), random.Random(seed), Counter()
    watch = Watch(pid, lambda: temporary(pid, [host.server.profiles]))
    before = [host.pictures(applied) for applied in (False, True)]
    stopped: list[Run] = []  # cancelled calibrations
    number, seconds = 0, 2.0

    def compare(applied: bool) -> None:
        if host.pictures(applied) != before[applied]:
            raise Different(f"Expected {'debiased' if applied else 'plain'} images and infotexts after {number} runs to "
                            "be those of before, but they differ.")

    with ThreadPoolExecutor(3) as pool:
        while number < runs or stopped:
            burst: list[Run] = []
            for _ in range(chance.randint(1, 3)):
                again = bool(stopped) and (number >= runs or chance.random() < 0.5)
                if again:
                    run = stopped[0]
                else:
                    kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
                    run = Run(kind, 1000 + number, f"soak {seed} {number}")
                if run.kind.endswith("route") and any(other.kind.endswith("route") for other in burst):
                    break  # the routes refuse a second job while one waits or runs
                if again:
                    stopped.pop(0)
                    count["continued"] += 1
                burst.append(run)
                number += 1
                count[run.kind] += 1
                if number >= runs and not stopped:
                    break
            begun, cut, asked, host.job = time.monotonic(), 0, False, None
            ahead = [pool.submit(host.run, run) for run in burst]
            for run in burst:
                if number < runs and chance.random() < 0.45:
                    time.sleep(chance.uniform(0, seconds))
                    cut, asked = cut + host.cancel(run, chance), True
            for run, future in zip(burst, ahead):
                complete = future.result()
                count["complete"] += complete
                if not complete and not asked:  # one may begin between the two requests of a cancel
                    raise Different(f"Expected {run.kind} to end by itself, but it says that it was interrupted.")
                if not complete and run.calibrates:
                    stopped.append(run)
            count["cancelled"] += cut
            seconds = 0.9 * seconds + 0.1 * (time.monotonic() - begun) / len(burst)
            watch.sample(number)
            if number // CHECKED > (number - len(burst)) // CHECKED:
                compare(False)
                print(f"{number} runs, {dict(count)}, {watch.seen['memory'][-1]:.1f} MB", flush=True)
    compare(False)
    compare(True)
    if left := sorted(path.name for path in (host.server.profiles / "unfinished").glob(f"soak {seed} *")):
        raise Different(f"Expected nothing to be unfinished at the end, but {', '.join(left)[:300]} are left.")
    return dict(runs=number, kinds={kind: count[kind] for kind in KINDS}, cancelled=count["cancelled"],
                continued=count["continued"], seed=seed, **watch.found(EACH, len(watch.at) // 4))
