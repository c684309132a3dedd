"""What fails in the middle, over the real host and its double: memory that runs out, Cancel, models that are unloaded,
other nodes' hooks that raise. Nothing is claimed, nothing measured is lost, and the next run is as it ever was."""
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.loop import Calibration, Round
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.calibration.result import profile_of
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import DIRECTIONS, METHODS, Method
from sd_debias.core.method.safe_latent import SafeLatentGuidance
from sd_debias.core.profile.file import Profile

PROMPT = "a photo of a doctor"
WINDOWED = Method("prompt", guidance=SafeLatentGuidance(start=0.2, end=0.6))
OF_ALL = {direction: Method(direction) for direction in DIRECTIONS} | {"in a window": WINDOWED}


def memory_ran_out():
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def cancelled():
    from sd_debias.nodes import workbench
    return workbench.interruption()()


def others_error():
    return KeyError("of another pack")


class Brightness:
    """A judge by the mean of a picture: half of random ones are the first group."""
    name = "brightness"

    def __call__(self, images):
        mean = np.asarray(images, float).mean((1, 2, 3))
        return np.stack([mean > 100, mean <= 100], 1).astype(np.float32)


def network(model):
    """The denoiser, of the host or of its double."""
    return getattr(model.model, "diffusion_model", None) or model.model.network


@contextmanager
def replaced(place, name, call):
    """place.name is `call` for a while."""
    held = vars(place).get(name)
    setattr(place, name, call)
    try:
        yield
    finally:
        delattr(place, name) if held is None else setattr(place, name, held)


@contextmanager
def once(place, name, fail, at=0):
    """Calls of place.name fail, the one after `at` others; the rest are as ever."""
    own, count = getattr(place, name), iter(range(10 ** 6))

    def call(*args, **kwargs):
        if next(count) == at:
            fail()
        return own(*args, **kwargs)

    with replaced(place, name, call):
        yield


# --- calibrations ----------------------------------------------------------------------------------------------------

class Studio:
    """Calibrations of the demo model, small ones: 2 batches of the audit, 2 and 2 of rounds, 1 of the verification."""

    def __init__(self, demo, call, monkeypatch):
        from sd_debias.nodes import calibrate, workbench
        self.demo, self.call, self.calibrate, self.batches, self.before = demo, call, calibrate, [], lambda: None
        self.calibrations, generate, judge = [], workbench.Workbench.generate, Brightness()
        monkeypatch.setattr(calibrate, "record", lambda profile, c, sheet: self.calibrations.append(c))

        def counted(bench, *args, **kwargs):
            self.batches.append(list(args[4]))
            self.before()
            return generate(bench, *args, **kwargs)

        monkeypatch.setattr(workbench.Workbench, "generate", counted)
        self.judge = type("Judge", (), dict(of=lambda _, attribute: lambda images: judge(images), fidelity=None))()
        self.place = dict(text=(demo[1], "encode_from_tokens"), sampling=(network(demo[0]), "forward"),
                          decode=(demo[2], "decode"), judge=(judge.__class__, "__call__"))

    def __call__(self, name, **more):
        """Labels of every round."""
        model, clip, vae = self.demo
        self.batches.clear(), self.calibrations.clear()
        inputs = dict(model=model, clip=clip, vae=vae, attributes=(GENDER.with_target((1, 3)),), classifier=self.judge,
                      prompts=PROMPT, negative="", width=64, height=64, steps=2, cfg=2.0, sampler_name="euler",
                      scheduler="simple", seed=3, images=6, rounds=2, held_out=4, batch_size=4, tolerance=1e-6,
                      method="default", direction="as the method says", rule="as the method says", confidence=0.0,
                      name=name) | more
        self.call(self.calibrate.DebiasCalibrate, **inputs)
        return [(r.kind, r.seeds, r.labels, r.steerings) for c in self.calibrations for r in c.rounds]

    @contextmanager
    def failing(self, phase, batch, fail):
        """A phase fails in a batch, in the middle of sampling."""
        armed = []

        def maybe():
            if armed:
                armed.clear()
                fail()

        def arm():
            if len(self.batches) == batch + 1:
                armed.append(True)

        self.before = arm
        place, name = self.place[phase]
        own = getattr(place, name)
        calls = iter(range(10 ** 6))

        def call(*args, **kwargs):
            if armed and (phase != "sampling" or next(calls)):
                maybe()
            return own(*args, **kwargs)

        try:
            with replaced(place, name, call):
                yield
        finally:
            self.before = lambda: None


@pytest.fixture
def studio(demo, call, monkeypatch):
    return Studio(demo, call, monkeypatch)


_whole: list = []


@pytest.fixture
def whole(studio):
    """(labels, batches) of an undisturbed calibration, made once."""
    if not _whole:
        _whole[:] = studio("undisturbed"), list(studio.batches)
    return _whole


FIRST = {memory_ran_out: "Memory ran out", cancelled: "Interrupted",
         others_error: "An error ended it (KeyError: 'of another pack')"}


