"""Words by which a prompt names a group itself: there, an attribute is left alone.

A group's own `words` count, where a user or a profile gives them; else those below, for groups of these names; else
the group's name. A list is no dictionary: what it lacks is steered like a prompt that says nothing, so add it to the
profile.
"""
from __future__ import annotations

import re
from typing import Iterator, Sequence

from ..attribute import Attribute, Group
from .people import QUOTED, Person, lexicon, people, phrase_end, singular
from .syntax import MEDIUM, bare, whole

# Persons and pronouns, then trades that name a gender, then other languages. A hyphen may follow the first ones.
MALE, FEMALE = "male masculine", "female feminine"
MAN = """man men males boys? guys? gentleman gentlemen he his him himself lads? dudes? blokes? fathers? dads? daddy
    grandfathers? (?:god|step)fathers?
    grandpa husbands? grooms? bridegroom boyfriends? sons? brothers? uncles? nephews?
    kings?(?!.size) princes? dukes? lords? monks? emperors? mr sir fireman firemen policeman policemen
    businessman businessmen salesman salesmen craftsman craftsmen handyman mailman mailmen postman postmen
    fisherman fishermen cameraman cameramen chairman chairmen congressman congressmen statesman statesmen
    sportsman sportsmen nobleman noblemen horseman horsemen bearded moustached mustached beards? moustache
    mustache goatee anchorman weatherman workman workmen waiters? cowboys?(?!.(?:hat|boot)) stuntman
    stuntmen repairman repairmen doorman spaceman spacemen spokesman frontman foreman foremen busboys? schoolboys?
    groomsman groomsmen widowers? landlords? headmasters? abbots? friars? patriarchs? barons? grandsons? stepsons?
    mann männer herr herren junge hommes?
    garçons? monsieur hombres? señor uomo uomini homem homens 男 男の人 男人 남자 남성 мужчина мужчины"""
WOMAN = r"""woman women females girls? lady ladies gals? she her hers herself mothers? moms? mommy mums? grandmothers?
    grandma wife wives housewife housewives brides? girlfriends? daughters? sisters? aunts? nieces?
    queens?(?!.size) princess princesses duchess nuns? mrs ms(?!.word) miss(?!.(?:universe|world)) madam
    \w*maids? \w*maidens?(?!.(?:voyage|flight)) geishas? damsels? countess countesses baroness baronesses
    abbess matrons?
    matriarchs? widows? landlady landladies headmistress shepherdess granddaughters? stepdaughters?
    (?:god|step)mothers? frontwoman forewoman
    pregnant firewoman firewomen policewoman policewomen businesswoman businesswomen saleswoman saleswomen
    craftswoman fisherwoman camerawoman chairwoman congresswoman stateswoman sportswoman noblewoman horsewoman
    anchorwoman spokeswoman actress actresses waitress waitresses stewardess stewardesses seamstress hostess
    cowgirls? heroines? ballerinas? empress empresses sorceress sorceresses enchantress priestess goddess
    huntress schoolgirls? frau frauen dame mädchen femmes? fille madame mujer mujeres señora donna
    donne mulher mulheres ärztin 女 女の人 女人 여자 여성 женщина женщины"""
# Tones are named by the skin, or by a word before a person.
TONES = "pale fair light medium olive tan tanned bronze brown dark black white ebony ivory porcelain"
BEFORE_PERSON = """pale fair-skinned tanned tan black(?!.belt) white brown african african-american
    afro-american afro asian
    east-asian south-asian caucasian european latino latina hispanic arab arabic indian nigerian kenyan ethiopian
    ghanaian somali sudanese jamaican chinese japanese korean vietnamese thai filipino filipina mexican brazilian
    pakistani bangladeshi turkish persian iranian nordic scandinavian swedish norwegian irish german russian slavic
    aboriginal polynesian native-american"""
