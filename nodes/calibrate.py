"""Debias Calibrate: finds a profile's weights by generating, counting and correcting, in one node."""
from __future__ import annotations

from typing import Sequence

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..core.calibration.loop import Calibration
from ..core.calibration.plan import CUSTOM, HOW_SURE, unused
from ..core.calibration.plan import planned as planned_as
from ..core.study.places import Places
from ..core.study.runner import calibrate
from ..core.calibration.standing import standings
from ..core.errors import DebiasError
from ..core.files import safe_name
from ..core.method.draw import rows
from ..core.method.methods import chosen
from ..core.profile.file import Profile
from ..core.profile.words import metadata
from ..core.report.sheet import WITH, Sheet
from . import messages
from .judge import checks_of
from .progress import KEY
from .images import to_tensor
from .panel import about, address, kept
from .profiles import save_folder
from .report import new_folder, results
from .types import CALIBRATE, Attributes, JudgeType, Profiles, choice, planned, sampling
from .workbench import Workbench, behind, setting_of, states


class DebiasCalibrate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasCalibrate", display_name="Debias Calibrate (IDA)", category=CALIBRATE, is_output_node=True,
            description="Finds the weights that bring a model's images to the target shares: generates, counts, "
                        "corrects, and verifies the result on fresh seeds. Cancel keeps what was measured; queue it "
                        "again to continue.",
            inputs=[
                io.Model.Input("model", tooltip=(
                    "The model to calibrate, with its LoRAs and patches, but without Debias Apply.")),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its autoencoder."),
                Attributes.Input("attributes", tooltip="What to balance, and the target: from Debias Attribute."),
                JudgeType.Input("judge", tooltip="Decides which group each image shows."),
                io.String.Input("prompts", multiline=True, default="a photo of a doctor", tooltip=(
                    "The prompts to calibrate, one per line. They are calibrated one after the other, into one "
                    "profile.")),
                io.String.Input("negative", multiline=True, default="", tooltip="The negative prompt."),
                *sampling(", as you will use it later"),
                io.Int.Input("seed", default=0, min=0, max=2**53, control_after_generate=False, tooltip=(
                    "Seed of the first image; the others follow. Keep it fixed, so that an interrupted calibration "
                    "can continue.")),
                *(planned(name) for name in ("images", "rounds", "held_out", "batch_size", "tolerance")),
                *(choice(name) for name in ("method", "direction", "rule")),
                planned("confidence"),
                io.String.Input("name", default="doctor-gender", tooltip=(
                    "Name of the profile and of its folder in output/debias. If the folder exists, the new one gets a "
                    "number.")),
                planned("within", optional=True),
                io.Combo.Input("sure", options=list(HOW_SURE.values), default="normal", optional=True,
                               tooltip=f"{HOW_SURE.help} normal: {about('normal', 1)}"),
                io.Boolean.Input("again", default=False, optional=True, tooltip=(
                    "A calibration that is done is not measured again: its result comes at once. On: measure it "
                    "again."))],
            outputs=[Profiles.Output(display_name="profile", tooltip=(
                         "For Debias Apply, Text Encode and Report.")),
                     io.Image.Output(display_name="charts", tooltip="Shares, before and after."),
                     io.Image.Output(display_name="before", tooltip="Images of the audit, without the profile."),
                     io.Image.Output(display_name="after", tooltip="Images of the verification, with it."),
                     io.String.Output(display_name="report", tooltip="Path of the HTML report.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt])

    @classmethod
    def execute(cls, model, clip, vae, attributes, judge, prompts, negative, width, height, steps, cfg,
                sampler_name, scheduler, seed, images, rounds, held_out, batch_size, tolerance, method, direction, rule,
                confidence, name, within=0.0, sure=CUSTOM, again=False):
        node, name = cls.hidden.unique_id, safe_name(name.strip())
        if KEY in model.wrappers.get("outer_sample", {}):
            raise DebiasError("Expected a model without Debias Apply, got one that it guides already. Wire the model "
                              "from before Debias Apply.")
        method = chosen(method, direction=direction, rule=rule)
        numbers = dict(images=images, rounds=rounds, held_out=held_out, tolerance=tolerance, within=within)
        plan = planned_as(sure, method, **numbers, batch_size=batch_size, seed=seed, confidence=confidence)
        setting = setting_of(cls.hidden.prompt, node, clip, sampler_name, scheduler, steps, cfg, width, height,
                             negative)
        bench = Workbench(model, clip, vae, judge, setting, behind(cls.hidden.prompt, node), node)
        bench.note = unused(sure, numbers)
        folder, others = new_folder(name), results(name)
        places = Places(profile=folder / "profile.json", lock=states() / name, folder=folder, states=states(),
                        best=save_folder() / f"{name} (unfinished).json",
                        again=again, others=others)
        texts = [text for line in prompts.splitlines() if (text := " ".join(line.split()))]
        found = calibrate(bench, texts, attributes, method, plan, name, places, checks_of(judge, attributes))
        found.notes += filter(None, [bench.note])
        shown = dict(report=found.report and address(found.report),
                     shares=[s.to_dict() for c in found.measured for s in standings(c)])
        messages.say(node, found.text, bool(found.warnings), **shown)
        if found.stopped is not None:
            raise found.taken()
        before, after = ([sheet for pair in found.sheets if (sheet := pair[at] or pair[0])] for at in (0, 1))
        for c, sheet in zip(found.calibrations, after, strict=True):
            record(found.profile, c, sheet)
        page = found.before_after()
        bench.ended(page)
        page = to_tensor(page)
        return io.NodeOutput(found.profile, to_tensor(*found.charts().values()), batch(before), batch(after),
                             str(found.report), ui=kept(found.text, bool(found.warnings),
                                                        ui.PreviewImage(page, cls=cls), **shown))


def batch(sheets: Sequence[Sheet]) -> Tensor:
    """IMAGE [N, H, W, 3] of the sheets' images."""
    return torch.cat([to_tensor(picture) for sheet in sheets for picture in sheet.pictures])


def record(profile: Profile, c: Calibration, sheet: Sheet) -> None:
    """What was done to the images of the output "after", for the images' metadata."""
    weights = rows(c.steerings, sheet.seeds) * (sheet.what == WITH)
    said = metadata(profile, c.prompt, dict(acted=bool(weights.any()))) if sheet.what == WITH else {}
    messages.record({**said, "Debias output": "after", "Debias calibrated": c.prompt, "Debias seeds": list(sheet.seeds),
                     "Debias rows": weights.tolist()})
