"""Statistics of the training features, given to a codec of features before it learns."""

from typing import Any

from lightning.pytorch import Callback

from sigtok.train.data.features import FeatureFiles


class FeatureStatistics(Callback):
    """Sets mean and deviation in the codec from `FeatureFiles.statistics`, once.

    They are buffers of the codec and travel in checkpoints and released models; a codec that has them, in a resumed run
    or one that begins with a released model, keeps them.
    """

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Measure and set, unless the weights brought statistics.

        Raises:
            ValueError: If codec and data are not of features, or of features of other channels or frame rate.
        """
        data, spec = trainer.datamodule, pl_module.codec.spec
        if not isinstance(data, FeatureFiles) or spec.modality != "features":
            raise ValueError(
                f"statistics are of FeatureFiles, for a codec of features, got {type(data).__name__} and a codec of "
                f"{spec.modality}; leave this callback out"
            )
        expected, found = (spec.channels, spec.sample_rate), (data.info.channels, data.info.frame_rate)
        if found != expected:
            raise ValueError(
                f"{spec.name} takes {expected[0]} channels at {expected[1]} Hz, the features have {found[0]} at "
                f"{found[1]} Hz; set channels and frame_rate of the codec"
            )
        scale = pl_module.codec.encoder.scale
        if not scale.frames:
            scale.set(*data.statistics())
