"""Words by which a prompt names a group itself: there, an attribute is left alone.

A group's own `words` count, where a user or a profile gives them; else those below, for groups of these names; else
the group's name. A list is no dictionary: what it lacks is steered like a prompt that says nothing, so add it to the
profile.
"""
from __future__ import annotations

import re
from typing import Iterator, Sequence

from ..attribute import Attribute, Group
from .people import QUOTED, Person, alike, lexicon, noun_of, people, phrase_end, singular
from .syntax import MEDIUM, bare, whole

# Persons and pronouns, then trades that name a gender, then other languages. A hyphen may follow the first ones.
MALE, FEMALE = "male masculine", "female feminine"
# "Fisherman", "horsemen", "schoolboy"; and what only ends alike.
NO_MEN = r"""\w*wo hu ger ro otto sha talis cai cay nor do ye o ra speci sta regi acu lu bitu cycla abdo fresh
    snow walk pac super bat spider turk""".split()
MAN = rf"""(?!(?:{'|'.join(NO_MEN)})m[ae]n\b)\w*m[ae]n (?!tom|game|cow)\w*boys? cowboys?(?!.(?:hat|boot|shot))
    guys? gentleman gents? he his him himself lads? laddies? chaps? fellas? dudes? blokes? dads? daddy daddies papas?
    (?:grand|god|step)?fathers? gran(?:d)?dads? grandpas? gramps geezers? husbands? boyfriends? bachelors? beau
    hubby fianc[eé] grooms? bridegroom (?:grand|god|step)?sons? brothers? uncles? nephews?
    (?:father|brother|son)s?-in-law
    kings?(?!.size) princes? dukes? earls? viscounts? barons? lords? sires? monks? popes? friars? abbots?
    emperors? sultans? (?:ts|tz|cz)ars? emirs? sheikhs? maharajas? patriarchs? mr sir sirs
    bearded moustached mustached mustachioed beards? moustache mustache goatee
    waiters? widowers? landlords? headmasters?
    mann männer herr herren junge hommes?
    garçons? monsieur hombres? señor signor caballero uomo uomini
    homem homens 男 男の人 男人 남자 남성 мужчина мужчины"""
WOMAN = r"""\w*wom[ae]n \w*girls? tomboys? lady ladies gals? lass lasses lassies? belles? she her hers herself
    mothers? mothers?-to-be moms? mommy mommies mums? mamas? mammas? mamma nanas?
    (?:grand|god|step)mothers? grandmas? grann(?:y|ies) wife wives housewife housewives brides? brides?-to-be
    girlfriends? bachelorettes? fianc[eé]es? (?:grand|god|step)?daughters? (?:step|half-)?sisters? aunts? aunt(?:y|ies?)
    nieces? (?:mother|sister|daughter)s?-in-law
    queens?(?!.size) princess princesses duchess(?:es)? nuns? mrs ms(?!.word) miss(?!.(?:universe|world)) madam
    \w*maids? \w*maidens?(?!.(?:voyage|flight)) geishas? damsels? wench(?:es)? spinsters? crones? dowagers? matriarchs?
    matrons? widows? landlady landladies \w*mistress(?:es)? dominatrix aviatrix divas? sopranos? starlets? flappers?
    courtesans? debutantes? suffragettes? succubus tsarinas? czarinas? maharanis?
    (?:actr|waitr|empr|sorcer|enchantr|priest|godd|huntr|steward|host|poet|govern|heir|temptr|songstr|deacon|adventur)ess(?:es)?
    (?:giant|villain|viscount|count|baron|marchion|abb|shepherd|seamstr|murder)ess(?:es)?
    pregnant cowgirls? heroines? ballerinas?
    frau frauen dame mädchen femmes? fille madame mujer mujeres señora signora signorina mademoiselle se[nñ]orita donna
    donne mulher mulheres ärztin 女 女の人 女人 여자 여성 женщина женщины"""
# Tones are named by the skin, or by a word before a person.
TONES = """pale fair light medium deep olive tan tanned bronze brown dark black white ebony ivory porcelain alabaster
    caramel chocolate honey mahogany golden blue green red purple gr[ae]y""".replace("\n", " ")
BEFORE_PERSON = r"""pale \w+-skinned tanned tan black(?!.belt) white brown bronzed dusky swarthy mixed-race
    biracial multiracial eurasian african african-american afro-\w+ afro asian south-asian east-asian southeast-asian
    caucasian european latino latina hispanic latin-american arab arabic middle-eastern mediterranean indigenous
    aboriginal native-american polynesian melanesian caribbean nordic scandinavian slavic
    indian pakistani bangladeshi bengali punjabi tamil nepali nepalese bhutanese tibetan afghan persian iranian iraqi
    syrian lebanese jordanian israeli palestinian saudi yemeni kurdish turkish kazakh uzbek mongolian
    chinese taiwanese japanese korean vietnamese cambodian burmese thai laotian malay malaysian indonesian balinese
    javanese filipino filipina maori samoan tongan fijian hawaiian inuit navajo cherokee apache
    egyptian moroccan algerian tunisian libyan sudanese ethiopian eritrean somali kenyan ugandan rwandan tanzanian
    congolese cameroonian nigerian ghanaian senegalese malian gambian liberian angolan zambian zimbabwean zulu xhosa
    maasai masai himba tuareg berber bedouin jamaican haitian bahamian cuban mexican guatemalan peruvian bolivian
    colombian venezuelan ecuadorian chilean argentinian argentine brazilian
    swedish norwegian danish finnish icelandic irish scottish welsh german dutch french(?!.horn) italian
    spanish(?!.(?:guitar|teacher)) portuguese greek polish ukrainian czech hungarian romanian bulgarian
    russian""".replace("-", ".")
