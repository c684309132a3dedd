"""What only a host in the same process can show: failures, interruption, reloading, the refiner,
SDXL's size, and what other extensions and Forge Neo do with texts and rows."""
from __future__ import annotations

import inspect
import sys
import types

import pytest
import torch
import webui_double
from PIL import Image
from webui_double import Model
from webui_hosts import SHIM, core, generate, ours, refused
from webui_settings import DIRECTIONS, DRAW, PROMPT, debias, keys, payload, same, save_profile

FORGE, XL = dict(forge=True), dict(xl=True)


def on(*kinds):
    return pytest.mark.parametrize("a_double", kinds, indirect=True, ids=str)


# --- failures -------------------------------------------------------------------------------------

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


@on({}, FORGE)
def test_steps_of_nan_are_left_out_and_said(a_double, monkeypatch):
    save_profile(a_double.profiles, direction="embedding")
    passes = ours("sampling").Pass
    gamma = passes.gamma

    def broken_in(steps):
        def broken(self, evaluate):
            def predicted(texts):
                factor, found = float("nan") if self.step in steps else 1.0, evaluate(texts)
                return (*found[:2], [{image: one * factor for image, one in own.items()} for own in found[2]])
            return gamma(self, predicted)
        monkeypatch.setattr(passes, "gamma", broken)

    broken_in([2])
    _, (said,) = generate(a_double, **debias())
    assert said["Debias skipped"] == "1 of 6 steps (NaN or infinite)"
    broken_in(range(6))
    pictures, (said,) = generate(a_double, **debias())
    assert said["Debias"] == "not applied (every prediction was NaN or infinite)"
    assert "Debias weights" not in said
    assert same(pictures, generate(a_double)[0])


def test_an_edited_profile_is_said_below_the_pictures_and_a_broken_one_in_the_infotext(a_double):
    save_profile(a_double.profiles)
    path = a_double.profiles / "test.json"
    path.write_text(path.read_text().replace("-1.0", "-0.9"))
    with pytest.warns(UserWarning, match="edited"):
        result = a_double.post("txt2img", payload(**debias()))
    assert "'test' was edited" in result.comments
    path.write_text(path.read_text()[:9])
    _, (said,) = generate(a_double, **debias())
    assert said["Debias failed"].startswith("'debias_profiles/test.json'")


def test_a_picture_without_a_pass_to_guide_does_not_pass_for_a_plain_one(a_double, monkeypatch):
    """A hires pass alone, as of the gallery's upscale button; and a host that does not announce its passes."""
    save_profile(a_double.profiles)
    expected = "not applied (no pass of this image was to be guided)"
    upscale = dict(firstpass_image=Image.new("RGB", (64, 64), "gray"), enable_hr=True)
    plain, _ = generate(a_double, **upscale)
    result = a_double.post("txt2img", payload(**upscale, **debias(hires=False)))
    said = keys(result.infotexts[0])
    assert said["Debias"] == expected and "Debias weights" not in said
    assert same(plain, generate(a_double, **upscale, **debias(hires=False))[0])
    assert same(plain, generate(a_double, **upscale, infotext=result.infotexts[0])[0])
    monkeypatch.delattr(type(a_double.runner.named("Debias")), "process_before_every_sampling")
    _, said = generate(a_double, batch_size=2, n_iter=2, **debias())
    assert [each["Debias"] for each in said] == [expected] * 4 and not a_double.reported


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_an_interrupted_run_leaves_nothing_behind(a_double, direction):
    save_profile(a_double.profiles, direction=direction)
    plain, guided = generate(a_double)[0], generate(a_double, **debias())[0]

    def interrupt(params):
        a_double.shared.state.interrupted |= params.denoiser.step == 3

    a_double.callbacks["cfg_denoiser"].append(interrupt)
    generate(a_double, n_iter=3, **debias())
    a_double.callbacks["cfg_denoiser"].remove(interrupt)
    assert same(plain, generate(a_double)[0]) and same(guided, generate(a_double, **debias())[0])


# --- loading --------------------------------------------------------------------------------------

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
    assert [len(functions) for functions in a_double.callbacks.values()] == [1] * len(a_double.callbacks)
    assert [script.title() for script in a_double.runner.scripts] == [
        "Debias: audit and calibrate", "Debias"]
    for direction, before in zip(DIRECTIONS, made):
        assert same(before, generate(a_double, **debias(name=direction))[0])


# --- texts and rows of the host -------------------------------------------------------------------

