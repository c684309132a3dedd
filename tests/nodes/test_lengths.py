"""Texts of different lengths, over the real host and its double: nothing is lengthened with other tokens."""
import pytest
import torch
from nodes_given import profile

from sd_debias.core.attribute import GENDER
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import IN_CONTEXT, Method

# Words, each one token, with which "a photo of a doctor, ..." has this many tokens; a chunk holds 75.
FITS, OPENS = 60, 74


def prompt(tokens):
    return "a photo of a doctor" + " very" * (tokens - 5)


@pytest.mark.parametrize("tokens", [FITS, OPENS])
def test_a_group_whose_words_open_a_second_chunk_is_evaluated_apart(sample, guided, tokens):
    """The pictures are those of tests/contracts."""
    text = prompt(tokens)
    model, done = guided(Method(), [[0.0, -1.0], [0.0, 0.0], [-1.0, 0.0]], text=text)
    sample(model, positive=text, batch=3, steps=2)
    assert done[0][0]["acted"] and done[0][0]["guided_images"] == 2
    assert (done[0][0]["extra_evaluations"] > 0) == (tokens > FITS)


def test_text_encode_refuses_a_batch_of_texts_of_different_lengths(demo, call, said):
    from sd_debias.nodes.text_encode import DebiasTextEncode
    text, drawing = prompt(OPENS), Steering((0.0, 0.0), (0.5, 0.0, 0.5))
    applied = profile(drawing, prompts=(text,))
    draws = list(map(bool, drawing.draws(range(50))))
    first = next(seed for seed in range(49) if draws[seed:seed + 2] == [False, True])
    with pytest.raises(DebiasError, match="different lengths"):
        call(DebiasTextEncode, clip=demo[1], text=text, profile=applied, seed=first, batch_size=2)
    alone, = call(DebiasTextEncode, clip=demo[1], text=text, profile=applied, seed=first + 1)
    assert alone[0][0].shape[1] == 154


class Variable:
    """An encoder of variable length, as Qwen's: a token a word, a mask, two further encoders' parts."""

    def tokenize(self, text):
        return text.split()

    def encode_from_tokens(self, words, **_):
        tokens = torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(sum(map(ord, word))))
                              for word in words] or [torch.zeros(8)])[None]
        mask = torch.ones(1, tokens.shape[1]).long()
        return {"cond": tokens, "pooled_output": tokens.mean(1), "attention_mask": mask,
                "conditioning_llama3": torch.stack([tokens, 2 * tokens], dim=1)}


def test_every_part_of_a_text_of_variable_length_is_the_groups_own_at_full_strength(comfyui):
    from sd_debias.nodes.conditioning import encode_all, shift
    clip, text = Variable(), "a doctor at work"
    encoded = encode_all(clip, text, (GENDER,), IN_CONTEXT)

    def entry(words):
        parts = clip.encode_from_tokens(clip.tokenize(words))
        return {"cross_attn": parts.pop("cond"), **parts}

    own = entry(text)
    (base,), apart = shift([own], encoded, (GENDER,), torch.tensor([[0.0, 0.0], [0.0, -1.0]]), IN_CONTEXT)
    (images, (longer,)), = apart
    assert images == [1] and base["cross_attn"].shape[1] == 4 and longer["cross_attn"].shape[1] == 6
    woman = entry("a doctor at work, a woman")
    for name, part in own.items():
        assert torch.equal(base[name][0], part[0]), name
        at = 1 if part.is_floating_point() else 0  # masks are one for all, whose tokens models count
        assert len(longer[name]) == at + 1, name
        assert torch.allclose(longer[name][at].float(), woman[name][0].float(), atol=1e-5), name


def test_some_images_of_a_batch_keep_their_own_reference_pictures(comfyui):
    """A list of them stayed whole, so that image 2 was evaluated with the reference of image 0."""
    from sd_debias.nodes.conditioning import of_rows

    class Listed:
        def __init__(self, cond):
            self.cond = cond

        def _copy_with(self, cond):
            return Listed(cond)

    entry = dict(cross_attn=torch.arange(3.0).view(3, 1, 1), mask=torch.ones(1, 2),
                 model_conds=dict(ref_latents=Listed([torch.arange(3.0).view(3, 1), torch.zeros(1, 1)])))
    cut, = of_rows([entry], [2])
    first, second = cut["model_conds"]["ref_latents"].cond
    assert cut["cross_attn"].flatten().tolist() == first.flatten().tolist() == [2.0]
    assert len(second) == len(cut["mask"]) == 1
