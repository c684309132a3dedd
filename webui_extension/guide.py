"""The guidance of one generation: a profile with the accordion's settings, or a round of a calibration."""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Sequence

import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.method.methods import Method
from ..core.profile.file import Entry, Profile
from ..core.profile.lookup import differences, entry_for, with_others
from ..core.profile.words import metadata
from ..core.method.draw import rows
from .arguments import Arguments

NETWORK = re.compile(r"<\w+:[^>]*>")  # <lora:name:0.8>


def plain(prompt: str) -> str:
    """A prompt as profiles know it: without extra networks, white space put in order."""
    return " ".join(NETWORK.sub("", prompt).split())


@dataclass(frozen=True)
class RoundGuidance:
    """Guidance of a calibration's round: fixed weights for each seed.

    weights  {seed: a [n]}
    """
    attributes: tuple[Attribute, ...]
    method: Method
    weights: dict[int, Tensor]
    hires: bool = False

    def rows(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """a [B, n] for images of these prompts and seeds."""
        n = sum(len(attribute.groups) for attribute in self.attributes)
        return torch.stack([self.weights.get(int(seed), torch.zeros(n)) for seed in seeds])

    def metadata(self, prompt: str, seed: int, info: dict) -> dict[str, str]:
        """What an image's infotext says."""
        if not info["acted"]:
            return {}
        return {"Debias calibration": ", ".join(f"{a:.4g}" for a in self.weights[seed].tolist())}

    def differences(self, setting: dict) -> list[str]:
        return []

    def behind(self, text: str) -> str:
        """The subject behind which groups' words are placed; "": behind the prompt."""
        return ""

    def warnings(self, prompt: str) -> list[str]:
        return []


@dataclass(frozen=True)
class ProfileGuidance:
    """Guidance of a profile; the same interface as `RoundGuidance`. first: the prompt of the pass whose image is
    drawn anew, as `entry_for` has it."""
    profile: Profile
    method: Method
    strength: float
    hires: bool
    arguments: Arguments
    negative: str = ""
    first: str = ""

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        return self.profile.attributes

    def rows(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        return torch.cat([rows(self._entry(prompt).steerings, [int(seed)], self.strength)
                          for prompt, seed in zip(prompts, seeds, strict=True)])

    def metadata(self, prompt: str, seed: int, info: dict) -> dict[str, str]:
        return {**metadata(self.profile, prompt, info, self.strength, seed, self.negative, self.first),
                **self.arguments.changed()}

    def _entry(self, prompt: str) -> Entry:
        return entry_for(self.profile, prompt, self.negative, self.first)[0]

    def behind(self, text: str) -> str:
        return entry_for(self.profile, text)[0].behind(self.strength)

    def differences(self, setting: dict) -> list[str]:
        if "Automatic" in (setting.get("scheduler"), self.profile.setting.get("scheduler")):
            setting = {**setting, "scheduler": None}  # an infotext that is pasted names the one that it chose
        return differences(self.profile, setting)

    def warnings(self, prompt: str) -> list[str]:
        found = list(self._entry(prompt).warnings)
        if self.method.direction != self.profile.method.direction:
            found.append(f"the weights were calibrated with the direction '{self.profile.method.direction}'")
        return found


def from_profile(profile: Profile, arguments: Arguments, negative: str = "", first: str = ""
                 ) -> ProfileGuidance:
    """Raises ValueError for a window or direction that does not fit."""
    method = profile.method.adjusted(arguments.direction, arguments.start, arguments.end)
    profile = with_others(profile, arguments.others)
    return ProfileGuidance(profile, method, arguments.strength, arguments.hires, arguments, negative, first)
