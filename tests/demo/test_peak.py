"""What the benchmarks' count of memory says is what is there."""
import peak
import pytest
import torch
from torch import nn


def test_the_most_memory_is_that_of_tensors_alive_at_once_since_the_last_restart():
    before = torch.zeros(1000)
    with peak.Peak() as counted:
        one = before + 1  # 4,000 bytes
        two = one.view(10, 100) * 2  # 8,000 now
        del one
        two += 1
        three = torch.zeros(500)  # 6,000 now
        del two
        assert (counted.most, counted.now) == (8000, 2000)
        del three
        counted.restart()
        four = torch.zeros(10)
    assert counted.most == four.nbytes == 40


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.wide, self.back = nn.Linear(64, 192), nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (4, 16)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        x = x + nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.back(nn.functional.gelu(self.wide(x)))


@pytest.mark.parametrize("rows", [2, 6])
def test_a_network_without_contents_takes_the_memory_of_one_that_computes(rows):
    network, given = Block().requires_grad_(False), torch.zeros(rows, 512, 64)

    def most() -> int:
        with peak.Peak() as counted:
            assert network(given).shape == given.shape
        return counted.most

    computed = most()
    with peak.without_contents(network):
        assert most() == pytest.approx(computed, rel=0.02)
    assert "forward" not in network.__dict__ and next(network.parameters()).is_meta
