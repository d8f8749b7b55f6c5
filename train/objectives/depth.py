"""Depth autoregression: codes of later codebooks are made predictable from those of earlier ones.

The first codebook is easy for a language model and the residual ones are hard; a small transformer along the depth of a
residual quantizer is trained with the codec, and the codec with it. ALMTokenizer (arXiv 2504.10344) predicts
features with a squared error, LARP (arXiv 2410.21264) codes with a cross-entropy.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.codec import Codec, Reconstruction
from sigtok.codecs.quantizers.residual import Residual
from sigtok.codecs.spec import Rate

from .base import Found, Objective

LEAST = 0.1  # of the mean length of latents: values shorter than this count by their length


class DepthAutoregression(Objective):
    """Loss "depth"; figures "next_code_accuracy_q", the share of codes of codebook q (from 1) that are guessed.

    At every position the sequence is a summary of the positions before, then the values of the codebooks, each of
    length one; the output after the value of codebook q - 1 is compared with what codebook q holds. Gradients reach the
    values that are read, straight through the quantizer, and not those that are to be guessed.

    Args:
        dim: Width of the latents.
        codebooks: Most codebooks Q of the codec.
        form: "cross_entropy" over the codes by cosine similarity, or "mse" to the normalised value (its squared
            distance).
        time: Whether the sequence opens with what the three positions before say; else the depth is all there is.
        width: Width of the transformer.
        depth: Its blocks.
        heads: Its attention heads.

    Raises:
        ValueError: When called, if the codec's quantizer is not residual or the pass has no codes.
    """

    def __init__(
        self,
        dim: int,
        codebooks: int,
        form: Literal["cross_entropy", "mse"] = "cross_entropy",
        time: bool = True,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        if form not in ("cross_entropy", "mse"):
            raise ValueError(f'the form is "cross_entropy" or "mse", got {form!r}')
        self.form = form
        self.before = nn.Conv1d(dim, width, 3) if time else None
        self.into = nn.Linear(dim, width)
        self.place = nn.Parameter(torch.randn(codebooks, width) * 0.02)
        layer: Any = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.out = nn.Linear(width, dim)
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, codec: Codec, signal: Tensor, reconstruction: Reconstruction, rate: Rate) -> Found:
        """Guess the codes of codebooks 1 and up of a pass."""
        quantizer, streams = codec.quantizer, reconstruction.quantized.streams
        if not isinstance(quantizer, Residual):
            raise ValueError(f"depth autoregression needs a residual quantizer, got {type(quantizer).__name__}")
        if not streams:
            raise ValueError("depth autoregression needs codes, got a pass that does not quantize (model.quantize)")
        zero = sum((weight.sum() * 0 for weight in self.parameters()), start=reconstruction.latents.new_zeros(()))
        present = torch.stack([stream >= 0 for stream in streams], -1)
        if len(streams) < 2 or not quantizer.ready:
            return Found({"depth": zero}, {})
        with torch.autocast(signal.device.type, enabled=False):
            latents = reconstruction.latents.float()
            values = stage_values(quantizer, latents, streams)
            guesses = self.guess(values, LEAST * latents.detach().norm(dim=-1).mean())
            losses, figures = [], {}
            for book in range(1, len(streams)):
                table = F.normalize(stage_table(quantizer, book, latents.device), dim=-1)
                guess, code, here = guesses[..., book, :], streams[book], present[..., book]
                scores = F.normalize(guess, dim=-1)[here] @ table.t() * self.log_scale.exp()
                if self.form == "cross_entropy":
                    losses.append(F.cross_entropy(scores, code[here]))
                else:
                    losses.append((guess[here] - table[code[here]]).square().sum(-1).mean() + 0 * self.log_scale)
                figures[f"next_code_accuracy_{book}"] = (scores.detach().argmax(-1) == code[here]).float().mean()
        return Found({"depth": torch.stack(losses).mean() + zero}, figures)

    def guess(self, values: Float[Tensor, "B N Q D"], least: Tensor) -> Float[Tensor, "B N Q D"]:
        """What each codebook is expected to hold, from the codebooks before it and the positions before.

        Args:
            values: Of all codebooks.
            least: Values shorter than this are not brought to length one: their gradient would be without bounds.
        """
        batch, count, books, _ = values.shape
        told = self.into(direction(values[:, :, :-1], least))
        first = told.new_zeros(batch, count, 1, told.shape[-1])
        if self.before is not None:
            past = F.pad(direction(values.sum(2), least).transpose(1, 2), (3, 0))[..., :-1]
            first = self.before(past).transpose(1, 2)[:, :, None]
        sequence = (torch.cat((first, told), dim=2) + self.place[:books]).flatten(0, 1)
        causal = torch.ones(books, books, dtype=torch.bool, device=values.device).triu(1)
        return self.out(self.transformer(sequence, mask=causal)).unflatten(0, (batch, count))


def direction(values: Float[Tensor, "*B D"], least: Tensor) -> Float[Tensor, "*B D"]:
    """Values over their length, or over the least length if they are shorter."""
    return values / values.detach().norm(dim=-1, keepdim=True).clamp_min(least)


def stage_values(quantizer: Residual, latents: Tensor, streams: tuple[Tensor, ...]) -> Float[Tensor, "B N Q D"]:
    """Values of every stage, with the gradient of what the stage read."""
    values, residual = [], latents
    for stage, stream in zip(quantizer.stages, streams, strict=False):
        value = stage.decode([stream]).detach()  # type: ignore[operator]
        values.append(residual + (value - residual).detach())
        residual = residual - value
    return torch.stack(values, dim=2)


def stage_table(quantizer: Residual, book: int, device: torch.device) -> Float[Tensor, "K D"]:
    """What every code of a stage decodes to."""
    stage: Any = quantizer.stages[book]
    codes = torch.arange(quantizer.codebook_sizes[book], device=device)
    return stage.decode([codes[None]])[0].detach()
