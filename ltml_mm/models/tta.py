"""Test-time augmentation of the two-branch network."""

from __future__ import annotations

from mmengine.model import BaseTTAModel
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample

from ltml_mm.models.streams import fuse_logits


@MODELS.register_module()
class CollaborativeTTA(BaseTTAModel):
    """Averages over the views of an image what ``fuse`` averages.

    With ``fuse='logits'`` the logits of all branches and views are averaged,
    with ``fuse='probs'`` their probabilities; figures by branch average over
    the views alike. The paper reports an augmented test without describing
    it: the horizontal flip in our configs is our reading.

    Args:
        module (dict | nn.Module): A
            :class:`CollaborativeTwoBranchClassifier`.
    """

    def merge_preds(
        self, data_samples_list: list[tuple[DataSample, ...]]
    ) -> list[DataSample]:
        """Merges the predictions of all views.

        Args:
            data_samples_list: For every image, the sample of each view.

        Returns:
            list[DataSample]: One merged sample an image.
        """
        return [self._merge_views(views) for views in data_samples_list]

    def _merge_views(self, views: tuple[DataSample, ...]) -> DataSample:
        merged = views[0].new()
        logits = {
            name: fuse_logits(
                [view.branch_logits[name] for view in views], self.module.fuse
            )
            for name in views[0].branch_logits
        }
        self.module.write_prediction(merged, logits)
        return merged
