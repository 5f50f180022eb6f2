"""Weights to share: safetensors, and a model card made from the run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ltml_cli import parse
from ltml_cli.run_parsers import SAFETENSORS
from ltml_mm.apis.checkpoint import checkpoint_meta, read_checkpoint
from ltml_mm.apis.config import load_config
from ltml_mm.apis.model import class_info
from ltml_mm.class_statistics import GROUPS, IMAGES_KEY
from ltml_mm.datasets.annotations import load_json
from ltml_mm.datasets.two_stream import innermost_datasets
from ltml_mm.decisions.choice import mean_f1, threshold_table
from ltml_mm.decisions.thresholds import (
    FILE_NAME,
    Thresholds,
    find_thresholds,
    weights_digest,
    write_thresholds,
)
from ltml_mm.evaluation.report import percent, table
from ltml_mm.files import write_safetensors, write_text

#: What of a checkpoint's ``meta`` goes along with the weights.
FACTS = ('epoch', 'iter', 'merged_from', 'branch_drift', 'bn_images')
REPORTS = ('test_class_report.json', 'val_class_report.json')


def main(argv: Sequence[str] | None = None) -> None:
    """Writes weights and card, and says where."""
    args = parse('to-safetensors', argv)
    written = share(
        args.config,
        args.checkpoint,
        args.out,
        args.license,
        args.results,
        args.thresholds,
        args.cfg_options,
    )
    print(f'{", ".join(map(str, written))} written')


def share(
    config: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    licence: str = 'unknown',
    results: Sequence[str | Path] = (),
    thresholds: str | Path | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Writes the weights of a checkpoint as safetensors, and a model card.

    Args:
        config: The config of the training.
        checkpoint: The checkpoint.
        out: ``NAME.safetensors``, whose card is ``NAME.md``; or a folder of
            ``model.safetensors``, ``config.py``, ``README.md``, and
            ``thresholds.json`` where the model has thresholds.
        licence: The licence field of the card.
        results: Files with figures of this model, by default the class
            reports beside the checkpoint.
        thresholds: The file of thresholds, by default that beside it.
        cfg_options: Overrides of the config.

    Returns:
        list[Path]: What was written.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        ValueError: Results or thresholds are of another model.
    """
    content = read_checkpoint(checkpoint)
    meta = checkpoint_meta(content, checkpoint)
    cfg = load_config(config, cfg_options, meta)
    infos = class_info(cfg, meta)
    digest = weights_digest(content['state_dict'])
    found, _ = find_thresholds(
        checkpoint, digest, [info['name'] for info in infos], thresholds
    )
    rows = _results(Path(checkpoint), digest, results)
    facts = {k: v for k, v in content['meta'].items() if k in FACTS}
    header = {
        **facts,
        'dataset_meta': meta,
        'groups': [info['group'] for info in infos],
    }
    out, settings = Path(out), Path(config)
    weights, card = out, out.with_suffix('.md')
    written = [weights, card]
    if out.suffix != SAFETENSORS:
        weights, card = out / f'model{SAFETENSORS}', out / 'README.md'
        settings = out / 'config.py'
        write_text(settings, cfg.pretty_text)
        written = [weights, card, settings]
        if found is not None:
            write_thresholds(out / FILE_NAME, found)
            written.append(out / FILE_NAME)
    write_safetensors(weights, content['state_dict'], header)
    text = model_card(
        {
            'name': out.name.removesuffix(SAFETENSORS),
            'licence': licence,
            'digest': digest,
            'parameters': sum(
                v.numel() for v in content['state_dict'].values()
            ),
            'command': f'{settings.name} {weights.name}',
            'config': cfg,
            **facts,
        },
        infos,
        meta or {},
        rows,
        found,
    )
    write_text(card, text)
    return written


def _results(
    checkpoint: Path, digest: str, given: Iterable[str | Path]
) -> dict[str, dict[str, float]]:
    """Reads the figures of a model, by the file that they are from.

    Raises:
        ValueError: A file that was named is of another model.
    """
    beside = [checkpoint.parent / name for name in REPORTS]
    rows = {}
    for path in map(Path, given or [p for p in beside if p.is_file()]):
        content = load_json(str(path))
        if not isinstance(content, Mapping) or content.get('model') != digest:
            if given:
                raise ValueError(
                    f'{path} has no figures of {checkpoint}: give what '
                    'tools/test.py writes of this checkpoint with --out'
                )
            continue
        figures = content.get('summary') or content.get('metrics') or {}
        summary = (content.get('decisions') or {}).get('summary') or {}
        rows[path.name] = {
            **{k.removeprefix('multi-label/'): v for k, v in figures.items()},
            **mean_f1(summary),
        }
    return rows


