"""How the demo model is trained: resumable, seeded, and on pairs whose shares are the table's."""
import collections
import random

import numpy as np
import pytest
import torch

from sd_debias.core.demo import artwork, bias, train
from sd_debias.core.demo import settle as settling


def pairs(kinds, n=42_000, table=bias.shares):
    rng = random.Random(0)
    return [train.example(rng, number, table, kinds) for number in range(n)]


def test_pairs_that_leave_gender_and_tone_open_follow_the_table_closely():
    seen = collections.defaultdict(list)
    for _, subject, _, gender, tone in pairs(dict(neutral=1)):
        seen[subject].append((gender, tone))
    for subject in artwork.SUBJECTS:
        (men, _), tones = bias.shares(subject)
        assert np.mean([gender == "man" for gender, _ in seen[subject]]) == pytest.approx(men, abs=0.005)
        for name, share in zip(artwork.TONES, tones):
            assert np.mean([tone == name for _, tone in seen[subject]]) == pytest.approx(share, abs=0.005)
        both = np.mean([pair == ("man", "fair") for pair in seen[subject]])
        assert both == pytest.approx(men * tones[0], abs=0.02), "gender and tone are independent"


def test_a_caption_that_names_a_gender_is_paired_with_it():
    for text, _, _, gender, _ in pairs(dict(both=1), 2000):
        words = set(text.replace(",", "").split())
        assert bool(words & {"man", "male"}) == (gender == "man")


def test_corrected_shares_undo_what_training_adds():
    def trained(table):  # a model that doubles the odds of the first tone and halves those of men
        def shown(shares, factors):
            odds = np.multiply(shares, factors)
            return 1e6 * odds / odds.sum()
        return {s: [shown(table(s)[0], (0.5, 1)), shown(table(s)[1], (2, 1, 1, 1, 1))] for s in artwork.SUBJECTS}

    table = train.corrected([(bias.shares, trained(bias.shares))])
    for subject, (genders, tones) in trained(table).items():
        assert genders / genders.sum() == pytest.approx(bias.shares(subject)[0], abs=1e-4)
        assert tones / tones.sum() == pytest.approx(bias.shares(subject)[1], abs=1e-4)


def test_an_interrupted_training_ends_as_one_in_one_go(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "CHECKPOINT_EVERY", 3)

    def run(work, interrupted_at=None):
        work.mkdir(exist_ok=True)
        torch.manual_seed(0)
        network = torch.nn.Linear(4, 1)

        def loss(step):
            if step == interrupted_at:
                raise KeyboardInterrupt
            return network(torch.randn(8, 4)).square().mean()

        return train.fit("net", network, loss, steps=8, lr=0.1, work=work, ema_decay=0.9)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "two", interrupted_at=7)
    one, two = run(tmp_path / "one"), run(tmp_path / "two")
    assert torch.equal(one.weight, two.weight)


def test_tokens_settle_where_the_counts_are_the_table(monkeypatch):
    """A model whose log-odds are linear in its token, but not quite as the gradients say."""
    torch.manual_seed(0)
    directions = torch.randn(7, 12)
    directions -= torch.cat([directions[:2].mean(0).expand(2, -1), directions[2:].mean(0).expand(5, -1)])
    embedding = torch.nn.Embedding(len(artwork.SUBJECTS), 12)
    rows = {subject: i for i, subject in enumerate(artwork.SUBJECTS)}
    start = {subject: torch.randn(7) / 4 for subject in artwork.OCCUPATIONS}
    torch.nn.init.zeros_(embedding.weight)
    asked = []

    class Network(torch.nn.ModuleDict):
        def __init__(self):
            super().__init__(dict(text=torch.nn.Module()))
            self["text"].get_input_embeddings = lambda: embedding

    def count(subjects):
        asked.append(len(subjects))
        found = {}
        for subject in subjects:
            table = torch.cat([torch.tensor(share).log() for share in bias.shares(subject)])
            odds = table + start[subject] + 1.6 * directions @ embedding.weight[rows[subject]].detach()
            found[subject] = [1e5 * torch.softmax(part, 0).numpy() for part in odds.split([2, 5])]
        return found

    monkeypatch.setattr(settling, "likelihood_gradients", lambda *_: directions)
    monkeypatch.setattr(settling, "first_token", lambda _, subject: rows[subject])
    settling.settle(None, None, Network(), None, count, rounds=8, near=0.01)
    assert asked[0] == len(artwork.OCCUPATIONS) > asked[-1], "what has settled is left alone"
    assert max(settling.farthest(counts, subject) for subject, counts in count(artwork.OCCUPATIONS).items()) < 0.015
