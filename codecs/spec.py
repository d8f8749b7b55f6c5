"""What a codec can say (`CodecSpec`) and at which operating point it says it (`Rate`). No torch.

Padding, token counts and bit counts are computed here and nowhere else: encoder, layout and bitstream ask the spec.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from typing import Any, Literal

Unset = Any  # None until `CodecSpec.resolve`, which leaves no field unset; a checker need not ask again
Extent = tuple[int, ...]  # samples or frames, (T,), or pixels of an image, (height, width); without padding
Modality = Literal["audio", "image", "features"]
AXES: dict[Modality, int] = {"audio": 1, "image": 2, "features": 1}  # of an extent
QUALITY_UNIT = 16  # qualities are stored in sixteenths
LOUDEST = 8.0  # a signal beyond this is not in [-1, 1] by any reading (integers, or a broken file)


def _positive(name: str, value: object, least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The operating point of one encoding; travels from the API into file headers and language-model prefixes.

    None means "as much as the codec has": all codebooks, all queries, its default window.

    Args:
        codebooks: How many codebooks are sent; a prefix of the codec's.
        queries: How many queries per window are sent; a prefix of the codec's.
        window: Positions per window along each axis, one of ``CodecSpec.windows``.
        shares: Of a codec of several granularities, the part of the signal that each codebook speaks for, summing to
            1; what an encoder is asked for. Tokens and files say which code stands where, and keep the default here.
        quality: Of a rate-distortion codec, its rung from 1 (smallest files) to ``CodecSpec.qualities``, in parts of
            ``CodecSpec.quality_steps``: 3.25 lies between the third and the fourth.
    """

    codebooks: int | Unset = None
    queries: int | Unset = None
    window: tuple[int, ...] | Unset = None
    shares: tuple[float, ...] | Unset = None
    quality: float | Unset = None


