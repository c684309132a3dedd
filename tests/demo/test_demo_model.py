"""The embedded model does what its card says; benchmarks/demo_training measures its figures."""
import numpy as np
import pytest
from safetensors import safe_open

from sd_debias.core.attribute import AGE, GENDER, SKIN_TONE_5
from sd_debias.core.errors import DebiasError
from demo_training import artwork, bias, captions, evaluate
from sd_debias.demo_model import model
from sd_debias.diffusers_host.workbench import demo


@pytest.fixture(scope="module")
def bench():
    return demo()


def test_the_weights_are_small_and_hold_no_pickle_and_load_in_every_version_of_transformers():
    files = [path for path in model.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".ckpt", ".pth")]
    with safe_open(model.FOLDER / "text_encoder" / "model.safetensors", "pt") as file:
        assert all(key.startswith("text_model.") for key in file.keys())


@pytest.mark.slow
def test_judges_know_the_artwork_even_under_noise(bench):
    found = evaluate.classifiers(bench)
    assert found["CLIP gender"]["agreement"] >= 0.99
    assert found["CLIP skin tone"]["agreement"] >= 0.97
    noisy = artwork.load() + np.random.default_rng(0).normal(0, 8, (420, 64, 64, 3))
    assert (artwork.nearest(noisy.clip(0, 255).astype(np.uint8)) == np.arange(420)).mean() > 0.99


@pytest.mark.parametrize("nth, each, least", [
    (4, 1, 0.8), pytest.param(1, 5, 0.9, marks=pytest.mark.slow)])
def test_prompts_that_state_gender_and_tone_are_obeyed(bench, nth, each, least):
    """Every nth of them."""
    prompts = evaluate.explicit_prompts("scientist")[::nth]
    pictures = [bench.generate(prompt, range(10 * i, 10 * i + each))[0]
                for i, (prompt, _, _) in enumerate(prompts)]
    seen = artwork.numbers(artwork.nearest(np.concatenate(pictures)))
    stated = np.repeat([stated for _, *stated in prompts], each, axis=0)
    assert (seen[:, 1:3] == stated).all(1).mean() >= least


@pytest.mark.slow
def test_a_neutral_prompt_shows_the_table_s_bias_and_the_occupation_and_clip_sees_it(bench):
    pictures, _ = bench.generate(captions.prompt("pilot"), range(200))
    shown = artwork.numbers(artwork.nearest(pictures))
    (men, _), _ = bias.shares("pilot")
    assert abs((shown[:, 1] == 0).mean() - men) < 0.1
    assert (shown[:, 0] == artwork.SUBJECTS.index("pilot")).mean() >= 0.95
    assert (bench.classifier(GENDER)(pictures).argmax(1) == shown[:, 1]).mean() >= 0.95
    assert (bench.classifier(SKIN_TONE_5)(pictures).argmax(1) == shown[:, 2]).mean() >= 0.9


@pytest.mark.slow
def test_the_same_seed_gives_the_same_picture_whatever_the_batch(bench):
    together, _ = bench.generate("a photo of a judge", range(6))
    alone = [bench.generate("a photo of a judge", [seed])[0] for seed in range(6)]
    assert np.abs(together.astype(int) - np.concatenate(alone)).max() <= 2


def test_its_classifier_does_not_pretend_to_tell_ages():
    with pytest.raises(DebiasError, match="ages"):
        model.clip().classifier(AGE)
