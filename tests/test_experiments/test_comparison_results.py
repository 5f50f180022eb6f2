import json

import pytest
from comparison_results import make_result, write_result

from ltml_mm.experiments.results import Spec, parse_spec, read_runs


@pytest.mark.parametrize(
    ('text', 'spec'),
    [
        ('ltml', Spec('ltml', 'fused')),
        ('ltml+flip', Spec('ltml', 'flip')),
        ('lambda-0.5+merged', Spec('lambda-0.5', 'merged')),
    ],
)
def test_a_line_reads_back_as_it_was_written(text, spec):
    assert parse_spec(text) == spec
    assert str(spec) == text


@pytest.mark.parametrize('text', ['', '+flip', 'ltml+', 'a/b', '../x', 'a b'])
def test_a_line_of_another_form_is_refused(text):
    with pytest.raises(ValueError, match=r'ROW or ROW\+VARIANT'):
        parse_spec(text)


def test_an_unknown_variant_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r'fliped.*rebalanced, merged'):
        parse_spec('ltml+fliped')


def test_only_the_asked_finished_runs_are_found(tmp_path):
    for row, seed in [('erm', 0), ('erm', 2), ('rs', 0), ('rs', 7)]:
        write_result(tmp_path, row, seed)
    # A run that was killed, and the temporary file of one killed later.
    folder = tmp_path / 'rs' / 'seed_1'
    folder.mkdir()
    (folder / '.result.json.42.tmp').write_text('{"row": "rs"')
    runs = read_runs(tmp_path, ['rs', 'erm', 'rs'], [0, 1, 2])
    assert [(r.row, r.seed) for r in runs.found] == [
        ('rs', 0), ('erm', 0), ('erm', 2),
    ]  # fmt: skip
    assert runs.missing == (('rs', 1), ('rs', 2), ('erm', 1))


def test_values_are_by_seed_and_leave_out_what_does_not_exist(tmp_path):
    metrics = make_result('erm', 0)['metrics']
    metrics['fused'] |= {'mAP_head': None}
    del metrics['fused']['mAP_tail']
    write_result(tmp_path, 'erm', 0, metrics=metrics)
    write_result(tmp_path, 'erm', 1, ('fused', 'merged'))
    expected = [make_result('erm', 0), make_result('erm', 1, ('fused',))]
    runs = read_runs(tmp_path, ['erm'], [0, 1])
    assert runs.values(Spec('erm')) == {
        seed: e['metrics']['fused']['mAP'] for seed, e in enumerate(expected)
    }
    assert runs.values(Spec('erm'), 'head').keys() == {1}
    assert runs.values(Spec('erm'), 'tail').keys() == {1}
    assert runs.values(Spec('erm', 'flip')).keys() == {0}
    assert runs.values(Spec('erm', 'uniform')) == {}


@pytest.mark.parametrize('keep', [0, 1, 300])
def test_half_a_file_is_named(tmp_path, keep):
    path = write_result(tmp_path, 'erm', 1)
    path.write_text(path.read_text()[:keep])
    with pytest.raises(ValueError, match=r'erm/seed_1/result\.json: no JSON'):
        read_runs(tmp_path, ['erm'], [0, 1])


def _without(key):
    return {k: v for k, v in make_result('erm', 0).items() if k != key}


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        ([], 'list'),
        (_without('metrics'), 'metrics'),
        (_without('classes'), 'classes'),
        (_without('config_digest'), 'config_digest'),
        (make_result('erm', 0) | {'metrics': {}}, 'empty'),
        (make_result('erm', 0) | {'classes': []}, 'empty'),
        (
            make_result('erm', 0)
            | {
                'classes': [
                    {'name': 'a', 'count': 1, 'group': 'total', 'AP': {}}
                ]
            },
            'no group',
        ),
        (make_result('erm', 0) | {'metrics': {'fused': {'mAP': 101}}}, '101'),
        (
            make_result('erm', 0) | {'metrics': {'fused': {'mAP': '7'}}},
            'TypeError',
        ),
        (
            make_result('erm', 0)
            | {'metrics': {'fused': {'mAP': float('nan')}}},
            'nan',
        ),
    ],
)
def test_what_is_no_result_is_named_with_the_reason(tmp_path, content, reason):
    path = write_result(tmp_path, 'erm', 0)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf'result\.json: not.*{reason}'):
        read_runs(tmp_path, ['erm'], [0])


@pytest.mark.parametrize('changes', [{'row': 'rs'}, {'seed': 1}])
def test_a_result_in_the_folder_of_another_run_is_named(tmp_path, changes):
    write_result(tmp_path, 'erm', 0, **changes)
    with pytest.raises(ValueError, match=r"erm/seed_0.*row 'erm', seed 0"):
        read_runs(tmp_path, ['erm'], [0])


def test_one_row_has_one_configuration(tmp_path):
    write_result(tmp_path, 'rs', 0, config_digest='other')
    write_result(tmp_path, 'erm', 0, config_digest='a')
    write_result(tmp_path, 'erm', 1, config_digest='b')
    with pytest.raises(ValueError, match=r'erm/seed_1.*erm/seed_0'):
        read_runs(tmp_path, ['rs', 'erm'], [0, 1])
    assert len(read_runs(tmp_path, ['rs', 'erm'], [0]).found) == 2


@pytest.mark.parametrize(
    'changes',
    [{'set': 'voc'}, {'classes': make_result('rs', 0)['classes'][:-1]}],
)
def test_rows_are_measured_on_the_same_classes(tmp_path, changes):
    write_result(tmp_path, 'erm', 0)
    write_result(tmp_path, 'rs', 0, **changes)
    with pytest.raises(ValueError, match=r'rs/seed_0.*erm/seed_0'):
        read_runs(tmp_path, ['erm', 'rs'], [0])