@dataclass(frozen=True, kw_only=True)
class CodecSpec:
    """The promises of one codec; stored in ``spec.json``, its digest in every file.

    Args:
        name: The model's name.
        modality: "audio" (extent ``(samples,)``), "image" (extent ``(height, width)``) or "features" of a frozen
            network (extent ``(frames,)``), whose values are any finite numbers.
        channels: Signal channels C.
        sample_rate: Hz for audio, frames per second for features, None for images.
        hop: Samples, pixels or frames per position, along each axis.
        windows: Positions per query window along each axis; the first is the default, all are trained.
        queries: Queries of one window, so tokens per window and codebook. A codec without queries has
            windows of one position and one query.
        codebook_sizes: Codes K of each of the Q codebooks.
        strides: Positions of the token sequence per token of codebook q; all 1 unless codebooks run at
            different rates (SNAC). A fraction where a grid of codes does not divide a window: 256 positions and
            9 codes have stride 256/9.
        latent_dim: Width D of what the quantizer reads.
        causal: True when the tokens of a prefix are a prefix of the tokens.
        lookahead: Samples after its window that a token depends on; 0 when causal.
        shares: Of a codec of several granularities (Control-GIC), the default part of the signal that each codebook
            speaks for: at every position one codebook has a code and the others are absent (-1). Empty for all other
            codecs.
        qualities: Rungs of a rate-distortion codec, which sends all its codebooks and queries at any of them. 0 for
            all other codecs.
        quality_steps: Operating points from one rung to the next, a power of 2 of at most 16; 1 without qualities.
    """

    name: str
    modality: Modality
    channels: int
    sample_rate: int | None
    hop: tuple[int, ...]
    codebook_sizes: tuple[int, ...]
    latent_dim: int
    windows: tuple[tuple[int, ...], ...] = ()
    queries: int = 1
    strides: tuple[int | Fraction, ...] = ()
    causal: bool = False
    lookahead: int = 0
    shares: tuple[float, ...] = ()
    qualities: int = 0
    quality_steps: int = 1

    def __post_init__(self) -> None:
        """Raise ValueError for fields that contradict each other."""
        axes = AXES.get(self.modality)
        if axes is None:
            raise ValueError(f"modality must be one of {list(AXES)}, got {self.modality!r}")
        if not self.windows:
            object.__setattr__(self, "windows", ((1,) * axes,))
        if not self.strides:
            object.__setattr__(self, "strides", (1,) * len(self.codebook_sizes))
        for name in ("channels", "queries", "latent_dim"):
            _positive(name, getattr(self, name))
        for size in self.codebook_sizes:
            _positive("a codebook size", size, 2)
        if not self.codebook_sizes or len(self.strides) != len(self.codebook_sizes):
            raise ValueError(
                f"one stride per codebook: {len(self.codebook_sizes)} codebooks, {len(self.strides)} strides"
            )
        for stride in self.strides:
            if not isinstance(stride, Fraction) or stride < 1:
                _positive("a stride", stride)
            elif (self.queries / stride).denominator > 1:
                raise ValueError(f"a window of {self.queries} positions holds whole tokens, got stride {stride}")
        if self.shares:
            self._check_shares(self.shares)
        _positive("qualities", self.qualities, 0)
        _positive("quality_steps", self.quality_steps)
        if self.quality_steps not in (1, 2, 4, 8, QUALITY_UNIT):
            raise ValueError(f"quality_steps is a power of 2 of at most {QUALITY_UNIT}, got {self.quality_steps!r}")
        if not self.qualities and self.quality_steps > 1:
            raise ValueError(f"steps lie between qualities, got quality_steps={self.quality_steps} without qualities")
        if len(set(self.windows)) < len(self.windows):
            raise ValueError(f"windows differ, got {self.windows}")
        for steps in (self.hop, *self.windows):
            if len(steps) != axes:
                raise ValueError(f"{self.modality} has {axes} axes, got {steps}")
            for step in steps:
                _positive("a hop or window", step)
        if (self.modality == "image") != (self.sample_rate is None):
            raise ValueError(f"like features, audio has a sample rate and an image has none, got {self.sample_rate}")
        if self.sample_rate is not None:
            _positive("sample_rate", self.sample_rate)
        _positive("lookahead", self.lookahead, 0)
        if self.causal and self.lookahead:
            raise ValueError(f"a causal codec looks 0 samples ahead, got lookahead={self.lookahead}")

    def _check_quality(self, quality: float | int | None) -> None:
        """Raise ValueError unless the codec has this quality; None where it has none."""
        if not self.qualities:
            if quality is not None:
                raise ValueError(f"{self.name} has no qualities, got quality={quality!r}; choose codebooks or queries")
            return
        real = isinstance(quality, (int, float)) and not isinstance(quality, bool)
        if not real or quality is None or not 1 <= quality <= self.qualities or quality * self.quality_steps % 1:
            raise ValueError(
                f"{self.name} has qualities 1 to {self.qualities} in steps of 1/{self.quality_steps}, got {quality!r}"
            )

    def _check_shares(self, shares: Sequence[float]) -> None:
        """Raise ValueError unless every codebook has its part and the parts are the whole."""
        if not self.shares or len(shares) != self.num_codebooks:
            raise ValueError(f"shares are {self.num_codebooks if self.shares else 0} for this codec, got {len(shares)}")
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"shares are at least 0 and sum to 1, got {tuple(shares)}")

    @property
    def granular(self) -> bool:
        """Whether codes of one codebook or another stand for a position, and the others are absent."""
        return bool(self.shares)

    @property
    def bounded(self) -> bool:
        """Whether a signal's values lie in [-1, 1]; features are any finite numbers."""
        return self.modality != "features"

    # -- rates -------------------------------------------------------------------------------------------

    @property
    def num_codebooks(self) -> int:
        """Codebooks Q."""
        return len(self.codebook_sizes)

    def resolve(self, rate: Rate | None = None) -> Rate:
        """The same rate with every None replaced by this codec's default.

        Raises:
            ValueError: If the codec cannot run at that rate.
        """
        rate = rate or Rate()
        codebooks = self.num_codebooks if rate.codebooks is None else rate.codebooks
        queries = self.queries if rate.queries is None else rate.queries
        window = self.windows[0] if rate.window is None else rate.window
        if not isinstance(window, Sequence):
            raise ValueError(f"a window is one count per axis, such as {self.windows[0]}, got {window!r}")
        window = tuple(window)
        for name, value, most in (("codebooks", codebooks, self.num_codebooks), ("queries", queries, self.queries)):
            if not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(f"{self.name} has 1 to {most} {name}, got {value!r}")
        if window not in self.windows:
            raise ValueError(f"{self.name} was trained with windows {self.windows}, got {window}")
        if self.granular and (codebooks, queries) != (self.num_codebooks, self.queries):
            raise ValueError(
                f"{self.name} chooses granularities by shares, got {codebooks} codebooks, {queries} queries"
            )
        if rate.shares is not None:
            self._check_shares(rate.shares)
        shares = self.shares or None if rate.shares is None else tuple(rate.shares)
        quality = self.qualities or None if rate.quality is None else rate.quality
        self._check_quality(quality)
        if self.qualities and (codebooks, queries) != (self.num_codebooks, self.queries):
            raise ValueError(
                f"{self.name} sends all codebooks and queries at every quality, got codebooks={codebooks}, "
                f"queries={queries}; choose a quality"
            )
        quality = None if quality is None else float(quality)
        return Rate(codebooks=codebooks, queries=queries, window=window, shares=shares, quality=quality)

    @property
    def frame_rate(self) -> Fraction:
        """Positions per second (Hz), exact."""
        if self.sample_rate is None:
            raise ValueError(f"{self.name} is an image codec and has no frame rate")
        return Fraction(self.sample_rate, self.hop[0])

    def token_rate(self, rate: Rate | None = None) -> float:
        """Tokens per second over all codebooks in use."""
        rate = self.resolve(rate)
        per_position = sum(1 / stride for stride in self.strides[: rate.codebooks])
        return float(self.frame_rate) * rate.queries / rate.window[0] * per_position

    def nominal_bits_per_second(self, rate: Rate | None = None) -> float:
        """Bits per second at log2 K bits a token, before any entropy coding or container."""
        rate = self.resolve(rate)
        bits = sum(
            math.log2(size) / stride
            for size, stride in zip(self.codebook_sizes[: rate.codebooks], self.strides, strict=False)
        )
        return float(self.frame_rate) * rate.queries / rate.window[0] * bits

    # -- extents -----------------------------------------------------------------------------------------

    def step(self, rate: Rate | None = None) -> Extent:
        """Samples, pixels or frames per window along each axis; padded extents are multiples of it."""
        window = self.resolve(rate).window
        return tuple(hop * size for hop, size in zip(self.hop, window, strict=True))

    def grid(self, extent: Extent, rate: Rate | None = None) -> Extent:
        """Windows along each axis that cover the extent."""
        self.check_extent(extent)
        return tuple((size + step - 1) // step for size, step in zip(extent, self.step(rate), strict=True))

    def padded(self, extent: Extent, rate: Rate | None = None) -> Extent:
        """The extent rounded up to whole windows."""
        return tuple(count * step for count, step in zip(self.grid(extent, rate), self.step(rate), strict=True))

    def check_extent(self, extent: Extent) -> None:
        """Raise ValueError unless the extent has this modality's axes and no negative size.

        Zero samples or frames are legal (zero tokens); an image has at least one pixel.
        """
        least = 1 if self.modality == "image" else 0
        if len(extent) != len(self.hop) or any(size < least for size in extent):
            raise ValueError(f"{self.name} takes {len(self.hop)} axes of at least {least}, got extent {extent}")

    def positions(self, extent: Extent, rate: Rate | None = None) -> int:
        """Latent positions N of a signal: windows x queries."""
        queries = self.resolve(rate).queries
        return math.prod(self.grid(extent, rate)) * queries

    def token_counts(self, extent: Extent, rate: Rate | None = None) -> tuple[int, ...]:
        """Tokens of each codebook in use."""
        positions = self.positions(extent, rate)
        return tuple(int(-(-positions // stride)) for stride in self.strides[: self.resolve(rate).codebooks])

    def bits(self, extent: Extent, rate: Rate | None = None) -> int:
        """Bits of a signal when every code takes ceil(log2 K) bits; of granularities their shares, without the map."""
        counts, shares = self.token_counts(extent, rate), self.resolve(rate).shares or (1,) * self.num_codebooks
        books = zip(counts, shares, self.codebook_sizes, strict=False)
        return sum(round(count * share) * (size - 1).bit_length() for count, share, size in books)

    # -- data --------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: a fraction is text, such as "256/9", and what is empty and new is left out."""
        values = asdict(self)
        values["strides"] = tuple(str(each) if isinstance(each, Fraction) else each for each in self.strides)
        absent = set() if self.shares else {"shares"}
        absent |= set() if self.qualities else {"qualities", "quality_steps"}
        return {name: value for name, value in values.items() if name not in absent}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CodecSpec:
        """A spec from JSON values.

        Raises:
            ValueError: If a field is unknown, missing or out of range.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"a codec spec has no field {unknown[0]!r}")
        values = dict(values)
        try:
            for name in ("hop", "codebook_sizes", "strides", "shares"):
                values[name] = tuple(values.get(name, ()))
            values["strides"] = tuple(Fraction(each) if isinstance(each, str) else each for each in values["strides"])
            values["windows"] = tuple(tuple(window) for window in values.get("windows", ()))
            return cls(**values)
        except (TypeError, ZeroDivisionError) as error:
            raise ValueError(f"a codec spec is incomplete: {error}") from None

    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON, without the name: what gives extents and codes their shape."""
        values = replace(self, name="").to_dict()
        return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).digest()
