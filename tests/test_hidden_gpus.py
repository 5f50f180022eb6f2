import torch


def test_no_gpu_is_seen():
    """Whatever the machine has: CPU promises are tested on CPUs."""
    assert not torch.cuda.is_available()
