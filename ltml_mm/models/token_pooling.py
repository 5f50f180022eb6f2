"""Turns the tokens of a transformer into one feature an image."""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class TokenPooling(nn.Module):
    """Takes the class token, or the mean of the tokens where there is none.

    For backbones that return all tokens, such as the vision transformers of
    timm in MMPretrain's ``TIMMBackbone``.

    Args:
        num_prefix_tokens (int): Tokens ahead of the patches; the first of
            them is the class token. Defaults to 0: none.
    """

    def __init__(self, num_prefix_tokens: int = 0) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, feats: Tensor | tuple[Tensor, ...]) -> tuple[Tensor]:
        """Pools the last feature.

        Args:
            feats (Tensor | tuple[Tensor]): Tokens (N, L, C), last of all.

        Returns:
            tuple[Tensor]: One feature of shape (N, C).
        """
        tokens = feats if isinstance(feats, Tensor) else feats[-1]
        if self.num_prefix_tokens:
            return (tokens[:, 0],)
        return (tokens.mean(1),)
