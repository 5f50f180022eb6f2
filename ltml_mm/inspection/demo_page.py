"""Serves a page to try a model: the logic of ``tools/demo_page.py``."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from PIL import Image

from ltml_cli import parse
from ltml_cli.run_parsers import DEFAULT_THRESHOLD
from ltml_mm.apis.inferencer import MultiLabelInferencer
from ltml_mm.datasets.images import FORMATS, UnreadableImageError, printable
from ltml_mm.decisions.thresholds import logit, sigmoid
from ltml_mm.evaluation.grouped_average_precision import BRANCHES_KEY
from ltml_mm.inspection import evidence
from ltml_mm.inspection.attention import Attention, has_grad_cam
from ltml_mm.inspection.model_report import environment
from ltml_mm.inspection.neighbours import Features
from ltml_mm.inspection.pictures import data_uri, heat_uri, shrink

#: What one drop may hold: files, and of each bytes and pixels.
MAX_FILES, MAX_FILE_BYTES, MAX_FILE_PIXELS = 12, 20 * 2**20, 50_000_000
#: Pictures a session keeps, and sessions the server does.
MAX_PICTURES, MAX_SESSIONS = 24, 20
#: The classes below the threshold that a group shows, and the neighbours.
NEXT_BEST, NEAREST = 3, 5
SIDE, QUALITY = 240, 80
BEST = 'the first class of each picture'
EXTRA = 'pip install "ltml_mm[web]"'


class Trial:
    """What stands behind the page: the model and its training pictures.

    Args:
        inferencer: The model.
        train_images: Training pictures to find the nearest among, 0 for
            none.
    """

    def __init__(
        self, inferencer: MultiLabelInferencer, train_images: int
    ) -> None:
        self.inferencer = inferencer
        self.names = [info['name'] for info in inferencer.class_info]
        groups = evidence.class_groups(inferencer.class_info)
        everything = {'all': groups.pop('all')}
        self.groups = groups or everything
        self.thresholds = np.full(len(self.names), DEFAULT_THRESHOLD)
        if inferencer.thresholds is not None:
            self.thresholds = inferencer.thresholds.values
        #: Where the slider of each group starts.
        self.start = {
            name: round(float(np.median(self.thresholds[members])), 2)
            for name, members in self.groups.items()
        }
        self.looks: dict[str, Attention] = {}
        self.note = 'Drop pictures to see their labels.'
        self.training: Any = None
        if train_images:
            self._index(train_images)

    def _index(self, most: int) -> None:
        """Keeps the features of training pictures."""
        config, model = self.inferencer.config, self.inferencer.model
        try:
            training = evidence.build_training_set(config)
            self.chosen = evidence.spread(len(training), most)
            self.features = Features(len(self.chosen))
            for batch in evidence.observe(
                model, config, training, self.chosen
            ):
                self.features.add(*batch)
        # Its files may lie on another machine, or be gone.
        except (OSError, ValueError) as error:
            print(f'no nearest training pictures: {error}', file=sys.stderr)
            self.note += ' The training pictures are not at hand.'
        else:
            self.training = training

    def look_at(self, path: str) -> dict[str, Any]:
        """Runs the network on an uploaded file.

        Returns:
            dict: ``name`` of the file, the network's ``inputs``, ``scores``
            and ``branches``, thumbnail, and ``near`` training pictures.

        Raises:
            UnreadableImageError: It cannot be read, or is too large.
        """
        check_size(path)
        batch = pseudo_collate([self.inferencer.pipeline(path)])
        model = self.inferencer.model
        with evidence.head_inputs(model) as seen, torch.no_grad():
            sample = model.test_step(batch)[0]
        branches = sample.get(BRANCHES_KEY) or {}
        return {
            'name': printable(Path(path).name),
            'inputs': model.data_preprocessor(batch, False)['inputs'],
            'scores': sample.pred_score.float().cpu().numpy(),
            'branches': {n: s.float().cpu() for n, s in branches.items()},
            'near': self._nearest(evidence.joined_features(seen)),
            'heats': {},
            **_thumbnail(batch['inputs'][0], SIDE),
        }

    def _nearest(self, vectors: np.ndarray | None) -> list[dict[str, Any]]:
        """Describes the training pictures most like one, (1, C)."""
        if self.training is None or vectors is None:
            return []
        cosines = self.features.cosines(self.features.project(vectors))[:, 0]
        near = []
        for place in np.argsort(-cosines, kind='stable')[:NEAREST]:
            item = self.training[self.chosen[place]]
            labels = item['data_samples'].get('gt_label', ())
            found = {
                'labels': [self.names[k] for k in labels],
                'cosine': float(cosines[place]),
            }
            near.append({**found, **_thumbnail(item['inputs'], SIDE // 2)})
        return near

    def moved(self, sliders: Sequence[float]) -> np.ndarray:
        """Moves the thresholds as the sliders say, one a group.

        A slider moves the logits of all thresholds of its group alike: where
        these are equal, it is the threshold.
        """
        moved = logit(self.thresholds)
        for members, start, value in zip(
            self.groups.values(), self.start.values(), sliders, strict=True
        ):
            moved[members] += logit(value) - logit(start)
        return sigmoid(moved)

    def heat(self, seen: dict[str, Any], k: int) -> dict[str, str]:
        """Returns the maps of a class, by branch; nothing without them."""
        if k not in seen['heats']:
            heats: dict[str, str] = {}
            model, inputs = self.inferencer.model, seen['inputs']
            try:
                for name in [*seen['branches']] or ['']:
                    if name not in self.looks:
                        self.looks[name] = Attention(model, inputs, name)
                    heats[name] = heat_uri(self.looks[name](inputs, [k])[0])
            except (ImportError, ValueError) as error:
                print(f'no Grad-CAM: {error}', file=sys.stderr)
                heats = {}
            seen['heats'][k] = heats
        return seen['heats'][k]

    def describe(
        self, seen: dict[str, Any], thresholds: np.ndarray, looked_for: str
    ) -> dict[str, Any]:
        """Describes a picture for the template."""
        margin = logit(seen['scores']) - logit(thresholds)
        named = looked_for in self.names
        k = self.names.index(looked_for) if named else int(margin.argmax())
        groups = []
        for name, members in self.groups.items():
            order = np.array(members)[np.argsort(-margin[members])]
            fires = int((margin[order] >= 0).sum())
            rows = [
                {
                    'name': self.names[j],
                    'score': float(seen['scores'][j]),
                    'threshold': float(thresholds[j]),
                    'fires': bool(margin[j] >= 0),
                    'branches': {
                        n: float(s[j]) for n, s in seen['branches'].items()
                    },
                }
                for j in order[: fires + NEXT_BEST]
            ]
            size = len(members)
            groups.append(dict(name=name, rows=rows, fires=fires, size=size))
        heats, name = self.heat(seen, k), self.names[k]
        return {**seen, 'heats': heats, 'looked_for': name, 'groups': groups}

    def render(
        self,
        pictures: Sequence[dict[str, Any]],
        looked_for: str,
        sliders: Sequence[float],
        troubles: Sequence[str] = (),
    ) -> str:
        """Renders pictures, and sentences on files that were left out."""
        thresholds = self.moved(sliders)
        shown = [self.describe(p, thresholds, looked_for) for p in pictures]
        template = environment().get_template('demo.html.j2')
        return template.render(
            pictures=shown, troubles=troubles, note=self.note
        )

    def take(
        self, files: Sequence[str] | None, kept: Sequence[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Looks at uploaded files, and deletes them.

        Returns:
            tuple: The pictures, the new ones first, and a sentence for each
            file that was left out.
        """
        files = files or ()
        found, troubles = [], []
        for path in files[:MAX_FILES]:
            name = printable(Path(path).name)
            try:
                found.append(self.look_at(path))
            except UnreadableImageError as error:
                troubles.append(f'{name} was left out: {error.reason}.')
            except OSError:  # the same picture, dropped elsewhere, too
                troubles.append(f'{name} is gone: drop it again.')
        for path in files:
            # The folder of its content: copies of a picture share it.
            shutil.rmtree(Path(path).parent, ignore_errors=True)
        if len(files) > MAX_FILES:
            troubles.append(
                f'{len(files) - MAX_FILES} files were left out: at most '
                f'{MAX_FILES} at a time.'
            )
        return [*found, *kept][:MAX_PICTURES], troubles


