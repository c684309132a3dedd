"""What only a host in the same process can show: failures, reloading, the refiner, SDXL's size, and what other
extensions and Forge Neo do with texts and rows."""
from __future__ import annotations

import sys
import types

import pytest
import torch
import webui_double
from PIL import Image
from webui_hosts import SHIM, core, generate, ours, refused, steered
from webui_settings import DIRECTIONS, DRAW, PROMPT, debias, keys, payload, same, save_profile

FORGE, XL = dict(forge=True), dict(xl=True)
directions = pytest.mark.parametrize("direction", DIRECTIONS)


@pytest.mark.parametrize("a_double, direction, method", [
    ({}, "prompt", "shifted"), (FORGE, "prompt", "shifted"), ({}, "embedding", "gamma"),
    (FORGE, "embedding", "gamma"), (FORGE, "embedding", "prepare")], indirect=["a_double"])
def test_an_exception_in_a_hook_is_seen_everywhere(a_double, monkeypatch, direction, method):
    save_profile(a_double.profiles, direction=direction)

    def broken(*args, **kwargs):
        raise RuntimeError("no such tensor: 7, 8")

    monkeypatch.setattr(ours("sampling").Pass, method, broken)
    result = a_double.post("txt2img", payload(**debias()))
    assert keys(result.infotexts[0]) == {"Debias failed": "no such tensor: 7, 8"}
    assert result.comments == "Debias failed: no such tensor: 7, 8\n"
    assert a_double.reported == ["sd-debias: no such tensor: 7, 8"]  # once, not at every step


def test_an_edited_profile_is_said_below_the_pictures(a_double):
    save_profile(a_double.profiles)
    path = a_double.profiles / "test.json"
    path.write_text(path.read_text().replace("-1.0", "-0.9"))
    with pytest.warns(UserWarning, match="edited"):
        result = a_double.post("txt2img", payload(**debias()))
    assert "'test' was edited" in result.comments


def test_a_picture_without_a_pass_to_guide_does_not_pass_for_a_plain_one(a_double, monkeypatch):
    """A hires pass alone, as of the gallery's upscale button; and a host that does not announce its passes."""
    save_profile(a_double.profiles)
    expected = "not applied (no pass of this image was to be guided)"
    upscale = dict(firstpass_image=Image.new("RGB", (64, 64), "gray"), enable_hr=True)
    plain, _ = generate(a_double, **upscale)
    result = a_double.post("txt2img", payload(**upscale, **debias(hires=False)))
    said = keys(result.infotexts[0])
    assert said["Debias"] == expected and "Debias weights" not in said
    for again in (debias(hires=False), dict(infotext=result.infotexts[0])):
        assert same(plain, generate(a_double, **upscale, **again)[0])
    monkeypatch.delattr(type(a_double.runner.named("Debias")), "process_before_every_sampling")
    _, said = generate(a_double, batch_size=2, n_iter=2, **debias())
    assert [each["Debias"] for each in said] == [expected] * 4 and not a_double.reported


def test_reloading_the_ui_twice_keeps_one_extension_and_its_package_alone_in_sys_modules(a_double):
    made = []
    for direction in DIRECTIONS:
        save_profile(a_double.profiles, direction, direction=direction)
        made.append(generate(a_double, **debias(name=direction))[0])
    modules, path = set(sys.modules), list(sys.path)
    a_double.load(SHIM)
    a_double.load(SHIM)
    assert sys.path == path
    assert {name.split(".")[0] for name in set(sys.modules) - modules} <= {"sd_debias"}
    assert {len(functions) for functions in a_double.callbacks.values()} == {1}
    assert [script.title() for script in a_double.runner.scripts] == [
        "Debias: audit and calibrate", "Debias"]
    for direction, before in zip(DIRECTIONS, made):
        assert same(before, generate(a_double, **debias(name=direction))[0])


@directions
def test_the_refiners_model_encodes_its_own_texts(a_double, direction):
    """The refiner takes the model's place within a pass."""
    calls, first = [], a_double.shared.sd_model

    class Refiner(webui_double.Model):
        def get_learned_conditioning(self, texts):
            calls.append(texts)
            return super().get_learned_conditioning(texts)

    def refine(params):
        if params.denoiser.step in (0, 3):
            a_double.shared.sd_model = Refiner() if params.denoiser.step else first

    save_profile(a_double.profiles, direction=direction)
    a_double.callbacks["cfg_denoiser"].insert(0, refine)
    _, (said,) = generate(a_double, **debias())
    assert len(calls) == 4 and "Debias weights" in said


