"""What only a host in the same process can show: failures, interruption, reloading, the refiner, SDXL's size."""
from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
import webui_double
from PIL import Image
from webui_double import Double, Model
from webui_real import arrays
from webui_settings import DIRECTIONS, debias, keys, payload, same, save_profile

SHIM = Path(__file__).resolve().parents[2] / "scripts" / "sd_debias.py"


def generate(host, **changes):
    result = host.post("txt2img", payload(**changes))
    return arrays(result), result


@pytest.mark.parametrize("forge", [False, True])
@pytest.mark.parametrize("direction, method", [("prompt", "shifted"), ("embedding", "gamma"), ("embedding", "prepare")])
def test_an_exception_in_a_hook_is_seen_everywhere(tmp_path, monkeypatch, forge, direction, method):
    with Double(tmp_path, forge=forge).installed() as host:
        host.load(SHIM)
        save_profile(tmp_path / "debias_profiles", direction=direction)

        def broken(*args, **kwargs):
            raise RuntimeError("no such tensor: 7, 8")

        monkeypatch.setattr(sys.modules["sd_debias.webui_extension.sampling"].Pass, method, broken)
        _, result = generate(host, **debias())
        assert keys(result.infotexts[0]) == {"Debias failed": "no such tensor: 7, 8"}
        assert result.comments == "Debias failed: no such tensor: 7, 8\n"
        assert host.reported == ["sd-debias: no such tensor: 7, 8"]  # once, not at every step


def test_an_edited_profile_is_said_below_the_pictures(a_double):
    save_profile(a_double.profiles)
    path = a_double.profiles / "test.json"
    path.write_text(path.read_text().replace("-1.0", "-0.9"))
    with pytest.warns(UserWarning, match="edited"):
        _, result = generate(a_double, **debias())
    assert "was edited since it was saved" in result.comments


@pytest.mark.parametrize("forge", [False, True])
def test_steps_of_nan_are_left_out_and_said(tmp_path, monkeypatch, forge):
    with Double(tmp_path, forge=forge).installed() as host:
        host.load(SHIM)
        save_profile(tmp_path / "debias_profiles", direction="embedding")
        passes = sys.modules["sd_debias.webui_extension.sampling"].Pass
        gamma = passes.gamma
        monkeypatch.setattr(passes, "gamma", lambda self, cond, uncond, unsafe: gamma(
            self, cond, uncond, [[(at, one * (float("nan") if self.step == 2 else 1.0)) for at, one in own]
                                 for own in unsafe]))
        pictures, result = generate(host, **debias())
        assert keys(result.infotexts[0])["Debias skipped"] == "1 of 6 steps (NaN or infinite)"
        monkeypatch.setattr(passes, "gamma", lambda self, cond, uncond, unsafe: gamma(
            self, cond, uncond, [[(at, one * float("nan")) for at, one in own] for own in unsafe]))
        pictures, result = generate(host, **debias())
        said = keys(result.infotexts[0])
        assert said["Debias"] == "not applied (every prediction was NaN or infinite)" and "Debias weights" not in said
        assert same(pictures, generate(host)[0])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_an_interrupted_run_leaves_nothing_behind(a_double, direction):
    save_profile(a_double.profiles, direction=direction)
    plain, _ = generate(a_double)
    guided, _ = generate(a_double, **debias())

    def interrupt(params):
        a_double.shared.state.interrupted |= params.denoiser.step == 3

    a_double.callbacks["cfg_denoiser"].append(interrupt)
    generate(a_double, n_iter=3, **debias())
    a_double.callbacks["cfg_denoiser"].remove(interrupt)
    assert same(plain, generate(a_double)[0]) and same(guided, generate(a_double, **debias())[0])


def test_a_picture_without_a_pass_to_guide_does_not_pass_for_a_plain_one(a_double, monkeypatch):
    """A hires pass alone, as of the gallery's upscale button; and a host that does not announce its passes."""
    save_profile(a_double.profiles)
    expected = "not applied (no pass of this image was to be guided)"
    upscale = dict(firstpass_image=Image.new("RGB", (64, 64), "gray"), enable_hr=True)
    plain, _ = generate(a_double, **upscale)
    pictures, result = generate(a_double, **upscale, **debias(hires=False))
    said = keys(result.infotexts[0])
    assert said["Debias"] == expected and "Debias weights" not in said and same(plain, pictures)
    assert same(plain, generate(a_double, **upscale, infotext=result.infotexts[0])[0])
    script = type(a_double.runner.named("Debias"))
    monkeypatch.delattr(script, "process_before_every_sampling")
    _, result = generate(a_double, batch_size=2, n_iter=2, **debias())
    assert [keys(text)["Debias"] for text in result.infotexts] == [expected] * 4 and not a_double.reported


