"""Which entry a prompt gets, however it is written."""
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from sd_debias.core.attribute import parse
from sd_debias.core.method.methods import METHODS
from sd_debias.core.method.draw import Steering
from sd_debias.core.profile.file import Entry, Profile
from sd_debias.core.profile.lookup import entry_for, with_others
from sd_debias.core.prompts.syntax import OTHERS, bare

DRAWN = Steering((0.0, 0.0), (0.4, 0.0, 0.6))
PROMPT = "a photo of a doctor, bokeh"
PROFILE = Profile("x", METHODS["default"], (parse("gender"),), (Entry(PROMPT, (DRAWN,)), Entry("a chef", (DRAWN,))), {},
                  "", "", "")
SPELLINGS = st.sampled_from([
    lambda word: word, str.upper, str.title, lambda word: f"({word})", lambda word: f"(({word}))",
    lambda word: f"({word}:1.2)", lambda word: f"[{word}]", lambda word: f"{word} <lora:style_2:0.8>",
    lambda word: f"<hypernet:x:1> {word}", lambda word: f"  {word}\n", lambda word: f"({word}: 0.85)"])
WORDS = st.sampled_from("a the of in photo red old-town BREAK , , doctor doctors nurse and portrait (x:1.2) <lora:a:1> "
                        "black castle king. ! 医生 wo-man woman's".split())
NAMING = st.sampled_from(["a woman", "man", "female", "2girls", "(woman:1.3)", "HIS", "a king", "waitress"])


@st.composite
def spelt(draw, prompt: str = PROMPT) -> str:
    """A prompt with emphasis, weights, tags, case, white space and final punctuation of any kind."""
    words = [draw(SPELLINGS)(word) for word in prompt.replace(",", " ,").split(" ")]
    text = draw(st.sampled_from([" ", "  ", "\n", "\t "])).join(words)
    before, after = st.sampled_from(["", " ", "<lora:a:1> "]), st.sampled_from(["", ".", ",", " ...", "!", ", "])
    return f"{draw(before)}{text}{draw(after)}"


@examples(150)
@given(spelt())
def test_spelling_does_not_change_what_a_prompt_gets(prompt):
    entry, own = entry_for(PROFILE, prompt)
    assert own and entry.steerings == (DRAWN,) and not entry.warnings, bare(prompt)


@examples(100)
@given(st.lists(WORDS, max_size=8), st.sampled_from(OTHERS))
def test_any_prompt_gets_one_entry_and_the_same_one_again(words, others):
    prompt, profile = " ".join(words), with_others(PROFILE, others)
    entry, own = entry_for(profile, prompt)
    assert entry_for(profile, prompt) == (entry, own) and entry_for(profile, f" {prompt.upper()} ")[0].steerings == \
        entry.steerings
    assert own or entry.warnings or not prompt.strip(), "what is not its own calibration is said"


@examples(100)
@given(NAMING, st.lists(WORDS, max_size=5), st.sampled_from(OTHERS))
def test_a_prompt_that_names_a_group_is_always_left_alone(naming, after, others):
    prompt = ", ".join([naming, *after])
    entry, _ = entry_for(with_others(PROFILE, others), prompt)
    assert entry.steerings == (Steering.none(2),)
    assert len(entry.left_alone) == 1
