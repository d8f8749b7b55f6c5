"""SEANet: a strided stack of causal convolutions from samples to positions, and its mirror image back.

Tagliasacchi et al., "SEANet: a multi-modal speech enhancement network", 2020, as in EnCodec (Défossez et al., 2022,
arXiv 2210.13438, section 3.1), without its recurrent layers. Weights are not normalised: they begin at a scale that
keeps the variance from layer to layer, and every layer streams and exports as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.layers.conv1d import CausalConv1d, CausalConvTranspose1d

State = tuple[Any, ...]  # those of the layers, in their order

GAIN = 10.0  # inside, speech with a root mean square of 0.1 has unit scale
ELU_POWER = 0.645  # mean square of what ELU makes of unit noise


class SEANetFront(nn.Module):
    """Waveform to positions.

    Args:
        dim: Width D of a position.
        filters: Channels at sample rate; every stride doubles them.
        strides: From samples on; their product is the hop.
        residual_layers: Residual units before each stride; unit j has dilation ``3 ** j``.
    """

    layers: Any  # of modules with a state

    def __init__(
        self, dim: int, filters: int = 32, strides: Sequence[int] = (2, 4, 5, 8), residual_layers: int = 1
    ) -> None:
        super().__init__()
        self.hop = prod(strides)
        stem = CausalConv1d(1, filters, 7)
        nn.init.normal_(stem.conv.weight, std=7**-0.5)
        layers: list[nn.Module] = [stem]
        for stage, stride in enumerate(strides):
            width = filters * 2**stage
            layers += [ResidualUnit(width, 3**unit) for unit in range(residual_layers)]
            layers += [Activated(CausalConv1d(width, 2 * width, 2 * stride, stride), taps=2 * stride)]
        layers += [Activated(CausalConv1d(filters * 2 ** len(strides), dim, 7), taps=7)]
        self.layers = nn.ModuleList(layers)

    def initial_state(self, batch: int) -> State:
        """Inputs of the convolutions before the beginning: zeros."""
        return tuple(layer.initial_state(batch) for layer in self.layers)

    def forward(self, signal: Float[Tensor, "B 1 T"], state: State) -> tuple[Float[Tensor, "B N D"], State]:
        """Positions of a chunk (T a multiple of ``hop``), and the state after it."""
        features, state = _through(self.layers, signal * GAIN, state)
        return features.mT, state


class SEANetBack(nn.Module):
    """Positions to waveform, no sample late. Arguments are those of `SEANetFront`, the strides in the same order."""

    delay = 0
    layers: Any  # of modules with a state

    def __init__(
        self, dim: int, filters: int = 32, strides: Sequence[int] = (2, 4, 5, 8), residual_layers: int = 1
    ) -> None:
        super().__init__()
        self.hop = prod(strides)
        stem = CausalConv1d(dim, filters * 2 ** len(strides), 7)
        nn.init.normal_(stem.conv.weight, std=(7 * dim) ** -0.5)
        layers: list[nn.Module] = [stem]
        for stage, stride in reversed(list(enumerate(strides))):
            width = filters * 2**stage
            layers += [Activated(CausalConvTranspose1d(2 * width, width, 2 * stride, stride), taps=2)]
            layers += [ResidualUnit(width, 3**unit) for unit in range(residual_layers)]
        layers += [Activated(CausalConv1d(filters, 1, 7), taps=7, scale=0.3)]
        self.layers = nn.ModuleList(layers)

    def initial_state(self, batch: int) -> State:
        """Inputs and unfinished sums of the convolutions before the beginning: zeros."""
        return tuple(layer.initial_state(batch) for layer in self.layers)

    def forward(self, positions: Float[Tensor, "B N D"], state: State) -> tuple[Float[Tensor, "B T"], State]:
        """The next ``N * hop`` samples, and the state after them."""
        samples, state = _through(self.layers, positions.mT, state)
        return samples[:, 0] / GAIN, state

    def flush(self, state: State) -> Float[Tensor, "B none"]:
        """No samples: none waits for a later position."""
        return state[0][:, 0, :0]


class ResidualUnit(nn.Module):
    """A kernel of 3 at half the width, then of 1, added to the input ``[B, width, T]``; ELU before both."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.near = Activated(CausalConv1d(width, width // 2, 3, dilation=dilation), taps=3)
        self.mix = Activated(CausalConv1d(width // 2, width, 1), taps=1, scale=0.3)

    def initial_state(self, batch: int) -> State:
        """Inputs of the kernels before the beginning: zeros."""
        return self.near.initial_state(batch), self.mix.initial_state(batch)

    def forward(self, signal: Float[Tensor, "B W T"], state: State) -> tuple[Float[Tensor, "B W T"], State]:
        """Outputs of a chunk, and the state after it."""
        change, state = _through((self.near, self.mix), signal, state)
        return signal + change, state


class Activated(nn.Module):
    """ELU, then a convolution that gives unit scale for unit scale.

    Args:
        conv: The convolution.
        taps: Inputs of a channel that an output sums.
        scale: Of what comes out at first.
    """

    def __init__(self, conv: CausalConv1d | CausalConvTranspose1d, taps: int, scale: float = 1.0) -> None:
        super().__init__()
        self.conv = conv
        nn.init.normal_(conv.conv.weight, std=scale * (taps * conv.conv.in_channels * ELU_POWER) ** -0.5)

    def initial_state(self, batch: int) -> Tensor:
        """That of the convolution."""
        return self.conv.initial_state(batch)

    def forward(self, signal: Float[Tensor, "B I T"], state: Tensor) -> tuple[Float[Tensor, "B O N"], Tensor]:
        """Outputs of a chunk, and the state after it."""
        return self.conv(F.elu(signal), state)


def _through(layers: Iterable[nn.Module], signal: Tensor, state: State) -> tuple[Tensor, State]:
    """What one layer after the other makes of a chunk, and their states after it."""
    states = []
    for layer, before in zip(layers, state, strict=True):
        signal, after = layer(signal, before)
        states.append(after)
    return signal, tuple(states)


def seanet_ends(
    hop: int, dim: int, filters: int = 32, strides: Sequence[int] = (2, 4, 5, 8), residual_layers: int = 1
) -> tuple[SEANetFront, SEANetBack]:
    """Front and back of equal numbers; the back is not late.

    Raises:
        ValueError: If the strides do not multiply to the hop.
    """
    if prod(strides) != hop:
        raise ValueError(f"strides multiply to the hop, got {tuple(strides)} for hop={hop}; choose others")
    arguments = (dim, filters, strides, residual_layers)
    return SEANetFront(*arguments), SEANetBack(*arguments)