@directions
def test_rows_that_another_extension_sorts_while_they_are_evaluated(a_double, direction):
    """As regional-prompter does with AND parts: by part, then by image."""
    pair = dict(prompt="a photo of a doctor AND a red room :0.5", batch_size=2)
    _, expected, _ = steered(a_double, pair, direction=direction)
    order = [0, 2, 1, 3]  # its own inverse

    def sort(params):
        params.x[:4], params.text_cond = params.x[order].clone(), params.text_cond[order]

    def restore(params):
        params.x[:4] = params.x[order].clone()

    a_double.callbacks["cfg_denoiser"].append(sort)
    a_double.callbacks["cfg_denoised"].append(restore)
    assert same(expected, generate(a_double, **pair, **debias())[0]) and not a_double.reported


@pytest.mark.parametrize("a_double, direction", [
    ({}, "prompt"), (XL, "prompt"), ({}, "embedding"), (XL, "embedding")], indirect=["a_double"])
def test_texts_that_another_extension_marks(a_double, monkeypatch, direction):
    """As ControlNet does: a row of one value before the text, taken off again where the model is called."""
    marks, rows, evaluate = set(), [], webui_double.predicted
    _, expected, _ = steered(a_double, direction=direction)

    def with_tokens(text, change):
        if not a_double.shared.sd_model.is_sdxl:
            return change(text)
        return {**text, "crossattn": change(text["crossattn"])}

    def mark(params):
        for name, value in (("text_cond", 1024.0), ("text_uncond", -1024.0)):
            setattr(params, name, with_tokens(getattr(params, name), lambda tokens, value=value: torch.cat(
                [torch.full_like(tokens[:, :1], value), tokens], dim=1)))

    def predicted(x, text):
        def unmarked(tokens):
            marks.add(tokens[:, 0].mean().item())
            return tokens[:, 1:]
        rows.append(len(x))
        return evaluate(x, with_tokens(text, unmarked))

    monkeypatch.setattr(webui_double, "predicted", predicted)
    a_double.callbacks["cfg_denoiser"].insert(0, mark)
    assert same(expected, generate(a_double, **debias())[0]) and not a_double.reported
    assert marks == {1024.0, -1024.0}
    # Its hints are for the host's two rows; this host evaluates each by itself.
    assert max(rows) == (1 if direction == "prompt" else 2)


def encode(host, width, height):
    return ours("conditioning").encode(host.shared.sd_model, "a doctor", [core("attribute").GENDER],
                                       "{prompt}, {group}", width, height)


@pytest.mark.parametrize("a_double", [XL], indirect=True, ids=str)
def test_sdxl_keeps_the_size_behind_the_pooled_text(a_double):
    conditioning, weights = ours("conditioning"), torch.tensor([[0.0, -1.0]])
    encoded, shifted_rows = encode(a_double, 64, 128), core("method.conditioning").shifted_rows
    shifted, = shifted_rows(encoded, [core("attribute").GENDER], weights, "{prompt}, {group}")
    moved = conditioning.moved(encoded.prompt, encoded, shifted)["vector"] - encoded.prompt["vector"]
    assert moved[:, :-2].abs().min() > 0 and not moved[:, -2:].any()
    # A negative prompt's own size entries (the refiner's aesthetic score) differ from the groups' and stay.
    anchor = {name: part + 3 for name, part in encoded.empty.items()}
    mixed = conditioning.mixed(anchor, encoded, weights[0])["vector"]
    assert torch.equal(mixed[:, -2:], anchor["vector"][:, -2:]) and (mixed != anchor["vector"]).any()


def test_texts_of_another_encoder_are_refused(a_double):
    conditioning, encoded = ours("conditioning"), encode(a_double, 64, 64)
    foreign = {"crossattn": torch.zeros(1, 77, 12)}
    for call, last in ((conditioning.moved, encoded.prompt), (conditioning.mixed, torch.tensor([0.0, -1.0]))):
        with refused("width 8.*width 12"):
            call(foreign, encoded, last)


