"""What the benchmarks' count of memory says is what is there."""
import peak
import torch


def test_the_most_memory_is_that_of_tensors_alive_at_once():
    before = torch.zeros(1000)
    with peak.Peak() as counted:
        one = before + 1  # 4,000 bytes
        two = one.view(10, 100) * 2  # 8,000 now
        del one
        two += 1
        three = torch.zeros(500)  # 6,000 now
        del two
    assert (counted.most, counted.now) == (8000, 2000) and three.numel() == 500


def test_what_came_before_a_restart_is_not_the_most():
    with peak.Peak() as counted:
        one = torch.zeros(1000)
        del one
        counted.restart()
        two = torch.zeros(10)
    assert counted.most == two.nbytes == 40
