"""What the accordion promises, on doubles of the hosts and on the real ones."""
from __future__ import annotations

from itertools import product

from PIL import Image
from webui_hosts import generate, on_hosts, steered
from webui_real import arrays
from webui_settings import (
    DIRECTIONS, DRAW, PROMPT, apart, debias, keys, payload, same, save_profile, script)

ROUNDING = 2  # of 255: batches are evaluated in another order of sums
HIRES = dict(enable_hr=True, hr_scale=2, hr_upscaler="Latent", denoising_strength=0.7, hr_cfg=3.0)
IMG2IMG = dict(init_images=[Image.new("RGB", (64, 64), "gray")], denoising_strength=0.9)
INPAINTING = dict(mask=Image.new("L", (64, 64), 255), inpainting_fill=1, inpaint_full_res=False)


@on_hosts("direction, changes", product(DIRECTIONS, [
    {}, dict(negative_prompt="blurry, " * 90), dict(sampler_name="DDIM"), dict(cfg_scale=1),
    IMG2IMG, IMG2IMG | INPAINTING,
    *(dict(prompt=prompt) for prompt in (
        "a photo of a doctor AND a red room :0.5", "[a photo:a drawing:0.5] of a doctor",
        "(a doctor:1.2), photo", f"a doctor, {'very ' * 80}busy", "a doctor, " + "busy, " * 37))]), each=1)
def test_a_profile_changes_the_picture_and_the_infotext_says_how(host, direction, changes):
    plain, guided, (said,) = steered(
        host, changes, "img2img" if "init_images" in changes else "txt2img", direction=direction,
        prompts=(changes.get("prompt", PROMPT),))
    assert apart(plain, guided) > (2 if changes else 8)
    assert said["Debias profile"] == "test" and said["Debias weights"] == "gender: man 0, woman -1"
    assert len(said["Debias hash"]) == 12
    assert not {"Debias failed", "Debias", "Debias prompt"} & said.keys()


@on_hosts("direction, changes, given, facts", [
    ("embedding", {}, dict(enabled=False), {}),
    ("embedding", {}, dict(strength=0.0),
     {"Debias": "not applied (the strength is 0)", "Debias strength": "0"}),
    *((direction, {}, dict(start=0.5, end=0.5),
       {"Debias": "not applied (no step lies in the guidance window)"}) for direction in DIRECTIONS),
    ("prompt", dict(prompt="a photo of a nurse"), {},
     {"Debias": "not applied (this prompt was not calibrated, so it is left alone)"})])
def test_a_picture_left_alone_is_the_plain_one_and_says_why(host, direction, changes, given, facts):
    plain, pictures, (said,) = steered(host, changes, given=given, direction=direction)
    assert same(plain, pictures) and bool(said) == bool(facts)
    assert facts.items() <= said.items() and "Debias weights" not in said


@on_hosts("direction, prompt", product(DIRECTIONS, [
    PROMPT, "a photo of a doctor :0.7 AND a red room :0.4 AND noise :-0.3"]))
def test_a_batch_is_its_singles_and_says_what_was_left_alone(host, direction, prompt):
    plain, batch, said = steered(host, dict(prompt=prompt, batch_size=2, n_iter=2, seed=20),
                                 direction=direction, steering=DRAW, prompts=(prompt,))
    singles = [generate(host, prompt=prompt, seed=20 + i, **debias()) for i in range(4)]
    assert apart(batch, [pictures[0] for pictures, _ in singles]) <= ROUNDING < apart(batch, plain)
    assert said == [own for _, (own,) in singles]
    assert [each.get("Debias") for each in said].count("left alone by its draw") == 2
    assert ["Debias weights" in each for each in said].count(True) == 2


@on_hosts("direction", DIRECTIONS)
def test_hires_pass_and_one_with_a_prompt_of_its_own(host, direction):
    plain, guided, (said,) = steered(host, HIRES, direction=direction)
    first_only, (first_said,) = generate(host, **HIRES, **debias(hires=False))
    assert apart(plain, guided) > 8 and apart(guided, first_only) > 2 and apart(plain, first_only) > 0
    assert "Debias hires" not in said and first_said["Debias hires"] == "False"
    assert same(guided, generate(host, **HIRES, **debias())[0])
    own = dict(HIRES, hr_prompt="a photo of a doctor, a man")  # by its own words, which name a man
    both, first_only = (generate(host, **own, **debias(hires=hires))[0] for hires in (True, False))
    assert same(both, first_only)


