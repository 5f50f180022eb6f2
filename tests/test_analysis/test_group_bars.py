import numpy as np
import pytest

from ltml_mm.analysis.group_bars import draw, main, read_row
from ltml_mm.utils import write_json


@pytest.fixture
def reports(tmp_path):
    paths = []
    for seed, value in enumerate((40.0, 44.0)):
        path = tmp_path / f'{seed}.json'
        summary = {'mAP': value, 'mAP_head': 70.0, 'mAP_tail': value / 2}
        write_json(path, {'summary': summary})
        paths.append(str(path))
    return paths


def test_a_row_holds_every_seed(reports):
    name, values = read_row(f'LTML={reports[0]},{reports[1]}')
    assert name == 'LTML'
    np.testing.assert_array_equal(
        values, [[40, 70, np.nan, 20], [44, 70, np.nan, 22]]
    )


def test_bars_are_the_means_over_seeds(reports):
    rows = [read_row(f'a={reports[0]}'), read_row(f'b={",".join(reports)}')]
    (axes,) = draw(rows).axes
    heights = [bar.get_height() for bar in axes.patches]
    np.testing.assert_allclose(
        heights, [40, 70, np.nan, 20, 42, 70, np.nan, 21]
    )


def test_table_has_the_sample_deviation(reports, tmp_path, capsys):
    out = tmp_path / 'bars.png'
    main([f'a={",".join(reports)}', '--out', str(out)])
    assert out.read_bytes().startswith(b'\x89PNG')
    assert '| a | 2 | 42.00 ± 2.83 | 70.00 ± 0.00 |' in capsys.readouterr().out


@pytest.mark.parametrize('text', ['no-report', 'a='])
def test_a_row_of_another_form_is_named(text):
    with pytest.raises(ValueError, match=text):
        read_row(text)


def test_a_file_that_is_no_report_is_named(tmp_path):
    path = tmp_path / 'x.json'
    path.write_text('[]')
    with pytest.raises(ValueError, match=r'x\.json'):
        read_row(f'a={path}')
