"""The adversary of a codec: discriminators, what they learn from, and what they tell the codec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from sigtok.train.discriminators.base import Judgement
from sigtok.train.losses.adversarial import AdversarialLoss, LeCam, feature_matching

NAMES = ("adversarial", "feature_matching")


class Adversary(nn.Module):
    """Losses "adversarial" and "feature_matching" of the reconstruction, from ``start`` on.

    Args:
        discriminators: Each judges a signal at several scales.
        form: "hinge" or "least_squares".
        relative: Divide feature distances by the mean magnitude of the real features.
        lecam: Weight of LeCam's regulariser of the discriminators, 0 for none; 0.05 in IBQ and MAGVIT-v2.
        start: First step at which discriminators learn and are heard.
        ramp: Steps over which they gain their full weight.
        every: Steps of the codec for one of the discriminators.
        crop: Samples, or pixels along each axis, that are judged of every item, from a random place; None for all.
        learning_rate: Of the discriminators; constant.
        betas: Of their AdamW.
        gradient_clip: Largest norm of their gradient, None for no limit.
    """

    def __init__(
        self,
        discriminators: Sequence[nn.Module],
        form: Literal["hinge", "least_squares"] = "hinge",
        relative: bool = False,
        lecam: float = 0.0,
        start: int = 0,
        ramp: int = 0,
        every: int = 1,
        crop: int | None = None,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.8, 0.99),
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__()
        if not discriminators or start < 0 or ramp < 0 or every < 1:
            raise ValueError(
                f"an adversary has discriminators, start and ramp of at least 0 and every of at least 1, got "
                f"{len(discriminators)}, {start}, {ramp}, {every}"
            )
        self.discriminators = nn.ModuleList(discriminators)
        self.loss, self.relative = AdversarialLoss(form, LeCam(lecam) if lecam else None), relative
        self.start, self.ramp, self.every, self.crop = start, ramp, every, crop
        self.learning_rate, self.betas, self.gradient_clip = learning_rate, betas, gradient_clip

    def weight(self, step: int) -> float:
        """How loudly it is heard at a step, 0 to 1."""
        return 0.0 if step < self.start else min(1.0, (step - self.start + 1) / (self.ramp + 1))

    def learns(self, step: int) -> bool:
        """Whether discriminators learn at a step."""
        return step >= self.start and (step - self.start) % self.every == 0

    def optimizer(self) -> AdamW:
        """That of the discriminators."""
        return AdamW(self.parameters(), lr=self.learning_rate, betas=self.betas)

    def judge(self, signal: Tensor) -> list[Judgement]:
        """What all discriminators say of a signal ``[B, C, *extent]``."""
        return [judgement for discriminator in self.discriminators for judgement in discriminator(signal)]

    def place(self, signal: Tensor) -> tuple[slice, ...]:
        """Where this step is judged, the same place of all items."""
        place = [slice(None), slice(None)]
        for size in signal.shape[2:]:
            wanted = size if self.crop is None else min(size, self.crop)
            start = int(torch.randint(size - wanted + 1, ()))
            place.append(slice(start, start + wanted))
        return tuple(place)

    def lesson(self, signal: Tensor, reconstruction: Tensor) -> Tensor:
        """The loss of the discriminators; no gradient for the codec."""
        return self.loss.discriminator(self.judge(signal), self.judge(reconstruction.detach()))

    def losses(self, signal: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """The losses of the codec; no gradient for the discriminators."""
        with self.frozen():
            with torch.no_grad():
                real = self.judge(signal)
            fake = self.judge(reconstruction)
        matched = feature_matching(real, fake, relative=self.relative)
        return dict(zip(NAMES, (self.loss.generator(fake), matched), strict=True))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Weights that take no gradient."""
        self.requires_grad_(False)
        try:
            yield
        finally:
            self.requires_grad_(True)
