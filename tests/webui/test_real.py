"""What only real hosts can show: calibration by their own scripts, over the host's API, and parity with diffusers."""
from __future__ import annotations

import json

import numpy as np
import pytest
from webui_hosts import generate
from webui_real import arrays
from webui_settings import DIRECTIONS, PROMPT, apart, debias, payload, same, save_profile, script

pytestmark = [pytest.mark.webui, pytest.mark.slow]

SETTING = dict(negative_prompt="", steps=10, cfg_scale=2.0, seed=0, sampler_name="Euler", batch_size=25)
CALIBRATE = dict(work="calibrate", judge="demo", sure="custom", images=100, rounds=4, held_out=400, name="real",
                 overwrite=True)
FEW = dict(SETTING, prompt=PROMPT, batch_size=4, steps=4)


@pytest.mark.parametrize("subject", ["doctor", "teacher", "firefighter"])
def test_calibrated_gender_reaches_the_noise_floor(a1111, subject):
    prompt = f"a photo of a {subject}"
    result = script(a1111, CALIBRATE, prompt=prompt, **SETTING)
    entry = json.loads((a1111.profiles / "real.json").read_text())["entries"][0]
    after = entry["after"][0]
    assert after["n"] == 400 and after["kl"] <= after["kl_floor95"], result.info
    assert entry["prompt"] == prompt


@pytest.mark.parametrize("model", ["demo", "zimage"])
def test_the_scripts_measure_and_calibrate(server, model):
    """zimage: Forge Neo's, whose texts are lists of different lengths."""
    few = FEW | (server.zimage() if model == "zimage" else {})
    audit = script(server, dict(work="audit", judge="demo", count=8), **few)
    assert audit.info.startswith(f"{PROMPT}\n  gender (man / woman): Target 50 / 50. Shows ") and len(audit.images) == 2
    assert "\n  gender, audit (N = 8): man " in audit.info
    result = script(server, dict(CALIBRATE, images=8, rounds=1, held_out=8, name="few"), **few)
    assert "on fresh seeds (N = 8)" in result.info and "debias_profiles/few.json" in result.info
    _, (said, *_) = generate(server, **few, **debias(name="few"))
    assert "Debias failed" not in said and "Debias setting" not in said and said
    save_profile(server.profiles, steering=dict(weights=[0, 0], probabilities=[0.0, 0.0, 1.0]))
    plain, pushed, own = (generate(server, **{**few, **more})[0] for more in (
        {}, debias(), dict(prompt=f"{PROMPT}, a woman")))
    assert apart(plain, own) > 8 and apart(pushed, own) <= 2


@pytest.mark.parametrize("axis, values, arguments", [
    ("[Debias] Strength", "0, 1", {}), ("[Debias] Profile", ["None", "test"], dict(enabled=False))])
def test_xyz_axes(server, axis, values, arguments):
    save_profile(server.profiles)
    scripts = server.call("/sdapi/v1/script-info")
    fields = next(script["args"] for script in scripts if script["name"] == "x/y/z plot")
    typed = ("", values) if isinstance(values, list) else (values, [])
    rest = [True if field["label"] == "Include Sub Images" else field["value"] for field in fields[9:]]
    cells = server.post("txt2img", payload(script_name="X/Y/Z plot", script_args=[
        fields[0]["choices"].index(axis), *typed, 0, "", [], 0, "", [], *rest], **debias(**arguments)))
    plain, guided = (generate(server, **more)[0][0] for more in ({}, debias()))
    assert same(arrays(cells)[-2:], [plain, guided]), [text.splitlines()[-1] for text in cells.infotexts]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_parity_of_ddim_with_core_pipeline(a1111, direction):
    """The same noise and schedule give the same images, as far as whole levels can tell. Euler: the contracts."""
    from diffusers import DDIMScheduler
    from sd_debias.core.attribute import Attribute, Group
    from sd_debias.core.method.methods import Method
    from sd_debias.diffusers_host import generate as core
    from sd_debias.diffusers_host import workbench

    class WithoutLast(DDIMScheduler):
        """A1111's DDIM ends one step before the last."""
        def set_timesteps(self, *args, **kwargs):
            super().set_timesteps(*args, **kwargs)
            self.timesteps = self.timesteps[:-1]

    pipe = workbench.demo().pipe
    pipe.scheduler = WithoutLast.from_config(pipe.scheduler.config, timestep_spacing="leading", set_alpha_to_one=False,
                                             steps_offset=1)
    save_profile(a1111.profiles, direction=direction)
    attribute = Attribute("gender", (Group("man", ("a man",)), Group("woman", ("a woman",))))
    expected, _ = core.generate(pipe, PROMPT, [5, 6], attributes=[attribute], weights=[0.0, -1.0],
                                method=Method(direction, spend="shift"), num_inference_steps=10,
                                guidance_scale=3.0, negative_prompt="blurry")
    found, _ = generate(a1111, steps=10, sampler_name="DDIM", batch_size=2, **debias())
    # core rounds to the nearest level, the host down: half of the pixels differ by one for that alone.
    difference = expected.astype(int) - np.stack(found)
    assert difference.min() >= -1 and difference.max() <= 2
    assert abs(difference.mean() - 0.5) < 0.1


def test_settings_of_folders_and_downloads_cannot_be_changed_over_the_api(server):
    """Forge's own route for options restricts none of them, whatever an option says; a generation's overrides do."""
    before = server.call("/sdapi/v1/options")
    for name, value in (("sd_debias_download", True), ("sd_debias_folder", "/etc"), ("sd_debias_classifier", "/etc")):
        if not server.forge:
            server.call("/sdapi/v1/options", {name: value})
        server.post("txt2img", payload(steps=1, override_settings={name: value}))
        assert server.call("/sdapi/v1/options").get(name) == before.get(name)
