"""ONNX files with weights and activations of 8 bits."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS

from ltml_mm.apis.config import training_dataset
from ltml_mm.apis.model import scope_of
from ltml_mm.datasets.annotations import check_class_names
from ltml_mm.datasets.two_stream import innermost_dataset
from ltml_mm.decisions.selection import no_validation
from ltml_mm.evaluation.grouped_average_precision import (
    average_precision,
    sample_targets,
)
from ltml_mm.files import write_bytes

if TYPE_CHECKING:
    from ltml_mm.apis.inferencer import MultiLabelInferencer

#: What is computed in 8 bits: all that takes time.
LAYERS = ('Conv', 'Gemm', 'MatMul')


def quantize(
    inferencer: MultiLabelInferencer,
    source: str | Path,
    out: str | Path,
    num_images: int,
) -> str:
    """Writes an exported network in 8 bits, and says what is lost.

    onnxruntime's static quantisation: weights by channel, activations by the
    range that they take on ``num_images`` training images, chosen by a fixed
    seed. Average precision is measured on the config's validation set for
    both files, one image at a time. ``source`` has preprocessing.
    """
    from onnxruntime import quantization

    cfg = inferencer.config
    measured = 'validation' if no_validation(cfg) is None else 'test'
    if cfg.get('train_dataloader') is not None:
        training, kind = training_dataset(cfg, _loading(cfg)), 'training'
    else:  # That of a merged network names no training images.
        training, kind = _validation(cfg), measured
    order = np.random.default_rng(0).permutation(len(training))[:num_images]

    class Images(quantization.CalibrationDataReader):
        images = (picture(training[int(index)]) for index in order)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {'images': image[None]}

    level = logging.root.level
    with TemporaryDirectory() as folder:
        ready, done = Path(folder) / 'ready.onnx', Path(folder) / 'int8.onnx'
        try:
            # onnxruntime advises steps that have been taken.
            logging.root.setLevel(logging.ERROR)
            quantization.quant_pre_process(
                str(source), str(ready), skip_symbolic_shape=True
            )
            quantization.quantize_static(
                str(ready),
                str(done),
                Images(),
                op_types_to_quantize=list(LAYERS),
                per_channel=True,
                extra_options={'ActivationSymmetric': False},
            )
        finally:
            logging.root.setLevel(level)
        content = _keep_facts(source, done)
    before, after, count = _precisions(
        cfg, (Path(source).read_bytes(), content)
    )
    write_bytes(out, content)
    sizes = [Path(path).stat().st_size / 2**20 for path in (source, out)]
    return (
        f'{out} written (int8, {sizes[1]:.1f} MiB in place of '
        f'{sizes[0]:.1f}): mAP {after:.2f} in place of {before:.2f} on the '
        f'{count} {measured} images, {after - before:+.2f}; ranges of '
        f'{len(order)} {kind} images'
    )


def picture(sample: Mapping[str, Any]) -> np.ndarray:
    """Returns what a loaded sample shows, RGB, uint8 (H, W, 3)."""
    return np.ascontiguousarray(sample['img'][..., ::-1])


def _loading(cfg: Any) -> list[Any]:
    """The first steps of the test pipeline, those that load."""
    steps = innermost_dataset(cfg.test_dataloader).pipeline
    return [
        step
        for step in steps
        if str(step['type']).rpartition('.')[2].startswith('Load')
    ]


def _keep_facts(source: str | Path, done: Path) -> bytes:
    """The quantised file, with the metadata that quantising drops."""
    import onnx

    model = onnx.load(str(done))
    known = onnx.load(str(source), load_external_data=False).metadata_props
    onnx.helper.set_model_props(model, {p.key: p.value for p in known})
    return model.SerializeToString()


def _precisions(
    cfg: Any, contents: tuple[bytes, bytes]
) -> tuple[float, float, int]:
    """Total mAP in percent of both files, and the number of images."""
    from ltml_mm.export.export import run_onnx

    runs = [run_onnx(content) for content in contents]
    scores: list[list[np.ndarray]] = [[], []]
    labels = []
    dataset = _validation(cfg)
    for sample in (dataset[index] for index in range(len(dataset))):
        for run, rows in zip(runs, scores, strict=True):
            rows.append(run(picture(sample)[None])[0])
        labels.append(sample_targets(sample, len(scores[0][-1])))
    targets = np.stack(labels)
    values = [
        100 * float(np.nanmean(average_precision(np.stack(rows), targets)))
        for rows in scores
    ]
    return values[0], values[1], len(labels)


def _validation(cfg: Any) -> Any:
    loader = (cfg.get('val_dataloader') or cfg.test_dataloader).to_dict()
    config = innermost_dataset(loader)
    config.update(pipeline=_loading(cfg), lazy_init=False)
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        built = DATASETS.build(config)
    check_class_names(built)
    return built