def model_card(
    facts: Mapping[str, Any],
    infos: Sequence[Mapping[str, Any]],
    meta: Mapping[str, Any],
    results: Mapping[str, Mapping[str, float]],
    thresholds: Thresholds | None,
) -> str:
    """Writes a model card, Markdown with the fields that hubs read.

    Args:
        facts: ``name``, ``licence``, ``digest``, ``parameters``, ``command``
            and ``config``, and what is known of :data:`FACTS`.
        infos: Name, group and training count of each class.
        meta: The training set's ``metainfo``.
        results: Figures in percent, by the file that they are from.
        thresholds: Those of the model, if there are any.
    """
    parts = [
        '---\n'
        # JSON is YAML, and holds any text.
        f'license: {json.dumps(facts["licence"], ensure_ascii=False)}\n'
        'library_name: mmpretrain\n'
        'pipeline_tag: image-classification\n'
        'tags: [multi-label, long-tailed, ltml_mm]\n'
        '---',
        f'# {facts["name"]}',
        _about(facts, len(infos)),
        '## Data',
        _data(facts['config'], infos, meta),
        '## Results',
        _result_table(results)
        if results
        else 'None is recorded: `tools/test.py` with `--out` measures them, '
        '`--results` puts them here.',
        '## Thresholds',
    ]
    if thresholds is None:
        parts.append(
            'None: 0.5 for every class is a guess. '
            '`tools/analysis/thresholds.py` chooses one a class.'
        )
    else:
        parts += [
            f'Chosen for {thresholds.metric}. {thresholds.chosen_on["note"]}. '
            'Figures in percent, with 95 % intervals.',
            threshold_table(thresholds),
        ]
        calibration = thresholds.calibration or {}
        if report := calibration.get('report'):
            errors = (report['all'][k]['ece'] for k in ('before', 'after'))
            before, after = map(percent, (100 * error for error in errors))
            parts.append(
                f'Calibrated by {calibration["method"]}: expected calibration '
                f'error {before} % before, {after} % after.'
            )
    parts += [
        '## Use',
        f'```bash\npython tools/predict.py {facts["command"]} photo.jpg\n```',
        '## Licence',
        f'{facts["licence"]}. The licences of the training images and of the '
        'weights that the training started from hold besides.',
    ]
    return '\n\n'.join(parts) + '\n'


def _about(facts: Mapping[str, Any], num_classes: int) -> str:
    model = facts['config'].model
    backbone = model.get('backbone') or {}
    kind = ' '.join(
        str(backbone[key])
        for key in ('type', 'depth', 'arch')
        if key in backbone
    )
    words = (
        f'A {model.get("type")} with {kind} for {num_classes} classes, '
        'several of which an image may show; '
        f'{facts["parameters"] / 1e6:.1f} million values.'
    )
    if facts.get('epoch') is not None:
        words += f' Trained for {facts["epoch"]} epochs.'
    if facts.get('merged_from'):
        words += (
            f' Merged from the two branches of {facts["merged_from"]}, whose '
            f'drift was {facts["branch_drift"]:.3f}.'
        )
    return f'{words}\n\nFingerprint of the weights: `{facts["digest"]}`'


def _data(
    cfg: Any, infos: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]
) -> str:
    sets = [
        f'{part.get("type")}'
        + (f' ({part["ann_file"]})' if part.get('ann_file') else '')
        for part in innermost_datasets(cfg.get('train_dataloader') or {})
        if part.get('type')
    ]
    words = f'{meta.get(IMAGES_KEY) or "An unknown number of"} images'
    words += f' of {", ".join(sets)}' if sets else ''
    parts = [f'{words}.']
    rows = []
    for group in GROUPS:
        counts = [i['train_images'] for i in infos if i['group'] == group]
        if counts:
            rows.append([group, len(counts), max(counts), min(counts)])
    if rows:
        header = ['Group', 'Classes', 'Most images', 'Fewest images']
        parts.append(table(header, rows))
    facts = ('name', 'group', 'train_images')
    classes = [[info[key] for key in facts] for info in infos]
    parts.append(table(['Class', 'Group', 'Train images'], classes))
    return '\n\n'.join(parts)


def _result_table(results: Mapping[str, Mapping[str, float]]) -> str:
    keys = dict.fromkeys(key for row in results.values() for key in row)
    rows = [
        [key, *(percent(row.get(key)) for row in results.values())]
        for key in keys
    ]
    return table(['In percent', *results], rows)