@pytest.mark.parametrize("fail, phase, batch", [
    *((fail, *at) for fail in (memory_ran_out, cancelled)
      for at in (("text", 0), ("sampling", 3), ("decode", 1), ("judge", 6))),
    (memory_ran_out, "sampling", 0), (memory_ran_out, "sampling", 6), (others_error, "sampling", 3)])
def test_a_calibration_that_fails_anywhere_says_so_and_goes_on_label_by_label(demo, studio, whole, said, sample, fail,
                                                                              phase, batch):
    labels, batches = whole
    name, plain, kept = f"{fail.__name__} {phase} {batch}", sample(demo[0]), sum(map(len, batches[:batch]))
    with pytest.raises(type(fail())) as caught, studio.failing(phase, batch, lambda: throw(fail())):
        studio(name)
    assert not isinstance(caught.value, ValueError), "the host knows its own errors, and unloads models for some"
    text, _ = said[-1]
    assert f"{FIRST[fail]}. What was measured is kept, {kept} images: queue again to continue" in text
    assert ("begin anew with a smaller batch size" in text) == (fail is memory_ran_out)
    assert studio.batches == batches[:batch + 1] and not studio.calibrations, "nothing is recorded of it"
    if fail is memory_ran_out:
        import comfy.model_management as management
        assert isinstance(caught.value, management.OOM_EXCEPTION)
        management.unload_all_models()  # what ComfyUI does then
    assert torch.equal(sample(demo[0]), plain)
    assert studio(name) == labels
    assert studio.batches == batches[batch:], "nothing twice"


def throw(error):
    raise error


def test_memory_that_runs_out_behind_the_audit_leaves_the_best_rounds_as_a_profile(studio, said, tmp_path, set_folder):
    from sd_debias.nodes import profiles
    set_folder(profiles.FOLDER, tmp_path, {".json"})
    with pytest.raises(torch.cuda.OutOfMemoryError), studio.failing("decode", 4, lambda: throw(memory_ran_out())):
        studio("best so far")
    assert Profile.load(tmp_path / "best so far (unfinished).json").entries[0].after is None
    assert "best so far (unfinished).json" in said[-1][0]
    studio("best so far")


def test_models_that_are_unloaded_between_batches_change_no_label(studio, whole):
    import comfy.model_management as management
    labels, batches = whole

    def unload():
        management.free_memory(1e30, management.get_torch_device())
        management.unload_all_models()

    studio.before = unload
    assert studio("unloaded") == labels and studio.batches == batches


@pytest.mark.comfyui
def test_the_hosts_own_tiled_decoding_after_memory_ran_out_goes_on(demo, studio, whole):
    """ComfyUI decodes in tiles then, which a picture of one tile is not changed by."""
    with once(demo[2].first_stage_model, "decode", lambda: throw(memory_ran_out()), at=3):
        assert studio("tiled") == whole[0]
    assert studio.batches == whole[1]


def test_a_check_that_memory_ran_out_in_says_that_it_begins_anew(demo, studio, call, said, sample):
    from sd_debias.nodes.check import DebiasCheckClassifier
    model, clip, vae = demo
    plain = sample(model)
    with pytest.raises(torch.cuda.OutOfMemoryError), studio.failing("judge", 1, lambda: throw(memory_ran_out())):
        call(DebiasCheckClassifier, model=model, clip=clip, vae=vae, attributes=(GENDER,), classifier=studio.judge,
             prompts=PROMPT, count=5, width=64, height=64, steps=2, cfg=2.0, sampler_name="euler", scheduler="simple",
             seed=0, batch_size=5, confidence=0.0)
    assert said[-1] == ("Memory ran out. A check is made in one go: queue it again.", True)
    assert torch.equal(sample(model), plain)


# --- applied generations ---------------------------------------------------------------------------------------------

@pytest.fixture
def claims(monkeypatch):
    """What is written into pictures' metadata."""
    from sd_debias.nodes import messages
    found = []
    monkeypatch.setattr(messages, "record", found.append)
    return found


def profile(method, **setting):
    """A profile as a calibration leaves it, that pushes every image to the second group."""
    steering = Steering((0.0, 0.0), (0.0, 0.0, 1.0))
    rounds = [Round(kind, (s,), (1, 2), [[0, 1]])
              for kind, s in (("audit", Steering.none(2)), ("held-out", steering))]
    made = Calibration(PROMPT, [GENDER], method, Plan(2, held_out=2), rounds)
    return profile_of("doctor-gender", [made], {"steps": 4, "cfg": 2.0, **setting}, "a test")


class Third:
    """Raises when it is called for the third time; gives back what `of` makes of its arguments."""

    def __init__(self, fail, of):
        self.fail, self.of, self.calls = fail, of, 0

    def __call__(self, *args):
        self.calls += 1
        if self.calls == 3:
            raise self.fail()
        return self.of(*args)