PRONOUNS = "he his him himself she her hers herself".split()
FILM = "film(?! (?:director|critic|star|maker|student|actor|crew|producer|editor))"
OLD = f"(?:older|elderly|old)(?![ -](?:fashioned|school|growth|{FILM}|(?:{'|'.join(MEDIUM)})s?)\\b)"
AGES = "old older elderly young younger youthful aged".split()  # that stand before what they describe
WORDS = {
    "man": [rf"\d*(?:{'|'.join(MAN.split())})", rf"(?:{'|'.join(MALE.split())})s?(?:-\w+)?"],
    "woman": [rf"\d*(?:{'|'.join(WOMAN.split())})", rf"(?:{'|'.join(FEMALE.split())})s?(?:-\w+)?"],
    "young": ["young", "younger", "youthful", "teenage", "teenagers?", "teens?", "child", "children", "kids?",
              "bab(?:y|ies)(?!.(?:blue|pink|yellow|grand))", "infants?", "newborns?", "schoolboys?", "schoolgirls?",
              "toddlers?", "boys?", "girls?"],
    "middle aged": ["middle-aged", "middle aged", "midlife", "in (?:his|her|their) (?:forties|fifties)"],
    "old": [OLD, "aged",
              "senior citizens?", "grand(?:mother|father|parent|ma|pa)s?", "grann(?:y|ies)", "wrinkled", "wrinkles",
            "retired", "octogenarians?",
            "pensioners?", "retirees?"],
}
SAME = {"male": "man", "males": "man", "men": "man", "female": "woman", "females": "woman", "women": "woman",
        "elderly": "old"}


def named(attribute: Attribute, prompt: str, subject: str = "") -> list[str]:
    """The words in a prompt that name a group of the attribute, in the order of its groups; none where it names none.

    Case, emphasis and a host's syntax do not matter; words are whole ones. Of an attribute of persons, only words for
    the person count whom the subject names, else for the first whom the prompt shows: "an old doctor" says how old the
    doctor is; "a doctor in an old hospital" and "a doctor with an old man" do not.
    """
    text, found = bare(prompt), []
    said = people(prompt)
    main = main_person(said, subject) if of_persons(attribute) else None
    written = [match.span() for match in QUOTED.finditer(text)]  # what a sign says describes nobody
    for pattern, before_person in _patterns(attribute):
        for match in re.finditer(pattern, text):
            if any(first <= match.start() < last for first, last in written):
                continue
            if before_person and not any(p.first <= match.start() < p.at for p in said):
                continue
            if main is None or _of(main, match, said, text):
                found.append(match[0])
    return list(dict.fromkeys(found))


def of_persons(attribute: Attribute) -> bool:
    """Is it about persons, as "a young person" is, rather than about the whole image, as "at night" is?"""
    return any(people(text.replace("{prompt}", "")) for group in attribute.groups for text in group.texts)


def main_person(said: Sequence[Person], subject: str = "") -> Person | None:
    """Of the persons of a prompt, the one whom a subject names, else the first who is shown."""
    seen = [person for person in said if person.shown]
    wanted = bare(subject).rpartition(" ")[2]
    return next((person for person in seen if person.word == wanted), seen[0] if seen else None)


def _of(main: Person, match: re.Match, said: Sequence[Person], text: str) -> bool:
    """Does a word speak of this person? Tags do, and pronouns do unless another man or woman was named since."""
    if match[0] in PRONOUNS:
        since = [p for p in said if main.at < p.at < match.start() and p.clause == main.clause]
        return not any(re.search(whole(rf"\d*(?:{'|'.join((MAN + WOMAN).split())})"), text[p.first:p.last])
                       for p in since)
    inside = next((p for p in said if p.first <= match.start() < p.last), None)
    if inside is not None:
        low, high = sorted((said.index(inside), said.index(main)))
        return all(p.same for p in said[low + 1:high + 1]) or (inside.tag or main.tag) and inside.clause != main.clause
    if singular(match[0], lexicon()[0]):
        return False  # the queen of a chess game
    if re.match(" of (?:an?|the|his|her|their) ", text[match.end():]):
        behind = next((p for p in said if p.at >= match.end()), main)
        if behind is not main:
            return False  # the beard of another man
    return not phrase_end(text, match.end(), match[0] in AGES)


def _patterns(attribute: Attribute) -> Iterator[tuple[str, bool]]:
    """Patterns, each with whether a person must follow."""
    for group in attribute.groups:
        words = _words(attribute, group)
        if words:
            yield whole("|".join(words)), False
    if _of_skin(attribute) and all(group.words is None for group in attribute.groups):
        yield whole(f"(?:very )?(?:{'|'.join(TONES.split())})(?: |-)(?:skin|skinned|complexion|complexioned)(?: tone)?"
                    ), False
        yield whole(f"(?<!black and )(?:{'|'.join(BEFORE_PERSON.split())})"), True


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
