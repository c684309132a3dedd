"""Families of models in a real ComfyUI: tiny ones with random weights, real text encoders."""
import nodes_tiny_dits as dits
import nodes_tiny_ggufs as ggufs
import pytest
import torch
from nodes_given import comfy, ours

from sd_debias.core.attribute import GENDER
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.methods import DIRECTIONS, Method

pytestmark = pytest.mark.comfyui
FAMILIES = dits.FAMILIES  # and those of tiny_encoders.py, which conftest.py loads
REFUSED = {"Anima": "cannot be mixed: 't5xxl_ids'"}
PROMPT, ALONE, ALL = "a doctor", [0.0, 0.0], [0, 1, 2]
ROWS = [ALONE, [-1.0, 0.0], [0.0, -1.0]]
TEXTS = [PROMPT, f"{PROMPT}, a man", f"{PROMPT}, a woman"]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request, comfyui):
    """(name, run) of a family; see `made`."""
    return request.param, made(request.param)


def made(name, change=lambda model, clip: None, **options):
    """run(text, places, weights, method, cfg), which gives latents of noise at these places, and
    what was done, of a new model after a change. `options` of the positive conditioning, as its reference latents."""
    build, shape, usual = FAMILIES[name]
    try:
        model, clip = build()
    except (ImportError, AttributeError) as error:
        pytest.skip(f"this ComfyUI has no {name} ({error})")
    change(model, clip)
    noise = torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed))
                       for seed in (1, 2, 3)])
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 3)

    def encode(text):
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    @torch.inference_mode()
    def run(text, places=ALL, weights=None, method=None, cfg=usual):
        guided, done, x = model, [], noise[places]
        if weights is not None:
            encoded = ours.conditioning.encode_all(clip, text, (GENDER,), method.context)
            guided = ours.guidance.GuidedSampling(encoded, (GENDER,), method, lambda *_: torch.tensor(weights),
                                    lambda summary, facts: done.append(summary)).patch(model)
        latents = comfy.sample.sample_custom(
            guided, x, cfg, comfy.samplers.sampler_object("euler"), sigmas,
            [[cond, {**own, **options}] for cond, own in encode(text)],
            encode(""), torch.zeros_like(x), disable_pbar=True, seed=0)
        assert latents.isfinite().all()
        return latents, done
    run.usual = usual
    return run


def pushed(run, method, **more):
    """What ROWS change, having left the first image as it is; and how much of it of each."""
    plain = run(PROMPT, **more)[0]
    found, (done,) = run(PROMPT, ALL, ROWS, method, **more)
    moved = (found - plain).abs().flatten(1).amax(1)
    assert done["acted"] and not done["skipped"] and moved[0] <= 1e-3 * moved[1:].min()
    return found - plain, moved, done


@pytest.fixture
def noted(family, record_property):
    """noted(direction, contract, value): for the table of families."""
    def note(direction, contract, value):
        record_property(f"ComfyUI|{family[0]}|{direction}|{contract}", value)
    return note


def refused(family, run, noted, direction):
    if family not in REFUSED:
        return False
    with pytest.raises(DebiasError, match=REFUSED[family]) as caught:
        run(PROMPT, ALL, ROWS, Method(direction))
    noted(direction, "refused", str(caught.value))
    return True


@pytest.mark.parametrize("guidance", ["usual", "none"])
def test_a_push_is_the_group_s_own_text_and_a_picture_left_alone_is_the_prompt_s(
        family, noted, guidance):
    """Texts of one batch may have different lengths."""
    name, run = family
    if refused(name, run, noted, "prompt"):
        return
    cfg = run.usual if guidance == "usual" else 1.0
    truth = [run(text, [i], cfg=cfg)[0] for i, text in enumerate(TEXTS)]
    plain = [run(PROMPT, [i], cfg=cfg)[0] for i in ALL]
    effect = min((truth[i] - plain[i]).abs().max() for i in (1, 2))
    # The host's own rounding, of a batch.
    rounding = (run(PROMPT, cfg=cfg)[0] - torch.cat(plain)).abs().max()
    found, (done,) = run(PROMPT, ALL, ROWS, Method("prompt"), cfg)
    off = [float((found[i] - truth[i][0]).abs().max() / effect) for i in ALL]
    noted("prompt", "left alone", f"{off[0]:.1e}")
    noted("prompt", "full push", f"{max(off[1:]):.1e}")
    assert max(off) <= max(1e-3, 2 * float(rounding / effect)), off
    assert done["acted"] and done["guided_images"] == 2


