"""From record sets to what a ledger keeps: one pass over the retain and reference prompts, once; one over each request.

The only file of the ledger that runs a model. A request reads its own prompts and their neighbours and nothing else, so
that its cost does not go with the retain data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lunar.collect import Work, measured, tail_of
from lunar.models import Site
from lunar.moments import Moments
from lunar.records import Record
from lunar.requests.packing import symmetric
from lunar.requests.parts import Base, Part, Released
from lunar.requests.record import ID_BYTES, prompt_id
from lunar.rewordings import rewordings
from lunar.settings import Settings


def gather_base(
    work: Work, site: Site, retain: Sequence[Record], reference: Sequence[Record], settings: Settings, key: bytes
) -> Base:
    """What all requests of a ledger share, from a pass over the retain and the reference prompts."""
    means, passages = measured(work, [site], reference, tail_of(settings))
    with work.stage("retain"):
        moments = _sums(work, "retain", site, retain, settings, [means[site.layer].total])
    return Base(moments, means[site.layer], ids_of(key, retain), passages[site.layer].factor())


def gather_part(
    work: Work,
    site: Site,
    forget: Sequence[Record],
    beside: Sequence[Record],
    settings: Settings,
    key: bytes,
    released: Sequence[Record] = (),
) -> Part:
    """What is kept of a request, from a pass over its prompts, their rewordings, neighbours and what it releases."""
    redirected = [*forget, *rewordings(forget, settings.rewordings_of(len(forget)), settings.seed)]
    given = torch.arange(len(redirected)) % len(forget)
    with work.stage("forget"):
        rows = work.rows("forget", [site], redirected, with_answer=settings.redirect_answers)[site.layer]
    with work.stage("neighbours"):
        moments = _sums(work, "neighbours", site, beside, settings, [rows.residual])
    residual = rows.residual[rows.from_end < tail_of(settings)]
    ids, neighbour_ids = ids_of(key, redirected), ids_of(key, beside)
    free = _released(work, site, released, key)
    return Part(rows.inner, rows.from_end, rows.sequence, given, residual, ids, moments, neighbour_ids, free)


def _released(work: Work, site: Site, records: Sequence[Record], key: bytes) -> Released:
    if not records:
        return Released.nothing(site.inner_width)
    with work.stage("released"):
        rows = work.rows("released", [site], records, with_answer=True, inner_only=True)[site.layer]
    return Released(rows.inner, rows.from_end, rows.sequence, ids_of(key, records))


def ids_of(key: bytes, records: Sequence[Record]) -> Tensor:
    """[records, 16] their keyed ids."""
    ids = b"".join(prompt_id(key, record) for record in records)
    return torch.frombuffer(bytearray(ids), dtype=torch.uint8).reshape(-1, ID_BYTES) if ids else _NONE


_NONE = torch.zeros(0, ID_BYTES, dtype=torch.uint8)


def _sums(
    work: Work, name: str, site: Site, records: Sequence[Record], settings: Settings, known: Sequence[Tensor]
) -> Moments:
    """Moments of records that are to be left alone, weighted as `lunar.collect` weighs them."""
    moments = Moments.zeros(site.inner_width, work.home_of_sums(site.inner_width, 1))
    work.add_pinned(name, [site], records, {site.layer: moments}, settings.retain_weight, known=known)
    return symmetric(moments.cpu())
