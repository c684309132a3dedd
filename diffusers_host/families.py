"""How a diffusers pipeline is given a text: by its family, and where that is not known, as the text itself.

Stable Diffusion 1 to 3, SDXL and Flux have texts of one length, which all directions mix (encode.py, hook.py). Those
below have texts as long as they are, with masks, as lists, or of several encoders: each is mixed alone. Images whose
texts have the same lengths are made together, and so are the evaluations of the directions inside sampling. Of any
other pipeline an image gets its group's own text.
"""
from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from typing import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from ..core.attribute import Attribute
from ..core.errors import DebiasError, quoted
from ..core.method.conditioning import Parts, in_context
from ..core.method.direction import group_texts
from ..core.method.methods import Method
from .call import defaults, is_modular, per_prompt


@dataclass(frozen=True)
class Family:
    """A row of the table.

    returned  the argument of the pipeline's call for each value that encode_prompt returns; "" for one that the call
              makes itself, and values beyond are not looked at
    tokens    the part that holds the text's tokens
    second    the same for a second text encoder, where encode_prompt is called for each
    lists     parts that come and go as lists, [T, D] each
    moves     where the text's dimension stands in a part, and where it stands here: (from, to)
    counted   the part that tells where each text of a batch begins, [B + 1]
    negative  must the call be given the negative text's parts too?
    cfg       the call's argument for the scale of classifier-free guidance
    inside    the denoiser's argument for each part, so that the directions inside sampling, and windows, can act; empty
              where they cannot
    apart     has the negative prompt a call of its own in every step, behind the prompt's?
    ahead     does the prompt stand before the negative one where both are in one call?
    negated   does the pipeline take the opposite of what the denoiser predicts?
    texted    does the denoiser answer for the text's tokens too, before the image's?
    lengths   the denoiser's argument for the lengths [B] of texts that are filled up to one
    beside    what else of a denoiser's call changes with its texts: of the call and their arguments
    texts_only  does the call take texts alone? Shifted ones then take their place in front of the denoiser, by `inside`
    fixed     arguments of the call without which it would evaluate another text than the one that it is given
    """
    returned: tuple[str, ...]
    tokens: str = "prompt_embeds"
    second: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    moves: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    counted: str = ""
    negative: bool = False
    cfg: str = "guidance_scale"
    inside: Mapping[str, str] = field(default_factory=dict)
    apart: bool = False
    ahead: bool = False
    negated: bool = False
    texted: bool = False
    lengths: str = ""
    beside: Callable[[dict, dict], dict] = lambda call, texts: {}
    texts_only: bool = False
    fixed: Mapping[str, object] = field(default_factory=dict)

    def encode(self, pipe, text: str, **settings) -> Parts:
        """One text by its parts [1, ...], of its own length."""
        known = inspect.signature(pipe.encode_prompt).parameters
        call = inspect.signature(type(pipe).__call__).parameters  # its defaults differ: the longest text, instructions
        usual = {name: argument.default for name, argument in call.items() if argument.default is not argument.empty}
        given = {**usual, **settings, "prompt": [text], "device": pipe._execution_device, "num_images_per_prompt": 1,
                 "do_classifier_free_guidance": False}
        if self.counted:  # Kandinsky's call asks for the transformer's type
            given["dtype"] = pipe.transformer.dtype
        parts: Parts = {}
        for encoder, names in enumerate(filter(None, (self.returned, self.second))):
            chosen = {**given, "text_encoder_index": encoder}
            with torch.no_grad():
                found = pipe.encode_prompt(**{name: value for name, value in chosen.items() if name in known})
            values = found if isinstance(found, tuple) else (found,)
            parts.update((name, self._part(name, value)) for name, value in zip(names, values)
                         if name and value is not None)
        return parts

    def call(self, rows: Sequence[Parts], negative: Parts | None = None) -> dict:
        """Arguments of the pipeline's call for B texts of the same shapes, and for a negative one where it is given."""
        made = self._batch(rows)
        if negative is not None:
            made.update((f"negative_{name}", part) for name, part in self._batch([negative] * len(rows)).items())
        return made

    def texts(self, call: dict) -> list[Parts]:
        """The texts of a call of the denoiser, row by row: parts [1, ...]."""
        found = {name: call[argument] for name, argument in self.inside.items() if call.get(argument) is not None}
        parts = {name: part if name in self.lists else part.movedim(*self.moves.get(name, (0, 0)))
                 for name, part in found.items()}
        lengths = call[self.lengths].tolist() if self.lengths else [None] * len(parts[self.tokens])
        return [{name: part[i][None] if tokens is None else part[i][None, :tokens] for name, part in parts.items()}
                for i, tokens in enumerate(lengths)]

    def with_texts(self, call: dict, rows: Sequence[Parts]) -> dict:
        """The denoiser's call with other texts, one for each of its rows."""
        joined = self._joined(rows)
        texts = {argument: _like(joined.get(name), call.get(argument)) for name, argument in self.inside.items()}
        return {**call, **texts, **self.beside(call, texts)}

    def _joined(self, rows: Sequence[Parts]) -> dict:
        return {name: [row[name][0] for row in rows] if name in self.lists else
                torch.cat([row[name] for row in rows]).movedim(*reversed(self.moves.get(name, (0, 0))))
                for name in rows[0]}

    def _batch(self, rows: Sequence[Parts]) -> dict:
        made = self._joined(rows)
        if self.counted:
            made[self.counted] = torch.arange(len(rows) + 1, dtype=torch.int32, device=made[self.tokens].device) \
                * made[self.tokens].shape[1]
        return made

    def _part(self, name: str, value) -> Tensor:
        return value[0][None] if name in self.lists else value.movedim(*self.moves.get(name, (0, 0)))