@pytest.mark.parametrize("name", ["Flux 1", "Flux 2 Klein", "Flux 2", "Qwen-Image"])
def test_an_edit_by_reference_latents_is_the_groups_own_text_s(comfyui, name):
    """As Flux Kontext, Flux 2 and Klein edit: the photo's latents stand in the conditioning."""
    latents = torch.randn(FAMILIES[name].latent, generator=torch.Generator().manual_seed(9))
    run, other = made(name, reference_latents=[latents]), made(name, reference_latents=[latents + 1])
    truth = [run(text, [i])[0] for i, text in enumerate(TEXTS)]
    found, (done,) = run(PROMPT, ALL, ROWS, Method("prompt"))
    effect = min((truth[i] - run(PROMPT, [i])[0]).abs().max() for i in (1, 2))
    assert (found - torch.cat(truth)).abs().max() < 0.05 * effect and done["guided_images"] == 2
    assert (other(PROMPT)[0] - run(PROMPT)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("direction", DIRECTIONS[1:])
@pytest.mark.parametrize("guidance", ["usual", "none"])
def test_inside_sampling_pushed_pictures_move_and_others_stay(family, noted, direction, guidance):
    name, run = family
    if not refused(name, run, noted, direction):
        cfg = run.usual if guidance == "usual" else 1.0
        _, moved, done = pushed(run, Method(direction), cfg=cfg)
        noted(direction, "left alone", f"{float(moved[0] / moved[1:].min()):.1e}")
        assert done["extra_evaluations"] > 0


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["SDXL", "Flux 1", "Z-Image", "Qwen-Image"])
def test_models_and_texts_of_fp8_weights_are_guided_as_the_same_in_float32(
        comfyui, monkeypatch, name, direction):
    fp8 = torch.float8_e4m3fn

    def parts(model, clip):
        modules = model.model.diffusion_model, clip.cond_stage_model
        return [weight for part in modules for weight in part.parameters()
                if weight.is_floating_point()]

    def stored(model, clip):
        kept = parts(model, clip)
        assert sum(weight.dtype == fp8 for weight in kept) > 0.9 * len(kept)

    def rounded(model, clip):
        with torch.no_grad():
            for weight in parts(model, clip):
                weight.copy_(weight.to(fp8))

    whole = made(name, rounded)
    monkeypatch.setattr(dits, "STORED", fp8)
    monkeypatch.setitem(dits.OPTIONS, "dtype", fp8)
    found, moved, _ = pushed(made(name, stored), Method(direction))
    same = whole(PROMPT, ALL, ROWS, Method(direction))[0] - whole(PROMPT)[0]
    assert (found - same).abs().amax() <= 1e-2 * moved.max()


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("name", ["SDXL", "Flux 1", "Qwen-Image"])
def test_models_and_texts_of_gguf_files_are_guided_as_the_same_weights_in_float32(
        comfyui, set_folder, tmp_path, monkeypatch, name, kind):
    ggufs.pack()
    for folder in ("diffusion_models", "text_encoders"):
        set_folder(folder, tmp_path, {".gguf", ".safetensors"})
    whole = made(name, lambda *own: ggufs.saved(name, kind, tmp_path, *own))
    model, clip = ggufs.loaded(name, dits)
    assert ggufs.share(model.model, kind) > 0.5
    assert name == "SDXL" or ggufs.share(ggufs.texts_of(clip)[0], kind) > 0.2
    monkeypatch.setitem(FAMILIES, name, FAMILIES[name]._replace(build=lambda: (model, clip)))
    small = made(name)
    for method in map(Method, DIRECTIONS):
        found, moved, _ = pushed(small, method)
        same = whole(PROMPT, ALL, ROWS, method)[0] - whole(PROMPT)[0]
        assert (found - same).abs().amax() <= 1e-3 * moved.max()
        assert small(PROMPT, ALL, [ALONE] * 3, method)[0].equal(small(PROMPT)[0])