LANDS = """africa nigeria kenya ethiopia ghana senegal somalia sudan congo uganda tanzania zimbabwe jamaica haiti india
    pakistan bangladesh nepal china japan korea vietnam thailand indonesia mongolia iran egypt morocco mexico peru
    sweden norway denmark finland iceland ireland scotland"""
OWNERS = {"men", "women", "boys", "girls", "ladies"}
PRONOUNS = "he his him himself she her hers herself".split()
FILM = "film(?! (?:director|critic|star|maker|student|actor|crew|producer|editor))"
OLD = f"(?:older|elderly|old)(?![ -](?:fashioned|school|growth|{FILM}|(?:{'|'.join(MEDIUM)})s?)\\b)"
TENS = "twenties thirties forties fifties sixties seventies eighties nineties".split()
NUMBER = rf"(?:\d{{1,3}}|(?:{'|'.join(word.replace('ies', 'y') for word in TENS)})(?:-\w+)?)"
# "70-year-old", "20yo", "aged 60", "in her late thirties"
NUMBERED = [rf"(?:{NUMBER}|\w+)[ -]years?[ -]olds?", r"\d{1,3} ?(?:yo|y/o)", r"aged? \d{1,3}", rf"{NUMBER}-something",
            rf"in (?:his|her|their) (?:(?:early|mid|late)[ -])?(?:\d0s|teens|{'|'.join(TENS)})"]
SCHOOL = (r"(?:elementary|primary|grade|middle|high)[ -]school(?:ers?"
          r"| (?:students?|pupils?|kids?|seniors?|cheerleaders?|athletes?|sweethearts?))")
SENIOR = "(?:couples?|m[ae]n|wom[ae]n|lady|ladies|gentlem[ae]n|people|adults?|residents?)"
AGES = "old older elderly young younger youthful aged".split()  # that stand before what they describe
WORDS = {
    "man": [rf"\d*(?:{'|'.join(MAN.split())})", rf"(?:{'|'.join(MALE.split())})s?(?:-\w+)?"],
    "woman": [rf"\d*(?:{'|'.join(WOMAN.split())})", rf"(?:{'|'.join(FEMALE.split())})s?(?:-\w+)?"],
    "young": [*NUMBERED, SCHOOL, "young", "younger", "youthful", "teenage", "(?:pre-?)?teens?", "teenagers?", "tweens?",
              "child", "children", "kids?", "bab(?:y|ies)(?!.(?:blue|pink|yellow|grand))", "infants?", "newborns?",
              "toddlers?", "youngsters?", "adolescents?", "juveniles?", "youths?", "freshm[ae]n", "preschoolers?",
              "kindergarte?ners?", "(?:kindergarten|preschool|nursery) (?:pupils?|class|kids?)",
              r"\w+-graders?", "(?:cub|girl|boy)[ -]scouts?",
              "school(?:boys?|girls?|kids?|child|children)", "boys?", "girls?"],
    "middle aged": [*NUMBERED, "middle-aged", "middle aged", "midlife"],
    "old": [*NUMBERED, OLD, "aged", "ageing", "aging", f"senior (?:citizens?|{SENIOR})", "seniors",
            "elders?(?!.scrolls)", "(?:great-)?grand(?:mother|father|parent|dad|ma|pa)s?", "grann(?:y|ies)", "crones?",
            "gr[ae]y hair", "(?:gr[ae]y|white|silver)[ -]haired", "wrinkled", "wrinkles", "retired", r"\w+genarians?",
            "centenarians?", "pensioners?", "retirees?"],
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
    wanted = {noun_of(name) for name in alike(bare(subject))}
    return next((person for person in seen if person.word in wanted), seen[0] if seen else None)


def _of(main: Person, match: re.Match, said: Sequence[Person], text: str) -> bool:
    """Does a word speak of this person? Tags do, and pronouns do unless another man or woman was named since."""
    if match[0] in PRONOUNS:
        since = [p for p in said if main.at < p.at < match.start() and p.clause == main.clause]
        return not any(re.search(whole(rf"\d*(?:{'|'.join((MAN + WOMAN).split())})"), text[p.first:p.last])
                       for p in since)
    inside = next((p for p in said if p.first <= match.start() < p.last), None)
    if inside is not None:
        if inside.first <= main.at < inside.last and match[0] in OWNERS:
            return True  # "girls' volleyball team"
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
        yield whole(rf"(?:very |\w+-)?(?:{'|'.join(TONES.split())})[ -](?:\w+ )?"
                    "(?:skin(?:ned)?|complexion(?:ed)?)(?: tone)?"
                    "|(?:pale|tan|tanned|brown|dark|black|white|ebony) (?:hands?|faces?|arms?|fingers)"
                    rf"|(?:of (?:\w+[ -]){{1,3}}(?:descent|heritage|ancestry)|from (?:{'|'.join(LANDS.split())}))"
                    "|(?:people|persons?|wom[ae]n|m[ae]n) of colou?r|melanin(?:-rich)?|albino"
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
