"""One import registers everything, into the root registries."""

import subprocess
import sys

import pytest
import torch
from mmengine.logging import HistoryBuffer
from numpy import __version__ as numpy_version

from ltml_mm.files import allow_mmengine_checkpoints

PROMISED = {
    'MODELS': (
        'CollaborativeTwoBranchClassifier LogitCompensatedBCELoss '
        'CrossBranchConsistencyLoss TwoStreamDataPreprocessor '
        'CollaborativeTTA TokenPooling ReweightedBCELoss '
        'ClassBalancedFocalLoss MultiLabelLDAMLoss DistributionBalancedLoss'
    ),
    'DATASETS': (
        'LongTailMultiLabelDataset VOCLTDataset COCOLTDataset '
        'LongTailDemoDataset TwoStreamDataset'
    ),
    'DATA_SAMPLERS': (
        'ClassAwareMultiLabelSampler UniformSampler TwoStreamSampler'
    ),
    'TRANSFORMS': 'RandomRatioCrop PhotoMetricDistortion',
    'METRICS': 'GroupedAveragePrecision PredictionCollector',
    'HOOKS': (
        'ClassStatisticsHook ResumeCheckHook ScheduleCheckHook '
        'ClassReportHook ExactResumeHook SafeCheckpointHook NumericsHook'
    ),
    'OPTIM_WRAPPERS': 'GuardedOptimWrapper GuardedAmpOptimWrapper',
}

# What a user's process does: a single import, then stock look-ups and loads.
FRESH_PROCESS = f"""
import sys
import ltml_mm
import torch
from mmengine import registry
from mmengine.registry import DefaultScope
import mmpretrain.registry as child
DefaultScope.get_instance('test', scope_name='mmpretrain')
for name, types in {PROMISED!r}.items():
    root = getattr(registry, name)
    for type in types.split():
        kind = root.module_dict[type]
        assert kind.__module__.startswith('ltml_mm.'), kind
        assert getattr(child, name).get(type) is kind, (name, type)
        with root.switch_scope_and_registry(None) as scoped:
            assert scoped.scope == 'mmpretrain', scoped
            assert scoped.get(type) is kind, (name, type)
for path in sys.argv[1:]:
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint['history'].mean() == 2.0, checkpoint
print('all found and loaded')
"""


@pytest.fixture
def checkpoints(tmp_path):
    """A checkpoint as this numpy writes it, and as the other generation."""
    path = tmp_path / 'epoch_1.pth'
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    content = {'state_dict': {}, 'history': history}
    torch.save(content, path)
    mine, other = b'numpy._core.multiarray', b'numpy.core.multiarray'
    if numpy_version.startswith('1.'):
        mine, other = other, mine
    # The legacy format, since it has no table of offsets.
    legacy = tmp_path / 'other.pth'
    torch.save(content, legacy, _use_new_zipfile_serialization=False)
    data = legacy.read_bytes()
    assert mine in data
    legacy.write_bytes(data.replace(mine, other))
    return [str(path), str(legacy)]


def test_a_single_import_registers_and_allows_everything(checkpoints):
    result = subprocess.run(
        [sys.executable, '-c', FRESH_PROCESS, *checkpoints],
        capture_output=True,
        text=True,
    )
    assert result.stdout.endswith('all found and loaded\n'), result.stderr


def test_the_list_is_what_allows_the_checkpoints(checkpoints):
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with pytest.raises(Exception, match='Unsupported global'):
            torch.load(checkpoints[0], weights_only=True)
    finally:
        torch.serialization.add_safe_globals(allowed)
    # Again: OneDL's loader takes the classes from the list after each load.
    allow_mmengine_checkpoints()
    torch.load(checkpoints[0], weights_only=True)
