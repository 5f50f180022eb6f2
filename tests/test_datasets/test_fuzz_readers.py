"""Whatever stands in a file, the outcome is a dataset or a named error."""

import json
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from own_data import CASES, convert

from ltml_mm.datasets import LongTailMultiLabelDataset
from ltml_mm.datasets.converters.tables import read_names

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
    return spoiled((strategy | values).map(json.dumps))


cells = st.one_of(
    st.sampled_from(['a.jpg', 'b.jpg', 'cat', 'cat;dog', '0', '1', '']),
    st.text('"\',;\n\r\0 ./aé', max_size=5),
)
headers = st.sampled_from(['path,labels', 'path,cat,dog', 'path', 'x,y', ''])
csv_texts = st.builds(
    lambda header, rows: '\n'.join([header, *map(','.join, rows)]),
    headers,
    st.lists(st.lists(cells, max_size=4), max_size=5),
)
tags = st.sampled_from(['annotation', 'object', 'name', 'filename', 'part'])
xml_bodies = st.recursive(
    st.sampled_from(['', 'cat', 'a.jpg', '&amp;', '&x;', '<!--', ']]>']),
    lambda inner: st.builds(
        lambda tag, children: f'<{tag}>{"".join(children)}</{tag}>',
        tags,
        st.lists(inner, max_size=3),
    ),
    max_leaves=6,
)
xml_frames = st.sampled_from(
    [
        '{}',
        '<annotation><filename>a.jpg</filename>{}</annotation>',
        '<?xml version="1.0" encoding="utf-16"?>{}',
        '<?xml version="1.0" encoding="cp037"?>{}',
        '<?xml version="1.0" encoding="shift_jis"?>{}',
        '<!DOCTYPE a [<!ENTITY x "y">]><annotation>{}</annotation>',
    ]
)
id_lists = st.lists(st.sampled_from(['1', '2', '3', '', ' ', '../4', 'é']))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('fuzz')
    (root / 'src').mkdir()
    for name in ('a.jpg', 'b.jpg'):
        (root / 'src' / name).touch()
    return root


def attempt(path, read):
    """Returns what was read, or None where an error names the path."""
    try:
        return read()
    except ValueError as error:
        told = str(error)
    assert str(path) in told
    return None


def read_dataset(path):
    """Loads a dataset, of which everything fits."""
    dataset = LongTailMultiLabelDataset(str(path))
    assert len(dataset) == dataset.metainfo['num_train_images'] > 0
    known = set(range(len(dataset.CLASSES)))
    for index in range(len(dataset)):
        assert set(dataset.get_cat_ids(index)) <= known
    return dataset


def is_read(folder, form, source):
    """Converts, then loads what was written; tells whether that went."""
    out = folder / 'out'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        done = attempt(folder, lambda: convert(source, out, form, ['force']))
    return done is not None and bool(read_dataset(out / 'train.json'))


def check(name, folder, data):
    path = folder / 'src' / f'x.{"xml" if name == "voc" else "json"}'
    path.write_bytes(data)
    if name == 'dataset':
        attempt(path, lambda: read_dataset(path))
    elif name == 'split_file':
        known = ['1', '2', '3']
        found = attempt(path, lambda: read_names(str(path), known))
        if found is not None:
            assert 0 < len(set(found)) == len(found)
            assert set(found) <= set(known)
    else:
        is_read(folder, name, path.parent if name == 'voc' else path)


CONTENTS = {
    'mmpretrain': as_json(mmpretrain),
    'coco': as_json(coco),
    'csv': spoiled(csv_texts),
    'voc': spoiled(st.builds(str.format, xml_frames, xml_bodies)),
    'split_file': spoiled(id_lists.map('\n'.join)),
    'dataset': as_json(mmpretrain),
}


@pytest.mark.parametrize(
    'examples', [40, pytest.param(3000, marks=pytest.mark.long)]
)
@pytest.mark.parametrize('name', CONTENTS)
def test_a_dataset_or_a_named_error(name, folder, examples):
    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(CONTENTS[name])
    def run(data):
        check(name, folder, data)

    run()


@pytest.mark.parametrize(
    ('form', 'make'), [case for case in CASES if case[0] != 'folders']
)
def test_the_checks_see_both_outcomes(root, tmp_path, form, make):
    """The fuzzing itself could pass by refusing everything."""
    source, _ = make(root)
    assert is_read(tmp_path, form, source)
    (source / '0.xml' if form == 'voc' else source).write_bytes(b'\xff')
    assert not is_read(tmp_path, form, source)
