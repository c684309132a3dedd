"""Whom a prompt shows: the words for persons that stand for somebody in the image.

"A doctor holding a poster" shows a doctor; "doctor poster", "the doctor's bag", "an office for a
doctor" and "no doctor" show none. The words come from WordNet 3.1 (benchmarks/lexicon.py); the rules
are for English, and prompts in another language show nobody to them.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .english import (
    ACTIONS, ADJECTIVES, AGENTS, ALIKE, ALONE, ANIMALS, ANYBODY, BEFORE_THING, BODY, CLOSE, CONTAINED, DEEDS,
    DEPICTIONS, DOLLS, DONE, ENDS, FUNCTION, GROUPS, HANDLING, HOMOGRAPHS, IN_NAMES, IN_THEIR_PLACE, IRREGULAR,
    LIKENESSES, LIMBS, MAKERS, MODELS, NO_ACTION, PLAYED, REFUSALS, RELATIVES, ROOMS, SAME, SPORTS, STANCES,
    SURNAMES, TITLES, TRADES, UNREAL, USED, WRITINGS)
from .syntax import MEDIUM, bare, place, spoken, whole

TOKEN = re.compile(r"[^\W_]+(?:[-.][^\W_]+)*(?:['’][sS]?(?![^\W_]))?|[,;|.:!?\"]")
READS = re.compile(r"\b(?:sign|marquee|banner|text|letters|lettering|neon|shirt|poster|plaque|billboard|title|words?"
                   r"|series|show|film|movie|book)\b"
                   r"[^,;.]*?\b(?:reading|saying|says|spelling|reads|titled|called)\b[^,;.]*"
                   r"|\bthat says\b[^,;.]*", re.I)
QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»")
NOBODY = re.compile(r"\b(?:no|zero|without|free of) (?:\w+ )?(?:people|humans?|persons?|one|characters?|men|women)\b"
                    r"|\bnobody\b|\bunoccupied\b|\b(?:has|have) (?:gone|left)\b"
                    r"|\bpeople: none\b|\bbefore [\w ]+ arrives?\b")


@dataclass(frozen=True)
class Person:
    """A word for somebody whom a prompt shows, or speaks of.

    word         singular, lower case; "person" where only a likeness is named, as in "selfie"
    first, last  letters of the spoken prompt, from the words before it ("an elderly doctor") to what
                 belongs to it
    at           the letter at which the word itself begins
    shown        in the image; a doctor whose bag alone is there is not
    named        an individual or a title: "Doctor Who"
    clause       number of the part between commas
    same         the person before is meant again: "a woman working as a nurse", or one of several: "men and women"
    tag          it begins its clause without an article, or is all of it: "1girl, doctor", "an actor, a woman"
    """
    word: str
    first: int
    at: int
    last: int
    shown: bool
    named: bool = False
    clause: int = 0
    same: bool = False
    tag: bool = False


@lru_cache(maxsize=1)
def lexicon() -> tuple[frozenset[str], frozenset[str]]:
    """(words for persons, words for things). "mail_carrier" is two words, of which the second is no person alone."""
    folder = Path(__file__).parent
    persons, things = (frozenset((folder / f"{name}.txt").read_text("utf-8").split())
                       for name in ("persons", "things"))
    return persons, (things | ANIMALS) - set(MEDIUM) - BODY


@lru_cache(maxsize=1)
def individuals() -> frozenset[str]:
    """Names of individuals, of one to three words: "sherlock holmes"."""
    listed = (Path(__file__).parent / "names.txt").read_text("utf-8").replace("\n", " ")
    return frozenset(name.strip() for name in listed.split(";"))


def singular(word: str, known: frozenset[str]) -> str | None:
    """A known word of which this is the singular or plural; None for another one."""
    word = IRREGULAR.get(word, word)
    tries = [word, word.removesuffix("s"), word.removesuffix("es"), re.sub("ies$", "y", word),
             re.sub("men$", "man", word), re.sub("wives$", "wife", word), word.rpartition("-")[2]]
    return next((one for one in tries if len(one) > 1 and one in known), None)


def _of_a_trade(word: str) -> str | None:
    """The singular of an unknown compound: "kitesurfers", "dendrologist"."""
    word = IRREGULAR.get(word, word.removesuffix("s"))
    return word if word.endswith(TRADES) and word not in TRADES else None


def shown(prompt: str) -> list[Person]:
    """The persons whom a prompt shows, in its order."""
    return [person for person in people(prompt) if person.shown]


@lru_cache(maxsize=1024)
def people(prompt: str) -> tuple[Person, ...]:
    """All persons of whom a prompt speaks, shown or not."""
    text = spoken(prompt)
    for written in (QUOTED, READS):  # what a sign says shows nobody
        text = written.sub(lambda match: "\0" * len(match[0]), text)
    found: list[Person] = []
    nobody = NOBODY.search(text.casefold()) is not None
    clauses: list[list[re.Match]] = [[]]
    for token in TOKEN.finditer(text):
        if token[0] in ENDS:
            clauses.append([])
        else:
            clauses[-1].append(token)
    lower = sum(token[0][0].islower() and token[0] not in FUNCTION for clause in clauses for token in clause)
    animals = False
    for number, clause in enumerate(clauses):
        read = _Clause(clause, text, number, nobody, capitals=lower > 0, before=bool(found), animals=animals)
        found += read.persons()
        animals = animals or any(singular(word, ANIMALS | DOLLS) for word in read.words)
    return tuple(found)


def phrase_end(text: str, at: int, any_word: bool = False) -> str:
    """The thing in whose phrase a letter of a spoken prompt stands: "hospital" behind the "old" of "an old hospital".
    "" where there is none. With `any_word`, a word that is not known is a thing: "gouda"."""
    clause = re.split(f"[{re.escape(''.join(ENDS))}]", text[at:], maxsplit=1)[0]
    follow = _Clause(list(TOKEN.finditer(clause)))
    for i in range(len(follow.words)):
        if follow.ends(i):
            return ""
        unknown = any_word and follow.words[i] not in ADJECTIVES and follow.words[i] not in BODY
        if follow.thing(i) or unknown and follow.person(i) is None:
            return follow.words[i]
    return ""


def noun_of(subject: str) -> str | None:
    """The person whom a bare subject names, singular: "worker" of "office workers". None for one that is no person."""
    return singular(subject.rpartition(" ")[2], lexicon()[0])


def alike(subject: str) -> tuple[str, ...]:
    """A bare subject and its other names: "physician" of "doctor"."""
    return next((own for own in ALIKE if subject in own), (subject,))


def stands(prompt: str, subject: str) -> int:
    """Where a subject's person is first shown in a prompt, as its first letter's place, -1 for nowhere. "Doctors" and
    "physician" are found for "doctor". A subject that is no person's word is found wherever it stands."""
    return next((at for name in alike(bare(subject)) if (at := _stands(prompt, name)) >= 0), -1)


