"""Several persons in one image: regions with texts of their own, as masked and combined conditionings make them."""
import pytest
import torch
from nodes_given import ours

LEFT, RIGHT, SCENE = "a photo of a doctor", "a photo of a nurse", "a street"
MASKS = torch.zeros(2, 1, 64, 64)
MASKS[0, ..., :32], MASKS[1, ..., 32:] = 1, 1


def node(kind, **inputs):
    return dict(class_type=kind, inputs=inputs)


@pytest.fixture
def regions(call, sample, said, monkeypatch):
    """regions(texts, batch) -> (positive entries as they were sampled, the record, what was said)"""
    def regions(*texts, batch=8, masked=True, attributes="gender = 50:50", detailed=False,
                negative=""):
        graph = {"balance": node("DebiasBalance"), **{
            f"text {i}": node("CLIPTextEncode", clip=["loader", 1], text=own) for i, own in enumerate(texts)}}
        for i in range(1, len(texts)):
            graph[f"both {i}"] = node("ConditioningCombine", conditioning_1=[f"both {i - 1}" if i > 1 else "text 0", 0],
                                      conditioning_2=[f"text {i}", 0])
        graph["no"] = node("CLIPTextEncode", clip=["loader", 1], text=negative)
        graph["first"] = node("KSampler", model=["balance", 0], positive=[f"both {len(texts) - 1}", 0],
                              negative=["no", 0], seed=4)
        record, seen = ours.messages.Record(graph), []
        monkeypatch.setattr(ours.messages, "running", lambda: (record, "first"))
        own, = (ours.guidance.conditioning.shift,)

        def shift(positive, weights, *more):
            seen[:] = [list(own(positive, weights, *more)[0])]
            return own(positive, weights, *more)

        monkeypatch.setattr(ours.guidance.conditioning, "shift", shift)
        model = call("DebiasBalance", graph, "balance", attributes=attributes)[0]
        positive = [[cond, {**options, **({"mask": MASKS[i]} if masked and i < 2 else {})}]
                    for i, own_text in enumerate(texts) for cond, options in sample.encode(own_text)]
        sample(model, positive=positive, seed=4, batch=batch, steps=1)
        if detailed:
            graph["faces"] = node("FaceDetailer", model=["balance", 0], positive=["text 0", 0], image=["first", 0],
                                  seed=9)
            monkeypatch.setattr(ours.messages, "running", lambda: (record, "faces"))
            sample(model, positive=texts[0], seed=9, batch=1, steps=1)
        return (seen or [None])[0], record[-1], said[-1][0]
    return regions


@pytest.mark.parametrize("right", [LEFT, RIGHT])
def test_each_person_gets_a_group_of_its_own(regions, sample, right):
    """Both were sent to one group, by the draw of the texts as one prompt."""
    entries, record, told = regions(LEFT, right)
    drawn = [tuple(row) for row in record["Debias rows"]]
    assert {len(row) for row in drawn} == {4} and len(set(drawn)) == 4, "all four pairs of groups"
    for place, own in enumerate((LEFT, right)):
        for image, row in enumerate(drawn):
            group = "a man" if row[2 * place] else "a woman"
            (wanted, _), = sample.encode(f"{own}, {group}")
            assert torch.allclose(entries[place]["cross_attn"][image], wanted[0], atol=1e-5)
    assert record["Debias persons"] == [LEFT, right] and f"'{right}': " in told and "to woman" in told
    assert "count as one prompt" not in told


def test_a_region_without_a_person_or_that_names_a_group_is_left_alone(regions):
    entries, record, _ = regions("a photo of a woman", RIGHT, SCENE, batch=2)
    assert record["Debias persons"] == [RIGHT]
    assert [any(row[at:at + 2]) for row in record["Debias rows"] for at in (0, 2, 4)] == [False, True, False] * 2


def test_texts_that_are_combined_everywhere_stay_one_prompt(regions):
    _, record, told = regions(LEFT, RIGHT, masked=False)
    assert {len(row) for row in record["Debias rows"]} == {2} and "count as one prompt" in told


def test_a_detailer_does_not_make_both_persons_one_group(regions):
    """Which of the two it draws is not known."""
    _, record, told = regions(LEFT, RIGHT, batch=1, detailed=True)
    assert record["Debias rows"] == [[0.0, 0.0]] and "is left alone" in told


def test_a_negative_prompt_that_names_a_group_leaves_regions_alone(regions):
    entries, record, _ = regions(LEFT, RIGHT, batch=2, negative="blurry, woman")
    assert entries is None and not any(map(any, record["Debias rows"]))


def test_an_edit_whose_encoder_looks_at_the_image_is_left_alone_and_told(call, sample, said, monkeypatch, demo):
    """Qwen-Image-Edit's text follows its image's tokens; the groups' words were added to those of the image."""
    graph = {"balance": node("DebiasBalance"), "photo": node("LoadImage", image="photo.png"),
             "edit": node("TextEncodeQwenImageEditPlus", clip=["loader", 1], prompt=LEFT, image1=["photo", 0]),
             "first": node("KSampler", model=["balance", 0], positive=["edit", 0], negative=["edit", 0], seed=4)}
    record = ours.messages.Record(graph)
    monkeypatch.setattr(ours.messages, "running", lambda: (record, "first"))
    made = [sample(call("DebiasBalance", graph, "balance", attributes="gender = 50:50")[0], seed=4, batch=2, steps=1)]
    assert torch.equal(made[0], sample(demo[0], seed=4, batch=2, steps=1))
    text, warning = said[-1]
    assert warning and "looks at this edit's image" in text and not any(map(any, record[-1]["Debias rows"]))
    graph["edit"] = node("CLIPTextEncode", clip=["loader", 1], text=LEFT)
    graph["with it"] = node("ReferenceLatent", conditioning=["edit", 0], latent=["photo", 0])
    graph["first"]["inputs"]["positive"] = ["with it", 0]
    sample(call("DebiasBalance", graph, "balance", attributes="gender = 50:50")[0], seed=4, batch=2, steps=1)
    assert all(map(any, record[-1]["Debias rows"]))
