"""What a prompt says, without what only a host reads; and its subject."""
from __future__ import annotations

import re
from functools import lru_cache

ALONE, DRAW = OTHERS = ("leave alone", "draw")  # what prompts get that no entry is for

NETWORK = re.compile(r"<\w+:[^<>]*>")                            # <lora:name:0.8>
EMBEDDING = re.compile(r"\bembedding:[\w./\\-]+")                # ComfyUI's
STRUCTURE = re.compile(r"\b(?:BREAK|AND)\b(?:\s*:\s*-?[\d.]+)?")  # A1111's, in capitals
WEIGHT = re.compile(r":\s*-?[\d.]+\s*(?=[)\]}>])")               # (word:1.2), [from:to:0.4]
BRACKETS = re.compile(r"(?<!\\)[()\[\]{}]")
MEDIUM = ("photo", "photograph", "picture", "portrait", "image", "painting", "drawing", "illustration", "render",
          "rendering", "shot", "headshot", "close-up", "closeup", "sketch", "snapshot", "selfie", "artwork")
OF = re.compile(rf"^.*\b(?:{'|'.join(MEDIUM)})s? of ")
CLAUSE = re.compile(r",|;| who | that | with | wearing | holding | in | on | at | from | near | by ")
ARTICLE = re.compile(r"^(?:an?|the|one|this|that|some) ")
MOST_WORDS = 3  # of a subject that nothing but its brevity tells


@lru_cache(maxsize=1024)
def bare(prompt: str) -> str:
    """The words of a prompt, for comparing: without emphasis, weights, extra networks, embeddings, BREAK and AND and
    punctuation at the end, white space in order, case folded. Escaped brackets are text, and underscores are spaces.
    """
    return spoken(prompt).casefold()


def spoken(prompt: str) -> str:
    """`bare`, with capitals as they are."""
    text = STRUCTURE.sub(" ", EMBEDDING.sub(" ", NETWORK.sub(" ", prompt)))
    text = BRACKETS.sub(" ", WEIGHT.sub(" ", text)).replace("\\(", "(").replace("\\)", ")").replace("_", " ")
    text = re.sub(r"\s*,[\s,]*", ", ", " ".join(text.split()))
    return text.strip(" ,.;:!?")


def subject_of(prompt: str) -> str:
    """What a prompt is an image of: "doctor" of "a photo of a (doctor:1.2), bokeh".

    It stands behind "photo of" and the like, behind an article at the beginning, or is the whole of a short prompt; ""
    where that cannot be told, as behind "masterpiece, best quality".
    """
    text = bare(prompt)
    said = OF.sub("", text)
    clause = CLAUSE.split(said)[0].strip()
    subject = ARTICLE.sub("", clause)
    told = said != text or subject != clause or clause == text and len(clause.split()) <= MOST_WORDS
    return subject if told and subject not in MEDIUM else ""


def holds(prompt: str, subject: str) -> bool:
    """Does a subject stand in a prompt, as whole words? "The doctor's office" holds no doctor."""
    return place(prompt, subject) >= 0


def place(prompt: str, subject: str) -> int:
    """Where a subject begins in a bare prompt; -1 where it does not stand there."""
    wanted = bare(subject)
    found = re.search(whole(re.escape(wanted)), bare(prompt)) if wanted else None
    return found.start() if found else -1


def with_another(prompt: str, subject: str) -> bool:
    """Does a prompt say "doctor and a ..."?"""
    another = "(?:and|&|beside|next to) (?:an?|the|his|her|another) "
    return re.search(rf"(?<![\w-]){re.escape(bare(subject))} {another}", bare(prompt)) is not None


def whole(pattern: str) -> str:
    """A pattern that matches whole words alone; a hyphen and a possessive s are parts of a word. Scripts that put no
    spaces between words, such as Chinese, have no such borders."""
    letter = r"[^\W\u2e80-\u9fff\uac00-\ud7af]"
    return rf"(?<!{letter})(?<!-)(?:{pattern})(?!{letter})(?!-)(?!['’]s)"
