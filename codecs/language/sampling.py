"""Signals drawn from a language model, an id at a time; what may not stand next is never drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sigtok.codecs.spec import Extent
from sigtok.codecs.tokens import Tokens

from .folder import LanguageModel


class Drawn(NamedTuple):
    """Signals, and whether each came to its end."""

    tokens: Tokens
    ended: list[bool]


@torch.no_grad()
def draw(
    model: LanguageModel,
    generators: Sequence[torch.Generator],
    *,
    extent: Extent | None = None,
    most: int | None = None,
    prompt: Tokens | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Drawn:
    """One signal per generator; each depends on its own generator alone, up to the rounding of a batch.

    Args:
        model: In eval mode.
        generators: On the CPU, one for each signal.
        extent: Of the signals where it is known, as for pictures; None lets the model end each.
        most: Ids of a signal that the model does not end; whole windows of them are kept. None with an extent.
        prompt: The beginning of all of them, whole windows of one signal.
        temperature: Of the distribution: below 1 the likely is drawn more often, 0 always draws the likeliest.
        top_k: Only so many of the likeliest ids are drawn; None for all.

    Raises:
        ValueError: If there is a prompt or no extent, and the layout is not causal: its beginning is not that of the
            signal.
    """
    ids, network, items = model.language.ids, model.network, len(generators)
    device = network.embed.weight.device
    extents = None if extent is None else [extent] * items
    header = ids.prompt(items)
    if not ids.layout.causal and (prompt is not None or extent is None):
        given = "a prompt" if prompt is not None else "no extent"
        raise ValueError(f"signals in the layout {model.language.layout} are drawn whole, of an extent; got {given}")
    body = torch.zeros(items, 0, dtype=torch.int64)
    if prompt is not None:
        body = ids.layout.to_ids(prompt.to("cpu")).repeat(items, 1)
    over = torch.zeros(items, dtype=torch.bool)
    ends = torch.tensor(ids.ends)
    new, state = torch.cat((header, body), dim=1), None
    while most is None or body.shape[1] < most:
        legal = ids.layout.legal_after(body, extents)
        going = legal.clone()
        going[:, ends] = False
        if not going.any():  # all have their extent
            over[:] = True
            break
        logits, state = network.step(new.to(device), state)
        allowed = legal if body.shape[1] else going  # a signal says something
        new = chosen(logits[:, -1].double().cpu(), allowed, generators, temperature, top_k)[:, None]
        over |= torch.isin(new[:, 0], ends)
        if over.all():
            break
        body = torch.cat((body, new), dim=1)
    return Drawn(ids.layout.from_ids(body, extents), over.tolist())


def chosen(
    logits: Float[Tensor, "B V"],
    legal: Bool[Tensor, "B V"],
    generators: Sequence[torch.Generator],
    temperature: float,
    top_k: int | None,
) -> Int[Tensor, " B"]:
    """One legal id per row: the place where a number drawn evenly falls among the probabilities."""
    logits = logits.masked_fill(~legal, -torch.inf)
    if temperature == 0:
        return logits.argmax(dim=1)
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[1]), dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    levels = (logits / temperature).softmax(dim=1).cumsum(dim=1)
    places = torch.cat([torch.rand(1, 1, generator=generator, dtype=torch.float64) for generator in generators])
    return torch.searchsorted(levels, places * levels[:, -1:], right=True)[:, 0]