def check_size(path: str) -> None:
    """Raises UnreadableImageError where a file or its picture is too large.

    What is no picture passes: the loader says what is wrong with it.
    """
    if os.path.getsize(path) > MAX_FILE_BYTES:
        raise UnreadableImageError(path, 'the file is too large')
    try:
        with Image.open(path, formats=FORMATS) as image:
            pixels = image.width * image.height
    # Parsers meet broken content with errors of every kind.
    except Exception:
        return
    if pixels > MAX_FILE_PIXELS:
        most = MAX_FILE_PIXELS // 1_000_000
        reason = f'it has more than {most} million pixels'
        raise UnreadableImageError(path, reason)


def _thumbnail(image: torch.Tensor, side: int) -> dict[str, Any]:
    pixels = shrink(image, side)
    ratio = pixels.shape[1] / pixels.shape[0]
    return {'uri': data_uri(pixels, side, QUALITY), 'ratio': ratio}


def build_page(trial: Trial, title: str) -> Any:
    """Builds the page, a ``gradio.Blocks``."""
    import gradio as gr

    def on_upload(paths: Any, kept: Any, wanted: str, *sliders: float) -> Any:
        kept, troubles = trial.take(paths, kept)
        return None, kept, trial.render(kept, wanted, sliders, troubles)

    def on_change(kept: Any, wanted: str, *sliders: float) -> str:
        return trial.render(kept, wanted, sliders)

    def on_clear(wanted: str, *sliders: float) -> Any:
        return [], trial.render([], wanted, sliders)

    with gr.Blocks(
        title=title, analytics_enabled=False, delete_cache=(60, 600)
    ) as page:
        pictures = gr.State([], time_to_live=3600)
        gr.Markdown(f'# {title}')
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                files = gr.File(
                    label=f'Pictures, up to {MAX_FILES} at a time',
                    file_count='multiple',
                    height=150,
                )
                sliders = [
                    gr.Slider(
                        0.01,
                        0.99,
                        value,
                        step=0.01,
                        label=f'Threshold of {name} classes',
                    )
                    for name, value in trial.start.items()
                ]
                looked_for = gr.Dropdown(
                    [BEST, *trial.names], value=BEST, label='Grad-CAM of'
                )
                clear = gr.Button('Clear', size='sm')
            with gr.Column(scale=3, min_width=320):
                empty = trial.render([], BEST, [*trial.start.values()])
                shown = gr.HTML(empty, apply_default_css=False)
        asked = [looked_for, *sliders]
        # One at a time: the network has hooks while it runs.
        once: dict[str, Any] = dict(
            concurrency_limit=1,
            concurrency_id='model',
            api_visibility='private',
        )
        took = [files, pictures, shown]
        files.upload(on_upload, [files, pictures, *asked], took, **once)
        controls: list[Any] = [looked_for, *sliders]
        for control in controls:
            control.change(
                on_change,
                [pictures, *asked],
                shown,
                # Of the places that a slider passes, the last counts.
                trigger_mode='always_last',
                **once,
            )
        clear.click(on_clear, asked, [pictures, shown], **once)
    return page