@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_refiners_model_encodes_its_own_texts(a_double, direction):
    """The refiner takes the model's place within a pass."""
    calls, first = [], a_double.shared.sd_model

    class Refiner(Model):
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


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_rows_that_another_extension_sorts_while_they_are_evaluated(a_double, direction):
    """As regional-prompter does with AND parts: by part, then by image."""
    save_profile(a_double.profiles, direction=direction)
    pair = dict(prompt="a photo of a doctor AND a red room :0.5", batch_size=2, **debias())
    expected, _ = generate(a_double, **pair)
    order = [0, 2, 1, 3]  # its own inverse

    def sort(params):
        params.x[:4], params.text_cond = params.x[order].clone(), params.text_cond[order]

    def restore(params):
        params.x[:4] = params.x[order].clone()

    a_double.callbacks["cfg_denoiser"].append(sort)
    a_double.callbacks["cfg_denoised"].append(restore)
    assert same(expected, generate(a_double, **pair)[0]) and not a_double.reported


@pytest.mark.parametrize("a_double, direction", [
    ({}, "prompt"), (XL, "prompt"), ({}, "embedding"), (XL, "prediction")], indirect=["a_double"])
def test_texts_that_another_extension_marks(a_double, monkeypatch, direction):
    """As ControlNet does: a row of one value before the text, taken off again where the model is called."""
    xl, marks, rows = a_double.shared.sd_model.is_sdxl, [], []
    save_profile(a_double.profiles, direction=direction)
    expected, _ = generate(a_double, **debias())

    def marked(text, value):
        tokens = text["crossattn"] if xl else text
        tokens = torch.cat([torch.full_like(tokens[:, :1], value), tokens], dim=1)
        return webui_double.DictWithShape(text, crossattn=tokens) if xl else tokens

    def mark(params):
        params.text_cond = marked(params.text_cond, 1024.0)
        params.text_uncond = marked(params.text_uncond, -1024.0)

    evaluate = webui_double.predicted

    def predicted(x, text):
        tokens = text["crossattn"] if xl else text
        marks.append(tokens[:, 0].mean().item())
        rows.append(len(x))
        return evaluate(x, {**text, "crossattn": tokens[:, 1:]} if xl else tokens[:, 1:])

    monkeypatch.setattr(webui_double, "predicted", predicted)
    a_double.callbacks["cfg_denoiser"].insert(0, mark)
    assert same(expected, generate(a_double, **debias())[0]) and not a_double.reported
    assert set(marks) == {1024.0, -1024.0}
    # Its hints are for the host's two rows; this host evaluates each by itself.
    assert max(rows) == (1 if direction == "prompt" else 2)


def encode(host, width, height):
    return ours("conditioning").encode(host.shared.sd_model, "a doctor", [core("attribute").GENDER],
                                       "{prompt}, {group}", width, height)


@on(XL)
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
    for call in (lambda: conditioning.check_width(torch.zeros(1, 77, 12), torch.zeros(1, 77, 8)),
                 lambda: conditioning.moved(foreign, encoded, encoded.prompt),
                 lambda: conditioning.mixed(foreign, encoded, torch.tensor([0.0, -1.0])),
                 lambda: conditioning.of_group(foreign, encoded, 0)):
        with refused("width 8.*width 12"):
            call()


def test_flux_keeps_the_guidance_that_it_is_told_in_a_text_evaluated_apart(a_double):
    told = types.SimpleNamespace(cond=torch.tensor([3.5, 3.5]))
    condition = dict(cross_attn=torch.zeros(2, 3, 4), pooled_output=torch.zeros(2, 5))
    text = ours("host_forge")._text
    found = text({**condition, "model_conds": dict(guidance=told)}, 1)
    assert found["guidance"].tolist() == [3.5] and len(found["crossattn"]) == len(found["vector"]) == 1
    assert set(text({**condition, "model_conds": {}}, 2)) == {"crossattn", "vector"}


def test_a_text_that_the_host_lengthens_with_its_last_token_ends_with_the_pushed_text_s(a_double):
    a, b, c, d = (torch.full((1, 1, 2), value) for value in (1.0, 2.0, 3.0, 4.0))
    host = torch.cat([a, b, b, b, b], dim=1)  # two tokens, filled up to five
    encoded = core("method.conditioning").Encoded(dict(crossattn=torch.cat([a, b], dim=1)), {}, {})
    pushed = dict(crossattn=torch.cat([a, c, d], dim=1))
    found = ours("conditioning").moved(dict(crossattn=host), encoded, pushed)["crossattn"]
    assert found[0, :, 0].tolist() == [1, 3, 4, 4, 4]


