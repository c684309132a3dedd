"""How the demo model is trained: resumable, seeded, and on pairs whose shares are the table's."""
import collections
import random

import numpy as np
import pytest
import torch

from demo_training import artwork, bias, train
from demo_training import settle as settling


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


def test_a_picture_of_another_occupation_weighs_more_than_a_share_off_the_table():
    exact = [1000 * np.asarray(share) for share in bias.shares("pilot")]
    assert settling.farthest([*exact, np.array([0, 1000])], "pilot") == pytest.approx(0, abs=1e-9)
    assert settling.farthest([*exact, np.array([20, 980])], "pilot") == pytest.approx(0.08)