def _like(part, other):
    """A part in the other's type and on its device, where both are there."""
    if isinstance(part, list):
        return [text.to(other[0]) for text in part]
    return part if part is None or other is None else part.to(other)


def _chroma(call: dict, texts: dict) -> dict:
    """Its mask goes on over the image."""
    picture = call["attention_mask"][:, call["encoder_hidden_states"].shape[1]:]
    return dict(attention_mask=torch.cat([texts["attention_mask"], picture], dim=1))


def _ernie(call: dict, texts: dict) -> dict:
    """Its lists are filled up."""
    lengths = [call["text_lens"].new_full((1,), len(text)) for text in texts["text_bth"]]  # made where they are
    return dict(text_bth=pad_sequence(texts["text_bth"], batch_first=True), text_lens=torch.cat(lengths))


def _kandinsky(call: dict, texts: dict) -> dict:
    tokens = texts["encoder_hidden_states"].shape[1]
    return dict(text_rope_pos=torch.arange(tokens, device=call["text_rope_pos"].device))


def _qwen_image_21(call: dict, texts: dict) -> dict:
    """Its mask of images begins with the text."""
    picture = call["img_mask"][:, call["encoder_hidden_states"].shape[1]:]
    return dict(img_mask=pad(picture, (texts["encoder_hidden_states"].shape[1], 0)))


_TOKENS = {"prompt_embeds": "encoder_hidden_states"}
_MASKED = Family(("prompt_embeds", "prompt_attention_mask"),
                 inside={**_TOKENS, "prompt_attention_mask": "encoder_attention_mask"})
_QWEN = Family(("prompt_embeds", "prompt_embeds_mask"), cfg="true_cfg_scale", apart=True,
               inside={**_TOKENS, "prompt_embeds_mask": "encoder_hidden_states_mask"})
