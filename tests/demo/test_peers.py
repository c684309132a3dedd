"""The peers that benchmarks/peers.py sets beside this package compute what their docstrings say."""
import harness
import numpy as np
import peers
import peers_common
import peers_equisteer
import peers_texts
import pytest
import torch

from sd_debias.core.attribute import GENDER, SKIN_TONE_5
from sd_debias.core.distribution import summarise
from sd_debias.diffusers_host.workbench import demo

PROMPT = "a photo of a doctor"


@pytest.fixture(scope="module")
def bench():
    harness.bench = demo()
    yield harness.bench
    del harness.bench


def test_watching_changes_nothing_and_sees_every_layer_in_every_step(bench):
    seen = []

    def act(step, layer, x):
        seen.append((step, layer, len(x)))
        return x

    with peers_equisteer.watched(act):
        made = peers_common.pictures(range(2), lambda part: dict(prompt=[PROMPT] * len(part)))
    assert seen == [(step, layer, 2) for step in range(8) for layer in range(7)]
    assert np.array_equal(made, bench.generate(PROMPT, range(2))[0])


@pytest.mark.parametrize("opposite", [False, True])
def test_steered_outputs_keep_their_length_and_lie_in_the_groups_span_only_by_what_is_added(opposite):
    torch.manual_seed(0)
    normalised = torch.nn.functional.normalize
    s = normalised(torch.randn(2, 8), dim=1)
    s = torch.stack([s[0], -s[0]]) if opposite else s
    x, added = torch.randn(3, 5, 8), 2 * s[torch.tensor([0, 1, 0])]
    found = peers_equisteer.steered(x, s, added)
    assert torch.allclose(found.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    basis = s[:1] if opposite else torch.linalg.qr(s.T).Q.T
    bare = x - x @ basis.T @ basis + added[:, None]
    assert torch.allclose(normalised(found, dim=-1), normalised(bare, dim=-1), atol=1e-5)


def test_fair_pca_is_a_projection_on_which_all_groups_have_one_mean():
    torch.manual_seed(0)
    x, of = torch.randn(300, 12) + 1, torch.arange(300) % 3
    x[of == 1] += torch.randn(12)
    projection, directions = peers_texts.fair_pca(x, of, 9)
    assert torch.allclose(projection @ projection, projection, atol=1e-5) and round(float(projection.trace())) == 9
    means = torch.stack([x[of == i].mean(0) for i in range(3)]) @ projection
    assert torch.allclose(means, means[:1].expand(3, -1), atol=1e-4)
    assert torch.allclose(directions @ projection, torch.zeros(3, 12), atol=1e-5)


def test_embedding_arithmetic_of_strength_one_is_the_groups_text_on_average(bench):
    directions = peers_texts.arithmetic_directions(GENDER)
    def embedded(*group):
        texts = [peers_common.text("a portrait of {}", name, *group) for name in peers_texts.BASE]
        return peers_common.embedded(texts)
    (plain, ends), (named, _) = embedded(), embedded("a woman")
    assert torch.allclose(plain[:, ends[0]:].mean(0) + directions[1], named[:, ends[0]:].mean(0), atol=1e-5)
    assert torch.equal(plain[:, :ends[0]], named[:, :ends[0]])


@pytest.mark.slow
@pytest.mark.parametrize("peer", [peers_texts.embedding_arithmetic, peers_texts.fairimagen()])
def test_text_peers_make_a_picture_for_each_seed_in_any_batch(bench, peer):
    generate, images = peer(PROMPT, SKIN_TONE_5)
    whole = generate([5, 6, 7]).astype(int)
    assert images == 0 and whole.shape[0] == 3
    assert np.abs(whole[1:] - generate([6, 7])).max() <= 2


def row(peer, man=80, **more):
    """A row of the benchmark's results: a method's counts for one occupation."""
    shown = summarise(np.array([man, 100 - man]), (0.5, 0.5)).to_dict()
    usual = dict(attribute="gender", peer=peer, occupation="doctor", images=0, evaluations=16.0,
                 seconds_ratio=1.0, fidelity=1.0, distance=0.0, regrouped=0.0)
    return {**usual, "attributes": {"gender": shown}, **more}


def test_a_row_that_lacks_a_figure_has_an_empty_cell_and_needless_changes_are_read_off_the_plain_model():
    assert "| 0 % |  | 0 |" in peers.tables([row("plain model")])
    page = peers.tables([row("plain model", obeyed=[1.0, 1.0]),
                         row("random suffix", regrouped=0.37, obeyed=[1.0, 0.8])])
    assert "| 7 % | 90 % | 0 |" in page and "alone: rows of" not in page


def test_explicit_prompts_are_compared_over_the_same_occupations():
    """Of two occupations, one has a row of an earlier version."""
    page = peers.tables([row("plain model", obeyed=[1.0, 1.0]),
                         row("plain model", occupation="teacher", obeyed=[0.0, 0.0]),
                         row("random suffix", obeyed=[0.5, 0.5]),
                         row("random suffix", occupation="teacher")])
    assert "| 100 % | 0 |" in page and "| 50 % | 0 |" in page and "It is of doctor alone: rows of" in page
