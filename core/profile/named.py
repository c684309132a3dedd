"""Words by which a prompt names a group itself: there, an attribute is left alone.

A group's own `words` count, where a user or a profile gives them; else those below, for groups of these names; else
the group's name. A list is no dictionary: what it lacks is steered like a prompt that says nothing, so add it to the
profile.
"""
from __future__ import annotations

import re
from typing import Iterator, Sequence

from ..attribute import Attribute, Group
from .prompts import MEDIUM, bare, whole

# Persons and pronouns, then trades that name a gender, then other languages. A hyphen may follow the first ones.
MALE, FEMALE = "male masculine", "female feminine"
MAN = """man men males boys? guys? gentleman gentlemen he his him himself lads? dudes? blokes? fathers? dads? daddy
    grandfathers? grandpa husbands? grooms? bridegroom boyfriends? sons? brothers? uncles? nephews? kings?(?!.size)
    princes? dukes? lords? monks? mr sir fireman firemen policeman policemen businessman businessmen salesman salesmen
    craftsman craftsmen handyman mailman mailmen postman postmen fisherman fishermen cameraman cameramen chairman
    chairmen congressman congressmen statesman statesmen sportsman sportsmen nobleman noblemen horseman horsemen
    anchorman weatherman workman workmen actors? waiters? cowboys?(?!.(?:hat|boot)) stuntman stuntmen repairman
    repairmen doorman spaceman spacemen spokesman mann männer herr herren junge hommes? garçons? monsieur hombres?
    señor uomo uomini homem homens
    男 男の人 男人 남자 남성 мужчина мужчины"""
WOMAN = """woman women females girls? lady ladies gals? she her hers herself mothers? moms? mommy mums? grandmothers?
    grandma
    wife wives housewife housewives brides? girlfriends? daughters? sisters? aunts? nieces? queens?(?!.size) princess
    princesses duchess nuns? mrs ms miss(?!.(?:universe|world)) madam maids? firewoman firewomen policewoman
    policewomen businesswoman businesswomen saleswoman saleswomen craftswoman fisherwoman camerawoman chairwoman
    congresswoman stateswoman sportswoman noblewoman horsewoman anchorwoman spokeswoman actress actresses waitress
    waitresses stewardess stewardesses seamstress hostess cowgirls? heroines? ballerinas? schoolgirls? frau frauen
    dame mädchen femmes? fille madame mujer mujeres señora donna donne mulher mulheres ärztin
    女 女の人 女人 여자 여성 женщина
    женщины"""
# Tones are named by the skin, or by a word before a person.
TONES = "pale fair light medium olive tan tanned bronze brown dark black white ebony ivory porcelain"
BEFORE_PERSON = """pale fair-skinned tanned tan black white brown african african-american afro-american afro asian
    east-asian south-asian caucasian european latino latina hispanic arab arabic indian nigerian kenyan ethiopian
    ghanaian somali sudanese jamaican chinese japanese korean vietnamese thai filipino filipina mexican brazilian
    pakistani bangladeshi turkish persian iranian nordic scandinavian swedish norwegian irish german russian slavic
    aboriginal polynesian native-american"""
PERSON = """person people man men woman women male female boys? girls? guys? lady gentleman child children kids?
    teenagers? adults? couple family"""
THINGS = "|".join((*MEDIUM, "town", "city", "street", "house", "building", "castle", "school", "book", "tree", "car"))
OLD = f"(?:older|elderly|old)(?! (?:{THINGS})s?\\b)"
WORDS = {
    "man": [rf"\d*(?:{'|'.join(MAN.split())})", rf"(?:{'|'.join(MALE.split())})s?(?:-\w+)?"],
    "woman": [rf"\d*(?:{'|'.join(WOMAN.split())})", rf"(?:{'|'.join(FEMALE.split())})s?(?:-\w+)?"],
    "young": ["young", "younger", "youthful", "teenage", "teenagers?", "teens?", "child", "children", "kids?",
              "toddlers?", "boys?", "girls?"],
    "middle aged": ["middle-aged", "middle aged", "midlife", "in (?:his|her|their) (?:forties|fifties)"],
    "old": [OLD, "aged", "grandmother", "grandfather", "grandma", "grandpa", "wrinkled", "octogenarian"],
}
SAME = {"male": "man", "males": "man", "men": "man", "female": "woman", "females": "woman", "women": "woman",
        "elderly": "old"}


def named(attribute: Attribute, prompt: str, persons: Sequence[str] = ()) -> list[str]:
    """The words in a prompt that name a group of the attribute, in the order of its groups; none where it names none.

    Case, emphasis and a host's syntax do not matter; words are whole ones. `persons` are words for persons beside the
    usual ones, such as a profile's subjects: "black" names a tone before one of them, and none before "coat".
    """
    text = bare(prompt)
    persons = [person for person in map(str.casefold, persons) if person in text]  # of a long profile, few
    return list(dict.fromkeys(found[0] for pattern in _patterns(attribute, persons)
                              for found in re.finditer(pattern, text)))


def _patterns(attribute: Attribute, persons: Sequence[str]) -> Iterator[str]:
    for group in attribute.groups:
        words = _words(attribute, group)
        if words:
            yield whole("|".join(words))
    if _of_skin(attribute) and all(group.words is None for group in attribute.groups):
        someone = "|".join((*PERSON.split(), *(re.escape(bare(person)) for person in persons if bare(person))))
        yield whole(f"(?:very )?(?:{'|'.join(TONES.split())})(?: |-)(?:skin|skinned|complexion|complexioned)(?: tone)?")
        yield whole(f"(?<!black and )(?:{'|'.join(BEFORE_PERSON.split())})(?= (?:[\\w-]+ )?(?:{someone})(?![\\w-]))")


def _words(attribute: Attribute, group: Group) -> list[str]:
    """Patterns of the words that name a group. A group of several, "man, tan", is named by the words of each."""
    if group.words is not None:
        return sorted((re.escape(word) for word in {bare(word) for word in group.words} - {""}), key=len, reverse=True)
    found = []
    for part in map(bare, group.name.split(", ")):
        name = part.replace("-", " ")
        if name in WORDS or name in SAME:
            found += WORDS[SAME.get(name, name)]
        elif _of_skin(attribute):
            found.append(f"{re.escape(part)}(?: |-)(?:skin|skinned|complexion)(?: tone)?")
        elif part:
            found.append(re.escape(part))
    return found


def _of_skin(attribute: Attribute) -> bool:
    return any("skin" in text for group in attribute.groups for text in group.texts)
