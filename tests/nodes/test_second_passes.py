"""A pass that draws an image anew, as hires fix and detailers do, keeps whom the first pass was steered to."""
import pytest
from nodes_given import ours

DOCTOR, FACE, WOMAN = "a photo of a doctor", "detailed face", "detailed face of a woman"


def node(kind, **inputs):
    return dict(class_type=kind, inputs=inputs)


def text(said):
    return node("CLIPTextEncode", clip=["loader", 1], text=said)


def graph(second=DOCTOR, seed=77, **between):
    """Two samplers; `between` stand between their latents, the last of them before the second."""
    return {"balance": node("DebiasBalance"), "own": text(DOCTOR), "other": text(second),
            "first": node("KSampler", model=["balance", 0], positive=["own", 0], seed=4,
                          latent_image=["empty", 0]), **between,
            "second": node("KSampler", model=["balance", 0], positive=["other", 0], seed=seed,
                           latent_image=[list(between)[-1] if between else "first", 0])}


@pytest.fixture
def passes(call, sample, said, monkeypatch):
    """passes(graph, (node, seed, batch), ...) -> (rows of weights of each pass, what was said of the last)."""
    def passes(made, *runs):
        record = ours.messages.Record(made)
        model = call("DebiasBalance", made, "balance", attributes="gender = 50:50")[0]
        for at, seed, batch in runs:
            monkeypatch.setattr(ours.messages, "running", lambda at=at: (record, at))
            sample(model, seed=seed, batch=batch, steps=1)
        return [entry["Debias rows"] for entry in record], said[-1][0]
    return passes


@pytest.mark.parametrize("second, between", [
    (DOCTOR, {}), (FACE, {}), (FACE, dict(decode=node("VAEDecode", samples=["first", 0]), upscale=node(
        "ImageScaleBy", image=["decode", 0]), encode=node("VAEEncode", pixels=["upscale", 0])))])
def test_the_second_pass_steers_each_picture_to_whom_the_first_one_did(passes, second, between):
    """FaceDetailer has another seed: it drew men anew as women."""
    (first, kept), said = passes(graph(second, **between), ("first", 4, 4), ("second", 77, 4))
    assert first == kept and len({tuple(row) for row in first}) == 2
    assert "those of the pass before" in said


def test_a_detailer_takes_the_pictures_of_a_batch_one_by_one(passes):
    (first, *kept), _ = passes(graph(FACE), ("first", 4, 4), *(("second", 77 + i, 1) for i in range(4)))
    assert [row for rows in kept for row in rows] == first


def test_pictures_that_are_picked_out_of_a_batch_keep_their_own(passes):
    picked = dict(pick=node("LatentFromBatch", samples=["first", 0], batch_index=1, length=2))
    (first, kept), _ = passes(graph(**picked), ("first", 4, 4), ("second", 77, 2))
    assert kept == first[1:3]


def test_one_picture_that_is_drawn_anew_several_times_stays_who_it_is(passes):
    (first, kept), _ = passes(graph(), ("first", 5, 1), ("second", 77, 3))
    assert kept == first * 3


def test_the_tiles_of_a_picture_stay_one_person(passes):
    """Ultimate SD Upscale takes tiles of all images in one batch: half of a face was steered to another group."""
    made = graph()
    made["second"]["inputs"].update(tile_width=64, batch_size=2)
    (first, kept), said = passes(made, ("first", 4, 4), ("second", 77, 8))
    assert kept == [row for row in first for _ in range(2)] and "is not known" not in said


def test_where_it_is_not_known_which_picture_it_is_the_seed_decides_and_it_is_said(passes):
    (_, alone), _ = passes(graph(second=DOCTOR, seed=6), ("first", 90, 2), ("first", 6, 3))
    (*_, unknown), said = passes(graph(seed=6), ("first", 4, 4), ("second", 6, 3))
    assert unknown == alone and "is not known" in said and "pass before," not in said


def test_what_the_second_prompt_names_itself_is_left_alone(passes):
    (first, kept), said = passes(graph(WOMAN), ("first", 4, 4), ("second", 77, 4))
    assert not any(map(any, kept)) and "'woman'" in said and any(map(any, first))


def test_a_pass_over_pictures_that_nothing_steered_goes_by_its_own_seed(passes):
    (own,), said = passes(graph(), ("second", 77, 4))
    assert any(map(any, own)) and "pass before" not in said


def test_the_nearest_pass_counts_and_models_and_references_are_not_its_pictures():
    made = graph(FACE, reference=node("VAEEncode", pixels=["first", 0]))
    made["third"] = node("KSampler", model=["second", 0], positive=["first", 0], latent_image=["second", 0])
    known = {"first", "second"}
    assert ours.graph.pass_before(made, "third", known) == ("second", 0, None)
    made["third"]["inputs"]["latent_image"] = ["empty", 0]
    assert ours.graph.pass_before(made, "third", known) is None


def test_each_pass_is_named_and_what_all_say_is_said_once(passes):
    made = graph(FACE)
    made["second"]["_meta"] = dict(title="Faces")
    _, said = passes(made, ("first", 4, 4), ("second", 77, 4))
    lines, technical = said.split("Details:")
    assert "KSampler: balance: 4 of 4 images steered (2 to woman, 2 to man)" in lines
    assert "Faces: balance: 4 of 4 images" in lines and lines.count("calibrate (about") == 1
    assert "mean shift" in technical and "mean shift" not in lines
