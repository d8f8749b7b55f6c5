"""Quantizers as ONNX graphs: the same codes and values in ONNX Runtime, for any batch and length."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from sigtok.codecs.quantizers.build import build


def table(name, codes=64, dim=8, **options):
    return {"name": name, "codebook_size": codes, "dim": dim, **options}


QUANTIZERS = {
    "vq_cosine": table("vq", metric="cosine"),
    "ibq_dot": table("ibq", codes=33, scores="dot"),
    "simvq": table("simvq"),
    "prior": {"name": "prior", "sizes": [40, 24], "widths": [12, 5], "dim": 8},
    "residual_projected": {
        "name": "residual",
        "stages": {"copies": 3, "name": "projected", "dim": 8, "inner": table("ema", dim=4, metric="sphere")},
    },
    "grouped": {"name": "grouped", "parts": [table("vq", dim=3), table("vq", dim=5)]},
    "additive": {"name": "additive", "stages": {"copies": 3, **table("vq", 16)}, "beam": 4},
    "split": {"name": "split", "first": table("fixed"), "rest": {"name": "fsq", "levels": [4] * 8}},
}


class Path(nn.Module):
    """Latents to streams and values."""

    def __init__(self, quantizer):
        super().__init__()
        self.quantizer = quantizer

    def forward(self, latents):
        streams = self.quantizer.encode(latents)
        return (*streams, self.quantizer.decode(streams))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_graph_and_module_agree(name, tmp_path):
    module, file = Path(build(QUANTIZERS[name])).eval(), str(tmp_path / "graph.onnx")
    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("positions")},)
    torch.onnx.export(module, (torch.randn(2, 5, 8),), file, dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = onnxruntime.InferenceSession(file)
    for batch, positions in ((1, 10_000), (3, 1), (2, 777)):
        latents = torch.randn(batch, positions, 8)
        *streams, values = session.run(None, {session.get_inputs()[0].name: latents.numpy()})
        *expected, decoded = module(latents)
        agree = np.mean([np.mean(some == other.numpy()) for some, other in zip(streams, expected, strict=True)])
        assert agree >= 0.9999
        same = np.all([some == other.numpy() for some, other in zip(streams, expected, strict=True)], axis=0)
        np.testing.assert_allclose(values[same], decoded.detach().numpy()[same], atol=1e-4)