def test_flux_keeps_the_guidance_that_it_is_told_in_a_text_evaluated_apart(a_double):
    told = types.SimpleNamespace(cond=torch.tensor([3.5, 3.5]))
    condition = dict(cross_attn=torch.zeros(2, 3, 4), pooled_output=torch.zeros(2, 5))
    text = ours("host_forge")._text
    found = text({**condition, "model_conds": dict(guidance=told)}, 1)
    assert found["guidance"].tolist() == [3.5] and len(found["crossattn"]) == len(found["vector"]) == 1


def test_a_text_that_the_host_lengthens_with_its_last_token_ends_with_the_pushed_text_s(a_double):
    def text(*values):
        return dict(crossattn=torch.tensor(values)[None, :, None].expand(1, -1, 2))

    encoded = core("method.conditioning").Encoded(text(1.0, 2.0), {})
    lengthened = text(1.0, 2.0, 2.0, 2.0, 2.0)
    found = ours("conditioning").moved(lengthened, encoded, text(1.0, 3.0, 4.0))["crossattn"]
    assert found[0, :, 0].tolist() == [1, 3, 4, 4, 4]


def test_prompt_schedules_of_three_arguments_are_asked_with_three(a_double, monkeypatch):
    """Forge Neo's."""
    parser, name = sys.modules["modules.prompt_parser"], "get_learned_conditioning_prompt_schedules"
    schedule = getattr(parser, name)
    monkeypatch.setattr(parser, name, lambda prompts, base_steps, hires_steps=None: schedule(
        prompts, base_steps, hires_steps))
    _, _, (said,) = steered(a_double)
    assert "Debias weights" in said and "Debias failed" not in said


def test_a_video_s_frames_are_one_picture(a_double, monkeypatch):
    """Forge Neo takes Wan's batch size as the number of frames, of which the first one's text and seed count."""
    wan = types.SimpleNamespace(dynamic_args=types.SimpleNamespace(wan=True))
    monkeypatch.setitem(sys.modules, "backend", types.SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "backend.args", wan)
    _, _, said = steered(a_double, dict(seed=20, batch_size=4), steering=DRAW)
    assert all(each == said[0] for each in said), "all frames say the same"


def made_guide():
    arguments = ours("arguments").Arguments(enabled=True, profile="test")
    return ours("guide").from_profile(ours("profiles").load("test"), arguments)


@pytest.mark.parametrize("sampler, k", [("Euler", -1 / webui_double.SIGMAS[0]), ("DDIM", 1.0)])
def test_gamma_is_that_of_core(a_double, monkeypatch, sampler, k):
    """One step against the rule written out: x_0' = x_0 - cfg gamma / k, or eps of DDIM."""
    made, after, inner = [], [], webui_double.Denoiser.inner_model
    save_profile(a_double.profiles, direction="embedding", guidance=dict(scale=1000.0))
    monkeypatch.setattr(webui_double.Denoiser, "inner_model", lambda *args, **more: (
        made.append(inner(*args, **more)) or made[-1]))
    a_double.callbacks["cfg_denoised"].append(lambda params: after.append(params.x.clone()))
    generate(a_double, sampler_name=sampler, **debias())
    cond, uncond, pushed = (each[0].clone() for each in made[:3])
    mu = (1000 * k * (cond - pushed)).abs().clamp(max=1)
    torch.testing.assert_close(after[0][0], cond - mu * (pushed - uncond))
    assert torch.equal(after[0][1], uncond)


def test_latents_with_an_axis_of_time_are_guided(a_double):
    save_profile(a_double.profiles, direction="embedding")

    def gamma(*latents):
        state = ours("sampling").Pass(None, made_guide(), [PROMPT] * 2, [1, 2], (64, 64))
        state.guided = {0: 0}
        return state.gamma(lambda text: (*latents[:2], {0: latents[2][0]}))

    flat = [torch.randn(2, 4, 8, 8) for _ in range(3)]
    found = gamma(*flat)
    assert torch.equal(found[:, :, None], gamma(*(x[:, :, None] for x in flat)))
    assert found[0].any() and not found[1].any()