def _stands(prompt: str, subject: str) -> int:
    wanted, text = bare(subject), bare(prompt)
    known = noun_of(wanted)
    if known is None:
        return place(prompt, subject) if wanted in text else -1
    individual = False
    for person in people(prompt):
        if individual and (person.same or person.tag):
            continue  # "Keanu Reeves as a chef"
        individual = person.named
        if person.word == known and person.shown and not person.named and re.search(
                whole(re.escape(wanted)), f"{text[person.first:person.at]}{known}"):
            return person.first
    return -1


class _Clause:
    """The words between two commas."""

    def __init__(self, tokens: list[re.Match], whole: str = "", number: int = 0, nobody: bool = False,
                 capitals: bool = False, before: bool = False, animals: bool = False):
        self.tokens, self.whole, self.number, self.nobody = tokens, whole.casefold(), number, nobody
        self.capitals, self.before, self.animals = capitals, before, animals
        self.words = [re.sub("['’]s?$", "", token[0].lower()) for token in tokens]
        self.owned = [bool(re.search("['’]s?$", token[0].lower())) for token in tokens]
        self.persons_known, self.things = lexicon()

    def person(self, i: int) -> str | None:
        word = self.words[i]
        if word in FUNCTION or word in ENDS:
            return None
        numbered = re.fullmatch(r"\d+(girl|boy|person|man|woman|people|other)s?", word)
        known = numbered[1] if numbered else singular(word, self.persons_known) or (
            None if singular(word, self.things) else _of_a_trade(word))
        if self._pair(i, self.things) or self._pair(i + 1, self.things):
            return None
        known = self._pair(i, self.persons_known).rpartition("_")[2] or known
        if known == "model" and i and self.words[i - 1] not in MODELS and self.thing(i - 1):
            return None
        thing = HOMOGRAPHS.get(known or "")
        return None if thing and re.search(rf"\b(?:{thing})\b", self.whole) else known

    def thing(self, i: int) -> bool:
        return self.words[i] not in FUNCTION and (singular(self.words[i], self.things) is not None
                                                  or self._pair(i, self.things) != "")

    def _pair(self, i: int, known: frozenset[str]) -> str:
        """A known pair of words that ends here, "rubber_band"; "" for none."""
        both = "_".join(self.words[i - 1:i + 1]) if 0 < i < len(self.words) else ""
        return next((one for one in (both, re.sub("e?s$", "", both), both.removesuffix("s")) if one in known), "")

    def ends(self, i: int) -> bool:
        """Does a noun phrase end before this word?"""
        if not 0 <= i < len(self.words) or self.words[i] in FUNCTION:
            return True
        word = self.words[i]
        if word in BEFORE_THING and self.words[i + 1:i + 2] and self.words[i + 1] in ROOMS:
            return False
        return word.endswith("ing") and word not in NO_ACTION or self.verb(i)

    def verb(self, i: int) -> bool:
        """"A guard watches the door": with an object behind it, what could be a thing is an action."""
        acts = self.words[i] in STANCES or self.words[i].endswith("s") and self.words[i + 1:i + 2] and (
            self.words[i + 1] in CONTAINED)
        return bool(acts) and i > 0 and self.person(i - 1) is not None and not self.owned[i - 1]

    def persons(self) -> list[Person]:
        found: list[Person] = []
        within = 0  # the end of an individual's name
        for i in range(len(self.words)):
            if i < within:
                continue
            if length := self._individual(i):
                within = i + length
                found.append(self._person("person", within - 1, found, named=True))
            elif (word := self.person(i)) is not None and not self._before_person(i):
                found.append(self._person(word, i, found))
        if found and found[0].word in GROUPS and any(person.named for person in found):
            del found[0]  # "group portrait of the Avengers"
        if not any(person.shown for person in found) and not self.nobody:
            found += self._likeness()
        return found

    def _individual(self, i: int) -> int:
        """Words of an individual's name that begins here: 3 of "ludwig van beethoven"."""
        return next((n for n in (3, 2, 1) if " ".join(self.words[i:i + n]) in individuals()
                     and len(self.words) >= i + n), 0)

    def _before_person(self, i: int) -> bool:
        """Does a person's word follow in the same phrase, as behind the "police" of "police officer"?"""
        return (i + 1 < len(self.words) and not self.owned[i] and self.person(i + 1) is not None
                and not self.ends(i + 1))

    def _person(self, word: str, i: int, found: list[Person], named: bool = False) -> Person:
        first, after = i, i + 1
        while not self.ends(after):
            after += 1
        while not self.ends(first - 1) and not self.owned[first - 1]:
            first -= 1
        back = first - 1  # of what governs the phrase: "for" of "for a doctor"
        while back >= 0 and self.words[back] in CONTAINED:
            back -= 1
        governs, before = (self.words[k] if k >= 0 else "" for k in (back, back - 1))
        leading = self.words[first - 1] if first else ""
        begins = self.tokens[first].start()
        another = bool(found) or self.before
        acts = governs == "as" and self.words[i + 1:i + 2] and self.words[i + 1].endswith("s")  # "as a nurse watches"
        same = another and (governs in SAME and not acts or leading == "and" or governs == "of" and before in GROUPS
                            or bool(found) and (found[-1].at >= begins or leading == "the" and found[-1].named))
        all_of_it = after == len(self.words) and set(self.words[:first]) <= CONTAINED
        hidden = (self.nobody or not self._there(i, after) or self._unreal(first, i)
                  or leading == "its" and word in RELATIVES
                  or {governs, leading} & REFUSALS or self._elsewhere(back, governs, before, another))
        return Person(word, begins, self.tokens[i].start(), self.tokens[after - 1].end(), not hidden,
                      named or self._named(i), self.number, same, first == 0 or all_of_it)

    def _there(self, i: int, after: int) -> bool:
        """Is it the person who is there, rather than their bag, a thing of their name, or a work's title?"""
        if self.owned[i]:
            return any(self.words[k] in BODY for k in range(i + 1, after))
        return not self._compound(i, after) and not self._title(i)

    def _unreal(self, first: int, i: int) -> bool:
        animal = i > first and self.words[i - 1] in ANIMALS and singular(self.words[i], frozenset(PLAYED)) is not None
        material = singular(self.words[i], frozenset(MAKERS)) is not None
        return animal or any(word in UNREAL for word in self.words[first:i - material])

    def _elsewhere(self, back: int, governs: str, before: str, another: bool) -> bool:
        """Does what governs the phrase put the person out of the image? "The desk of a doctor", "a gift for a
        doctor", "a cat dressed as a doctor", "made by a doctor"."""
        if back < 0:
            return False
        thing = back > 0 and self.thing(back - 1)
        likeness = bool(before) and (before in DEPICTIONS or before in GROUPS or before in BODY
                                     or self.person(back - 1) is not None)
        if governs == "of" and before in TITLES and self.capitals and self.tokens[back + 1][0] == "The":
            return True  # "poster of The Phantom"
        if governs == "of" and not likeness and (thing or set(self.words[:back]) & TITLES):
            return True
        if another or governs == "for" and before in ("except", "but"):  # "empty but for a jogger"
            return False
        if governs in IN_THEIR_PLACE:
            return back > 0 and not set(self.words[:back]) & BODY
        if governs == "about":
            return before in WRITINGS
        return governs == "for" or before in AGENTS or governs == "by" and (thing or before in MEDIUM)

    def _compound(self, i: int, after: int) -> bool:
        """Is this word part of a thing's name? "Doctor office", "bishop chess piece", "baby grand piano"."""
        follow = self.words[i + 1:after]
        if len(follow) == 1 and set(self.words[after:after + 1]) & DEEDS:
            return False  # "a nurse bottle feeding a calf"
        if self.words[i] in ("baby", "hunter") and follow and follow[0] in ADJECTIVES:
            return True  # "baby blue", "hunter green"
        return (bool(follow) and self.words[i] not in ANYBODY and follow[0] not in ADJECTIVES
                and self.words[i + 1] not in LIKENESSES
                and any(self.thing(k) for k in range(i + 1, min(after, i + 4))))

    def _title(self, i: int) -> bool:
        """Does a work's name begin here? "Pirates of the Caribbean movie poster", "doctor who logo"."""
        for k in range(i + 1, len(self.words)):
            if self.words[k] in TITLES:
                return True
            named = self.words[k] in IN_NAMES or self.words[k] == "in" and any(
                token[0][0].isupper() for token in self.tokens[k + 1:k + 3])  # "Men in Black"
            if not named and self.ends(k):
                return False
        return False

    def _named(self, i: int) -> bool:
        """"Doctor Who", "scientist Marie Curie": a name follows, where the prompt has words in small letters too.
        "Harry Potter" is one itself."""
        alone = self.ends(i - 2) and not (i > 1 and (self.words[i - 2] in CONTAINED or self.owned[i - 2]))
        if i and self.words[i] in SURNAMES and self._name(i - 1) and alone and not self.words[i - 1].endswith(
                ("al", "ian", "ean", "ese", "ish", "ed", "ing", "ic")):  # "a French Baker" is no name
            return True
        if i + 1 >= len(self.tokens) or not self.capitals:
            return False
        of = self.words[i + 1] == "of" and any(token[0][0].isupper() for token in self.tokens[i + 2:i + 3])
        if (self.words[i + 1] == "by" or of) and i == 1 and self.tokens[0][0] == "The" and self.tokens[i][0].istitle():
            return True  # "The Alchemist by ...", "The Watchmaker of Prague"
        one, two = self.tokens[i][0], self.tokens[i + 1][0]
        return (two[0].isupper() and not two.isupper() and self.person(i + 1) is None
                and (one[0].isupper() and not one.isupper() or not self.thing(i + 1)))

    def _name(self, i: int) -> bool:
        """Do two words begin here that are written as a name is?"""
        return self.capitals and i + 1 < len(self.tokens) and all(
            self.tokens[k][0].istitle() and self.words[k] not in FUNCTION and self.words[k] not in ADJECTIVES
            and self.words[k] not in MEDIUM for k in (i, i + 1))

    def _likeness(self) -> list[Person]:
        """"Selfie at the beach" shows somebody; so does "close-up of hands", and "portrait of a cat" does not."""
        for i in range(len(self.words)):
            if not self.animals and self._does(i) or self._alone(i):
                at = self.tokens[i].start()
                return [Person("person", at, at, self.tokens[i].end(), True, any(map(self._name, range(i))),
                               clause=self.number)]
        return []

    def _does(self, i: int) -> bool:
        """Does somebody act here whom no noun names? "Singing karaoke", "pruning roses", "ski jumping"."""
        word, follows = self.words[i], self.words[i + 1] if i + 1 < len(self.words) else ""
        if i == 0 and len(self.words) > 2 and (word in HANDLING and follows not in USED
                                               or word in ("painting", "drawing") and follows in CONTAINED):
            return True
        if word not in ACTIONS or i > 1 or i == 1 and self.words[0] not in SPORTS:
            return False
        if word == "playing":
            return not follows.startswith("card")
        return self.ends(i + 1) or follows in DONE or not self.thing(i + 1) and self.person(i + 1) is None

    def _alone(self, i: int) -> bool:
        word, follows = self.words[i], self.words[i + 1] if i + 1 < len(self.words) else ""
        holds = word in LIMBS and follows.endswith("ing") and follows != "lettering"
        near = word in CLOSE and self.ends(i + 1) and {"close-up", "closeup", "macro"} & set(self.words[:i])
        figure = word == "figure" and i > 0 and self.words[0] in CONTAINED and self.ends(i + 1) and follows not in (
            "of", "skating")
        shows = word in ALONE and not self.thing(i) and not (self.animals and word in BODY)
        return ((shows or holds or near or figure)
                and not self.owned[i] and not (i > 1 and self.owned[i - 1])
                and (word == "selfie" or not any(map(self.thing, range(i))))
                and (follows != "of" or word == "hands") and not (follows and self.thing(i + 1)))
