"""Causal convolutions in time that stream: what the next chunk needs of this one goes in and comes out."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class CausalConv1d(nn.Module):
    """A convolution whose output t reads inputs up to t; its state is the last ``(kernel - 1) * dilation`` inputs.

    Channels first ``[B, channels, T]``. With a stride, T must be a multiple of it and the state is shorter by
    ``stride - 1``, so that chunks of any legal length give the samples of the whole.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        if (kernel - 1) * dilation + 1 < stride:
            raise ValueError(f"a kernel spans at least its stride, got kernel={kernel}, stride={stride}")
        self.conv = nn.Conv1d(in_channels, out_channels, kernel, stride, dilation=dilation, groups=groups)
        self.memory = (kernel - 1) * dilation + 1 - stride

    def initial_state(self, batch: int) -> Tensor:
        """Inputs before the beginning: zeros."""
        return self.conv.weight.new_zeros(batch, self.conv.in_channels, self.memory)

    def forward(self, signal: Float[Tensor, "B I T"], state: Tensor) -> tuple[Float[Tensor, "B O N"], Tensor]:
        """Outputs of a chunk, and the state after it."""
        signal = torch.cat((state, signal), dim=-1)
        return self.conv(signal), signal[..., signal.shape[-1] - self.memory :]


class CausalConvTranspose1d(nn.Module):
    """A transposed convolution: input t adds to the ``kernel`` outputs from ``t * stride`` on.

    Channels first ``[B, channels, T]``, T inputs for ``T * stride`` outputs. Its state is the ``kernel - stride`` sums
    that later inputs add to, without the bias.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        if kernel < stride:
            raise ValueError(f"a kernel spans at least its stride, got kernel={kernel}, stride={stride}")
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, kernel, stride, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.memory = kernel - stride

    def initial_state(self, batch: int) -> Tensor:
        """Sums before the beginning: zeros."""
        return self.conv.weight.new_zeros(batch, self.conv.out_channels, self.memory)

    def forward(self, signal: Float[Tensor, "B I N"], state: Tensor) -> tuple[Float[Tensor, "B O T"], Tensor]:
        """Outputs of a chunk, and the state after it."""
        sums = self.conv(signal)
        sums = torch.cat((sums[..., : self.memory] + state, sums[..., self.memory :]), dim=-1)
        done = sums.shape[-1] - self.memory
        return sums[..., :done] + self.bias[:, None], sums[..., done:]


class CausalBlock(nn.Module):
    """A ConvNeXt block in time (Liu et al., 2022, arXiv 2201.03545): depthwise causal kernel, norm, two linear maps.

    Positions by features ``[B, T, dim]``; the depthwise kernel is a sum of shifted products, which beats a grouped
    convolution on a CPU.
    """

    def __init__(self, dim: int, kernel: int = 7, expansion: int = 3) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(kernel, dim) / kernel**0.5)
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.up = nn.Linear(dim, expansion * dim, bias=False)
        self.down = nn.Linear(expansion * dim, dim, bias=False)
        nn.init.normal_(self.down.weight, std=0.2 / (expansion * dim) ** 0.5)

    def initial_state(self, batch: int) -> Tensor:
        """Inputs before the beginning: zeros ``[B, kernel - 1, dim]``."""
        return self.kernel.new_zeros(batch, len(self.kernel) - 1, self.kernel.shape[1])

    def forward(self, positions: Float[Tensor, "B T D"], state: Tensor) -> tuple[Float[Tensor, "B T D"], Tensor]:
        """Positions of a chunk, and the state after it."""
        count = positions.shape[1]
        seen = torch.cat((state, positions), dim=1)
        mixed = sum(seen[:, shift : shift + count] * weight for shift, weight in enumerate(self.kernel))
        mixed = self.down(F.relu(self.up(self.norm(mixed))).square())
        return positions + mixed, seen[:, seen.shape[1] - len(self.kernel) + 1 :]
