"""Losses of the two players, and the distance between what a discriminator sees in a signal and its reconstruction."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import l1_loss, relu

from sigtok.codecs.quantizers.ranks import summed, world_size
from sigtok.train.discriminators.base import Judgement

FLOOR = 1e-5  # a mean magnitude of features below it counts as none


class LeCam(nn.Module):
    """Keeps scores of real signals near the moving average of the fake ones', and the other way round.

    Only distances to the far side count. Averages are of all scores, over ranks, without the bias of their first
    steps, and move in training only.

    Args:
        weight: Of the distance in the discriminator's loss.
        decay: Of the averages.

    Source: Tseng et al., "Regularizing Generative Adversarial Networks under Limited Data", 2021, arXiv 2104.03310,
    equation 4, with the rectifiers of the authors' program.
    """

    totals: Tensor
    steps: Tensor

    def __init__(self, weight: float = 0.05, decay: float = 0.999) -> None:
        super().__init__()
        self.weight, self.decay = weight, decay
        self.register_buffer("totals", torch.zeros(2))  # real, fake
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, real: Sequence[Tensor], fake: Sequence[Tensor]) -> Float[Tensor, ""]:
        """The weighted distance, of float32 scores ``[B, 1, *places]`` of every network."""
        if self.training:
            means = torch.stack([mean(Tensor.detach, scores) for scores in (real, fake)])
            self.totals.mul_(self.decay).add_(summed(means) / world_size())
            self.steps.mul_(self.decay).add_(1)
        real_average, fake_average = self.totals / self.steps.clamp(min=1)
        above = mean(lambda score: relu(score - fake_average).square(), real)
        below = mean(lambda score: relu(real_average - score).square(), fake)
        return self.weight * (above + below)


class AdversarialLoss(nn.Module):
    """What the discriminator minimises and what the generator minimises; means over scores, then over networks.

    DAC and HiFi-GAN sum over networks: their weights are for this loss times the number of networks.

    Args:
        form: "hinge", of EnCodec and VQGAN, whose generator maximises the score; or "least_squares", of HiFi-GAN and
            DAC, with targets 1 and 0.
        lecam: A regulariser of the discriminator, None for none.

    Source: Lim and Ye, "Geometric GAN", 2017, arXiv 1705.02894; Mao et al., "Least Squares Generative Adversarial
    Networks", 2016, arXiv 1611.04076, equation 9.
    """

    def __init__(self, form: Literal["hinge", "least_squares"] = "hinge", lecam: LeCam | None = None) -> None:
        super().__init__()
        self.form, self.lecam = form, lecam

    def discriminator(self, real: Sequence[Judgement], fake: Sequence[Judgement]) -> Float[Tensor, ""]:
        """The discriminator's loss, of judgements of signals and of detached reconstructions."""
        real_scores, fake_scores = scores_of(real), scores_of(fake)
        loss = mean(FORMS[self.form].real, real_scores) + mean(FORMS[self.form].fake, fake_scores)
        return loss if self.lecam is None else loss + self.lecam(real_scores, fake_scores)

    def generator(self, fake: Sequence[Judgement]) -> Float[Tensor, ""]:
        """The generator's loss, of judgements of reconstructions by a discriminator that is frozen meanwhile."""
        return mean(FORMS[self.form].fooled, scores_of(fake))


def feature_matching(real: Sequence[Judgement], fake: Sequence[Judgement], relative: bool = False) -> Float[Tensor, ""]:
    """L1 between features of signals, which are constants here, and of reconstructions.

    Means over a map, over the maps of a network, then over networks; DAC and HiFi-GAN sum over maps and networks.

    Args:
        real: Judgements of the signals.
        fake: Judgements of their reconstructions by the same discriminator.
        relative: Divide every map's distance by the mean magnitude of the real map, as EnCodec does.

    Source: Larsen et al., "Autoencoding beyond pixels", 2015, arXiv 1512.09300; EnCodec, 2022, equation 2.
    """
    networks = []
    for judged, guessed in zip(real, fake, strict=True):
        maps = [distance(*pair, relative) for pair in zip(judged.features, guessed.features, strict=True)]
        networks.append(torch.stack(maps).mean())
    return torch.stack(networks).mean()


def distance(real: Tensor, fake: Tensor, relative: bool) -> Float[Tensor, ""]:
    """L1 of one map, in float32."""
    real = real.detach().float()
    difference = l1_loss(fake.float(), real)
    return difference / real.abs().mean().clamp(min=FLOOR) if relative else difference


def scores_of(judgements: Sequence[Judgement]) -> list[Tensor]:
    """Scores in float32."""
    return [judgement.score.float() for judgement in judgements]


def mean(term: Callable[[Tensor], Tensor], scores: Sequence[Tensor]) -> Float[Tensor, ""]:
    """The mean over networks of the mean of a term."""
    return torch.stack([term(score).mean() for score in scores]).mean()


class Form(NamedTuple):
    """Terms of a score: of real signals, of fake ones, and of fake ones that are meant to fool."""

    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]
    fooled: Callable[[Tensor], Tensor]


FORMS = {
    "hinge": Form(lambda score: relu(1 - score), lambda score: relu(1 + score), torch.neg),
    "least_squares": Form(lambda score: (1 - score).square(), torch.square, lambda score: (1 - score).square()),
}
