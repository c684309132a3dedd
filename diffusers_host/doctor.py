"""What `sd-debias doctor` says of a diffusers pipeline beside the examination itself (core/doctor.py)."""
from __future__ import annotations

from typing import Sequence

from ..core.attribute import Attribute
from ..core.method.conditioning import length
from ..core.method.methods import Method
from .encode import encode_all, of_one_length
from .families import WholeTexts, family_of


def facts(pipe, prompt: str, attributes: Sequence[Attribute], method: Method) -> list[str]:
    """The pipeline's parts, what directions it takes, and the shapes of its texts. Raises DebiasError."""
    network = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    encoders = [type(value).__name__ for name, value in sorted(pipe.components.items())
                if name.startswith("text_encoder") and value is not None]
    said = [f"{type(pipe).__name__}: {type(network).__name__}, {type(pipe.scheduler).__name__}, "
            f"{', '.join(encoders) or 'no text encoder'}, {getattr(network, 'dtype', 'unknown type')} on {pipe.device}"]
    if (family := family_of(pipe)) is not None:
        inside = " and 'embedding'" * bool(family.inside)
        said.append(f"Directions: 'prompt' (draws and shifts){inside}")
    elif of_one_length(pipe):
        said.append("Directions: 'prompt' and 'embedding'; all texts have one length")
    else:
        said.append("Directions: 'prompt' with draws alone; how this pipeline encodes texts is not known here, so each "
                    "image is given its group's own text")
    encoded = encode_all(pipe, prompt, attributes, method.context)
    if not isinstance(encoded, WholeTexts):
        parts = [f"{name} {list(part.shape)}" for name, part in encoded.prompt.items()]
        lengths = {name: [length(group) for group in groups] for name, groups in encoded.groups.items()}
        said.append(f"Parts of the prompt: {'; '.join(parts)}; lengths of its groups' texts: "
                    + "; ".join(f"{name} {', '.join(map(str, own))}" for name, own in lengths.items() if any(own)))
    return said
