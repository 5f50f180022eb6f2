"""Whatever stands in a file, the outcome is a dataset or a named error."""

import json
import pickle
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from own_data import CASES as OWN_DATA
from own_data import convert, make_images

from ltml_mm.datasets import LongTailMultiLabelDataset
from ltml_mm.datasets.converters.readers import read_names

FEW = 40
MANY = 3000

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 5)
    | st.integers()
    | st.floats()
    | st.sampled_from(['a.jpg', 'b.jpg', 'cat', 'dog', '', '..', '/', '\0'])
    | st.text(max_size=6)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)


def mostly(strategy):
    """Usually what belongs there, at times anything."""
    return st.one_of(strategy, strategy, strategy, strategy, values)


def entries(size=3, **fields):
    """Usually a list of objects with these fields."""
    fields = {name: mostly(field) for name, field in fields.items()}
    return mostly(
        st.lists(mostly(st.fixed_dictionaries(fields)), max_size=size)
    )


ids = st.integers(0, 2) | st.sampled_from(['0', '1', 'n'])
labels = st.lists(mostly(st.integers(0, 2)), max_size=3)
paths = st.sampled_from(['a.jpg', 'b.jpg', 'c/d.jpg', '../e.jpg'])
metainfo = st.fixed_dictionaries(
    {},
    optional={
        'classes': mostly(st.just(['cat', 'dog', 'emu'])),
        'categories': entries(id=ids, category_name=st.text(max_size=3)),
        'class_counts': mostly(st.just([1, 1, 1])),
        'num_train_images': mostly(st.integers(0, 4)),
    },
)
mmpretrain = st.fixed_dictionaries(
    {
        'metainfo': mostly(metainfo),
        'data_list': entries(4, img_path=paths, gt_label=labels),
    }
)
coco = st.fixed_dictionaries(
    {
        'images': entries(id=ids, file_name=paths, coco_url=paths)
        | entries(id=ids, coco_url=paths),
        'annotations': entries(id=ids, image_id=ids, category_id=ids),
        'categories': entries(id=ids, name=st.text(max_size=3)),
    }
)


def spoiled(texts):
    """Bytes of a text, at times cut, changed, or replaced by any bytes."""

    @st.composite
    def build(draw):
        data = draw(texts).encode('utf-8', 'surrogatepass')
        kind = draw(st.sampled_from('wwwwcir'))
        if kind == 'w':
            return data
        if kind == 'r':
            return draw(st.binary(max_size=40))
        at = draw(st.integers(0, len(data)))
        if kind == 'c':
            return data[:at]
        return data[:at] + draw(st.binary(max_size=4)) + data[at:]

    return build()


def as_json(strategy):
    indents = st.sampled_from([None, 1])
    return spoiled(
        st.tuples(strategy | values, indents).map(
            lambda pair: json.dumps(pair[0], indent=pair[1])
        )
    )


cells = st.one_of(
    st.sampled_from(['a.jpg', 'b.jpg', 'cat', 'cat;dog', '0', '1', '']),
    st.text('"\',;\n\r\0 ./aé', max_size=5),
)
headers = st.sampled_from(['path,labels', 'path,cat,dog', 'path', 'x,y', ''])
csv_texts = spoiled(
    st.tuples(headers, st.lists(st.lists(cells, max_size=4), max_size=5)).map(
        lambda pair: '\n'.join([pair[0], *map(','.join, pair[1])])
    )
)
tags = st.sampled_from(['annotation', 'object', 'name', 'filename', 'part'])
xml_texts = spoiled(
    st.recursive(
        st.sampled_from(['', 'cat', 'a.jpg', '&amp;', '&x;', '<!--', ']]>']),
        lambda inner: st.tuples(tags, st.lists(inner, max_size=3)).map(
            lambda pair: f'<{pair[0]}>{"".join(pair[1])}</{pair[0]}>'
        ),
        max_leaves=6,
    ).flatmap(
        lambda body: st.sampled_from(
            [
                body,
                f'<annotation><filename>a.jpg</filename>{body}</annotation>',
                f'<?xml version="1.0" encoding="utf-16"?>{body}',
                f'<?xml version="1.0" encoding="cp037"?>{body}',
                f'<?xml version="1.0" encoding="shift_jis"?>{body}',
                f'<!DOCTYPE a [<!ENTITY x "y">]><annotation>{body}'
                '</annotation>',
            ]
        )
    )
)
id_lists = spoiled(
    st.lists(st.sampled_from(['1', '2', '3', '', ' ', '../4', 'é'])).map(
        '\n'.join
    )
) | st.integers(0, 5).map(lambda p: pickle.dumps(['1', '2'], p))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('fuzz')
    (root / 'src').mkdir()
    for name in ('a.jpg', 'b.jpg'):
        (root / 'src' / name).touch()
    return root


