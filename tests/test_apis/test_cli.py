"""How every tool reads the overrides of a config."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ltml_cli.options import PATH_OPTIONS, parse_cfg_options


@settings(deadline=None)
@example('data_root', 'x' * 5000)
@given(st.sampled_from(PATH_OPTIONS), st.text().filter('None'.__ne__))
@pytest.mark.parametrize('prefix', ['', 'train_dataloader.dataset.'])
def test_a_path_is_the_text_that_was_given(prefix, name, text):
    key = prefix + name
    assert parse_cfg_options([f'{key}={text}']) == {key: text}


@pytest.mark.parametrize('text', ['2024', '1e5', 'true', 'cats,dogs', '(a'])
def test_a_folder_may_look_like_a_value(text):
    for key in ('data_root', 'experiment_name', 'a.data_prefix.img_path'):
        assert parse_cfg_options([f'{key}={text}']) == {key: text}


def test_none_is_a_folder_where_one_has_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_cfg_options(['data_root=None']) == {'data_root': None}
    (tmp_path / 'None').mkdir()
    assert parse_cfg_options(['data_root=None']) == {'data_root': 'None'}


def test_other_values_are_read():
    options = ['a=1', 'b=1e-3', 'c=[1,(2,x)]', "d='a b'", 'e=true', 'a=2']
    assert parse_cfg_options([*options, 'load_from=None']) == dict(
        a=2, b=0.001, c=[1, (2, 'x')], d='a b', e=True, load_from=None
    )
