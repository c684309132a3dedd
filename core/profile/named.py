"""Words by which a prompt names a group itself: there, an attribute is left alone.

A group's own `words` count, where a user or a profile gives them; else those below, for groups of these names; else
the group's name. A list is no dictionary: what it lacks is steered like a prompt that says nothing, so add it to the
profile.
"""
from __future__ import annotations

import re
from typing import Iterator

from ..attribute import Attribute, Group
from .prompts import bare

# Persons and pronouns, then trades that name a gender, then other languages.
MAN = """man men male males boy boys guy guys gentleman gentlemen he his him himself masculine lad dude bloke
    father dad daddy grandfather grandpa husband groom bridegroom boyfriend son sons brother brothers uncle nephew king
    prince duke lord monk mr sir
    fireman firemen policeman policemen businessman businessmen salesman craftsman handyman mailman postman fisherman
    cameraman chairman congressman statesman sportsman nobleman horseman anchorman weatherman workman workmen actor
    waiter steward cowboy stuntman repairman doorman spaceman spokesman
    mann männer herr herren junge homme hommes garçon monsieur hombre hombres señor uomo uomini homem homens
    男 男の人 男人 남자 남성 мужчина мужчины"""
WOMAN = """woman women female females girl girls lady ladies gal she her hers herself feminine
    mother mom mommy mum grandmother grandma wife bride girlfriend daughter daughters sister sisters aunt niece queen
    princess duchess nun mrs ms miss madam maid
    firewoman policewoman policewomen businesswoman businesswomen saleswoman craftswoman fisherwoman camerawoman
    chairwoman congresswoman stateswoman sportswoman noblewoman horsewoman anchorwoman spokeswoman actress actresses
    waitress stewardess seamstress hostess cowgirl heroine ballerina schoolgirl businesslady
    frau frauen dame mädchen femme femmes fille madame mujer mujeres señora donna donne mulher mulheres ärztin
    女 女の人 女人 여자 여성 женщина женщины"""
# Tones are named by the skin, or by where a person comes from.
SKIN = "pale fair light medium olive tan tanned bronze brown dark black white ebony ivory porcelain"
ORIGIN = """african african-american afro-american afro asian east-asian south-asian caucasian european latino latina
    hispanic arab arabic indian nigerian kenyan ethiopian ghanaian somali sudanese jamaican chinese japanese korean
    vietnamese thai filipino filipina mexican brazilian pakistani bangladeshi turkish persian iranian nordic
    scandinavian swedish norwegian irish german russian slavic aboriginal polynesian native-american"""
PERSON = """person people man men woman women male female boy girl guy lady gentleman child kid teenager adult couple
    family"""
WORDS = {
    "man": MAN.split(), "woman": WOMAN.split(),
    "young": "young younger youthful teenage teenager teen child kid toddler baby boy girl".split(),
    "middle aged": ["middle-aged", "middle aged", "midlife", "in her forties", "in his forties", "in her fifties",
                    "in his fifties"],
    "old": "old older elderly aged senior grandmother grandfather grandma grandpa wrinkled octogenarian".split(),
}


def words_of(attribute: Attribute, group: Group) -> tuple[str, ...]:
    """The words that name a group."""
    if group.words is not None:
        return group.words
    if all("skin" in text for own in attribute.groups for text in own.texts):  # built-in tones, and their like
        return (f"{group.name} skin", f"{group.name}-skinned", f"{group.name} skinned", f"{group.name} complexion",
                f"{group.name} skin tone")
    return tuple(WORDS.get(group.name.casefold(), [group.name]))


def named(attribute: Attribute, prompt: str) -> list[str]:
    """The words in a prompt that name a group of the attribute, in the order of its groups; none where it names none.

    Case, emphasis and a host's syntax do not matter; words are whole ones.
    """
    text = bare(prompt)
    return list(dict.fromkeys(word for pattern in _patterns(attribute) for word in re.findall(pattern, text)))


def _patterns(attribute: Attribute) -> Iterator[str]:
    for group in attribute.groups:
        words = sorted({bare(word) for word in words_of(attribute, group)} - {""}, key=len, reverse=True)
        joined, spaced = ([re.escape(word) for word in words if _unspaced(word) == how] for how in (True, False))
        if spaced:
            yield whole("|".join(spaced))
        if joined:
            yield "|".join(joined)
    if any("skin" in text for group in attribute.groups for text in group.texts) and all(
            group.words is None for group in attribute.groups):
        tones, persons = "|".join(SKIN.split()), "|".join(PERSON.split())
        yield whole(f"(?:very )?(?:{tones})(?: |-)(?:skin|skinned|complexion|complexioned)(?: tone)?")
        yield whole(f"(?:black|white|brown)(?= (?:{persons})(?![\\w-]))")
        yield whole("|".join(map(re.escape, ORIGIN.split())))


def _unspaced(word: str) -> bool:
    """Is it of a script that puts no spaces between words, such as Chinese?"""
    return all(ord(letter) > 0x2E7F for letter in word)


def whole(pattern: str) -> str:
    """A pattern that matches whole words alone; a hyphen is a part of a word."""
    return rf"(?<![\w-])(?:{pattern})(?![\w-])"
