"""A vision model of Hugging Face's transformers as a backbone.

Put it beside the config, which needs two lines::

    custom_imports = dict(imports=['ltml_mm', 'hf_backbone'])
    model = dict(backbone=dict(
        _delete_=True, type='HFBackbone', name='facebook/dinov2-base'))
"""

from typing import Any

from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class HFBackbone(BaseModule):
    """The last features of a model.

    Args:
        name (str, optional): A model of the hub, or a folder with one. By
            default a new one is made of the options.
        **options: Of its config; without a name its ``model_type``, too.
    """

    def __init__(self, name: str | None = None, **options: Any) -> None:
        from transformers import AutoConfig, AutoModel

        super().__init__()
        if name:
            self.model = AutoModel.from_pretrained(name, **options)
        else:
            config = AutoConfig.for_model(**options)
            self.model = AutoModel.from_config(config)

    def init_weights(self) -> None:
        """Leaves the weights as transformers has made or loaded them."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Returns tokens (N, L, C) or maps (N, C, H, W)."""
        return (self.model(x).last_hidden_state,)
