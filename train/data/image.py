"""Picture files as random crops: ``ImageFiles``, RGB batches ``[B, 3, H, W]`` in [-1, 1]."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from sigtok.codecs.media import IMAGE_SUFFIXES, read_image, to_pixels

from .base import CropModule
from .files import OnError, Selection, Split, WholeFiles, read_all, read_or_skip, readable
from .sources import Entry

TRIES = 10
Picture = np.ndarray | Entry  # uint8 [H, W, 3] in memory, or a file to read


class ImageCrops:
    """Square random crops at random scales, mirrored half of the time.

    A scale of 0.5 shows a picture at half its size. Cut first, then scaled: the cost is that of the part.
    Scales are drawn evenly in their logarithm; a picture too small for its scale is shown larger.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        crop: int,
        scale: Sequence[float] = (1.0, 1.0),
        flip: bool = True,
        on_error: OnError = "raise",
    ):
        self.pictures, self.crop, self.scale, self.flip, self.on_error = pictures, crop, scale, flip, on_error

    def draw(self, generator: np.random.Generator) -> Tensor:
        """One crop ``[3, crop, crop]``."""
        for _ in range(TRIES):
            pixels = self.pixels(self.pictures[int(generator.integers(len(self.pictures)))])
            if pixels is not None:
                return self.cut(pixels, generator)
        raise ValueError(f"{TRIES} draws in a row cannot be read; see the warnings")

    def cut(self, pixels: np.ndarray, generator: np.random.Generator) -> Tensor:
        """One crop of a picture ``[H, W, 3]``."""
        side = source_side(pixels, self.crop, float(np.exp(generator.uniform(*np.log(self.scale)))))
        top, left = (int(generator.integers(size - side + 1)) for size in pixels.shape[:2])
        mirrored = self.flip and generator.random() < 0.5
        signal = scaled(pixels[top : top + side, left : left + side], self.crop)
        return signal.flip(-1) if mirrored else signal

    def pixels(self, picture: Picture) -> np.ndarray | None:
        """uint8 ``[H, W, 3]``; None if the file is skipped."""
        if isinstance(picture, np.ndarray):
            return picture
        return read_or_skip(read_pixels, picture, self.on_error)


class CentreCrops(Dataset):
    """The middle of every picture at one scale, ``[3, crop, crop]``."""

    def __init__(self, pictures: Sequence[Picture], crop: int, scale: float):
        self.pictures, self.crop, self.scale = pictures, crop, scale

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        picture = self.pictures[index]
        pixels = picture if isinstance(picture, np.ndarray) else read_pixels(picture)
        side = source_side(pixels, self.crop, self.scale)
        top, left = ((size - side) // 2 for size in pixels.shape[:2])
        return scaled(pixels[top : top + side, left : left + side], self.crop)


class ImageFiles(CropModule):
    """Square RGB crops ``[B, 3, crop, crop]`` of a folder or a manifest of pictures.

    Args:
        root: Folder searched through; with a manifest, what its names are relative to.
        manifest: CSV with a column ``file`` and, if wanted, ``split`` (train, val) and others to filter by.
        where: Column: value or values; the rows to keep, for example ``{group: tier A}``.
        exclude: The same, rows to drop; or a text file of names.
        val_fraction: Hold out by hash of the name; None uses the column ``split``, or 0.05 without one.
        val_items: At most so many validation crops; None for one of every val file.
        predict_split: Which files ``predict`` reads whole.
        crop: Pixels a side.
        scale: Lowest and highest scale of a training crop; validation uses their geometric mean.
        flip: Mirror half of the crops.
        cache: Decode every file once into memory, as uint8: 3 bytes a pixel, shared with forked workers.
        on_error: ``"raise"`` stops at an unreadable file, ``"skip"`` warns and goes on without it
            (``predict`` always stops).
        batch_size: Crops per device and step.
        steps_per_epoch: Batches per device and epoch; the stream itself never ends.
        num_workers: Processes that prepare batches, and threads that fill the cache; 0 for the main one.
        seed: Of order, crops and mirrors.
    """

    def __init__(
        self,
        root: str | None = None,
        manifest: str | None = None,
        where: dict[str, Any] | None = None,
        exclude: str | dict[str, Any] | None = None,
        val_fraction: float | None = None,
        val_items: int | None = None,
        predict_split: Split = "val",
        crop: int = 256,
        scale: tuple[float, float] = (1.0, 1.0),
        flip: bool = True,
        cache: bool = False,
        on_error: OnError = "raise",
        batch_size: int = 8,
        steps_per_epoch: int = 1000,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__(batch_size, steps_per_epoch, num_workers, seed)
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale is [lowest, highest], above 0, got {list(scale)}; order them")
        self.files = Selection(root, manifest, IMAGE_SUFFIXES, where, exclude, val_fraction)
        self.crop, self.scale, self.flip = crop, scale, flip
        self.val_items, self.predict_split = val_items, predict_split
        self.cache, self.on_error = cache, on_error

    def train_source(self) -> ImageCrops:
        """Random crops of the training files."""
        return ImageCrops(self.pictures(self.files.train), self.crop, self.scale, self.flip, self.on_error)

    def val_set(self) -> CentreCrops:
        """The middle of every validation file."""
        files = self.files.val[: self.val_items]
        if self.on_error == "skip" and not self.cache:
            files = readable(read_pixels, files, self.num_workers)
        scale = float(np.sqrt(self.scale[0] * self.scale[1]))
        return CentreCrops(self.pictures(files), self.crop, scale)

    def predict_set(self) -> WholeFiles:
        """Whole pictures, ``[3, H, W]``."""
        return WholeFiles(self.files.of(self.predict_split), whole)

    def pictures(self, files: Sequence[Entry]) -> Sequence[Picture]:
        """The files, or with the cache what can be read of them."""
        if not self.cache:
            return files
        return [
            pixels for _, pixels in read_all(read_pixels, files, self.on_error, self.num_workers, "decoding pictures")
        ]


def read_pixels(file: Entry) -> np.ndarray:
    """A picture as uint8 ``[H, W, 3]``."""
    return to_pixels(read_image(file.path))


def whole(file: Entry) -> Tensor:
    """A picture as float ``[3, H, W]`` in [-1, 1]."""
    return torch.from_numpy(read_image(file.path))


def source_side(pixels: np.ndarray, crop: int, scale: float) -> int:
    """Pixels a side of the square that, scaled, is the crop; never more than the picture has."""
    return min(max(1, round(crop / scale)), *pixels.shape[:2])


def scaled(pixels: np.ndarray, crop: int) -> Tensor:
    """uint8 ``[side, side, 3]`` as float ``[3, crop, crop]`` in [-1, 1], bicubic with antialiasing."""
    square = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    if square.shape[-1] != crop:
        square = F.interpolate(square, (crop, crop), mode="bicubic", antialias=True)  # on uint8: rounds and clips
    return square[0].float() / 127.5 - 1