def test_an_infotext_from_before_the_sampling_does_not_say_that_nothing_was_guided(a_double):
    """A1111 and Forge write params.txt then."""
    save_profile(a_double.profiles)
    _, result = generate(a_double, **debias())
    assert "Debias weights" in keys(result.infotexts[0]) and keys(a_double.params_txt) == {}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_reloading_the_ui_twice_keeps_one_extension(a_double, direction):
    save_profile(a_double.profiles, direction=direction)
    before, _ = generate(a_double, **debias())
    a_double.load(SHIM)
    a_double.load(SHIM)
    assert [len(functions) for functions in a_double.callbacks.values()] == [1] * len(a_double.callbacks)
    assert same(before, generate(a_double, **debias())[0])
    assert [script.title() for script in a_double.runner.scripts] == [
        "Debias: audit", "Debias: calibrate (IDA)", "Debias: check classifier", "Debias: doctor",
        "Debias"]


def test_nothing_but_the_package_enters_sys_modules(a_double):
    modules, path = set(sys.modules), list(sys.path)
    a_double.load(SHIM)
    assert sys.path == path
    assert {name.split(".")[0] for name in set(sys.modules) - modules} <= {"sd_debias"}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_refiners_model_encodes_its_own_texts(a_double, direction):
    """The refiner takes the model's place within a pass."""
    class Refiner(Model):
        calls = 0

        def get_learned_conditioning(self, texts):
            Refiner.calls += 1
            return super().get_learned_conditioning(texts)

    save_profile(a_double.profiles, direction=direction)
    first = a_double.shared.sd_model

    def refine(params):
        a_double.shared.sd_model = Refiner() if params.denoiser.step == 0 else a_double.shared.sd_model
        if params.denoiser.step < 3:
            a_double.shared.sd_model = first
        elif params.denoiser.step == 3:
            a_double.shared.sd_model = Refiner()

    a_double.callbacks["cfg_denoiser"].insert(0, refine)
    _, result = generate(a_double, **debias())
    assert Refiner.calls == 4 and "Debias weights" in keys(result.infotexts[0])


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


@pytest.mark.parametrize("xl", [False, True])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_texts_that_another_extension_marks(tmp_path, monkeypatch, xl, direction):
    """As ControlNet does: a row of one value before the text, taken off again where the model is called."""
    with Double(tmp_path, xl=xl).installed() as host:
        host.load(SHIM)
        save_profile(tmp_path / "debias_profiles", direction=direction)
        expected, _ = generate(host, **debias())
        conditioning, marks, rows = sys.modules["sd_debias.webui_extension.conditioning"], [], []

        def marked(text, value):
            tokens = text["crossattn"] if xl else text
            tokens = torch.cat([torch.full_like(tokens[:, :1], value), tokens], dim=1)
            return conditioning.copy.copy(text) | {"crossattn": tokens} if xl else tokens

        def mark(params):
            params.text_cond, params.text_uncond = marked(params.text_cond, 1024.0), marked(params.text_uncond, -1024.0)

        evaluate = webui_double.predicted

        def predicted(x, text):
            tokens = text["crossattn"] if xl else text
            marks.append(tokens[:, 0].mean().item())
            rows.append(len(x))
            return evaluate(x, {**text, "crossattn": tokens[:, 1:]} if xl else tokens[:, 1:])

        monkeypatch.setattr(webui_double, "predicted", predicted)
        host.callbacks["cfg_denoiser"].insert(0, mark)
        assert same(expected, generate(host, **debias())[0]) and not host.reported
        assert set(marks) == {1024.0, -1024.0}
        # Its hints are for the host's two rows; this host evaluates each by itself.
        assert max(rows) == (1 if direction == "prompt" else 2)


