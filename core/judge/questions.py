"""Vision-language models as judges: they are asked about an image, and what they do not say yes to is left out.

Any transformers model that answers questions on images: BLIP (Li et al. 2022), ViLT, and chat models such as SmolVLM,
Qwen-VL or LLaVA. The answer is read off the first token's logits, yes against no, so nothing is generated or parsed.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attribute import Attribute
from ..errors import DebiasError, quoted, short
from ..prompts.syntax import bare, subject_of
from . import Pictures, pictures
from .pretrained import load, load_model

CHAT, ANSWERS = "AutoModelForImageTextToText", "AutoModelForVisualQuestionAnswering"
YES, NO = ("yes", "Yes", " yes", " Yes"), ("no", "No", " no", " No")
ASKED = "Is the person in this image {}? Answer yes or no."


class AskingModel:
    """A model that answers questions on images; loaded once, it serves any number of attributes.

    source          folder of a transformers model, or its id in the local cache
    device, dtype   where and in which precision it runs
    allow_download  fetch an id that is not in the cache; off, no network is used
    batch_size      images asked about at once; lower it where memory is short

    Raises DebiasError for folders without safetensors weights, for models that answer no questions, and where loading
    fails.
    """

    def __init__(self, source: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
                 allow_download: bool = False, batch_size: int = 8):
        self.name, self.batch_size = Path(source).name, batch_size
        self.processor: Any = load("AutoProcessor", source, allow_download)
        config = load("AutoConfig", source, allow_download)
        kinds = " ".join(getattr(config, "architectures", None) or ())
        self.model: Any = load_model(ANSWERS if "QuestionAnswering" in kinds else CHAT, source, device, dtype,
                                     allow_download)
        self.tokenizer: Any = getattr(self.processor, "tokenizer", None)
        if self.tokenizer is None:
            raise DebiasError(f"{quoted(source)} has no tokenizer, so it cannot be asked anything. Use a model that "
                              "answers questions about images, such as BLIP-VQA or SmolVLM.")
        if "QuestionAnswering" not in kinds:
            self.tokenizer.padding_side = "left"  # the answer's first token follows the question, not its padding
        generates = bool(getattr(self.model, "can_generate", bool)())
        answers = {} if generates else dict(getattr(config, "id2label", None) or {})
        self.labels = {label.casefold(): at for at, label in answers.items()}
        if not generates and not {"yes", "no"} <= set(self.labels):
            raise DebiasError(f"{quoted(source)} answers neither yes nor no. Use a model that answers questions about "
                              "images, such as BLIP-VQA or SmolVLM.")

    @torch.inference_mode()
    def yes(self, images: Pictures, question: str) -> np.ndarray:
        """How much likelier the model answers yes than no, float32 [N] in [0, 1]: p(yes) / (p(yes) + p(no))."""
        arrays = pictures(images)
        found = [self._yes(arrays[start:start + self.batch_size], question)
                 for start in range(0, len(arrays), self.batch_size)]
        p = torch.cat(found) if found else torch.empty(0)
        if not torch.isfinite(p).all():
            raise DebiasError(f"{quoted(self.name)} gave numbers that are not finite in {self.model.dtype}. Load it in "
                              f"float32.")
        return p.numpy()

    def _yes(self, arrays: Sequence[np.ndarray], question: str) -> Tensor:
        from PIL import Image
        texts = [self._worded(question)] * len(arrays)
        inputs = self.processor(images=[Image.fromarray(rgb) for rgb in arrays], text=texts, return_tensors="pt",
                                padding=True)
        inputs = {key: value.to(self.model.device, self.model.dtype) if value.is_floating_point() else
                  value.to(self.model.device) for key, value in inputs.items()}
        if self.labels:  # it chooses among answers
            logits = self.model(**inputs).logits.float().cpu()
            return torch.sigmoid(logits[:, self.labels["yes"]] - logits[:, self.labels["no"]])
        made = self.model.generate(**inputs, max_new_tokens=1, min_new_tokens=1, do_sample=False, num_beams=1,
                                   return_dict_in_generate=True, output_logits=True)
        logits = made.logits[0].float().cpu()
        yes, no = (set(self._first(words)) for words in (YES, NO))
        if not yes - no or not no - yes:
            raise DebiasError(f"The tokenizer of {quoted(self.name)} begins yes and no alike. Use another model.")
        return torch.sigmoid(logits[:, sorted(yes - no)].logsumexp(-1) - logits[:, sorted(no - yes)].logsumexp(-1))

    def _worded(self, question: str) -> str:
        """A question as the model learned to be asked."""
        if not getattr(self.processor, "chat_template", None) and not getattr(self.tokenizer, "chat_template", None):
            return question.removesuffix(" Answer yes or no.")  # models for questions answer shortly by themselves
        said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        return self.processor.apply_chat_template(said, add_generation_prompt=True)

    def _first(self, words: Sequence[str]) -> list[int]:
        """The first token of each spelling. Raises DebiasError where the tokenizer knows none."""
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        found = {ids[0] for word in words if (ids := self.tokenizer(word, add_special_tokens=False)["input_ids"])}
        found.discard(unknown)
        if not found:
            raise DebiasError(f"The tokenizer of {quoted(self.name)} does not know {quoted(words[0])}. Use a model "
                              f"that was trained on English.")
        return sorted(found)

    def classifier(self, attribute: Attribute) -> Asked:
        """A judge of `attribute` that shares this model."""
        return Asked(self, attribute)

    def similarity(self, images: Pictures, prompt: str) -> np.ndarray:
        """How surely the model says that each image shows what the prompt is about, float32 [N] in [0, 1]: "is the
        person in this image a doctor?"; where the prompt's subject cannot be told, whether it shows the prompt."""
        subject = subject_of(prompt)
        article = "an" if subject[:1] in tuple("aeiou") else "a"
        return self.yes(images, ASKED.format(f"{article} {subject}") if subject else
                        f"Does this image show {bare(prompt) or 'anything'}? Answer yes or no.")


class Asked:
    """Asks for each group whether the person is one, in the words of the group's first text, and abstains where no
    answer is yes.

    `questions` are what is asked, one a group. Raises DebiasError for an attribute whose groups ask the same.
    """

    def __init__(self, model: AskingModel, attribute: Attribute):
        said = [group.texts[0].replace("{prompt}", "").strip(" ,") or group.name for group in attribute.groups]
        if len(set(said)) < len(said):
            raise DebiasError(f"Two groups of {quoted(attribute.name)} are described alike: {short(said)}. Give them "
                              f"different texts.")
        self.model, self.attribute, self.name = model, attribute, f"questions to {model.name}"
        self.questions = [ASKED.format(text) for text in said]

    def __call__(self, images: Pictures) -> np.ndarray:
        """Probabilities float32 [N, n], the answers scaled to sum to 1; zeros where every group's is below 1/2."""
        yes = np.stack([self.model.yes(images, question) for question in self.questions], 1)
        sure = yes.max(1, keepdims=True) >= 0.5
        return np.where(sure, yes / np.maximum(yes.sum(1, keepdims=True), 1e-12), 0).astype(np.float32)
