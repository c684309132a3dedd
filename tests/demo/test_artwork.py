import random

import numpy as np
from transformers import CLIPTokenizer

from demo_training import artwork, captions, tokenizer
from sd_debias.core.attribute import BUILT_IN
from sd_debias.demo_model.model import FOLDER


def test_every_occupation_is_drawn_by_both_artists_for_each_gender_and_tone():
    pictures = artwork.load()
    assert pictures.shape == (len(artwork.LABELS), 64, 64, 3) and len(artwork.OCCUPATIONS) == 20
    assert len(np.unique(pictures.reshape(len(pictures), -1), axis=0)) == len(pictures)


def test_captions_use_the_wordings_of_the_built_in_attributes_and_say_no_more_than_given():
    rng = random.Random(0)
    said = {captions.caption(rng, subject, gender, tone) for _ in range(400) for subject in (None, "doctor")
            for gender in (None, *artwork.GENDERS) for tone in (None, *artwork.TONES)}
    for name in ("gender", "skin_tone", "skin_tone_5", "skin_tone_3"):
        for group in BUILT_IN[name].groups:
            text = group.texts[0]
            assert {text, f"a photo of {text}", f"a photo of a doctor, {text}"} <= said
    for _ in range(200):
        text = captions.caption(rng, "pilot")
        words = set(text.replace(",", "").split())
        assert "pilot" in text and not {"man", "woman", "male", "female", "skin"} & words


def test_the_tokenizer_is_clips_own():
    clip = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")
    assert clip("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert len(clip) == 49408 and clip.pad_token_id == 49407
    assert tokenizer.SPECIAL == (clip.bos_token, clip.eos_token)
