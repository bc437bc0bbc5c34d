"""What a ledger keeps of its data: sums over what is to be left alone, and the activations of each request.

    ΔW = Tᵀ Ω H (A + λ·mean(diag A)·I)⁻¹        A = K·R + Σ_k (Pₖ + Nₖ/√K) − O + Hᵀ Ω H

R are the retain prompts' moments and K the number of requests; request k adds its redirected rows (in H, T, Ω), its
other tokens Pₖ and its neighbours Nₖ; O takes out what one of these pins and a request redirects, and what stands in R
about the same (`Released`). No part depends on another request, and they are summed in an order that their content
decides, so that the solution is the same in whatever order requests came, and taking one back is leaving its parts out.
Torch only, apart from the files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from lunar import symmetric, targets
from lunar.edit import CARD_FILE, WEIGHTS_FILE, Edit
from lunar.moments import Moments, ReferenceMean
from lunar.requests import packing
from lunar.requests.record import ID_BYTES
from lunar.settings import Settings
from lunar.solve import Detect, Gate, Solution, gate, remembering, solve
from lunar.targets import Term

Ids = UInt8[Tensor, "prompts 16"]
"""Keyed hashes of prompts, a row each; see `lunar.requests.record`."""


_THIN = ("inner", "from_end", "prompt", "given", "residual", "ids", "neighbour_ids")
_HARDENED = tuple(f"hardened.{name}" for name in (CARD_FILE, WEIGHTS_FILE))
_RELEASED = tuple(f"released.{name}" for name in ("inner", "from_end", "prompt", "ids"))
"""Tensors of a part in its file, beside its neighbours' sums and, in a hardened ledger, the edit's two files."""


@dataclass(frozen=True)
class Base:
    """What all requests of a ledger share.

    Attributes:
        moments: sums over the retain prompts alone.
        mean: residuals of the reference prompts, per position from the end.
        ids: of the retain prompts.
        factor: what the matrix writes for each unit that is to arrive in the residual stream, per coordinate.
    """

    moments: Moments
    mean: ReferenceMean
    ids: Ids
    factor: Float[Tensor, " d"]

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        tensors = {"total": self.mean.total, "count": self.mean.count, "ids": self.ids, "factor": self.factor}
        packing.save(path, tensors | packing.packed("retain", self.moments))

    def arriving(self) -> Float[Tensor, " d"]:
        """The same factor for dividing by: infinite where nothing is written."""
        return torch.where(self.factor == 0, torch.inf, self.factor)

    @classmethod
    def load(cls, path: Path) -> Base:
        """Read what `save` wrote; raises LunarError for anything else."""

        def build(tensors: Mapping[str, Tensor]) -> Base:
            mean = ReferenceMean(tensors["total"], tensors["count"])
            return cls(packing.unpacked("retain", tensors), mean, tensors["ids"], tensors["factor"])

        return packing.load(path, build, ("total", "count", "ids", "factor", *packing.names_of("retain")))


@dataclass(frozen=True)
class Released:
    """Prompts about what a request forgets that may stand in the retain data: while it holds, nothing pins them.

    Attributes:
        inner: [tokens, m] write-back inputs of all tokens, answers among them.
        from_end: [tokens] counted from the prompt's end; answer tokens are negative.
        prompt: [tokens] which of them a token belongs to.
        ids: [prompts, 16] their keyed hashes.
    """

    inner: Float[Tensor, "tokens m"]
    from_end: Int[Tensor, " tokens"]
    prompt: Int[Tensor, " tokens"]
    ids: Ids

    @classmethod
    def nothing(cls, width: int) -> Released:
        """No prompts."""
        places = torch.zeros(0, dtype=torch.int64)
        return cls(torch.zeros(0, width), places, places, torch.zeros(0, ID_BYTES, dtype=torch.uint8))


@dataclass(frozen=True)
class Part:
    """One request.

    Attributes:
        inner: [tokens, m] write-back inputs of all tokens of its prompts, in the model's precision.
        from_end: [tokens] counted from the prompt's end; answer tokens are negative.
        prompt: [tokens] which of its prompts, or of their rewordings, a token belongs to.
        given: [prompts] which prompt each of these is in other words; those that were given come first, in order.
        residual: [redirected, d] the layer's outputs at the redirected tokens, in the order of the tokens.
        ids: [prompts, 16] of its prompts and rewordings.
        neighbours: moments of its neighbours, or the file that holds them: they are much larger than the rest.
        neighbour_ids: of these.
        released: what is no longer to be left alone for its sake.
        least: [prompts] how much of the ledger's strength each of these is to get at least, where the target asks for
            at least so much; None is 1 for all.
        hardened: the whole edit where the ledger is a hardened one, which holds one request; else None.
    """

    inner: Float[Tensor, "tokens m"]
    from_end: Int[Tensor, " tokens"]
    prompt: Int[Tensor, " tokens"]
    given: Int[Tensor, " prompts"]
    residual: Float[Tensor, "redirected d"]
    ids: Ids
    neighbours: Moments | Path
    neighbour_ids: UInt8[Tensor, "neighbours 16"]
    released: Released
    least: Float[Tensor, " prompts"] | None = None
    hardened: Edit | None = None

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        thin = {name: getattr(self, name) for name in _THIN}
        released = {name: getattr(self.released, name.partition(".")[2]) for name in _RELEASED}
        files = () if self.hardened is None else self.hardened.files().items()
        hardened = {f"hardened.{name}": packing.of_bytes(content) for name, content in files}
        least = {} if self.least is None else {"least": self.least}
        packing.save(path, thin | least | released | hardened | packing.packed("neighbours", self.neighbour_moments()))

    @classmethod
    def load(cls, path: Path) -> Part:
        """Read what `save` wrote, its neighbours when they are needed; raises LunarError for anything else."""

        def build(tensors: Mapping[str, Tensor]) -> Part:
            released = {name.partition(".")[2]: tensors[name] for name in _RELEASED if name in tensors}
            thin = {name: tensors[name] for name in _THIN}
            free = Released(**released) if released else Released.nothing(thin["inner"].shape[1])
            files = [packing.to_bytes(tensors[name]) for name in _HARDENED if name in tensors]
            hardened = Edit.of_bytes(*files) if files else None
            least = tensors.get("least")
            return cls(neighbours=path, released=free, least=least, hardened=hardened, **thin)

        return packing.load(path, build, (*_THIN, "least", *_RELEASED, *_HARDENED))

    def neighbour_moments(self) -> Moments:
        """The sums over the neighbours, read from their file if need be."""
        if isinstance(self.neighbours, Moments):
            return self.neighbours
        return packing.load(
            self.neighbours, lambda tensors: packing.unpacked("neighbours", tensors), packing.names_of("neighbours")
        )

    def redirected(self, tail: int) -> Tensor:
        """[tokens] whether a token is redirected: the last `tail` of a prompt, and answers where they were taken."""
        return self.from_end < tail

    def least_of(self, tokens: Bool[Tensor, " tokens"]) -> Float[Tensor, " chosen"]:
        """The least shares of some tokens: of their prompts, or less where these are rewordings."""
        prompts = self.prompt[tokens]
        return targets.least_shares(None if self.least is None else self.least[prompts], self.given[prompts] != prompts)

    def order(self) -> bytes:
        """By what parts are sorted before they are summed: their content and nothing else."""
        return hashlib.sha256(self.inner.contiguous().view(torch.uint8).numpy().tobytes()).digest()


@dataclass(frozen=True)
class Joint:
    """The least squares over some requests, in the order of their content.

    Attributes:
        base: what they share.
        parts: by request id.
        settings: of the ledger.
        tail: how many of the last prompt tokens are redirected.
        frozen: changes that are there already and whose rows are gone; see `lunar.requests.ledger`.
    """

    base: Base
    parts: Mapping[str, Part]
    settings: Settings
    tail: int
    frozen: Sequence[Solution] = ()

    def ordered(self) -> list[tuple[str, Part]]:
        """The requests in the order in which they are summed."""
        return sorted(self.parts.items(), key=lambda item: item[1].order())

    def forgotten(self) -> set[bytes]:
        """Ids of the prompts of all requests, but for those of which nothing was kept."""
        return {key for part in self.parts.values() for key in _keys(part.ids)}

    def retained(self) -> set[bytes]:
        """Ids of the retain prompts."""
        return set(_keys(self.base.ids))

    @cached_property
    def pinned(self) -> Moments:
        """The sums over everything that asks for no change.

        k requests are k detectors, and what is retained has to stand against all of them: it counts k times, as in the
        sum of k requests of their own. Their neighbours are much alike and together outweigh everything else, so each
        request's count 1/√k. With one request both are 1. (docs/log.md has what other weights do.)
        """
        parts = [part for _, part in self.ordered()]
        retained, beside = float(len(parts)), max(1, len(parts)) ** -0.5
        total = Moments(self.base.moments.second * retained, self.base.moments.rows)
        for part in parts:
            rows = part.inner[~part.redirected(self.tail)]
            total.update(rows, torch.ones(len(rows)))
            total.add(part.neighbour_moments(), beside)
        self._take_out(total, parts, retained, beside)
        return total

    @cached_property
    def _detect(self) -> Detect:
        return remembering()

    def _take_out(self, total: Moments, parts: Sequence[Part], retained: float, beside: float) -> None:
        """Subtract what pins a prompt that is to be forgotten or was released, as retain prompt or as neighbour.

        What is released comes first: of retain prompts it has the answers too, which a forget prompt may lack.
        """
        as_retain = Counter(_keys(self.base.ids))
        as_neighbour = Counter(key for part in parts for key in _keys(part.neighbour_ids))
        order: list[tuple[Released | Part, bool]] = [(part.released, True) for part in parts]
        order += [(part, False) for part in parts]
        done: set[bytes] = set()
        for rows, answers in order:
            keys = _keys(rows.ids)
            new = [key not in done for key in keys]
            base = torch.tensor([retained * as_retain[key] * one for key, one in zip(keys, new, strict=True)])
            others = torch.tensor([beside * as_neighbour[key] * one for key, one in zip(keys, new, strict=True)])
            done.update(keys)
            before = rows.from_end >= 0
            count = others[rows.prompt] * before + base[rows.prompt] * (before if not answers else 1)
            weights = count.double() * torch.where(rows.from_end <= 0, self.settings.retain_weight, 1.0)
            inner = rows.inner[weights > 0].double()
            symmetric.add(total.second, inner.T, inner * -weights[weights > 0][:, None])
            total.rows -= len(inner)

    def rows(self) -> tuple[Float[Tensor, "rows m"], tuple[Term, ...]]:
        """The redirected rows of all requests and what they are asked for, each towards its own direction."""
        inners, terms = [], []
        for _, part in self.ordered():
            inner, position = part.inner[part.redirected(self.tail)], part.from_end[part.redirected(self.tail)]
            weights = torch.full((len(inner),), self.settings.redirected_weight(), dtype=torch.float64)
            built = targets.build(self.settings.target, self.base.mean.mean(), part.residual, position, weights)
            least = part.least_of(part.redirected(self.tail))
            built = tuple(term if term.group is None else replace(term, least=least) for term in built)
            inners.append(inner)
            terms.append(self._less_frozen(built, inner))
        return torch.cat(inners), tuple(_as_one(same) for same in zip(*terms, strict=True))

    def _less_frozen(self, terms: tuple[Term, ...], inner: Tensor) -> tuple[Term, ...]:
        """What is still wanted where frozen changes make a part of it already."""
        strength = self.settings.strength or 0.0
        if not self.frozen or not strength:
            return terms
        done = sum(inner.double() @ one.read.double().T @ one.write.double().T for one in self.frozen) / strength
        # What is left to be done differs from row to row, and of that no row may get more.
        least = 1.0 if terms[0].least is None else terms[0].least[:, None]
        return (replace(terms[0], wanted=least * terms[0].wanted - done, group=None, least=None), *terms[1:])

    def counts(self) -> dict[str, int]:
        """How many rows are redirected, and how many pinned."""
        return {"redirected_rows": len(self.rows()[0]), "pinned_rows": self.pinned.rows}

    def solve(self, only: str | None = None) -> Solution | None:
        """The change of the matrix at strength 1, or the part of it that one request asks for; None without any."""
        if not self.parts:
            return None
        inner, terms = self.rows()
        if only is not None:
            ours = torch.cat([torch.full((len(part.residual), 1), key == only) for key, part in self.ordered()])
            terms = tuple(replace(term, wanted=term.wanted * ours) for term in terms)
        return solve(self.pinned, inner, terms, self.settings.ridge, detect=self._detect)

    def gates(self) -> dict[str, Gate]:
        """How the last prompt tokens of each request are recognised among those of all of them.

        A prompt is left out together with its rewordings.
        """
        lasts = [(name, part, part.from_end == 0) for name, part in self.ordered()]
        inner = torch.cat([part.inner[last] for _, part, last in lasts])
        # One number per prompt of any request.
        numbered = [len(lasts) * part.given[part.prompt[last]] for _, part, last in lasts]
        prompts = torch.cat([place + numbers for place, numbers in enumerate(numbered)])
        weights = torch.full((len(inner),), self.settings.redirected_weight(), dtype=torch.float64)
        sizes = [int(last.sum()) for _, _, last in lasts]
        group, least = self._owners(sizes)
        ridge = self.settings.ridge
        found = gate(self.pinned, inner, weights, prompts, ridge, group=group, least=least, detect=self._detect)
        values, left_out = found.values.split(sizes), found.leave_one_out.split(sizes)
        return {
            name: Gate(found.vector, values[place], left_out[place]).of(part.prompt[last] <= part.given.max())
            for place, (name, part, last) in enumerate(lasts)
        }

    def detectors(self) -> dict[str, Float[Tensor, " m"]]:
        """For each request its share g_k of the detector of `gates`: g_k·h at a prompt's last token is near 1 where it
        is one of the request's, near 0 elsewhere. They add up to the vector of `gates`."""
        lasts = [(name, part.inner[part.from_end == 0]) for name, part in self.ordered()]
        if not lasts:
            return {}
        sizes = [len(inner) for _, inner in lasts]
        # Asked for 1 on its own rows and 0 on all others: the rows of the solution are the detectors.
        owner = torch.eye(len(lasts), dtype=torch.float64).repeat_interleave(torch.tensor(sizes), dim=0)
        weights = torch.full((len(owner),), self.settings.redirected_weight(), dtype=torch.float64)
        inner = torch.cat([rows for _, rows in lasts])
        group, least = self._owners(sizes)
        terms = (Term(owner, weights, group=group, least=least),)
        found = solve(self.pinned, inner, terms, self.settings.ridge, detect=self._detect).change()
        return {name: vector for (name, _), vector in zip(lasts, found, strict=True)}

    def _owners(self, sizes: Sequence[int]) -> tuple[Int[Tensor, " rows"] | None, Float[Tensor, " rows"] | None]:
        """Which request each of so many last tokens belongs to, and the share it is to get at least; nothing where no
        row may get more than it asks for."""
        _, terms = self.rows()
        if terms[0].group is None:
            return None, None
        least = torch.cat([part.least_of(part.from_end == 0) for _, part in self.ordered()])
        return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)), least