FAMILIES = {
    "AuraFlowPipeline": Family(("prompt_embeds", "prompt_attention_mask"), inside=_TOKENS),  # it reads no mask
    "ChromaPipeline": Family(("prompt_embeds", "", "prompt_attention_mask"), apart=True, beside=_chroma,
                             inside={**_TOKENS, "prompt_attention_mask": "attention_mask"}),
    "BriaPipeline": Family(("prompt_embeds",), inside=_TOKENS),
    "CogView4Pipeline": Family(("prompt_embeds",), inside=_TOKENS, apart=True),
    "ErnieImagePipeline": Family(("prompt_embeds",), lists=("prompt_embeds",), inside={"prompt_embeds": "text_bth"},
                                 lengths="text_lens", beside=_ernie),
    "Flux2KleinPipeline": Family(("prompt_embeds",), inside=_TOKENS, apart=True),
    "Flux2Pipeline": Family(("prompt_embeds",), inside=_TOKENS),
    "HiDreamImagePipeline": Family(("prompt_embeds_t5", "", "prompt_embeds_llama3", "", "pooled_prompt_embeds"),
                                   "prompt_embeds_llama3", moves={"prompt_embeds_llama3": (1, 0)}, negated=True,
                                   inside={"prompt_embeds_t5": "encoder_hidden_states_t5",
                                           "prompt_embeds_llama3": "encoder_hidden_states_llama3",
                                           "pooled_prompt_embeds": "pooled_embeds"}),
    "HunyuanDiTPipeline": Family(("prompt_embeds", "", "prompt_attention_mask"),
                                 second=("prompt_embeds_2", "", "prompt_attention_mask_2"), negative=True, inside={
                                     "prompt_embeds": "encoder_hidden_states",
                                     "prompt_attention_mask": "text_embedding_mask",
                                     "prompt_embeds_2": "encoder_hidden_states_t5",
                                     "prompt_attention_mask_2": "text_embedding_mask_t5"}),
    "HunyuanImagePipeline": Family(
        ("prompt_embeds", "prompt_embeds_mask", "prompt_embeds_2", "prompt_embeds_mask_2"), apart=True,
        inside={**_TOKENS, "prompt_embeds_mask": "encoder_attention_mask",
                "prompt_embeds_2": "encoder_hidden_states_2", "prompt_embeds_mask_2": "encoder_attention_mask_2"}),
    "Kandinsky5T2IPipeline": Family(("prompt_embeds_qwen", "prompt_embeds_clip"), "prompt_embeds_qwen",
                                    counted="prompt_cu_seqlens", negative=True, apart=True, beside=_kandinsky, inside={
                                        "prompt_embeds_qwen": "encoder_hidden_states",
                                        "prompt_embeds_clip": "pooled_projections"}),
    "Krea2Pipeline": Family(("prompt_embeds", "prompt_embeds_mask"), moves={"prompt_embeds": (1, 2)}, apart=True,
                            inside={**_TOKENS, "prompt_embeds_mask": "encoder_attention_mask"}),
    # Its call has a language model rewrite the prompt, unless it is told not to, and fails for embeddings in its place.
    "LongCatImagePipeline": Family(("prompt_embeds",), inside=_TOKENS, apart=True, texts_only=True,
                                   fixed={"enable_prompt_rewrite": False}),
    "Lumina2Pipeline": replace(_MASKED, apart=True),
    "OvisImagePipeline": Family(("prompt_embeds",), inside=_TOKENS, apart=True),
    "PixArtAlphaPipeline": _MASKED,
    "PixArtSigmaPipeline": _MASKED,
    "QwenImage21Pipeline": replace(_QWEN, texted=True, beside=_qwen_image_21),
    "QwenImagePipeline": _QWEN,
    "SanaPipeline": _MASKED,
    "SanaSprintPipeline": replace(_MASKED, inside={}),  # its scheduler's predictions cannot be compared
    "WanPipeline": Family(("prompt_embeds",), inside=_TOKENS, apart=True),
    "ZImagePipeline": Family(("prompt_embeds",), lists=("prompt_embeds",), negative=True, ahead=True, negated=True,
                             inside={"prompt_embeds": "cap_feats"}),
}


def family_of(pipe) -> Family | None:
    """A pipeline's row, by its class's name; None for one that has none."""
    return FAMILIES.get(type(pipe).__name__)


def looks_at_image(pipe) -> bool:
    """Does its text encoder look at the image of an edit? Such a pipeline takes one text a call."""
    return family_of(pipe) is None and hasattr(pipe, "encode_prompt") and (
        "image" in inspect.signature(pipe.encode_prompt).parameters)


def asked(pipe, texts: Sequence[str], negative: str | None) -> dict:
    """The arguments of a call for an image of each text. Raises DebiasError for texts that need calls of their own."""
    one = looks_at_image(pipe)
    if one and len(set(texts)) > 1:
        raise DebiasError(f"{type(pipe).__name__} takes one text per call, and these images' texts differ. Make them "
                          "with `generate`, or in a call for each text.")
    call: dict = {"prompt": texts[0], per_prompt(pipe): len(texts)} if one else {"prompt": list(texts)}
    if negative is not None:
        call["negative_prompt"] = negative if one else [negative] * len(texts)
    return call


