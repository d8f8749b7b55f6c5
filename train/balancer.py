"""Loss balancer: the weight of a loss is its share of the gradient that the codec receives, whatever the loss's scale.

Défossez et al., "High Fidelity Neural Audio Compression" (EnCodec), 2022, arXiv 2210.13438, section 3.4.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sigtok.codecs.quantizers.ranks import summed

SMALLEST = 1e-12  # a norm below it is not scaled up further


class Balancer(nn.Module):
    """Combines the gradients of several losses with respect to a reconstruction.

        gradient = balancer(losses, reconstruction)
        reconstruction.backward(gradient)

    The gradient of a loss is scaled to ``norm`` times its share of the weights, over the moving average of its own
    norm: that of one item, averaged over items and ranks. Averages start without bias, and take in no norm that is
    zero or not finite, so that a loss which was silent for a while comes back at its own scale. All ranks give the
    same losses at every call. Losses that are not of the reconstruction (commitment, entropy) are no business of
    this: add them by a backward pass of their own.

    Args:
        weights: By name of the loss, all positive.
        norm: Of the combined gradient of one item, if those of all losses pointed one way.
        decay: Of the averages.

    Raises:
        ValueError: If a weight is not positive.
    """

    totals: Tensor
    steps: Tensor

    def __init__(self, weights: Mapping[str, float], norm: float = 1.0, decay: float = 0.999) -> None:
        super().__init__()
        if bad := sorted(name for name, weight in weights.items() if not weight > 0):
            raise ValueError(f"a balanced loss has a positive weight, got another for {bad}; leave that loss out")
        self.weights, self.norm, self.decay = dict(weights), norm, decay
        self.rows = {name: row for row, name in enumerate(sorted(weights))}  # a YAML may be reordered
        self.register_buffer("totals", torch.zeros(len(weights)))
        self.register_buffer("steps", torch.zeros(len(weights)))

    def forward(
        self, losses: Mapping[str, Tensor], reconstruction: Float[Tensor, "B C *extent"]
    ) -> Float[Tensor, "B C *extent"]:
        """The combined gradient; that of the reconstruction and of all weights is left as it was.

        Args:
            losses: Scalars computed from the reconstruction, by name: all that have a weight, or some of them (an
                adversarial loss may start later), which then share the gradient among them.
            reconstruction: Requires a gradient.

        Raises:
            ValueError: If a loss has no weight.
        """
        if unknown := sorted(losses.keys() - self.weights.keys()):
            raise ValueError(f"a balanced loss has a weight, got none for {unknown}; the weights are {self.weights}")
        weights = [self.weights[name] for name in losses]
        gradients = torch.stack([gradient_of(loss, reconstruction).float() for loss in losses.values()])
        norms = self.averages([self.rows[name] for name in losses], gradients.flatten(2).norm(dim=2))
        shares = norms.new_tensor(weights) / sum(weights)
        scales = self.norm * shares / norms.clamp(min=SMALLEST)
        return torch.tensordot(scales, gradients, dims=1).to(reconstruction.dtype)

    def averages(self, rows: list[int], norms: Float[Tensor, "L B"]) -> Float[Tensor, " L"]:
        """Moving averages of the norms of some losses, with those of this step."""
        sums = summed(torch.cat([norms.sum(1), norms.new_tensor([norms.shape[1]])]))
        new, index = sums[:-1] / sums[-1], torch.tensor(rows, device=norms.device)
        taken = (new > 0) & new.isfinite()
        totals, steps = self.totals[index], self.steps[index]
        totals = torch.where(taken, self.decay * totals + new, totals)
        steps = torch.where(taken, self.decay * steps + 1, steps)
        self.totals[index], self.steps[index] = totals, steps
        return totals / steps.clamp(min=1)


def gradient_of(loss: Tensor, reconstruction: Tensor) -> Tensor:
    """The gradient of one of several losses whose graphs share parts."""
    return torch.autograd.grad(loss, reconstruction, retain_graph=True)[0]
