"""A small double of the hosts' `modules`, written for these tests: enough of A1111, or of Forge, to run the extension.

Its model is a function of the mean text embedding, so every step is quick, and images change with texts alone. What
it keeps of the hosts is what the extension relies on: which hook is called when, with which rows, that exceptions are
swallowed, and how infotext is written.
"""
from __future__ import annotations

import contextlib
import copy
import json
import re
import sys
import types
import zlib

import torch
from PIL import Image

WIDTH, POOLED, TOKENS = 8, 6, 77
SIGMAS = [14.6, 8.0, 4.0, 2.0, 1.0, 0.4, 0.0]


# --- texts ---

class SdConditioning(list):
    def __init__(self, prompts, width=None, height=None):
        super().__init__(prompts)
        self.width = width or getattr(prompts, "width", None)
        self.height = height or getattr(prompts, "height", None)


class Fields:
    """Any object of the host's that holds fields; unlike a SimpleNamespace, it can be held weakly."""

    def __init__(self, **given):
        vars(self).update(given)


def word(text: str, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(zlib.crc32(text.encode())))


class Model:
    """Texts of more than 75 words take further chunks of 77; one call pads all alike, with the empty text."""
    is_sd1, is_sdxl, is_sd2, is_sd3 = True, False, False, False
    sd_model_hash = "0123456789"

    def __init__(self, xl: bool = False):
        self.is_sd1, self.is_sdxl = not xl, xl
        network = types.SimpleNamespace(forward=lambda x, text: predicted(x, text))
        self.model = types.SimpleNamespace(conditioning_key="crossattn", diffusion_model=network)
        self.sd_checkpoint_info = types.SimpleNamespace(name_for_extra="double")
        self.alphas_cumprod = torch.linspace(0.999, 0.005, 1000)

    def get_learned_conditioning(self, texts):
        words = [re.findall(r"\w+", text) for text in texts]
        chunks = max(1, *(-(-len(each) // 75) for each in words))
        tokens = torch.zeros(len(texts), chunks * TOKENS, WIDTH) + word("end") / 10
        for row, each in zip(tokens, words):
            for i, one in enumerate(each):
                row[i // 75 * TOKENS + 1 + i % 75] = word(one)
        if not self.is_sdxl:
            return tokens
        pooled = torch.stack([sum((word(one, POOLED) for one in each), torch.zeros(POOLED)) for each in words])
        size = torch.tensor([float(texts.height or 1024), float(texts.width or 1024)]).repeat(len(texts), 1) / 1000
        return {"crossattn": tokens, "vector": torch.cat([pooled, size], dim=1)}


def get_multicond_prompt_list(prompts):
    flat, places = SdConditioning([], width=prompts.width, height=prompts.height), []
    for prompt in prompts:
        places.append([])
        for part in re.split(r"\bAND\b", prompt):
            text, weight = re.fullmatch(r"(.*?)(?::\s*(-?[\d.]+))?\s*", part, re.S).groups()
            if text not in flat:
                flat.append(text)
            places[-1].append((flat.index(text), float(weight or 1)))
    return places, flat, {}


def get_learned_conditioning_prompt_schedules(prompts, steps, hires_steps=None, use_old_scheduling=False):
    result = []
    for prompt in prompts:
        edit = re.search(r"\[([^:\]]*):([^:\]]*):([\d.]+)\]", prompt)
        if edit:
            before, after, at = edit.groups()
            at = int(float(at) * (hires_steps or steps))
            result.append([[at, prompt.replace(edit[0], before)], [steps, prompt.replace(edit[0], after)]])
        else:
            result.append([[steps, prompt]])
    return result


def rows_of(cond, rows):
    return {key: value[rows] for key, value in cond.items()} if isinstance(cond, dict) else cond[rows]


def stacked(conds):
    if isinstance(conds[0], dict):
        return {key: stacked([cond[key] for cond in conds]) for key in conds[0]}
    if conds[0].ndim == 2:
        length = max(len(cond) for cond in conds)
        conds = [torch.cat([cond, cond[-1:].repeat(length - len(cond), 1)]) for cond in conds]
    return torch.stack(conds)


def learned(model, prompts, steps, hires_steps=None):
    result = []
    for schedule in get_learned_conditioning_prompt_schedules(prompts, steps, hires_steps):
        texts = SdConditioning([text for _, text in schedule], prompts.width, prompts.height)
        conds = model.get_learned_conditioning(texts)
        result.append([Fields(end_at_step=end, cond=rows_of(conds, i)) for i, (end, _) in enumerate(schedule)])
    return result


def multicond(model, prompts, steps, hires_steps=None):
    places, flat, _ = get_multicond_prompt_list(prompts)
    schedules = learned(model, flat, steps, hires_steps)
    return Fields(batch=[[Fields(schedules=schedules[i], weight=weight) for i, weight in parts]
                         for parts in places])


def at_step(schedule, step):
    return next((each.cond for each in schedule if step <= each.end_at_step), schedule[0].cond)


# --- sampling ---

def predicted(x, text):
    """x_0 of the double's model: a smooth pattern set by the mean text, plus a little of x."""
    parts = text if isinstance(text, dict) else {"crossattn": text}
    feature = parts["crossattn"].mean(1) * 20
    if "vector" in parts:
        feature = feature + torch.nn.functional.pad(parts["vector"][:, :POOLED], (0, WIDTH - POOLED)) / 4
        feature = feature + parts["vector"][:, POOLED:].sum(1, keepdim=True) / 10
    grid = torch.arange(x.shape[-1] * x.shape[-2], dtype=torch.float32).view(x.shape[-2:]) / 9
    waves = torch.stack([torch.sin(grid * (k + 1)) for k in range(WIDTH)])
    pattern = torch.tanh((feature[:, :, None, None] * waves).sum(1, keepdim=True) / 4)
    return pattern * torch.tensor([1.0, -0.7, 0.5, 0.3]).view(1, 4, 1, 1) + 0.05 * torch.tanh(x)


class Denoiser:
    """Classifier-free guidance as A1111 does it; k-diffusion's give x_0, DDIM's give eps at a timestep."""

    def __init__(self, host, p, timesteps: bool):
        self.host, self.p, self.step, self.total_steps = host, p, 0, None
        self.timesteps, self.evaluations = timesteps, 0
        if timesteps:
            self.alphas = host.shared.sd_model.alphas_cumprod

    def inner_model(self, x, sigma, cond):
        self.evaluations += len(x)
        text = {k: v for k, v in cond.items() if k != "c_concat"} if "crossattn" in cond else cond["c_crossattn"][0]
        if not self.timesteps:
            return self.predicted(x, text)
        a = self.alphas[sigma.long()].view(-1, 1, 1, 1)
        return (x - a.sqrt() * self.predicted(x, text)) / (1 - a).sqrt()

    def predicted(self, x, text):
        return self.host.shared.sd_model.model.diffusion_model.forward(x, text)

    def __call__(self, x, sigma, cond, uncond, cfg):
        if self.host.shared.state.interrupted or self.host.shared.state.skipped:
            raise InterruptedError
        text = stacked([at_step(part.schedules, self.step) for parts in cond.batch for part in parts])
        negative = uncond and stacked([at_step(schedule, self.step) for schedule in uncond])
        guided = (self.forge if self.host.forge else self.a1111)(x, sigma, cond, text, negative, cfg)
        self.step += 1
        return guided

    def a1111(self, x, sigma, cond, text, negative, cfg):
        at = [(image, part.weight) for image, parts in enumerate(cond.batch) for part in parts]
        x_in = torch.cat([x[[image for image, _ in at]], x])
        sigma_in = torch.cat([sigma[[image for image, _ in at]], sigma])
        params = Fields(x=x_in, image_cond=x_in.new_zeros(len(x_in), 5, 1, 1), sigma=sigma_in,
                        denoiser=self, text_cond=text, text_uncond=negative)
        self.host.callback("cfg_denoiser", params)
        text, negative = params.text_cond, params.text_uncond
        skip = self.step % 2 == 1 and self.p.s_min_uncond > 0
        out = self.inner_model(x_in[:len(at)], sigma_in[:len(at)], cond=self.condition(text, x[:1], len(at)))
        first = [next(i for i, (image, _) in enumerate(at) if image == each) for each in range(len(x))]
        rest = out[first] if skip else self.inner_model(x, sigma, cond=self.condition(negative, x[:1], len(x)))
        out = torch.cat([out, rest])
        self.host.callback("cfg_denoised", Fields(x=out, inner_model=self.inner_model))
        base = out[-len(x):]
        result = base.clone()
        for row, (image, weight) in enumerate(at):
            result[image] += (out[row] - base[image]) * weight * (1.0 if skip else cfg)
        return result

    @staticmethod
    def condition(text, like, rows):
        image = like.new_zeros(rows, 5, 1, 1)
        return {**(text if isinstance(text, dict) else {"c_crossattn": [text]}), "c_concat": [image]}

    def forge(self, x, sigma, cond, text, negative, cfg):
        weights = [part.weight for part in cond.batch[0]]
        params = Fields(x=x, sigma=sigma, denoiser=self, text_cond=text, text_uncond=negative)
        self.host.callback("cfg_denoiser", params)
        unet = self.p.sd_model.forge_objects.unet
        count = len(weights)
        compiled = [compile_conditions(rows_of(params.text_cond, slice(i, None, count)))[0]
                    for i in range(count)]
        base = compile_conditions(params.text_uncond)
        for modifier in unet.model_options.get("conditioning_modifiers", []):
            _, x, sigma, base, compiled, cfg, _, _ = modifier(
                self, x, sigma, base, compiled, cfg, unet.model_options, 0)
        parts = [self.evaluate(one, x, sigma) for one in compiled]
        positive = sum(w * part for w, part in zip(weights, parts)) / sum(weights)
        uncond_out = self.evaluate(base[0], x, sigma) if base else torch.zeros_like(x)
        result = uncond_out + (positive - uncond_out) * cfg * sum(weights)
        for fn in unet.model_options.get("sampler_post_cfg_function", []):
            result = fn(dict(denoised=result, cond=compiled, uncond=base, model=self, uncond_denoised=uncond_out,
                             cond_denoised=positive, sigma=sigma, model_options=unet.model_options, input=x))
        return result

    def evaluate(self, condition, x, sigma):
        self.evaluations += len(x)
        pooled = condition.get("pooled_output")
        tokens = condition["cross_attn"]
        return self.predicted(x, tokens if pooled is None else {"crossattn": tokens, "vector": pooled})


def compile_conditions(text):
    if text is None:
        return None
    parts = text if isinstance(text, dict) else {"crossattn": text}
    pooled = dict(pooled_output=parts["vector"]) if "vector" in parts else {}
    return [dict(cross_attn=parts["crossattn"], model_conds={}, **pooled)]


class Patcher:
    """Forge's UNet patcher."""

    def __init__(self, model_options=None):
        self.model_options = model_options or {}

    def clone(self):
        return Patcher(copy.deepcopy(self.model_options))

    def add_conditioning_modifier(self, modifier):
        self.model_options.setdefault("conditioning_modifiers", []).append(modifier)

    def set_model_sampler_post_cfg_function(self, function, disable_cfg1_optimization=False):
        self.model_options.setdefault("sampler_post_cfg_function", []).append(function)


class Processing:
    """StableDiffusionProcessingTxt2Img and, with init_images, ...Img2Img."""
    prompt, negative_prompt, styles, seed, subseed, subseed_strength = "", "", (), -1, -1, 0.0
    sampler_name, scheduler, steps, cfg_scale, s_min_uncond = "Euler", "Automatic", 6, 4.0, 0.0
    width, height, batch_size, n_iter, iteration = 64, 64, 1, 1, 0
    init_images, image_mask, firstpass_image, denoising_strength = None, None, None, 0.75
    is_hr_pass, enable_hr, hr_cfg, hr_prompt = False, False, 1.0, ""
    hr_sampler_name, hr_second_pass_steps = None, 0
    scripts, script_args = None, ()

    def __init__(self, host, sd_model, override_settings=None, mask=None, **given):
        vars(self).update(given)
        self.host, self.sd_model, self.image_mask = host, sd_model, mask
        self.hr_upscale_to_x, self.hr_upscale_to_y = 2 * self.width, 2 * self.height
        self.override_settings, self.extra_generation_params, self.comments = override_settings or {}, {}, {}

    def comment(self, text):
        self.comments[text] = 1

    def sample(self, hires: bool, x, cfg):
        prompts = [self.hr_prompt] * len(self.prompts) if hires and self.hr_prompt else self.prompts
        prompts = [re.sub(r"<[^>]*>", "", prompt) for prompt in prompts]
        size = (self.hr_upscale_to_x, self.hr_upscale_to_y) if hires else (self.width, self.height)
        self.is_hr_pass, self.hr_prompts = hires, prompts
        if not hires:
            self.prompts, self.firstpass_steps = prompts, self.steps
        texts, negatives = (SdConditioning(own, *size) for own in (prompts, [self.negative_prompt] * len(prompts)))
        model, steps = self.host.shared.sd_model, (self.steps, self.steps if hires else None)
        cond = multicond(model, texts, *steps)
        uncond = None if self.host.forge and self.cfg_scale == 1 else learned(model, negatives, *steps)
        if self.host.forge:
            if hires:
                self.scripts.call("process_before_every_sampling", self, x=x, noise=x, c=cond, uc=uncond)
            self.sd_model.forge_objects = types.SimpleNamespace(unet=Patcher())
        self.scripts.call("process_before_every_sampling", self, x=x, noise=x, c=cond, uc=uncond)
        denoiser = Denoiser(self.host, self, self.sampler_name == "DDIM" and not self.host.forge)
        self.host.denoisers.append(denoiser)
        denoiser.total_steps = self.steps
        with contextlib.suppress(InterruptedError):
            x = ddim(denoiser, x, cond, uncond, cfg) if denoiser.timesteps else euler(denoiser, x, cond, uncond, cfg)
        self.is_hr_pass = False
        return x


def euler(denoiser, x, cond, uncond, cfg):
    x = x * SIGMAS[0]
    for now, later in zip(SIGMAS[:-1], SIGMAS[1:]):
        sigma = torch.full((len(x),), now, device=x.device)
        x = x + (x - denoiser(x, sigma, cond, uncond, cfg)) / now * (later - now)
    return x


def ddim(denoiser, x, cond, uncond, cfg):
    times = [951, 801, 601, 401, 201, 1]
    for t, later in zip(times, [*times[1:], None]):
        eps = denoiser(x, torch.full((len(x),), float(t)), cond, uncond, cfg)
        a, b = denoiser.alphas[t], torch.tensor(1.0) if later is None else denoiser.alphas[later]
        x = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    return x


def noise(seeds, width, height):
    return torch.stack([torch.randn(4, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
                        for seed in seeds])


def pictured(x):
    pixels = (torch.sigmoid(3 * x[:, :3].float().cpu()) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture.repeat(8, 0).repeat(8, 1)) for picture in pixels]


# --- the host ---

class Processed:
    def __init__(self, p, images_list, seed=-1, info="", infotexts=None, index_of_first_image=0, **_):
        self.images, self.seed, self.info = images_list, seed, info
        self.infotexts, self.index_of_first_image = infotexts or [info] * len(images_list), index_of_first_image
        self.comments = "".join(f"{comment}\n" for comment in p.comments)


class Script:
    args_from = args_to = 0
    infotext_fields = None

    def elem_id(self, item):
        return item


CONTROLS = ["Accordion", "Button", "Checkbox", "Column", "Row", "Dropdown", "Markdown", "Slider", "Textbox", "Number",
            "HTML", "Radio"]


class Component:
    """Any of gradio's: a value."""

    def __init__(self, *args, value=None, label=None, visible=True, **_):
        self.value, self.label, self.visible = value, label, visible

    def change(self, *args, **kwargs):
        pass

    click = blur = change

    def extra(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Runner:
    """The always-on and the selectable scripts of one tab."""

    def __init__(self, host, classes):
        self.host, self.scripts, self.inputs = host, [cls() for cls in classes], [None]
        for script in self.scripts:
            script.alwayson = script.show(False) is AlwaysVisible
            controls = script.ui(False)
            script.args_from = len(self.inputs)
            self.inputs += controls
            script.args_to = len(self.inputs)

    @property
    def alwayson_scripts(self):
        return [script for script in self.scripts if script.alwayson]

    @property
    def selectable_scripts(self):
        return [script for script in self.scripts if not script.alwayson]

    def named(self, title):
        return next(script for script in self.scripts if script.title().lower() == title.lower())

    def call(self, method, p, **kwargs):
        for script in self.scripts:
            if script.alwayson and hasattr(script, method):
                try:
                    getattr(script, method)(p, *p.script_args[script.args_from:script.args_to], **kwargs)
                except Exception as error:
                    self.host.reported.append(repr(error))


AlwaysVisible = object()


class State:
    interrupted = skipped = stopping_generation = False
    job_count, textinfo = -1, None


class Double:
    """The host: `install` puts it into sys.modules, `post` is its API."""

    def __init__(self, models_path, forge: bool = False, xl: bool = False):
        self.forge, self.callbacks, self.reported, self.denoisers = forge, {}, [], []
        self.device, self.dtype = torch.device("cpu"), torch.float32  # of latents
        self.checkpoints = {}  # by name: the file
        self.models = {}  # by name: what is loaded where it is chosen
        model = Model(xl)
        options = types.SimpleNamespace(use_old_scheduling=False, labels={}, sd_model_checkpoint=None)

        def add_option(name, option):
            options.labels[name] = option[1:]
            setattr(options, name, option[0])

        def match(name):
            if name in self.checkpoints:
                return types.SimpleNamespace(filename=str(self.checkpoints[name]), name_for_extra=name)

        options.add_option = add_option
        content = {"gradio": dict.fromkeys(CONTROLS, Component) | dict(update=dict), "modules": {}}
        content["modules.shared"] = dict(
            sd_model=model, opts=options, state=State(), cmd_opts=types.SimpleNamespace(),
            OptionInfo=lambda default, label, section=None, restrict_api=False: (default, label, restrict_api),
            prompt_styles=types.SimpleNamespace(
                apply_styles_to_prompt=lambda prompt, styles: ", ".join([prompt, *styles])))
        content["modules.devices"] = dict(autocast=contextlib.nullcontext, device=torch.device("cpu"))
        content["modules.prompt_parser"] = dict(
            SdConditioning=SdConditioning, get_multicond_prompt_list=get_multicond_prompt_list,
            get_learned_conditioning_prompt_schedules=get_learned_conditioning_prompt_schedules)
        content["modules.sd_models"] = dict(get_closet_checkpoint_match=match)
        content["modules.sd_samplers"] = dict(find_sampler_config=lambda name: None)
        content["modules.errors"] = dict(report=lambda text, exc_info=False: self.reported.append(text))
        content["modules.paths"] = dict(models_path=str(models_path), data_path=str(models_path.parent))
        content["modules.script_callbacks"] = {
            f"on_{name}": (lambda function, name=name: self.callbacks.setdefault(name, []).append(function))
            for name in ("cfg_denoiser", "cfg_denoised", "ui_settings", "before_ui", "app_started")}
        content["modules.scripts"] = dict(Script=Script, AlwaysVisible=AlwaysVisible, scripts_data=[])
        content["modules.ui_components"] = dict(
            InputAccordion=lambda value, **given: Component(value=value, **given))
        content["modules.ui_common"] = dict(create_refresh_button=lambda *args: Component())
        content["modules.processing"] = dict(
            process_images=self.process_images, Processed=Processed, fix_seed=fix_seed,
            decode_latent_batch=lambda model, x: pictured(x),
            StableDiffusionProcessingTxt2Img=type("Txt2Img", (Processing,), {
                "__init__": lambda one, **given: Processing.__init__(one, self, **given)}))
        if forge:
            model.forge_objects = types.SimpleNamespace(unet=Patcher())
            content |= {"backend": {}, "backend.sampling": {}}
            content["backend.sampling.condition"] = dict(compile_conditions=compile_conditions)
            content["backend.sampling.sampling_function"] = dict(
                calc_cond_uncond_batch=lambda model, cond, uncond, x, sigma, options: (
                    model.evaluate(cond[0], x, sigma), None))
        self.modules = {}
        for name, own in content.items():
            self.modules[name] = types.ModuleType(name)
            vars(self.modules[name]).update(own)
            if name.startswith("modules."):
                setattr(self.modules["modules"], name.split(".")[1], self.modules[name])
        self.gradio, self.shared = self.modules["gradio"], self.modules["modules.shared"]

    def load(self, *paths) -> None:
        """Execute extensions' scripts, as at the start and at each "Reload UI"."""
        self.callbacks.clear()
        classes = []
        for path in paths:
            content = {"__file__": str(path), "__name__": path.name}
            exec(compile(path.read_text("utf-8"), str(path), "exec"), content)
            found = [value for value in content.values() if isinstance(value, type) and issubclass(value, Script)]
            for value in found:
                value.filename = str(path)
            classes += found
        self.runner = Runner(self, classes)
        for name in ("ui_settings", "before_ui"):
            for function in self.callbacks.get(name, ()):
                function()

    def callback(self, name, params):
        for function in self.callbacks.get(name, ()):
            try:
                function(params)
            except Exception as error:
                self.reported.append(repr(error))

    def process_images(self, p):
        p.scripts.call("before_process", p)
        fix_seed(p)
        count = p.batch_size * p.n_iter
        p.all_seeds = p.seed if isinstance(p.seed, list) else [
            int(p.seed) + i * (p.subseed_strength == 0) for i in range(count)]
        p.all_subseeds = [int(p.subseed) + i for i in range(count)]
        p.all_prompts = [", ".join([p.prompt, *p.styles])] * count
        p.all_hr_prompts = [p.hr_prompt or p.prompt] * count
        chosen = p.override_settings.get("sd_model_checkpoint") or self.shared.opts.sd_model_checkpoint
        if chosen in self.models:
            p.sd_model = self.shared.sd_model = self.models[chosen]
        p.scripts.call("process", p)
        images, texts = [], []
        for iteration in range(p.n_iter):
            p.iteration = iteration
            self.shared.state.skipped = False
            if self.shared.state.interrupted:
                break
            batch = slice(p.iteration * p.batch_size, (p.iteration + 1) * p.batch_size)
            p.seeds, p.subseeds, p.prompts = p.all_seeds[batch], p.all_subseeds[batch], p.all_prompts[batch]
            p.scripts.call("before_process_batch", p, batch_number=iteration, prompts=p.prompts)
            if iteration == 0:
                self.params_txt = self.infotext(p, 0)
            x = noise(p.seeds, p.width, p.height).to(self.device, self.dtype)
            if p.subseed_strength:
                x = x + p.subseed_strength * (noise(p.subseeds, p.width, p.height).to(x) - x)
            if p.init_images:
                x = 0.5 * x
            if not p.firstpass_image:
                x = p.sample(False, x, p.cfg_scale)
            if p.enable_hr and not self.shared.state.interrupted:
                x = torch.nn.functional.interpolate(x, scale_factor=2) / SIGMAS[0]
                x = p.sample(True, x, p.hr_cfg if self.forge else p.cfg_scale)
            p.scripts.call("postprocess_batch", p, images=x, batch_number=iteration)
            p.prompts = p.all_prompts[batch]
            decode = sys.modules["modules.processing"].decode_latent_batch
            for place, image in enumerate(decode(p.sd_model, x)):
                p.batch_index = place
                pp = types.SimpleNamespace(image=image)
                p.scripts.call("postprocess_image", p, pp=pp)
                images.append(pp.image)
            texts += [self.infotext(p, i) for i in range(len(p.seeds))]
        if len(images) > 1:
            self.grid_txt = self.infotext(p, 0, use_main_prompt=True)
        return Processed(p, images, seed=p.all_seeds[0], info=texts[0] if texts else "", infotexts=texts)

    def infotext(self, p, index, use_main_prompt=False):
        all_seeds, all_prompts = p.seeds, p.prompts
        seed = p.all_seeds[0] if use_main_prompt else all_seeds[index]
        found = {"Steps": p.steps, "Sampler": p.sampler_name, "Seed": seed, **p.extra_generation_params}
        for key, value in found.items():
            if callable(value):
                value = value(**{name: each for name, each in locals().items() if name != "self"})
            found[key] = json.dumps(value) if any(mark in str(value) for mark in ",:\n") else value
        return f"{all_prompts[index]}\n" + ", ".join(f"{k}: {v}" for k, v in found.items() if v is not None)

    def post(self, tab: str, payload: dict) -> Processed:
        """POST /sdapi/v1/txt2img or img2img."""
        payload, runner = dict(payload), self.runner
        args = [0, *(component.value for component in runner.inputs[1:])]
        if text := payload.pop("infotext", None):
            found = {key: json.loads(value) if value.startswith('"') else value for key, value in re.findall(
                r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', text.splitlines()[-1])}
            for component, read in (runner.named("Debias").infotext_fields or ()):
                value = read(found)
                if value is not None:
                    assert isinstance(value, type(component.value)), f"{component.label}: {value!r}"
                    args[runner.inputs.index(component)] = value
        for title, given in payload.pop("alwayson_scripts", {}).items():
            script = runner.named(title)
            for i, value in enumerate(given["args"][:script.args_to - script.args_from]):
                args[script.args_from + i] = value
        name, script_args = payload.pop("script_name", None), payload.pop("script_args", [])
        args[0] = 1 + runner.selectable_scripts.index(runner.named(name)) if name else 0
        p = Processing(self, self.shared.sd_model, **payload)
        p.scripts, p.script_args, p.is_api = runner, tuple(args), True
        vars(self.shared.state).clear()  # as it is at first
        return runner.named(name).run(p, *script_args) if name else self.process_images(p)

    @contextlib.contextmanager
    def installed(self):
        """In sys.modules, which is as before afterwards; the shim makes a package of its own there."""
        def of_tests():
            return {name: module for name, module in sys.modules.items()
                    if name in self.modules or name.split(".")[0] == "sd_debias"}

        before = of_tests()
        sys.modules.update(self.modules)
        try:
            yield self
        finally:
            for name in of_tests():
                del sys.modules[name]
            sys.modules.update(before)


def fix_seed(p):
    p.seed = 12345 if p.seed == -1 else p.seed
    p.subseed = 54321 if p.subseed == -1 else p.subseed