def outcome(folder, form, source):
    """Converts, then loads what was written; returns how it ended."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            convert(source, folder / 'out', form, ['force'])
        except ValueError as error:
            refused = str(error)
        else:
            refused = None
    if refused is not None:
        assert str(folder) in refused
        return 'error'
    # What was written is a dataset that loads and counts.
    dataset = LongTailMultiLabelDataset(
        'train.json', data_root=str(folder / 'out')
    )
    assert len(dataset) == dataset.metainfo['num_train_images'] > 0
    return 'dataset'


def reader(form, name):
    """The check of a reader on the bytes of its file."""

    def check(folder, data):
        path = folder / 'src' / name
        path.write_bytes(data)
        outcome(folder, form, path.parent if form == 'voc' else path)

    return check


def check_split_file(folder, data):
    path = folder / 'img_id.pkl'
    path.write_bytes(data)
    refused, found = None, []
    try:
        found = read_names(str(path), known=['1', '2', '3'])
    except ValueError as error:
        refused = str(error)
    assert str(path) in refused if refused else found
    assert set(found) <= {'1', '2', '3'}
    assert len(set(found)) == len(found)


def check_dataset(folder, data):
    path = folder / 'annotations.json'
    path.write_bytes(data)
    refused, dataset = None, None
    try:
        dataset = LongTailMultiLabelDataset(str(path))
    except ValueError as error:
        refused = str(error)
    if dataset is None:
        assert str(path) in refused
        return
    known = set(range(len(dataset.CLASSES)))
    for index in range(len(dataset)):
        assert set(dataset.get_cat_ids(index)) <= known


CASES = {
    'mmpretrain': (as_json(mmpretrain), reader('mmpretrain', 'x.json')),
    'coco': (as_json(coco), reader('coco', 'y.json')),
    'csv': (csv_texts, reader('csv', 'x.csv')),
    'voc': (xml_texts, reader('voc', 'x.xml')),
    'split_file': (id_lists, check_split_file),
    'dataset': (as_json(mmpretrain), check_dataset),
}


def run_case(name, folder, examples):
    strategy, check = CASES[name]

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(data):
        check(folder, data)

    run()


@pytest.mark.parametrize('name', CASES)
def test_a_dataset_or_a_named_error(name, folder):
    run_case(name, folder, FEW)


@pytest.mark.long
@pytest.mark.parametrize('name', CASES)
def test_a_dataset_or_a_named_error_many(name, folder):
    run_case(name, folder, MANY)


@pytest.mark.parametrize(
    ('form', 'make'), [case for case in OWN_DATA if case[0] != 'folders']
)
def test_the_checks_see_both_outcomes(tmp_path, form, make):
    """The fuzzing itself could pass by refusing everything."""
    source, _ = make(make_images(tmp_path / 'src'))
    assert outcome(tmp_path, form, source) == 'dataset'
    (source / '0.xml' if form == 'voc' else source).write_bytes(b'\xff')
    assert outcome(tmp_path, form, source) == 'error'
