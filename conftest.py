"""Fixtures that several folders share."""

import gc
import os

import pytest

pytest_plugins = ['report_fixtures']


def pytest_configure(config):
    """Hides the GPUs from tests of what holds on a CPU.

    Child processes inherit it, and none is forked after CUDA has started.
    MMEngine looks for GPUs as it is imported, so nothing here imports it.
    """
    if 'gpu' not in config.option.markexpr.replace('not gpu', ''):
        os.environ['CUDA_VISIBLE_DEVICES'] = ''


def pytest_collectstart():
    """Imports the package ahead of the tests' own imports of MMPretrain.

    It leaves out what would not load beside other installed packages.
    """
    import ltml_mm  # noqa: F401


def pytest_collection_finish():
    """Spares the collection of garbage what the imports made.

    Every dataset of MMEngine collects, over millions of objects then.
    """
    gc.freeze()


@pytest.fixture(scope='session', autouse=True)
def _image_cache(tmp_path_factory):
    """Keeps decoded images out of the machine's temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp('cache')
        patch.setenv('LTML_IMAGE_CACHE', str(folder))
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keeps neighbours of a file, which share trainings, in one process."""
    from xdist.scheduler import WorkStealingScheduling

    if config.option.dist == 'load':  # What ``-n`` alone means.
        return WorkStealingScheduling(config, log)
    return None


def pytest_runtest_setup(item):
    """Skips what only a GPU can show where there is none."""
    if item.get_closest_marker('gpu'):
        import torch

        if not torch.cuda.is_available():
            pytest.skip('needs a GPU')


@pytest.fixture
def exact_floats():
    """Float32 on a GPU, not the rounded TF32 of its convolutions."""
    import torch

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """The folder of a tiny training's images, which no test changes."""
    from tiny_training import write_data

    return write_data(tmp_path_factory.mktemp('data'))


@pytest.fixture
def quiet():
    """Without MMEngine's log of every parameter's initialisation."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    yield
    logger.setLevel(level)


@pytest.fixture(scope='module')
def quick():
    """Leaves out what takes most of the time of so small a run."""
    from hasten import hasten

    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        # run_tool sets it for the rest of the process.
        patch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
        yield


@pytest.fixture(autouse=True)
def _readable_checkpoints():
    """What ``import ltml_mm`` allows, MMEngine's own loading takes away."""
    from ltml_mm.files import allow_mmengine_checkpoints

    allow_mmengine_checkpoints()


@pytest.fixture(scope='module', autouse=True)
def _small_runs(request):
    """Every run of the engine's tests is small."""
    if request.path.parent.name == 'test_engine':
        request.getfixturevalue('quick')
