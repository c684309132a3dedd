"""Debias Attribute: what is balanced, as the user declares it."""
from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..core.attribute import BUILT_IN, Attribute, Group, parse, together
from . import messages
from .types import CALIBRATE, Attributes

OWN = "own groups"


def declared(attribute: str, groups: str = "", target: str = "", name: str = "") -> Attribute:
    """The attribute that the node's inputs describe. Raises DebiasError where they do not fit together."""
    if attribute == OWN:
        lines = [line.strip() for line in groups.splitlines() if line.strip()]
        found = Attribute(name.strip() or "groups", tuple(_group(line) for line in lines))
    else:
        found = replace(parse(attribute), name=name.strip() or attribute)
    return found.with_target(target) if target.strip() else found


def _group(line: str) -> Group:
    """"young" or "young: a young person"; several descriptions with bars between."""
    name, colon, texts = line.partition(":")
    return Group(name.strip(), tuple(text.strip() for text in texts.split("|")) if colon else ())


class DebiasAttribute(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasAttribute", display_name="Debias Attribute", category=CALIBRATE,
            description="Declares what to measure and balance: groups, and the share you want of each. You "
                        "choose both.",
            inputs=[
                io.Combo.Input("attribute", options=[*BUILT_IN, OWN], default="gender", tooltip=(
                    "A built-in attribute, or 'own groups', which you list below.")),
                io.String.Input("groups", multiline=True, default="",
                                placeholder="young: a young person\nold: an old person",
                                tooltip="Your own groups, one per line: a name, or 'name: description'. The "
                                        "description steers the model, and CLIP looks for it. Separate several "
                                        "descriptions with vertical bars."),
                io.String.Input("target", default="", placeholder="70:30", tooltip=(
                    "The share that each group should have: in the groups' order, e.g. 70:30, or by name, e.g. woman "
                    "65, man 35. Empty: even shares.")),
                io.String.Input("name", default="", tooltip="Name of the attribute. Empty: the built-in name."),
                Attributes.Input("also", optional=True, tooltip=(
                    "Further attributes to measure and calibrate together with this one."))],
            outputs=[Attributes.Output(display_name="attributes", tooltip="For Debias Audit and Debias Calibrate.")],
            hidden=[io.Hidden.unique_id])

    @classmethod
    def execute(cls, attribute, groups="", target="", name="", also=()):
        found = declared(attribute, groups, target, name)
        chained = together((*(also or ()), found))
        messages.say(cls.hidden.unique_id, "\n".join(
            f"{a.name}: " + ", ".join(f"{group} {share:.3g}" for group, share in zip(a.names, a.target))
            for a in chained))
        return io.NodeOutput(chained)
