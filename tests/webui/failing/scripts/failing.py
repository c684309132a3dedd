"""Another extension. It fails as a file in the host's models folder says, {"what": ..., "batch": n}, and does nothing
without that file. The real hosts and their double load it.
"""
import json
from pathlib import Path

import torch
from modules import paths, processing, script_callbacks, scripts, shared

PLAN = Path(paths.models_path) / "sd-debias-failing.json"
armed: list[str] = []  # what is to fail in this batch
undo: list = []
_batches: dict[str, int] = {}  # by the file's content: how many came since


def memory_ran_out():
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def once(place, name, when=lambda args: True):
    """In the next call of place.name for which `when` holds memory runs out; then it is as it was."""
    own = getattr(place, name)
    held = vars(place).get(name)

    def call(*args, **kwargs):
        if not armed or not when(args):
            return own(*args, **kwargs)
        armed.clear()
        memory_ran_out()

    setattr(place, name, call)
    undo.append(lambda: setattr(place, name, held) if held is not None else vars(place).pop(name, None))


def network():
    """The denoiser."""
    unet = getattr(getattr(shared.sd_model, "forge_objects", None), "unet", None)
    inner = getattr(unet, "model", None) or shared.sd_model.model
    return inner.diffusion_model


def later():
    """Is it no longer the first steps?"""
    calls = []
    return lambda args: calls.append(1) or len(calls) > 4


def of_a_group(args):
    """Is a text encoded that the host itself does not ask for?"""
    return any("woman" in text for text in args[0])


class Failing(scripts.Script):
    def title(self):
        return "Failing"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return []

    def process(self, p, *args):
        armed.clear()
        while undo:
            undo.pop()()
        if not PLAN.exists():
            return
        text = PLAN.read_text()
        plan, batch = json.loads(text), _batches.setdefault(text, 0)
        _batches[text] += 1
        if batch != plan["batch"]:
            return
        what = plan["what"]
        armed.append(what)
        if what == "text":
            once(shared.sd_model, "get_learned_conditioning", of_a_group)
        elif what == "decode":
            once(processing, "decode_latent_batch")
        elif what == "judge":
            import transformers
            once(getattr(shared, "failing_judge", transformers.CLIPModel), "get_image_features")
        hook("process")

    def process_before_every_sampling(self, p, *args, **kwargs):
        if "sampling" in armed:
            once(network(), "forward", later())
        end("before")
        hook("process_before_every_sampling")

    def postprocess_batch(self, p, *args, **kwargs):
        hook("postprocess_batch")


def hook(name):
    if name in armed:
        raise KeyError(f"of another extension in {name}")


def end(when):
    """As a user presses Skip or Interrupt, before the sampling or in it."""
    for what in ("skipped", "interrupted"):
        if f"{what} {when}" in armed:
            armed.clear()
            setattr(shared.state, what, True)


def denoised(params):
    hook("cfg_denoiser")
    if params.denoiser.step == 2:
        end("midway")


script_callbacks.on_cfg_denoiser(denoised)
script_callbacks.on_cfg_denoised(lambda params: hook("cfg_denoised"))
