import pytest
from comparison_results import write_result

from ltml_mm.experiments.comparison_report import parse_table, write_report
from ltml_mm.experiments.results import Spec

BRANCHES = ('fused', 'flip', 'uniform', 'rebalanced', 'merged')
SPECS = ['erm', 'rs', 'ltml', 'ltml+merged']
NAMES = ['classes.png', 'groups.png', 'runs.csv', 'table.md']


@pytest.fixture
def out(tmp_path):
    """Three rows and two seeds of which one run has not finished."""
    for seed in range(2):
        write_result(tmp_path, 'erm', seed)
        write_result(tmp_path, 'ltml', seed, BRANCHES, drift=0.03)
    write_result(tmp_path, 'rs', 0)
    return tmp_path


def test_the_same_results_give_the_same_bytes(out):
    text = write_report(out, SPECS, range(2), 'erm')
    first = [(out / name).read_bytes() for name in NAMES]
    assert sorted(p.name for p in out.iterdir() if p.is_file()) == NAMES
    write_report(out, SPECS, range(2), 'erm')
    assert [(out / name).read_bytes() for name in NAMES] == first
    assert first[-1].decode() == text
    assert 'difference to erm' in text
    assert first[0].startswith(b'\x89PNG')


def test_without_a_finished_run_no_picture_of_an_earlier_report_stays(out):
    for path in out.glob('*/*/result.json'):
        path.unlink()
    for name in NAMES:
        (out / name).write_text('earlier')
    text = write_report(out, SPECS, range(2), 'erm')
    assert '6 of 6 runs are missing' in text
    assert sorted(p.name for p in out.iterdir() if p.is_file()) == NAMES[2:]
    assert (out / 'runs.csv').read_text().count('\n') == 1


def test_a_broken_result_leaves_the_earlier_report_alone(out):
    for name in NAMES:
        (out / name).write_text('earlier')
    (out / 'rs' / 'seed_0' / 'result.json').write_text('{"row": "rs", "se')
    with pytest.raises(ValueError, match='rs/seed_0'):
        write_report(out, SPECS, range(2), 'erm')
    assert {(out / name).read_text() for name in NAMES} == {'earlier'}


def test_by_default_the_last_line_stands_out_beside_the_reference():
    found = parse_table(['rw', 'erm', 'rs', 'ltml', 'rs'], 'erm')
    assert found.specs == tuple(map(Spec, ['rw', 'erm', 'rs', 'ltml']))
    assert found.reference == Spec('erm')
    assert found.pictured == (Spec('ltml'), Spec('erm'), Spec('rw'))
    assert parse_table(['ltml'], 'ltml').pictured == (Spec('ltml'),)
    asked = parse_table(SPECS, 'ltml', ['ltml+merged', 'erm'])
    assert asked.pictured == (Spec('ltml', 'merged'), Spec('erm'))


def test_a_line_that_is_not_in_the_table_is_refused():
    with pytest.raises(ValueError, match=r'ltml\+flip is not .* erm, rs'):
        parse_table(SPECS, 'ltml+flip')
    with pytest.raises(ValueError, match='asl is not among'):
        parse_table(SPECS, 'ltml', ['asl'])
    with pytest.raises(ValueError, match='up to 3 rows, not 4'):
        parse_table(SPECS, 'ltml', SPECS)
