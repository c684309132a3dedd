"""What a prompt says, without what only a host reads; and its subject."""
from __future__ import annotations

import re

ALONE, DRAW = OTHERS = ("leave alone", "draw")  # what a prompt gets that no entry of a profile is for

NETWORK = re.compile(r"<\w+:[^>]*>")                             # <lora:name:0.8>
EMBEDDING = re.compile(r"\bembedding:[\w./\\-]+")                # ComfyUI's
STRUCTURE = re.compile(r"\b(?:BREAK|AND)\b(?:\s*:\s*-?[\d.]+)?")  # A1111's, in capitals
WEIGHT = re.compile(r":\s*-?[\d.]+\s*(?=[)\]}>])")               # (word:1.2), [from:to:0.4]
BRACKETS = re.compile(r"(?<!\\)[()\[\]{}]")
MEDIUM = ("photo", "photograph", "picture", "portrait", "image", "painting", "drawing", "illustration", "render",
          "rendering", "shot", "headshot", "close-up", "closeup", "sketch", "snapshot", "selfie", "artwork")
OF = re.compile(rf"^.*\b(?:{'|'.join(MEDIUM)})s? of ")
CLAUSE = re.compile(r",|;| who | that | with | wearing | holding | in | on | at | from | near | by ")
ARTICLE = re.compile(r"^(?:an?|the|one|this|that|some) ")


def bare(prompt: str) -> str:
    """The words of a prompt, for comparing: without emphasis, weights, extra networks, embeddings, BREAK and AND and
    punctuation at the end, white space in order, case folded. Escaped brackets are text.
    """
    text = NETWORK.sub(" ", prompt)
    text = STRUCTURE.sub(" ", EMBEDDING.sub(" ", text))
    text = BRACKETS.sub(" ", WEIGHT.sub(" ", text)).replace("\\(", "(").replace("\\)", ")")
    text = re.sub(r"\s*,[\s,]*", ", ", " ".join(text.split()))
    return text.strip(" ,.;:!?").casefold()


def subject_of(prompt: str) -> str:
    """What a prompt is a picture of: "doctor" of "a photo of a (doctor:1.2), bokeh"; "" where that cannot be told."""
    text = CLAUSE.split(OF.sub("", bare(prompt)))[0]
    text = ARTICLE.sub("", text.strip())
    return "" if text in MEDIUM else text


def with_another(prompt: str, subject: str) -> bool:
    """Does a prompt say "doctor and a ..."?"""
    another = "(?:and|&|beside|next to) (?:an?|the|his|her|another) "
    return re.search(rf"(?<![\w-]){re.escape(bare(subject))} {another}", bare(prompt)) is not None


def holds(prompt: str, subject: str) -> bool:
    """Does a subject stand in a prompt, as whole words?"""
    wanted = bare(subject)
    return bool(wanted) and re.search(rf"(?<![\w-]){re.escape(wanted)}(?![\w-])", bare(prompt)) is not None