def fixed(pipe) -> dict:
    """Arguments that every call of the pipeline gets, guided or not."""
    family = family_of(pipe)
    return dict(family.fixed) if family else {}


def without_fixed(pipe, call: dict) -> dict:
    """A user's arguments of the pipeline's call without the fixed ones. Raises DebiasError where they differ."""
    for name, value in fixed(pipe).items():
        if call.get(name, value) != value:
            raise DebiasError(f"{type(pipe).__name__} must evaluate the texts that it is given, so it is called with "
                              f"{name}={value}, got {call[name]}. Leave it out, and give the prompt as it shall be "
                              "evaluated.")
    return {name: value for name, value in call.items() if name not in fixed(pipe)}


def guidance(pipe, scale: float, negative_prompt: str | None) -> dict:
    """Arguments of `generate` for classifier-free guidance, by the names that the pipeline has for them. Raises
    DebiasError for a negative prompt that it does not take."""
    accepted, family = defaults(pipe), family_of(pipe)
    cfg = family.cfg if family else "guidance_scale"
    if negative_prompt is not None and "negative_prompt" not in accepted:
        raise DebiasError(f"{type(pipe).__name__} takes no negative prompt, got {quoted(negative_prompt)}. Leave it "
                          "out.")
    if cfg == "true_cfg_scale" and scale > 1:
        negative_prompt = negative_prompt or ""  # without one it is not guided
    guider = getattr(pipe, "guider", None)
    if cfg not in accepted and guider is not None:
        pipe.guider = guider.new(guidance_scale=scale)
    negative = {} if is_modular(pipe) and negative_prompt is None else {"negative_prompt": negative_prompt}
    return {**negative, **({cfg: scale} if cfg in accepted else {})}


@dataclass(frozen=True)
class WholeTexts:
    """What stands for `Encoded` with a pipeline whose texts are not known: the prompt and its groups' own texts.

    A push is the group's first text; there is nothing between the prompt and it.
    """
    prompt: str
    attributes: tuple[Attribute, ...]
    context: str
    subject: str = ""

    def texts(self, weights: Tensor) -> list[str]:
        """The text of each image for weights [B, n]. Raises DebiasError for weights that are no whole pushes."""
        return [self._text(row) for row in weights]

    def _text(self, row: Tensor) -> str:
        text = self.prompt
        for attribute, own in zip(self.attributes, row.split([len(a.groups) for a in self.attributes])):
            pushed = own.nonzero().flatten().tolist()
            if not pushed:
                continue
            if len(pushed) > 1 or own[pushed[0]] > -1:
                raise DebiasError("A pipeline that is given whole texts can push an image toward one group alone, "
                                  "with a strength of 1 or more. Use the method 'default' and the strength 1.")
            text, = group_texts(attribute.groups[pushed[0]].texts[:1], text, self.context, self.subject)
        return text


def check_family(pipe, method: Method) -> None:
    """Raises DebiasError where a pipeline of `FAMILIES` cannot be guided by a method."""
    inside = method.direction != "prompt" or not method.guidance.whole
    two = getattr(pipe, "transformer_2", None) is not None  # which share the steps
    family = family_of(pipe)
    if inside and (two or family is None or not family.inside):
        raise DebiasError(f"{type(pipe).__name__}{' with two transformers' * two} takes only the direction 'prompt' "
                          f"in all steps, got '{method.direction}' from {method.guidance.start:g} to "
                          f"{method.guidance.end:g}. Use the method 'default', or 'shift'.")


def check_whole_texts(pipe, attributes: Sequence[Attribute], method: Method) -> None:
    """Raises DebiasError where a pipeline whose texts are not known cannot be guided by a method."""
    fits = method.direction == "prompt" and method.spend == "draw" and method.guidance.whole
    if not fits or not all(in_context(attribute, method.context) for attribute in attributes):
        everything, less = ([name for name in sorted(FAMILIES) if bool(FAMILIES[name].inside) == inside]
                            for inside in (True, False))
        raise DebiasError(
            f"How {type(pipe).__name__} encodes texts is not known here, so each image can only be given its group's "
            f"own text: the method 'default' (direction 'prompt', draws, all steps, groups in the prompt's context). "
            f"All directions work with Stable Diffusion 1 to 3, SDXL, Flux, {', '.join(everything)}; 'prompt', with "
            f"shifts too, also with {', '.join(less)}.")
