"""Passes over finished images: doubles of ADetailer and SD upscale, which make their passes as these do."""
import numpy as np
import pytest
from webui_hosts import doubled
from webui_settings import apart, debias, keys, payload, save_profile

DETAILER = '''
import copy
from modules import processing, scripts

class AfterDetailerScript(scripts.Script):
    """Draws every image's face anew: another seed, another prompt, and the scripts that are listed."""
    told = []

    def title(self):
        return "ADetailer"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        import gradio
        return [*(gradio.Checkbox(value=None) for _ in range(3))]

    def postprocess_image(self, p, *args, pp=None):
        if getattr(p, "_ad_inner", False) or args[0] is not True:
            return
        listed = getattr(p.host.shared.opts, "ad_script_names", "dynamic_prompting").split(",")
        for face in range(args[2]["faces"]):
            inner = processing.StableDiffusionProcessingTxt2Img(
                sd_model=p.sd_model, prompt=args[2]["ad_prompt"] or p.prompt, seed=p.all_seeds[
                    p.iteration * p.batch_size + p.batch_index] + 7 + face, init_images=[pp.image],
                width=p.width, height=p.height, steps=p.steps, cfg_scale=p.cfg_scale, negative_prompt=p.negative_prompt)
            inner.scripts, inner.script_args, inner._ad_inner = copy.copy(p.scripts), p.script_args, True
            inner.scripts.scripts = [one for one in p.scripts.scripts if one.filename.split("/")[-1][:-3] in listed]
            done = processing.process_images(inner)
            pp.image = done.images[0]
            AfterDetailerScript.told.append((pp.image, done.infotexts[0]))
'''
UPSCALE = '''
from modules import processing, scripts

class Upscale(scripts.Script):
    """Tiles of one image in batches, each with a further seed; twice."""
    told = []

    def title(self):
        return "SD upscale"

    def show(self, is_img2img):
        return True

    def ui(self, is_img2img):
        return []

    def run(self, p, *args):
        seed, tiles = p.seed, [image.copy() for image in p.init_images * 6]
        for again in (0, 1):
            p.seed = seed + again
            for place in range(0, 6, 2):
                p.init_images = tiles[place:place + 2]
                done = processing.process_images(p)
                self.told += done.infotexts
                p.seed = done.seed + 1
        return done
'''
DRAW = dict(weights=[0, 0], probabilities=[0.0, 0.5, 0.5], strength=1.0)


@pytest.fixture(params=[False, True], ids=["A1111", "Forge"])
def host(request, tmp_path):
    file = tmp_path / "!adetailer.py"
    file.write_text(DETAILER)
    other = tmp_path / "sd_upscale.py"
    other.write_text(UPSCALE)
    with doubled(tmp_path, file, other, forge=request.param) as made:
        made.shared.opts.ad_script_names = "sd_debias"
        made.runner.named("Debias").filename = "scripts/sd_debias.py"
        save_profile(made.profiles, steering=DRAW)
        yield made


def drawn(host, ad_prompt="", faces=1, ours=True, seed=20, **more):
    """(images' metadata, [(face, its metadata)])"""
    detailer = host.runner.named("ADetailer")
    detailer.told.clear()
    scripts = {"ADetailer": {"args": [True, False, dict(ad_model="face", ad_prompt=ad_prompt, faces=faces)]}}
    if ours:
        scripts |= debias()["alwayson_scripts"]
    made = host.post("txt2img", payload(batch_size=2, n_iter=2, seed=seed, alwayson_scripts=scripts, **more))
    assert not host.reported
    return made, [keys(text) for text in made.infotexts], [(face, keys(text)) for face, text in detailer.told]


@pytest.mark.parametrize("ad_prompt", ["", "detailed face"])
@pytest.mark.parametrize("faces", [1, 2])
def test_a_face_is_drawn_as_the_group_of_its_picture(host, ad_prompt, faces):
    """Its own seed sent it to another group; the prompt "detailed face" showed nobody."""
    _, pictures, told = drawn(host, ad_prompt, faces)
    sent = [said["Debias sent to"] for said in pictures]
    assert set(sent) == {"man", "woman"}
    assert [said["Debias sent to"] for _, said in told] == [group for group in sent for _ in range(faces)]
    _, _, plain = drawn(host, ad_prompt, faces, ours=False)
    assert all(apart([np.asarray(face, int)], [np.asarray(other, int)]) > 2
               for (face, _), (other, _) in zip(told, plain, strict=True))


def test_a_face_whose_prompt_names_a_group_is_left_alone(host):
    _, pictures, told = drawn(host, "the face of a woman")
    assert all("Debias sent to" in said for said in pictures)
    assert all("Debias weights" not in said for _, said in told)


def test_a_detailer_that_leaves_debias_out_is_said(host):
    host.shared.opts.ad_script_names = "dynamic_prompting"
    made, _, told = drawn(host)
    assert "Add sd_debias to" in made.comments and not any(said for _, said in told)
    host.shared.opts.ad_only_selected_scripts = False
    assert "Add sd_debias to" not in drawn(host)[0].comments


def test_the_tiles_of_one_picture_are_drawn_as_one_group(host):
    """Each batch of tiles had seeds of its own, so that half of a face was sent to another group."""
    from PIL import Image
    given = dict(script_name="SD upscale", init_images=[Image.new("RGB", (64, 64))])
    host.post("img2img", payload(batch_size=2, seed=20, **given, **debias()))
    sent = [keys(text)["Debias sent to"] for text in host.runner.named("SD upscale").told]
    assert not host.reported and sent == ["man"] * 6 + ["woman"] * 6  # of the seeds 20 and 21
