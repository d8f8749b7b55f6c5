"""Distillation into the first codebook: what it says is drawn to a teacher's features, and the rest is free of them."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sigtok.codecs.codec import Codec, Reconstruction
from sigtok.codecs.spec import Rate
from sigtok.train.losses.distill import Distill
from sigtok.train.teachers import Teacher

from .base import Found, Objective


class Distillation(Objective):
    """Loss "distill" of the values of the first codebook, through the quantizer's own gradient, against a teacher.

    In Mimi (arXiv 2410.00037) the first codebook stands beside the others (`Split`), in SpeechTokenizer (arXiv
    2308.16692) before them (`Residual`).

    Args:
        teacher: What is heard in a signal; `teachers.teacher` makes one by name.
        dim: Width of the latents.
        form: "cosine" per step, or "d_axis", over time per channel.
    """

    def __init__(self, teacher: Teacher, dim: int, form: Literal["cosine", "d_axis"] = "cosine") -> None:
        super().__init__()
        self.teacher = teacher
        rate = teacher.frame_rate
        self.distance = Distill(dim, teacher.channels, rate, rate, form)

    def forward(self, codec: Codec, signal: Tensor, reconstruction: Reconstruction, rate: Rate) -> Found:
        """Compare one pass with what the teacher hears."""
        if codec.spec.sample_rate != self.teacher.sample_rate:
            raise ValueError(
                f"the teacher hears {self.teacher.sample_rate} Hz, {codec.spec.name} works at "
                f"{codec.spec.sample_rate} Hz; give the teacher that sample_rate"
            )
        said = codec.quantizer(reconstruction.latents, 1, update=False).latents
        per_second = float(codec.spec.frame_rate) * rate.queries / rate.window[0]
        loss = self.distance(said, self.teacher(signal[:, :1]), per_second)
        return Found({"distill": loss if codec.quantizer.ready else 0 * loss}, {})
