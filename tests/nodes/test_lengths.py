"""Texts of different lengths, over the real host and its double: nothing is lengthened with other tokens."""
import pytest
import torch

from sd_debias.core.attribute import GENDER
from sd_debias.core.method.methods import IN_CONTEXT, Method

# Words, each one token, with which "a photo of a doctor, ..." has this many tokens; a chunk holds 75.
FITS, OPENS = 60, 74


def prompt(tokens):
    return "a photo of a doctor" + " very" * (tokens - 5)


@pytest.fixture
def guided(demo):
    """guided(text, weights, method) -> (the patched demo model, the list of what its passes did)."""
    from sd_debias.nodes.conditioning import encode_all
    from sd_debias.nodes.guidance import GuidedSampling
    model, clip, _ = demo

    def make(text, weights, method=None):
        method, done = method or Method(), []
        with torch.inference_mode():
            encoded = encode_all(clip, text, (GENDER,), method.context)
        guide = GuidedSampling(encoded, (GENDER,), method, lambda *_: torch.tensor(weights),
                      lambda summary, facts: done.append(summary))
        return guide.patch(model), done
    return make


@pytest.mark.parametrize("tokens", [FITS, 73, OPENS])
def test_a_picture_left_alone_is_the_one_without_the_package_in_the_same_batch(demo, sample, guided, tokens):
    text = prompt(tokens)
    model, done = guided(text, [[0.0, -1.0], [0.0, 0.0], [-1.0, 0.0]])
    plain, found = sample(demo[0], positive=text, batch=3), sample(model, positive=text, batch=3)
    assert torch.equal(found[1], plain[1])
    assert all((found[i] - plain[i]).abs().max() > 1e-3 for i in (0, 2))
    assert done[0]["acted"] and done[0]["guided_images"] == 2
    assert (done[0]["extra_evaluations"] > 0) == (tokens > FITS)  # apart, for the groups' words open a second chunk


@pytest.mark.parametrize("tokens", [FITS, 73, OPENS])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_push_of_full_strength_is_the_picture_of_the_groups_own_text(demo, sample, guided, tokens, batch):
    text = prompt(tokens)
    weights = [[0.0, -1.0]] + [[0.0, 0.0], [-1.0, 0.0]][:batch - 1]
    found = sample(guided(text, weights)[0], positive=text, batch=batch)
    for image, group in ((0, "a woman"), (2, "a man"))[:1 if batch == 1 else 2]:
        own = IN_CONTEXT.replace("{prompt}", text).replace("{group}", group)
        expected = sample(demo[0], positive=own, batch=batch)
        assert (found[image] - expected[image]).abs().max() < 1e-3


@pytest.mark.parametrize("direction", ["embedding", "prediction"])
@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_directions_inside_sampling_leave_others_of_their_batch_alone(demo, sample, guided, direction, cfg):
    text = prompt(OPENS)
    model, done = guided(text, [[0.0, -1.0], [0.0, 0.0]], Method(direction))
    plain, found = (sample(each, positive=text, batch=2, cfg=cfg) for each in (demo[0], model))
    assert torch.allclose(found[1], plain[1], atol=1e-4) and (found[0] - plain[0]).abs().max() > 1e-3


def test_text_encode_refuses_a_batch_of_texts_of_different_lengths(demo, call, said):
    from test_profile import calibrated, made

    from sd_debias.nodes.text_encode import DebiasTextEncode
    text = prompt(OPENS)
    profile = made(calibrated(text))
    steering = profile.entries[0].steerings[0]
    first = next(seed for seed in range(50) if not any(steering.draws([seed])) and any(steering.draws([seed + 1])))
    with pytest.raises(ValueError, match="texts of different lengths"):
        call(DebiasTextEncode, clip=demo[1], text=text, profile=profile, seed=first, batch_size=2)
    alone, = call(DebiasTextEncode, clip=demo[1], text=text, profile=profile, seed=first + 1)
    assert alone[0][0].shape[1] == 154


def test_a_part_that_cannot_be_mixed_is_refused_by_name(demo):
    from sd_debias.nodes.conditioning import encode_all

    class Clip:
        """As of models whose conditioning holds token ids."""

        def tokenize(self, text):
            return text

        def encode_from_tokens(self, tokens, **_):
            return {"cond": torch.randn(1, 7, 8), "pooled_output": torch.randn(1, 4), "t5xxl_ids": torch.tensor([[
                sum(map(ord, tokens))]])}

    with pytest.raises(ValueError, match="cannot be mixed: 't5xxl_ids'"):
        encode_all(Clip(), "a doctor", (GENDER,), IN_CONTEXT)


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


def test_every_part_of_a_text_of_variable_length_is_the_groups_own_at_full_strength():
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
        assert len(longer[name]) == at + 1 and torch.allclose(longer[name][at].float(), woman[name][0].float(),
                                                              atol=1e-5), name
