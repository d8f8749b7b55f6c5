"""PatchGAN: a score for every overlapping patch of an image.

Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", 2016, arXiv 1611.07004, section 3.2.2.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from .base import ConvStack, Discriminator, Judgement


class PatchGAN(Discriminator):
    """Scores ``[B, 1, places, places]`` of patches of 70 x 70 pixels, 8 apart, with the default layers.

    Weight norm takes the place of the published batch norm. 2.8 million parameters by default.

    Args:
        layers: That halve the image; one more and the head follow.
        width: Channels of the first layer; each layer doubles them, up to eight times.
        channels: Of the image.
    """

    def __init__(self, layers: int = 3, width: int = 64, channels: int = 3) -> None:
        super().__init__()
        self.smallest = 3 * 2**layers
        widths = [channels, *(width * min(2**layer, 8) for layer in range(layers + 1))]
        self.stack = ConvStack(
            [
                nn.Conv2d(widths[layer], widths[layer + 1], 4, 2 if layer < layers else 1, 1)
                for layer in range(layers + 1)
            ],
            slope=0.2,
        )
        self.head = weight_norm(nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, signal: Float[Tensor, "B C H W"]) -> list[Judgement]:
        """One judgement.

        Raises:
            ValueError: If the image is smaller than one score.
        """
        if min(signal.shape[2:]) < self.smallest:
            raise ValueError(
                f"this PatchGAN judges images of at least {self.smallest} pixels a side, got "
                f"{tuple(signal.shape[2:])}; train on larger crops or with fewer layers"
            )
        features = self.stack(signal)
        return [Judgement(self.head(features[-1]), features)]
