import random

import numpy as np
import pytest

from sd_debias.core.attribute import BUILT_IN
from demo_training import artwork, bias, captions, tokenizer


def test_every_occupation_is_drawn_by_both_artists_for_each_gender_and_tone():
    pictures = artwork.load()
    assert pictures.shape == (len(artwork.LABELS), 64, 64, 3) and len(artwork.OCCUPATIONS) == 20
    assert len(np.unique(pictures.reshape(len(pictures), -1), axis=0)) == len(pictures)


def test_pictures_are_named_by_their_code_points():
    assert artwork.file_stem(artwork.Label("doctor", "google", "woman", "tan")) == "1f469-1f3fd-200d-2695-fe0f"
    assert artwork.file_stem(artwork.Label("guard", "twitter", "man", "fair")) == "1f482-1f3fb-200d-2642-fe0f"
    assert artwork.file_stem(artwork.Label("person", "google", "man", "brown")) == "1f468-1f3fe"


def test_the_bias_table_gives_every_occupation_shares_that_sum_to_one():
    for subject in artwork.SUBJECTS:
        for shares in bias.shares(subject):
            assert sum(shares) == pytest.approx(1)
    assert all(abs(bias.shares(subject)[0][0] - 0.5) > 0.09 for subject in artwork.OCCUPATIONS)


def test_captions_use_the_wordings_of_the_built_in_attributes():
    rng = random.Random(0)
    said = {captions.caption(rng, subject, gender, tone) for _ in range(400) for subject in (None, "doctor")
            for gender in (None, *artwork.GENDERS) for tone in (None, *artwork.TONES)}
    for name in ("gender", "skin_tone", "skin_tone_5", "skin_tone_3"):
        for group in BUILT_IN[name].groups:
            assert group.texts[0] in said and f"a photo of {group.texts[0]}" in said
            assert f"a photo of a doctor, {group.texts[0]}" in said


def test_a_caption_says_no_more_than_it_was_given():
    rng = random.Random(0)
    for _ in range(200):
        text = captions.caption(rng, "pilot")
        assert "pilot" in text and not {"man", "woman", "male", "female", "skin"} & set(text.replace(",", "").split())


def test_the_tokenizer_is_clips_own():
    from transformers import CLIPTokenizer
    from sd_debias.demo_model.model import FOLDER
    clip = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")
    assert clip("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert len(clip) == 49408 and clip.pad_token_id == 49407
    assert tokenizer.SPECIAL == (clip.bos_token, clip.eos_token)