def _as_one(terms: Sequence[Term]) -> Term:
    """The same term of several requests over the rows of all of them; their groups stay apart."""
    group, known = None, [term.group for term in terms if term.group is not None]
    if len(known) == len(terms):
        starts = accumulate((int(one.max()) + 1 for one in known), initial=0)
        group = torch.cat([one + start for one, start in zip(known, starts, strict=False)])
    asked = [torch.ones_like(term.weights) if term.least is None else term.least for term in terms]
    least = None if group is None else torch.cat(asked)
    wanted, weights = (torch.cat([getattr(term, name) for term in terms]) for name in ("wanted", "weights"))
    return Term(wanted, weights, terms[0].gain, group, least)


def reach(part: Part, edit: Edit, base: Base, tail: int) -> Float[Tensor, " prompts"]:
    """How far an edit moves each last prompt token towards the reference mean: 1 is all the way, 0 not at all.

    It is (ΔW h)·r / r·r, with r the mean shift of the part's own last tokens, those of rewordings among them.
    """
    last = part.from_end[part.redirected(tail)] == 0
    residual, inner = part.residual[last], part.inner[part.from_end == 0].double()
    direction = targets.mean_shift(base.mean.mean(), residual, torch.zeros(len(residual), dtype=torch.int64))[0]
    # Of a hardened edit the first matrix is the shifted one, and the flags there write nothing along the direction.
    shifted = edit.factors[0]
    moved = inner @ shifted.read.double().T @ (shifted.write.double() / base.arriving()[:, None]).T
    return moved @ direction / (direction @ direction)


def _keys(ids: Tensor) -> list[bytes]:
    return [bytes(row) for row in ids.numpy()]
