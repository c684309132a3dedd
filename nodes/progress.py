"""Which step of a pass runs, without waiting for the card."""
from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

KEY = "sd-debias"  # of our wrappers


class Progress:
    """Share of the schedule, 0 at its first step, at a sigma.

    Steps and evaluations are counted where the sampler is known; of others the step is read from sigma, for
    which a GPU waits. A pass over a part of the schedule (denoise below 1, start and end steps) covers that
    part of the shares.
    """

    def __init__(self, sigmas: Tensor, model_sampling, further: tuple[int, ...] | None = None):
        """further: as in `FURTHER`; None reads sigma."""
        self.further, self.over, self.evaluations = further, -1, 0  # since the step that is over
        self.sigmas = [float(s) for s in sigmas]
        self.steps = max(len(self.sigmas) - 1, 1)
        whole = float(model_sampling.timestep(model_sampling.sigma_max)) or 1.0

        def share(sigma):
            return 1.0 if sigma <= 0 else 1 - float(model_sampling.timestep(torch.tensor(sigma))) / whole

        self.first, self.last = share(self.sigmas[0]), share(self.sigmas[-1])
        # Some schedules begin, or end, up to one step short of the model's range and are whole all the same.
        if self.first <= 1 / self.steps:
            self.first = 0.0
        if self.last >= 1 - 1 / self.steps:
            self.last = 1.0

    def step(self, timestep: Tensor) -> int:
        """Number of the step, from 0, that an evaluation at this sigma belongs to."""
        if self.further is not None:
            if self.over < 0:
                return 0
            later = max(self.evaluations - 1, 0)
            return min(self.over + (self.further[later] if later < len(self.further) else 1), self.steps - 1)
        sigma = float(timestep.flatten()[0])
        return max(sum(s >= sigma * (1 - 1e-4) for s in self.sigmas[:-1]) - 1, 0)

    def ended(self, step: int) -> None:
        """The sampler has called back for a step."""
        self.over, self.evaluations = step, 0

    def count(self, guider) -> None:
        """Count a guider's evaluations, where the sampler makes several in a step."""
        if self.further:
            from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
            add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, self._predict_noise, guider.model_options,
                                 is_model_options=True)

    def _predict_noise(self, executor, *args, **kwargs):
        self.evaluations += 1
        return executor(*args, **kwargs)

    def __call__(self, timestep: Tensor) -> float:
        return self.first + (self.last - self.first) * self.step(timestep) / self.steps


# ComfyUI's samplers that evaluate the model at a step's sigma and then call back: measured by
# tests/nodes/test_guidance.py on the host itself. Of those that go on evaluating behind it: how many steps
# after the one that they called back for each of these evaluations is.
ONCE = ("euler", "euler_ancestral", "euler_cfg_pp", "euler_ancestral_cfg_pp", "lms", "dpmpp_2m", "dpmpp_2m_cfg_pp",
        "dpmpp_2m_sde", "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde",
        "dpmpp_3m_sde_gpu", "ddpm", "lcm", "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp",
        "res_multistep_ancestral", "res_multistep_ancestral_cfg_pp", "gradient_estimation",
        "gradient_estimation_cfg_pp", "er_sde", "sa_solver")
FURTHER = {**dict.fromkeys(ONCE, ()), **dict.fromkeys((
    "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_sde_gpu",
    "seeds_2"), (0,)), "seeds_3": (0, 0), "heun": (1,), "heunpp2": (1, 2)}


def further(sampler) -> tuple[int, ...] | None:
    """As in `FURTHER`; None for a sampler that is not known."""
    function = getattr(sampler, "sampler_function", None)
    if function is None or getattr(function, "__module__", "") != "comfy.k_diffusion.sampling":
        return None
    return FURTHER.get(function.__name__.removeprefix("sample_"))


def told(ended: Callable[[int], None], args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments behind `sigmas`, (denoise_mask, callback ...), with a callback that also says which step ended."""
    callback = kwargs.get("callback") if len(args) < 2 else args[1]

    def wrapped(step, *given):
        ended(step)
        return callback(step, *given) if callback is not None else None

    if len(args) < 2:
        return args, {**kwargs, "callback": wrapped}
    return (args[0], wrapped, *args[2:]), kwargs
