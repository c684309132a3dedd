"""Whom the demo model draws, in which words, and where its artists' skin tones part."""
from __future__ import annotations

# Two forms of Unicode sequence: <man|woman> <tone> <tool>, and <profession> <tone> <male|female sign>.
TOOLS = {
    "person": "", "farmer": "1f33e", "cook": "1f373", "student": "1f393", "singer": "1f3a4", "artist": "1f3a8",
    "teacher": "1f3eb", "factory worker": "1f3ed", "technologist": "1f4bb", "office worker": "1f4bc",
    "mechanic": "1f527", "scientist": "1f52c", "astronaut": "1f680", "firefighter": "1f692", "doctor": "2695-fe0f",
    "judge": "2696-fe0f", "pilot": "2708-fe0f",
}
PROFESSIONS = {"police officer": "1f46e", "construction worker": "1f477", "guard": "1f482", "detective": "1f575"}

SUBJECTS = (*TOOLS, *PROFESSIONS)
OCCUPATIONS = SUBJECTS[1:]


# Individual typology angles in degrees that part the five tones as these two artists paint them; photographs differ.
ITA_CUTOFFS = (58, 46.7, 19, -14)


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def prompt(subject: str) -> str:
    """The neutral prompt of an occupation: "a photo of a doctor"."""
    return f"a photo of {article(subject)}"
