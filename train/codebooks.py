"""New codebooks for a trained codec: ``sigtok-train codebooks --config C --checkpoint K --out NEW.ckpt``.

K-means, one codebook after another over what those before it left, of many more latents than a step of training sees.
Train on from the result with ``--init_from NEW.ckpt`` and ``model.freeze: [quantizer]``: the rest of the codec settles
on codes that stand still.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import LightningDataModule
from torch import Tensor
from tqdm import tqdm

from sigtok.codecs.codec import Codec
from sigtok.codecs.quantizers.kmeans import kmeans
from sigtok.codecs.quantizers.search import nearest

from .initial import checkpoint_weights, initialise, inside
from .task import whole_windows

CELL = 0.1  # deviations


def codebooks(config: str, checkpoint: str, out: str, vectors: int = 150_000, iterations: int = 10) -> None:
    """Write a checkpoint with the weights of another and new codebooks.

    Args:
        config: YAML of the run that comes next; its codec may have another quantizer than the checkpoint's.
        checkpoint: Where all other weights come from.
        out: File to write, for ``--init_from``.
        vectors: Latents to look at, of training crops.
        iterations: Of k-means, for every codebook.
    Raises:
        ValueError: If the quantizer has no explicit codebook of its own and is no sequence of stages with such, or the
            weights are not of this codec.
    """
    codec, data = parts_of(config)
    stages = [stage for stage in getattr(codec.quantizer, "stages", (codec.quantizer,)) if hasattr(stage, "codebook")]
    if not stages or len(stages) != codec.spec.num_codebooks:
        raise ValueError(f"codebooks are tables, one or those of stages, {config} has none in its quantizer")
    initialise(codec, inside(checkpoint_weights(checkpoint), "codec."), checkpoint, fresh=["quantizer"])
    rest = distinct(collected(codec.eval(), data, vectors))
    for stage in tqdm(stages, desc="codebooks", unit="book", disable=None):
        centres, counts = kmeans(rest, len(stage.codebook), iterations)
        rest = rest - centres[nearest(rest, centres)]
        with torch.no_grad():
            stage.codebook.copy_(centres)
        if "counts" in dict(stage.named_buffers()):
            stage.counts.copy_(counts)
    sys.stderr.write(f"left of {len(rest)} latents: {float(rest.square().mean()):.4g} per number\n")
    torch.save({"state_dict": {f"codec.{name}": value for name, value in codec.state_dict().items()}}, out)


def parts_of(config: str) -> tuple[Codec, Any]:
    """The codec and the data module of a YAML."""
    values = yaml.safe_load(Path(config).read_text())
    if not isinstance(values, dict) or "codec" not in (values.get("model") or {}) or "data" not in values:
        raise ValueError(f"the YAML of a run has model.codec and data, got none in {config}; pass its config.yaml")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--codec", type=Codec)
    parser.add_argument("--data", type=LightningDataModule)
    made = parser.instantiate_classes(parser.parse_object({"codec": values["model"]["codec"], "data": values["data"]}))
    return made.codec, made.data


@torch.no_grad()
def collected(codec: Codec, data: Any, count: int) -> Tensor:
    """Latents ``[M, D]`` of training crops, at least so many."""
    rate, found, total = codec.spec.resolve(), [], 0
    stream = data.train_dataloader()
    with tqdm(total=count, desc="latents", unit="", disable=None) as bar:
        while total < count:
            for signal in stream:
                latents = codec.encoder(whole_windows(signal, codec.spec.step(rate)), rate).flatten(0, 1)
                found.append(latents)
                total += len(latents)
                bar.update(len(latents))
                if total >= count:
                    break
    return torch.cat(found)[:count]


def distinct(vectors: Float[Tensor, "M D"]) -> Float[Tensor, "U D"]:
    """One of all vectors that lie in the same cell of a grid, a tenth of their deviation wide.

    Silence is many times the same latent. Codes that crowd there would say it in several ways, equal but for rounding,
    and no two machines would choose the same.
    """
    cells = (vectors / (vectors.std() * CELL)).round()
    _, index = torch.unique(cells, dim=0, return_inverse=True)
    first = torch.full((int(index.max()) + 1,), len(vectors)).scatter_reduce(
        0, index, torch.arange(len(vectors)), "amin"
    )
    return vectors[first.sort().values]


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line; a mistake ends in one line and exit code 2."""
    parser = ArgumentParser(prog="sigtok-train codebooks", description=__doc__, exit_on_error=False)
    parser.add_function_arguments(codebooks)
    try:
        codebooks(**parser.parse_args(arguments).as_dict())
    except (ArgumentError, yaml.YAMLError, ValueError, TypeError, OSError) as error:
        sys.stderr.write(f"sigtok-train codebooks: error: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
