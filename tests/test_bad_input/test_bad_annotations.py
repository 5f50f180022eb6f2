"""Annotations of every kind: each trains as documented, or is named."""

import json
import logging

import bad_run
import pytest

pytestmark = pytest.mark.usefixtures('quick')

NAMED = r'/data/train\.json: '


def repeat_under_another_name(train, test):
    train['data_list'].append(dict(img_path='a/../3.png', gt_label=[1]))


#: What is wrong with the files, and what the error says.
REFUSED = {
    'no label at all in training': (
        lambda train, test: [
            x.update(gt_label=[]) for x in train['data_list']
        ],
        'no image of the training set has a label',
    ),
    'training and test of other classes': (
        lambda train, test: test['metainfo'].update(classes=['a', 'b', 'c']),
        r'/data/test\.json: its classes .* are not those',
    ),
    'label above the classes': (
        lambda train, test: train['data_list'][4].update(gt_label=[3]),
        NAMED + r'entry 4 .*\(4\.png\): label 3 is not an integer from 0 to 2',
    ),
    'image listed under two names': (
        repeat_under_another_name,
        NAMED + r'entries 3 and 10 .* the same image \(3\.png\)',
    ),
}


def write(folder, change):
    config = bad_run.write_case(folder)
    paths = [folder / 'data' / f'{name}.json' for name in ('train', 'test')]
    contents = [json.loads(path.read_text()) for path in paths]
    change(*contents)
    for path, content in zip(paths, contents, strict=True):
        path.write_text(json.dumps(content))
    return config


@pytest.mark.parametrize('case', REFUSED)
def test_refused(tmp_path, case):
    change, message = REFUSED[case]
    outcome = bad_run.training(write(tmp_path, change))
    bad_run.assert_refused(outcome, message)
    bad_run.assert_nothing_half_written(tmp_path)


@pytest.fixture
def warnings(monkeypatch):
    """The messages of all warnings."""
    messages = []

    def emit(logger, record):
        if record.levelno == logging.WARNING:
            messages.append(record.getMessage())

    monkeypatch.setattr('mmengine.logging.MMLogger.callHandlers', emit)
    return messages


def one_class(entries):
    for item in entries:
        item['gt_label'] = [0] if item['gt_label'] else []


def without_rare(entries):
    for item in entries:
        item['gt_label'] = [k for k in item['gt_label'] if k != 2]


#: What works, the classes whose average precision counts, the warning.
WORKS = {
    'class without a training image': (
        lambda train, test: without_rare(train['data_list']),
        [0, 1, 2],
        'skips the classes without a training image: rare',
    ),
    'class without a test image': (
        lambda train, test: without_rare(test['data_list']),
        [0, 1],
        'left out of the means: rare',
    ),
    'one class only': (
        lambda train, test: one_class(train['data_list'] + test['data_list']),
        [0],
        'skips the classes without a training image: medium, rare',
    ),
    'image without a label': (lambda train, test: None, [0, 1, 2], None),
}


@pytest.mark.parametrize('case', WORKS)
def test_works(tmp_path, warnings, case):
    change, counted, warning = WORKS[case]
    config = write(tmp_path, change)
    status, shown = bad_run.training(config, 'log_level=WARNING')
    assert status == 0, shown
    report = json.loads(
        (tmp_path / 'work' / 'val_class_report.json').read_text()
    )
    rows = enumerate(report['classes'])
    assert [k for k, row in rows if row['AP'] is not None] == counted
    text = '\n'.join(warnings)
    if warning is None:
        assert 'without' not in text.lower()
    else:
        assert warning in text
