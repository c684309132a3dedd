"""A profile in words: what an image's metadata says that was done to it, and a profile in a few lines."""
from __future__ import annotations

from collections import Counter
from typing import Mapping, Sequence

from ..attribute import Attribute
from ..statistics import named_shares, shares
from ..errors import short
from ..method.draw import Steering
from .file import Entry, Profile
from .lookup import entry_for

LEFT_ALONE = "left alone by its draw"  # what an image's metadata says that no group was drawn for


def metadata(profile: Profile, prompt: str, info: Mapping, strength: float = 1.0, seed: int | None = None,
             negative: str = "", first: str = "") -> dict[str, str]:
    """An image's metadata, under keys that begin with "Debias".

    info is what guidance did (`GuidanceRun.summary`; at least `acted`, and `reason` where the host knows one). The
    profile and its hash are always included, so that the image can be made again; weights only if guidance acted,
    else "Debias" says why not. With a seed, that may be this image's own draw. `first` is as `entry_for` has it.
    """
    entry, exact = entry_for(profile, prompt, negative, first)
    keys = {"Debias profile": profile.name, "Debias hash": profile.hash[:12]}
    if info.get("acted"):
        keys["Debias weights"] = "; ".join(_words(a, s, profile.method.unit) for a, s in
                                           zip(profile.attributes, entry.steerings))
    else:
        why = info.get("reason") or _idle(profile, entry, info, strength, seed)
        keys["Debias"] = why if why == LEFT_ALONE else f"not applied ({why})"
    if strength != 1:
        keys["Debias strength"] = f"{strength:g}"
    said = entry.left_alone if exact else entry.warnings
    if info.get("acted") and said:
        keys["Debias prompt"] = "; ".join(said)
    if info.get("acted") and seed is not None:
        if sent := sent_to(profile, entry, seed):
            keys["Debias sent to"] = sent
    if info.get("acted") and info.get("skipped"):
        keys["Debias skipped"] = f"{info['skipped']} of {info.get('steps', '?')} steps (NaN or infinite)"
    return keys


def sent_to(profile: Profile, entry: Entry, seed: int) -> str:
    """Where a seed's own draws send its image, e.g. "woman, tan"; "" where nothing is drawn."""
    drawn = [(a, s.draws([seed], stream=i)[0]) for i, (a, s) in
             enumerate(zip(profile.attributes, entry.steerings, strict=True)) if s.probabilities]
    return ", ".join(a.names[option - 1] for a, option in drawn if option)


def drawn(profile: Profile, entry: Entry, seeds: Sequence[int]) -> str:
    """How many images are drawn to which group, e.g. "3 to man, 5 to woman"; "" where nothing is drawn."""
    counts = [Counter(a.names[option - 1] for option in s.draws(seeds, stream=i) if option)
              for i, (a, s) in enumerate(zip(profile.attributes, entry.steerings, strict=True))]
    return "; ".join(", ".join(f"{n} to {group}" for group, n in own.items()) for own in counts if own)


def described(profile: Profile) -> str:
    """A profile in a few lines: what it balances, what was measured, and in which setting."""
    aims = "; ".join(f"{short(a.name)} toward {short(named_shares(a.names, a.target))}" for a in profile.attributes)
    method = profile.method
    setting = ", ".join(f"{short(key.replace('_', ' '))} {short(value)}" for key, value in profile.setting.items()
                        if value not in (None, "") and key != "model_hash")
    # The setting comes first: entries may be many.
    if not profile.entries:
        return f"{profile.name} balances {aims}, without a calibration"
    lines = [f"{profile.name} balances {aims}",
             f"Calibrated with {setting}; labels by {short(profile.classifier)}; method: direction {method.direction}, "
             f"{method.spend}; hash {profile.hash[:12]}"]
    for entry in profile.entries:
        for i, attribute in enumerate(profile.attributes):
            before, after = ([f"{share:.0%}" for share in shares(measured[i]["counts"])] if measured else
                             ["not verified"] for measured in (entry.before, entry.after))
            if entry.expected:  # of all images: a verification after them has few
                after = [f"{share:.0%}" for share in entry.expected[i]["shares"]]
            lines.append(f"{short(entry.prompt)}: {short(' / '.join(attribute.names))}: {' / '.join(before)} -> "
                         f"{' / '.join(after)}")
        lines += [f"Warning: {short(warning)}" for warning in entry.warnings]
    return "\n".join(lines)


def _idle(profile: Profile, entry: Entry, info: Mapping, strength: float, seed: int | None) -> str:
    """Why guidance did not act, as far as it can be told from outside."""
    if strength == 0:
        return "the strength is 0"
    if not any(any(s.weights) or s.probabilities for s in entry.steerings) and entry.left_alone:
        return "; ".join(entry.left_alone)
    if not any(any(s.weights) or (s.probabilities and s.probabilities[0] < 1) for s in entry.steerings):
        return "the calibration found nothing to correct"
    if seed is not None and not any(s.rows([seed], stream=i).any() for i, s in enumerate(entry.steerings)):
        return LEFT_ALONE
    if info.get("steps") == 0 and profile.method.direction != "prompt":
        return "no step lies in the guidance window"
    if info.get("skipped") and info["skipped"] == info.get("steps"):
        return "every prediction was NaN or infinite"
    return "guidance changed nothing"


def _words(attribute: Attribute, s: Steering, unit: float) -> str:
    """A steering in one line, e.g. "gender: man 0.3, woman -0.3" or "gender: 40 % left alone, 60 % steered to woman".

    unit  the push that takes full effect: another one is said as a multiple of it
    """
    shift = ", ".join(f"{name} {a:.4g}" for name, a in zip(attribute.names, s.weights))
    if s.probabilities:
        options = zip(("left alone", *(f"steered to {name}" for name in attribute.names)), s.probabilities)
        shift = ", ".join([*(f"{100 * q:.3g} % {done}" for done, q in options if q >= 5e-4),
                           *([f"{s.push / unit:.4g} times as strongly as usual"] if s.push != unit else []),
                           *([f"all shifted by {shift}"] if any(s.weights) else [])])
    return " ".join(f"{attribute.name}: {shift}".split())
