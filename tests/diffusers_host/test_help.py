"""What `sd-debias COMMAND --help` says of an option: its range and its default, and both are what the command does."""
import argparse
import inspect
import math

import pytest

from sd_debias.core import doctor
from sd_debias.core.study import checking
from sd_debias.core.calibration.plan import FIELDS, NUMBERS, Plan
from sd_debias.demo_model.model import CFG, STEPS
from sd_debias.diffusers_host import workbench
from sd_debias.diffusers_host.cli.main import COMMANDS, main
from sd_debias.diffusers_host.cli.options import Range, _parser, parsed
from sd_debias.diffusers_host.sweep.prompts import TEMPLATE, suites

PARSERS = next(action.choices for action in _parser(COMMANDS)._actions if isinstance(action.choices, dict))
OPTIONS = {(name, action.option_strings[0]): action for name, parser in PARSERS.items() for action in parser._actions
           if action.option_strings and action.nargs != 0}
RANGES = {key: action for key, action in OPTIONS.items() if isinstance(action.type, Range)}
DEFAULTS = inspect.signature(workbench.Workbench).parameters


def said(option):
    """The notes at the end of an option's help."""
    return option.help[option.help.rindex(" (") + 2:-1].replace("%%", "%")


def test_help_says_what_happens_without_an_option_and_the_range_of_its_number():
    for key, option in OPTIONS.items():
        default = said(option).rpartition("default: ")[2] if "default: " in said(option) else None
        assert (default is None) == option.required and (default or said(option) == "required"), key
        assert option.default is None or default == str(option.default), key
        assert option.type not in (int, float), key
    assert len(RANGES) > 50
    assert all(said(option).startswith(f"{option.type}; ") for option in RANGES.values())


def just_outside(span):
    if span.step:
        return span.low - span.step, span.high + span.step, *[span.low + 1] * (span.step > 1)
    return math.nextafter(span.low, -math.inf), math.nextafter(span.high, math.inf)


def test_the_range_in_the_help_is_the_range_that_is_enforced(capsys):
    for (command, flag), option in RANGES.items():
        span = option.type
        for value in just_outside(span):
            with pytest.raises(SystemExit, match="2"):
                PARSERS[command].parse_args([f"{flag}={value!r}"])
            sentence = capsys.readouterr().err.splitlines()[-1]
            assert f"argument {flag}: " in sentence and f"number from {span}, got " in sentence
        alone = argparse.ArgumentParser()
        alone.add_argument(flag, dest="value", type=span)
        for value in (span.low, span.high):
            assert alone.parse_args([f"{flag}={value!r}"]).value == value


def test_ranges_are_said_in_words_that_a_person_reads():
    assert str(Range(1, 1_000_000)) == "1 to 1,000,000" and str(Range(8, 16384, 8)) == "8 to 16,384, a multiple of 8"
    assert str(Range(0.0, 100.0, 0)) == "0 to 100" and str(Range(0.001, 1024, 0)) == "0.001 to 1,024"
    assert str(Range(-2**62, 2**62)) == "-2^62 to 2^62"


@pytest.mark.parametrize("command, flag, default", [
    ("audit", "--count", FIELDS["images"].default), ("audit", "--confidence", FIELDS["confidence"].default),
    ("audit", "--steps", f"{STEPS} for the demo model, else {DEFAULTS['steps'].default}"),
    ("audit", "--cfg", f"{CFG:g} for the demo model, else {DEFAULTS['cfg'].default}"),
    ("audit", "--batch-size", f"50 for the demo model, else {DEFAULTS['batch_size'].default}"),
    ("audit", "--seed", Plan().seed), ("check", "--count", checking.COUNT),
    ("check", "--prompt", f"{checking.PROMPT}; for the demo model: {doctor.PROMPT}"),
    ("doctor", "--prompt", doctor.PROMPT), ("sweep", "--template", TEMPLATE),
    ("report", "--count", inspect.signature(workbench.Workbench.carried_over).parameters["images"].default)])
def test_the_default_in_the_help_is_the_default_of_the_code(command, flag, default):
    found = said(OPTIONS[command, flag]).rpartition("default: ")[2]
    assert found == (f"{default:g}" if isinstance(default, float) else str(default))


def test_the_numbers_of_a_plan_are_those_of_every_host():
    """The ComfyUI node, the web UI and its API take theirs from `HOW_SURE` and `FIELDS` too."""
    for name in (*NUMBERS, "confidence"):
        flag = "--count" if name == "images" else f"--{name.replace('_', '-')}"
        option, asked = OPTIONS["calibrate", flag], FIELDS[name]
        assert (option.type.low, option.type.high) == (asked.low, asked.high)
        assert option.help.startswith(asked.help.rstrip(".").replace("%", "%%"))
        assert f"{asked.default:g}" in said(option)
    plain = parsed(COMMANDS, ["calibrate", "--prompt", "a photo of a doctor", "--out", "x"])
    assert plain.sure is None and all(getattr(plain, name) is None for name in NUMBERS)
    assert plain.confidence == FIELDS["confidence"].default
    for name in ("images", "rounds", "held_out"):
        assert FIELDS[name].default == getattr(Plan(), name)



def test_help_of_every_command_can_be_printed_and_a_sweeps_names_every_suite(capsys):
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        assert f"sd-debias {command}" in capsys.readouterr().out
    assert all(name in OPTIONS["sweep", "--prompts"].help for name in suites())
