"""Values that are wired into a widget: the host holds them to no range."""
import asyncio
import json
import math
import types

import pytest
import torch

from sd_debias.core.errors import DebiasError
from sd_debias.core.profile.file import Profile


def profile() -> Profile:
    gender = dict(name="gender", groups=[dict(name="man"), dict(name="woman")])
    return Profile.from_dict(dict(
        schema="1.0", name="x", method={}, attributes=[gender],
        entries=[dict(prompt="a photo of a doctor", steerings=[dict(weights=[0, 0], probabilities=[0, 0, 1])])]))


@pytest.mark.parametrize("strength", [math.nan, math.inf, -1.0, 1e30])
def test_a_wired_strength_that_no_picture_survives_is_refused(call, said, demo, strength):
    from sd_debias.nodes.apply import DebiasApply
    from sd_debias.nodes.text_encode import DebiasTextEncode
    model, clip, _ = demo
    with pytest.raises(DebiasError, match="Expected a strength from 0"):
        call(DebiasApply, model=model, clip=clip, profile=profile(), strength=strength)
    with pytest.raises(DebiasError, match="Expected a strength from 0"):
        call(DebiasTextEncode, clip=clip, text="a photo of a doctor", profile=profile(), strength=strength)


@pytest.mark.parametrize("batch_size", [0, -1, 2**31, 2**70])
def test_a_wired_batch_size_without_end_is_refused(call, said, demo, batch_size):
    from sd_debias.nodes.text_encode import DebiasTextEncode
    with pytest.raises(DebiasError, match="Expected a batch size of 1 to 4096"):
        call(DebiasTextEncode, clip=demo[1], text="a photo of a doctor", profile=profile(), batch_size=batch_size)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "a" * 300, "../../etc", "\n"])
def test_a_wired_folder_that_no_system_takes_is_not_there(call, said, comfyui, name):
    from sd_debias.nodes.classifier import DebiasAskClassifier
    from sd_debias.nodes.folder import DebiasLoadFolder
    with pytest.raises(DebiasError, match="There is no model folder"):
        call(DebiasAskClassifier, model=name)
    if name.strip():
        with pytest.raises(DebiasError, match="There is no folder"):
            call(DebiasLoadFolder, folder=name)


@pytest.mark.parametrize("text", ["5", "[1]", '"/etc/passwd"', "[" * 100_000, "null"])
def test_wired_corrections_that_are_none_are_refused_and_name_no_file(call, said, demo, text):
    from sd_debias.nodes.audit import DebiasAudit
    from sd_debias.nodes.classifier import DEMO, clip_judge
    from sd_debias.core.attribute import GENDER
    pictures = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(DebiasError, match="Expected the corrections as JSON|Expected a file of corrections"):
        call(DebiasAudit, images=[pictures], classifier=[clip_judge(DEMO)], attributes=[(GENDER,)], corrections=[text])


def test_pages_that_send_nonsense_get_an_answer(comfyui):
    web = pytest.importorskip("aiohttp.web")
    from sd_debias.nodes import panel
    server = types.SimpleNamespace(routes=web.RouteTableDef())
    panel.register(server)
    asked = {(route.method, route.path): route.handler for route in server.routes}

    def request(text="", **query):
        async def body():
            return json.loads(text)
        return types.SimpleNamespace(json=body, query=query, content_length=len(text))

    for text in ("", "[]", "5", "{}", '{"client": 5}', '{"client": ""}'):
        assert asyncio.run(asked["POST", panel.PAGES](request(text))).status == 200
    for prompts in ("9" * 5000, "-1", "0", "x", "\u0663"):
        answer = asyncio.run(asked["GET", panel.ESTIMATE](request(sure="normal", prompts=prompts)))
        assert answer.status == 200 and ("About" in answer.text) == (prompts == "\u0663"), "a digit of another script"