@on_hosts("direction", DIRECTIONS)
def test_steps_without_negative_prompt_are_left_alone_and_counted(host, direction):
    """Forge evaluates the negative prompt in every step."""
    skipping = dict(s_min_uncond=20.0)  # as a setting, the host would keep it after this generation
    plain, guided, (said,) = steered(host, skipping, direction=direction)
    assert apart(plain, guided) > 2
    left = said.get("Debias without negative")
    assert left is None if direction == "prompt" or host.forge else left.startswith("3 steps")


def test_replaying_an_infotext_gives_the_same_picture_and_a_plain_one_switches_it_off(host):
    given = dict(strength=0.8, direction="embedding", hires=False)
    plain, whole, _ = steered(host, given=given)
    made = host.post("txt2img", payload(**debias(**given, start=0.1, end=0.9)))
    again, (said,) = generate(host, infotext=made.infotexts[0])
    assert same(arrays(made), again) and said == keys(made.infotexts[0]) and apart(whole, again) > 0
    assert [said[f"Debias {name}"] for name in ("strength", "direction", "start", "end")] == [
        "0.8", "embedding", "0.1", "0.9"]
    off = host.post("txt2img", payload()).infotexts[0]
    assert keys(off) == {} and same(plain, generate(host, infotext=off, **debias(enabled=None))[0])


def test_metadata_names_another_prompt_and_setting(host):
    plain, pictures, (said,) = steered(host, dict(prompt="a photo of a nurse"),
                                       given=dict(others="draw"), setting=dict(steps=30, cfg=3.0))
    assert not same(plain, pictures) and said["Debias others"] == "draw"
    assert "was not calibrated" in said["Debias prompt"]
    assert said["Debias setting"] == "steps: calibrated at 30, used at 6"


@on_hosts("args", [
    [], [True], [True, "test"],
    [True, "test", 1.0, "as calibrated", 0.0, 1.0, True, "draw", "gender", 7, 8]], each=1)
def test_api_with_few_and_many_arguments(host, args):
    save_profile(host.profiles, direction="embedding", groups=("man", "woman", "person"),
                 prompts=(PROMPT, "a nurse"))
    plain, _ = generate(host)
    pictures, (said,) = generate(host, alwayson_scripts={"Debias": {"args": args}})
    assert same(plain, pictures) == (not args) and ("Debias weights" in said) == bool(args)
    assert said.get("Debias profile") == {0: None, 1: "balance"}.get(len(args), "test")
    if len(args) > 1:
        assert said["Debias weights"] == "gender: man 0, woman -1, person -1"


@on_hosts("given, facts", [
    (dict(name="absent"), ["'absent'"]), (dict(name="../test"), ["'../test'"]),
    (dict(name="corrupt"), ["debias_profiles/corrupt.json", "JSON"]),
    (dict(name="sd3"), ["SD3ClipModel"]),
    (dict(strength="a lot"), ["strength", "'a lot'"]), (dict(enabled="yes"), ["enabled", "'yes'"]),
    (dict(name=7), ["profile", "7"]), (dict(start=0.9, end=0.1), ["start", "0.9", "0.1"]),
    (dict(direction="sideways"), ["direction", "'sideways'"])], each=1)
def test_bad_input_is_named_and_the_picture_is_not_claimed_debiased(host, given, facts):
    save_profile(host.profiles, "sd3", setting=dict(text_encoder="SD3ClipModel"))
    (host.profiles / "corrupt.json").write_text('{"schema": "1.0", "entr')
    plain, pictures, (said,) = steered(host, given=given)
    assert list(said) == ["Debias failed"] and same(plain, pictures)
    assert all(fact in said["Debias failed"] for fact in facts), said


def test_the_doctor_says_that_guidance_works_and_leaves_nothing_behind(host):
    plain, _ = generate(host)
    result = script(host, dict(work="doctor", prompts="a photo of a nurse"), batch_size=1)
    text = result.infotexts[0] if result.infotexts else result.info
    assert "Guidance works on this model." in text and "NO  " not in text, text
    assert "'a photo of a nurse, a" in text
    assert same(plain, generate(host)[0])