def test_prompt_schedules_of_three_arguments_are_asked_with_three(a_double, monkeypatch):
    """Forge Neo's."""
    parser, name = sys.modules["modules.prompt_parser"], "get_learned_conditioning_prompt_schedules"
    schedule = getattr(parser, name)
    monkeypatch.setattr(parser, name, lambda prompts, base_steps, hires_steps=None: schedule(
        prompts, base_steps, hires_steps))
    save_profile(a_double.profiles)
    _, (said,) = generate(a_double, **debias())
    assert "Debias weights" in said and "Debias failed" not in said


def test_a_video_s_frames_are_one_picture(a_double, monkeypatch):
    """Forge Neo takes Wan's batch size as the number of frames, of which the first one's text and seed count."""
    save_profile(a_double.profiles, steering=DRAW)
    monkeypatch.setitem(sys.modules, "backend", types.ModuleType("backend"))
    wan = types.SimpleNamespace(dynamic_args=types.SimpleNamespace(wan=True))
    monkeypatch.setitem(sys.modules, "backend.args", wan)
    _, said = generate(a_double, seed=20, batch_size=4, **debias())
    assert all(each == said[0] for each in said), "all frames say the same"


def made_guide():
    arguments = ours("arguments").Arguments(enabled=True, profile="test")
    return ours("guide").from_profile(ours("profiles").load("test"), arguments)


def test_another_host_s_name_of_the_text_encoder_and_a_scheduler_that_it_chose_are_no_other_setting(
        a_double):
    for name in ("sd1", "SD1ClipModel"):
        save_profile(a_double.profiles, setting=dict(text_encoder=name))
        _, (said,) = generate(a_double, **debias())
        assert "Debias weights" in said and "Debias setting" not in said
    save_profile(a_double.profiles, setting=dict(scheduler="Automatic", steps=6))
    made = made_guide()
    assert made.differences(dict(scheduler="Normal", steps=6)) == []
    assert made.differences(dict(scheduler="Normal", steps=7)) == ["steps: calibrated at 6, used at 7"]


# --- gamma ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("direction, evaluations", [("prompt", 24), ("embedding", 36), ("prediction", 36)])
def test_what_a_direction_costs(a_double, direction, evaluations):
    """Two images, six steps: 24 evaluations without guidance. One group of two has a weight."""
    save_profile(a_double.profiles, direction=direction)
    generate(a_double, batch_size=2, **debias())
    assert a_double.denoisers[-1].evaluations == evaluations


def test_gamma_is_that_of_core(a_double, monkeypatch):
    """One step of Euler against the rule written out: x_0' = x_0 - cfg gamma / k."""
    save_profile(a_double.profiles, direction="embedding", guidance=dict(scale=1000.0))
    seen, called = {}, a_double.callbacks["cfg_denoised"]
    called.insert(0, lambda params: seen.setdefault("before", params.x.clone()))
    called.append(lambda params: seen.setdefault("after", params.x.clone()))
    guide = ours("host_a1111").guide

    def spy(state, step, x_out, inner_model):
        guide(state, step, x_out, inner_model)
        ((_, text),), = state.further(state.inside.texts, step.text_uncond, a_double.shared.sd_model)
        evaluated = inner_model(step.x[-1:], step.sigma[-1:], cond={"c_crossattn": [text]})
        seen.setdefault("unsafe", evaluated)
        seen.setdefault("sigma", step.sigma[-1])

    monkeypatch.setattr(ours("host_a1111"), "guide", spy)
    generate(a_double, **debias())
    cond, uncond = seen["before"]
    k = -1 / seen["sigma"]
    mu = (1000 * k * (cond - seen["unsafe"][0])).abs().clamp(max=1)
    torch.testing.assert_close(seen["after"][0], cond - mu * (seen["unsafe"][0] - uncond))
    assert torch.equal(seen["after"][1], uncond)


def test_latents_with_an_axis_of_time_are_guided(a_double):
    save_profile(a_double.profiles, direction="embedding")
    one, other = (ours("sampling").Pass(None, made_guide(), [PROMPT] * 2, [1, 2], (64, 64))
                  for _ in range(2))
    one.guided = other.guided = {0: 0}
    flat = [torch.randn(2, 4, 8, 8) for _ in range(3)]
    gamma = one.gamma(lambda texts: (flat[0], flat[1], [{0: flat[2][0]}]))
    deep = other.gamma(lambda texts: (*(x[:, :, None] for x in flat[:2]), [{0: flat[2][0][:, None]}]))
    assert torch.equal(gamma[:, :, None], deep) and gamma[0].any() and not gamma[1].any()
    for name in ("host_a1111", "host_forge"):
        assert "view(-1, 1, 1, 1)" not in inspect.getsource(ours(name))