def test_sdxl_keeps_the_size_behind_the_pooled_text(tmp_path):
    with Double(tmp_path, xl=True).installed() as host:
        host.load(SHIM)
        conditioning = sys.modules["sd_debias.webui_extension.conditioning"]
        attributes, core = (sys.modules[f"sd_debias.core.{name}"] for name in ("attribute", "method.conditioning"))
        model, weights = host.shared.sd_model, torch.tensor([[0.0, -1.0]])
        encoded = conditioning.encode(model, "a doctor", [attributes.GENDER], "{prompt}, {group}", 64, 128)
        shifted, = core.shifted_rows(encoded, [attributes.GENDER], weights, "{prompt}, {group}")
        moved = conditioning.moved(encoded.prompt, encoded, shifted)["vector"] - encoded.prompt["vector"]
        assert moved[:, :-2].abs().min() > 0 and not moved[:, -2:].any()
        # A negative prompt's own size entries (the refiner's aesthetic score) differ from the groups' and stay.
        anchor = {name: part + 3 for name, part in encoded.empty.items()}
        mixed = conditioning.mixed(anchor, encoded, weights[0])["vector"]
        assert torch.equal(mixed[:, -2:], anchor["vector"][:, -2:]) and (mixed != anchor["vector"]).any()


def test_texts_of_another_encoder_are_refused(a_double):
    conditioning = sys.modules["sd_debias.webui_extension.conditioning"]
    with pytest.raises(ValueError, match="Expected texts of width 8, got width 12"):
        conditioning.check_width(torch.zeros(1, 77, 12), torch.zeros(1, 77, 8))
    attributes = [sys.modules["sd_debias.core.attribute"].GENDER]
    encoded = conditioning.encode(a_double.shared.sd_model, "a doctor", attributes, "{prompt}, {group}", 64, 64)
    foreign = {"crossattn": torch.zeros(1, 77, 12)}
    for call in (lambda: conditioning.moved(foreign, encoded, encoded.prompt), lambda: conditioning.mixed(
            foreign, encoded, torch.tensor([0.0, -1.0])), lambda: conditioning.of_group(foreign, encoded, 0)):
        with pytest.raises(ValueError, match="Expected texts of width 8, got width 12"):
            call()


@pytest.mark.parametrize("direction, evaluations", [("prompt", 24), ("embedding", 36), ("prediction", 36)])
def test_what_a_direction_costs(a_double, direction, evaluations):
    """Two images, six steps: 24 evaluations without guidance. One group of two has a weight."""
    save_profile(a_double.profiles, direction=direction)
    generate(a_double, batch_size=2, **debias())
    assert a_double.denoisers[-1].evaluations == evaluations


@pytest.mark.parametrize("name", ["sd1", "SD1ClipModel"])
def test_other_hosts_names_of_the_text_encoder_are_no_other_setting(a_double, name):
    save_profile(a_double.profiles, setting=dict(text_encoder=name))
    _, result = generate(a_double, **debias())
    assert "Debias weights" in keys(result.infotexts[0]) and "Debias setting" not in keys(result.infotexts[0])


def test_gamma_is_that_of_core(a_double):
    """One step of Euler against the rule written out: x_0' = x_0 - cfg gamma / k."""
    save_profile(a_double.profiles, direction="embedding", guidance=dict(scale=1000.0))
    seen = {}
    host = sys.modules["sd_debias.webui_extension.host_a1111"]
    a_double.callbacks["cfg_denoised"].insert(0, lambda params: seen.setdefault("before", params.x.clone()))
    a_double.callbacks["cfg_denoised"].append(lambda params: seen.setdefault("after", params.x.clone()))
    guide = host.guide

    def spy(state, step, x_out, inner_model):
        guide(state, step, x_out, inner_model)
        ((_, text),), = state.unsafe(step.text_uncond, a_double.shared.sd_model)
        seen.setdefault("unsafe", inner_model(step.x[-1:], step.sigma[-1:], cond={"c_crossattn": [text]}))
        seen.setdefault("sigma", step.sigma[-1])

    host.guide = spy
    generate(a_double, **debias())
    cond, uncond = seen["before"]
    k = -1 / seen["sigma"]
    mu = (1000 * k * (cond - seen["unsafe"][0])).abs().clamp(max=1)
    torch.testing.assert_close(seen["after"][0], cond - mu * (seen["unsafe"][0] - uncond))
    assert torch.equal(seen["after"][1], uncond)


def test_sd_next_whose_hooks_are_never_called_is_told_so_in_a_sentence(a_double, monkeypatch, capsys):
    import importlib.machinery
    known = types.ModuleType("modules.sd_offload")
    known.__spec__ = importlib.machinery.ModuleSpec("modules.sd_offload", None)
    monkeypatch.setitem(sys.modules, "modules.sd_offload", known)
    a_double.load(SHIM)
    assert "SD.Next never calls the hooks" in capsys.readouterr().out
    assert a_double.runner.scripts == [] and a_double.callbacks == {}
