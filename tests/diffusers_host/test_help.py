"""What `sd-debias COMMAND --help` says of an option: its range and its default, and both are what the command does."""
import math
import shlex

from sd_debias.core.calibration.plan import FIELDS, NUMBERS
from sd_debias.diffusers_host.cli.main import COMMANDS, main
from sd_debias.diffusers_host.cli.options import HELP_ALL, OPTIONS, Range, flag_of, options_of, parsed
from sd_debias.diffusers_host.cli.uses import USES
from sd_debias.diffusers_host.sweep.prompts import suites

FOUND = {(command, option.flag or flag_of(name)): option for command, use in USES.items()
         for name, option in options_of(use).items()}
RANGES = {key: option for key, option in FOUND.items() if isinstance(option.kind, Range)}
WORKS = {"calibrate": ["--prompt", "x", "--out", "y"], "generate": ["--prompt", "x", "--out", "y"],
         "audit": ["--prompt", "x"], "check": [], "doctor": [], "demo": [],
         "report": ["--profile", "x", "--out", "y", "--model", "z", "--prompt", "x"],
         "sweep": ["--prompts", "x", "--out", "y", "--ray", "local"]}


def said(option):
    """The notes at the end of an option's help."""
    return option.about[option.about.rindex(" (") + 2:-1]


def test_help_says_what_happens_without_an_option_and_the_range_of_its_number():
    for key, option in FOUND.items():
        if option.kind is not bool and not option.required:
            assert said(option).rpartition("default: ")[2] == str(
                option.unset if option.default is None else option.default), key
    assert len(RANGES) > 50
    assert all(said(option).startswith(f"{option.kind}; ") for option in RANGES.values())


def just_outside(span):
    if span.step:
        return span.low - span.step, span.high + span.step, *[span.low + 1] * (span.step > 1)
    return math.nextafter(span.low, -math.inf), math.nextafter(span.high, math.inf)


def test_the_range_in_the_help_is_the_range_that_is_enforced(capsys):
    # Commands share an option: once for each range that it has.
    for (flag, span), command in {(flag, option.kind): command for (command, flag), option in RANGES.items()}.items():
        for value in just_outside(span):
            assert main([command, *WORKS[command], f"{flag}={value!r}"]) == 2
            sentence = capsys.readouterr().err.splitlines()[-1]
            assert f"'{flag}': " in sentence and f"number from {span}, got " in sentence
        assert [span(repr(value)) for value in (span.low, span.high)] == [span.low, span.high]


def test_the_numbers_of_a_plan_are_those_of_every_host():
    """The ComfyUI node, the web UI and its API take theirs from `HOW_SURE` and `FIELDS` too."""
    for name in (*NUMBERS, "confidence"):
        option, asked = OPTIONS[name], FIELDS[name]
        assert (option.kind.low, option.kind.high) == (asked.low, asked.high)
        assert option.about.startswith(asked.help.rstrip("."))
        assert f"{asked.default:g}" in said(option)
    plain = parsed(COMMANDS, ["calibrate", "--prompt", "a photo of a doctor", "--out", "x"])
    assert plain.sure is None and all(getattr(plain, name) is None for name in NUMBERS)
    assert plain.confidence == FIELDS["confidence"].default


def test_help_of_every_command_shows_at_most_12_options_in_groups_and_an_example(capsys, monkeypatch):
    """`calibrate --help` showed 35 at once."""
    monkeypatch.setenv("COLUMNS", "200")
    for command, use in USES.items():
        assert main([command, "--help"]) == 0
        short = capsys.readouterr().out
        assert main([command, HELP_ALL]) == 0
        every = capsys.readouterr().out
        flags = {option.flag or flag_of(name): name for name, option in options_of(use).items()}
        shown = {flag for flag in flags if f" {flag} " in short}
        assert shown == {flag for flag, name in flags.items() if name in use.basic} and len(shown) <= 12
        assert all(f" {flag} " in every for flag in flags)
        assert use.example in short and (HELP_ALL in short) == (len(flags) > len(shown) + 2)
    assert all(name in OPTIONS["prompts"].help for name in suites())


def test_every_example_of_a_help_is_understood():
    for use in USES.values():
        words = [word.strip("'") for word in shlex.split(use.example)[1:]]
        assert parsed(COMMANDS, words).command
