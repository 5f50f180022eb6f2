"""Half of a batch on each of two processes learns what the whole does."""

import pytest
import torch
from forked import finish, rank_environments, start
from gradient_case import OPTIONS, gradients, save_gradients


@pytest.fixture(scope='module')
def halves(tmp_path_factory):
    """What each of two processes found, for all options."""
    folder = tmp_path_factory.mktemp('ranks')
    processes = [
        start(save_gradients, str(folder / f'{rank}.pth'), environ)
        for rank, environ in enumerate(rank_environments())
    ]
    assert finish(*processes, timeout=120) == [0, 0]
    return [
        torch.load(folder / f'{rank}.pth', weights_only=True)
        for rank in range(2)
    ]


@pytest.mark.parametrize('index', range(len(OPTIONS)))
def test_two_halves_give_the_gradients_of_the_whole(halves, index):
    expected = gradients(OPTIONS[index])
    for rank in range(2):
        found = halves[rank][index]
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            if value is None:
                assert found[name] is None, name
                continue
            torch.testing.assert_close(
                found[name], value, rtol=0, atol=1e-12, msg=name
            )
    assert expected['backbone.conv1.weight'].abs().max() > 1e-6


def test_the_options_are_told_apart(halves):
    seen = [gradients['heads.uniform.fc.weight'] for gradients in halves[0]]
    for index, one in enumerate(seen):
        for other in range(index):
            assert not torch.allclose(one, seen[other], rtol=1e-6), other