def serve(trial: Trial, host: str, port: int, folder: str) -> Any:
    """Starts the server of a trial, and returns the page that it serves.

    ``folder`` keeps uploads until they were looked at.
    """
    # Read when gradio is imported, and at each upload.
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    os.environ['GRADIO_TEMP_DIR'] = folder
    import gradio as gr

    # The server sets up its own logging and thereby closes all log files.
    # Those that append open again at their next line, and lose none.
    for handler in MMLogger.get_current_instance().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.mode = 'a'
    fonts = ['system-ui', 'sans-serif']
    page = build_page(trial, 'Try the model')
    page.queue(max_size=32, default_concurrency_limit=1).launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=MAX_FILE_BYTES,
        state_session_capacity=MAX_SESSIONS,
        footer_links=[],
        ssr_mode=False,
        theme=gr.themes.Base(font=fonts, font_mono=['monospace']),
    )
    return page


def main(argv: Sequence[str] | None = None) -> None:
    """Serves the page until it is interrupted."""
    args = parse('demo-page', argv)
    if find_spec('gradio') is None:
        raise ValueError(f'the page needs the package gradio: {EXTRA}')
    if not has_grad_cam():
        print(f'Grad-CAM needs the package grad-cam: {EXTRA}', file=sys.stderr)
    model = args.config, args.checkpoint, args.device, args.cfg_options
    inferencer = MultiLabelInferencer(*model, args.thresholds)
    if inferencer.thresholds is None:
        print(inferencer.thresholds_note, file=sys.stderr)
    trial = Trial(inferencer, args.train_images)
    # By itself it would leave the folder of uploads behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with TemporaryDirectory(prefix='ltml_page_') as folder:
        page = serve(trial, args.host, args.port, folder)
        print(f'Serving on {page.local_url} until Ctrl-C', flush=True)
        try:
            page.block_thread()
        finally:
            page.close()