HOOKS = {
    "the network": lambda model, fail: None,
    "model_function_wrapper": lambda model, fail: model.set_model_unet_function_wrapper(
        Third(fail, lambda apply, given: apply(given["input"], given["timestep"], **given["c"]))),
    "sampler_cfg_function": lambda model, fail: model.set_model_sampler_cfg_function(
        Third(fail, lambda args: args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"])),
    "an attention patch": lambda model, fail: model.set_model_attn2_patch(
        Third(fail, lambda q, k, v, options: (q, k, v)))}


@pytest.mark.parametrize("behind", [False, True], ids=["before ours", "behind ours"])
@pytest.mark.parametrize("hook, fail", [("the network", memory_ran_out), ("the network", cancelled),
                                        *((hook, others_error) for hook in list(HOOKS)[1:])])
@pytest.mark.parametrize("method", OF_ALL.values(), ids=OF_ALL)
def test_a_generation_that_fails_claims_nothing_and_the_next_is_clean(demo, call, said, claims, sample, method, hook,
                                                                      fail, behind):
    from sd_debias.nodes.apply import DebiasApply
    model, clip, _ = demo
    plain, applied = sample(model), profile(method)
    guided = sample(call(DebiasApply, model=model, clip=clip, profile=applied)[0])
    assert (guided - plain).abs().max() > 0.02 and len(claims) == 1
    said.clear(), claims.clear()
    theirs = model if behind else model.clone()
    if not behind:
        HOOKS[hook](theirs, fail)
    patched, = call(DebiasApply, model=theirs, clip=clip, profile=applied)
    if behind:
        HOOKS[hook](patched, fail)
    with pytest.raises(type(fail())):
        if hook == "the network":
            with once(network(model), "forward", lambda: throw(fail()), at=2):
                sample(patched)
        else:
            sample(patched)
    assert not said and not claims
    assert torch.equal(sample(model), plain)
    again = sample(call(DebiasApply, model=model, clip=clip, profile=applied)[0])
    assert torch.equal(again, guided) and len(claims) == 1 and "2 of 2 pictures steered" in said[-1][0]
    # A hook that failed once is no hindrance to the same model's next run.
    assert (sample(patched) - guided).abs().max() < 2e-3


def test_groups_texts_that_no_memory_is_left_for_are_encoded_by_the_next_run(demo, call, said, claims, sample):
    from sd_debias.nodes.apply import DebiasApply
    model, clip, _ = demo
    plain, applied = sample(model), profile(Method("embedding"))
    guided = sample(call(DebiasApply, model=model, clip=clip, profile=applied)[0])
    said.clear(), claims.clear()
    with pytest.raises(torch.cuda.OutOfMemoryError), once(clip, "encode_from_tokens", lambda: throw(memory_ran_out())):
        call(DebiasApply, model=model, clip=clip, profile=applied)
    assert not said and not claims and torch.equal(sample(model), plain)
    assert torch.equal(sample(call(DebiasApply, model=model, clip=clip, profile=applied)[0]), guided)


@pytest.mark.parametrize("method", OF_ALL.values(), ids=OF_ALL)
def test_another_nodes_wrapper_that_samples_again_after_memory_ran_out_is_not_guided_twice(demo, call, said, claims,
                                                                                           sample, method):
    from comfy.patcher_extension import WrappersMP

    from sd_debias.nodes.apply import DebiasApply
    model, clip, _ = demo
    guided = sample(call(DebiasApply, model=model, clip=clip, profile=profile(method))[0])
    said.clear(), claims.clear()

    def again(executor, *args, **kwargs):
        try:
            return executor(*args, **kwargs)
        except torch.cuda.OutOfMemoryError:
            return executor(*args, **kwargs)

    theirs = model.clone()
    theirs.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "another pack", again)
    patched, = call(DebiasApply, model=theirs, clip=clip, profile=profile(method))
    with once(network(model), "forward", lambda: throw(memory_ran_out()), at=2):
        found = sample(patched)
    assert torch.equal(found, guided) and len(said) == len(claims) == 1


def other_checkpoint():
    """The demo model with other weights."""
    from sd_debias.nodes.demo_model import load
    model, clip, vae = load()
    with torch.no_grad():
        for parameter in network(model).parameters():
            parameter.mul_(1.05)
    return model, clip, vae


def test_two_checkpoints_of_a_graph_with_one_profile_do_not_mix(demo, call, said, claims, sample):
    from sd_debias.nodes.apply import DebiasApply
    applied = profile(METHODS["default"], model="a.safetensors")
    graph = {name: {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": f"{name}.safetensors"}}
             for name in "ab"} | {f"apply {name}": {"class_type": "DebiasApply", "inputs": {"model": [name, 0]}}
                                  for name in "ab"}
    both = {"a": demo, "b": other_checkpoint()}
    plain = {name: sample(model) for name, (model, *_) in both.items()}
    patched = {name: call(DebiasApply, graph, f"apply {name}", model=model, clip=clip, profile=applied)[0]
               for name, (model, clip, _) in both.items()}
    alone = {"a": sample(patched["a"])}
    assert "other setting" not in said[-1][0]
    alone["b"] = sample(patched["b"])
    assert "other setting: model: calibrated at a.safetensors, used at b.safetensors" in said[-1][0] and said[-1][1]
    assert (alone["a"] - alone["b"]).abs().max() > 1e-3
    import comfy.model_management as management
    for name in "abba":
        assert torch.equal(sample(patched[name]), alone[name]) and torch.equal(sample(both[name][0]), plain[name])
        management.unload_all_models()
