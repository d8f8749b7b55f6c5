"""Distillation: latents of a codec are drawn to the features of a teacher that knows what is said."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

TINY = 1e-4  # the least norm of a vector in a cosine: silence has no direction


class Distill(nn.Module):
    """How far latents, after a learned linear map, point away from a teacher's features.

    Args:
        dim: Width D of the latents.
        channels: Width F of the features.
        student_rate: Latents per second.
        target_rate: Features per second. Whoever is faster is averaged down to the rate of the other.
        form: "cosine": one minus the cosine at every step (Mimi, arXiv 2410.00037); "d_axis": for every channel the
            cosine over time, as ``-log sigmoid`` (SpeechTokenizer, arXiv 2308.16692).

    Raises:
        ValueError: When called, if the two differ in duration by more than one step of the slower.
    """

    def __init__(
        self,
        dim: int,
        channels: int,
        student_rate: float,
        target_rate: float,
        form: Literal["cosine", "d_axis"] = "cosine",
    ) -> None:
        super().__init__()
        self.form, self.student_rate, self.target_rate = form, student_rate, target_rate
        self.into = nn.Linear(dim, channels)

    def forward(
        self,
        student: Float[Tensor, "B N D"],
        target: Float[Tensor, "B M F"],
        student_rate: float | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of a batch, in float32; no gradient for the target.

        Args:
            student: Latents.
            target: Features of the same sound.
            student_rate: Latents per second in this pass, where the codec's windows vary.
        """
        rate = self.student_rate if student_rate is None else student_rate
        with torch.autocast(student.device.type, enabled=False):
            guess, truth = aligned(self.into(student.float()), target.detach().float(), rate, self.target_rate)
            if self.form == "cosine":
                return 1 - F.cosine_similarity(guess, truth, dim=-1, eps=TINY).mean()
            return -F.logsigmoid(F.cosine_similarity(guess, truth, dim=1, eps=TINY)).mean()


def aligned(
    some: Float[Tensor, "B N F"], others: Float[Tensor, "B M F"], some_rate: float, others_rate: float
) -> tuple[Float[Tensor, "B S F"], Float[Tensor, "B S F"]]:
    """Both at the lower of two rates in Hz, by averages; at most one step at the end is dropped.

    Raises:
        ValueError: If they differ in duration by more than one step of the slower, or have no step in common.
    """
    if some_rate > others_rate:
        return aligned(others, some, others_rate, some_rate)[::-1]
    ratio = others_rate / some_rate
    steps = others.shape[1] / ratio
    count = min(some.shape[1], int(steps + 1e-6))
    if abs(some.shape[1] - steps) > 1 or not count:
        raise ValueError(
            f"latents and features of one sound last equally long, got {some.shape[1]} at {some_rate:g} Hz and "
            f"{others.shape[1]} at {others_rate:g} Hz; check the rates, or give longer crops"
        )
    pooled = F.adaptive_avg_pool1d(others[:, : round(count * ratio)].transpose(1, 2), count).transpose(1, 2)
    return some[:, :count], pooled
