"""What the least squares of one layer or several needs to know of the data, from one pass over each set.

Retain activations are streamed into moments and never stored. The order in which rows are added does not depend on how
many layers are looked at, so that an edit has the same bytes however its layer was found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lunar import processes, targets
from lunar.activations import Captured, capture_layers, join
from lunar.edit import Edit, Factors, fingerprint
from lunar.interrupted import SavedSums, digest
from lunar.memory import home_of_sums
from lunar.models import LoadedModel, Site, context_length, find_sites
from lunar.moments import FewRows, Moments, ReferenceMean
from lunar.neighbours import neighbours
from lunar.passage import NORMALISED, Passage, RowSize, passage_of, written
from lunar.progress import Progress
from lunar.prompts import TokenSequence, encode
from lunar.records import Record
from lunar.rewordings import reworded_sample, rewordings
from lunar.settings import LINEAR, TAIL, Settings
from lunar.solve import Detect, Gate, Solution, detector, gate, remembering, solve
from lunar.weights import parameter_of

Weighted = tuple[Float[Tensor, "_ m"], Float[Tensor, " _"], int]
"""Rows, their weights, and how many tokens they stand for."""
SUMMED = 1024
"""Rows that are added to a sum at once: each time, all of its m × m numbers are read and written."""


@dataclass(frozen=True)
class Sets:
    """The record sets of a request.

    Attributes:
        forget: as they were given.
        retain: to be pinned, with their answers.
        neighbours: pinned like them.
        reference: what the model declines.
        rewordings: redirected like the forget prompts; the i-th is one of forget prompt i mod their number.
    """

    forget: Sequence[Record]
    retain: Sequence[Record]
    neighbours: Sequence[Record]
    reference: Sequence[Record]
    rewordings: Sequence[Record] = ()

    @classmethod
    def of(
        cls, forget: Sequence[Record], retain: Sequence[Record], reference: Sequence[Record], settings: Settings
    ) -> Sets:
        """With the neighbours and rewordings that the settings ask for."""
        again = rewordings(forget, settings.rewordings_of(len(forget)), settings.seed)
        return cls(forget, retain, neighbours_of(forget, retain, settings), reference, again)

    @property
    def redirected(self) -> list[Record]:
        """The forget prompts, then their rewordings."""
        return [*self.forget, *self.rewordings]


def neighbours_of(forget: Sequence[Record], retain: Sequence[Record], settings: Settings) -> list[Record]:
    """What is pinned beside the retain prompts: neighbours, and some of either in the forms of the rewordings."""
    count = settings.neighbours_beside()
    found = neighbours(forget, retain, count, settings.seed) if count else []
    if not settings.rewordings_of(len(forget)):
        return found
    return [*found, *reworded_sample([*retain, *found], max(1, count // 2), settings.seed)]


@dataclass(frozen=True)
class Problem:
    """The least squares of one layer, ready to be solved for any target, weight and strength.

    Attributes:
        site: the matrix.
        passage: how what it writes arrives in the residual stream.
        mean: of the residuals of the reference prompts, per position from their end.
        moments: sums over the pinned rows, or these rows where they are fewer than the inputs.
        inner: [rows, m] write-back inputs of the redirected rows.
        residual: [rows, d] the layer's outputs there.
        position: [rows] counted from the prompt's end; negative for answer tokens.
        prompt: [rows] which forget prompt a row belongs to, as it was given or reworded.
        reworded: [rows] whether the row is of a rewording.
        least: [rows] where rows may get more of what they are asked for, how much of it each row's prompt is to get at
            least; None is 1 for all.
        detect: what solves for them.
    """

    site: Site
    passage: Passage
    mean: ReferenceMean
    moments: Moments | FewRows
    inner: Float[Tensor, "rows m"]
    residual: Float[Tensor, "rows d"]
    position: Int[Tensor, " rows"]
    prompt: Int[Tensor, " rows"]
    reworded: Bool[Tensor, " rows"]
    least: Float[Tensor, " rows"] | None = None
    detect: Detect = field(default_factory=remembering, repr=False, compare=False)

    def _weights(self, settings: Settings) -> Float[Tensor, " rows"]:
        return torch.full((len(self.inner),), settings.redirected_weight(), dtype=torch.float64)

    def _terms(self, settings: Settings) -> tuple[targets.Term, ...]:
        weights = self._weights(settings)
        terms = targets.build(settings.target, self.mean.mean(), self.residual, self.position, weights)
        least = targets.least_shares(self.least, self.reworded)
        return tuple(term if term.group is None else replace(term, least=least) for term in terms)

    def may_get_more(self, settings: Settings) -> bool:
        """Whether the target asks for at least so much, so that each prompt can have a least share of its own."""
        return all(term.group is not None for term in self._terms(settings))

    def raised(self, least: Sequence[float]) -> Problem:
        """The same with such least shares, one per forget prompt; for its rewordings, `targets.REWORDED` of them."""
        return replace(self, least=torch.tensor(least, dtype=torch.float64)[self.prompt])

    def received(self, settings: Settings) -> list[float]:
        """For each forget prompt, how much of the wanted change its last token gets."""
        last = self.position == 0
        given, (weights, group, least) = ~self.reworded[last], self._asked(settings)
        found = detector(
            self.moments, self.inner[last], weights, settings.ridge, group=group, least=least, detect=self.detect
        )
        prompts = self.prompt[last][given].tolist()
        values = dict(zip(prompts, found.values[given.to(found.values.device)].tolist(), strict=True))
        return [values[place] for place in sorted(values)]

    def sums(self) -> Moments:
        """The sums over the pinned rows in main memory, made from them where these are kept."""
        return (self.moments if isinstance(self.moments, Moments) else self.moments.moments()).cpu()

    def solve(self, settings: Settings) -> Solution:
        """The change of the residual stream at strength 1, as a matrix that wrote straight to it would make it."""
        return solve(self.moments, self.inner, self._terms(settings), settings.ridge, detect=self.detect)

    def gate(self, settings: Settings) -> Gate:
        """How the last tokens of the forget prompts are recognised, each left out with its rewordings."""
        last = self.position == 0
        weights, group, least = self._asked(settings)
        found = gate(
            self.moments,
            self.inner[last],
            weights,
            self.prompt[last],
            settings.ridge,
            group=group,
            least=least,
            detect=self.detect,
        )
        return found.of(~self.reworded[last])

    def _asked(self, settings: Settings) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Of the last tokens: weights, groups and least shares; None where the target knows no such."""
        last = self.position == 0
        term = self._terms(settings)[0] if settings.target in LINEAR else None
        group, least = (None, None) if term is None else (term.group, term.least)
        group, least = (None if one is None else one[last] for one in (group, least))
        return self._weights(settings)[last], group, least


@dataclass
class Work:
    """One model: encodes record sets, with progress and seconds per stage.

    `saved` is where sums are kept for the case that the run is cut off; `resumed` says how many prompts of a stage were
    in sums that an earlier run had left there.
    """

    loaded: LoadedModel
    progress: Progress | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    saved: SavedSums | None = None
    resumed: dict[str, int] = field(default_factory=dict)
    _encoded: dict[tuple[Record, bool], TokenSequence] = field(default_factory=dict, repr=False)

    @contextmanager
    def stage(self, name: str, *, announced: bool = False) -> Iterator[None]:
        """Time what happens within; `announced` stages have no progress of their own."""
        started = time.perf_counter()
        if self.progress is not None and announced:
            self.progress(name, 0, 1)
        yield
        if self.progress is not None and announced:
            self.progress(name, 1, 1)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def reporter(self, name: str, total: int) -> Callable[[int], None] | None:
        """A function that reports how much of a stage is done."""
        report = self.progress
        return None if report is None else lambda done: report(name, done, total)

    def encode(self, name: str, records: Sequence[Record], *, with_answer: bool) -> list[TokenSequence]:
        """The records as the model reads them; raises LunarError where one does not fit."""
        length = context_length(self.loaded.model)
        for number, record in enumerate(records, 1):
            if (record, with_answer) not in self._encoded:
                self._encoded[record, with_answer] = encode(
                    self.loaded.tokenizer,
                    record,
                    with_answer=with_answer,
                    context_length=length,
                    name=name,
                    number=number,
                )
        return [self._encoded[record, with_answer] for record in records]

    def tokens(self, *sets: Sequence[Record]) -> int:
        """How many tokens the records of some sets have, with their answers."""
        encoded = (self.encode("questions", records, with_answer=True) for records in sets)
        return sum(len(sequence.tokens) for sequences in encoded for sequence in sequences)

    def capture(
        self,
        name: str,
        sites: Sequence[Site],
        records: Sequence[Record],
        *,
        with_answer: bool,
        last_only: bool = False,
        inner_only: bool = False,
        distinct: bool = False,
        start: int = 0,
        share: tuple[int, int] = (0, 1),
        batch_size: int | None = None,
        device: torch.device | str = "cpu",
    ) -> Iterator[dict[int, Captured]]:
        """`lunar.activations.capture_layers` of a record set, in main memory unless another device is given."""
        sequences = self.encode(name, records, with_answer=with_answer)
        padding = self.loaded.tokenizer.pad_token_id or 0
        report = self.reporter(name, len(sequences))
        for batch in capture_layers(
            self.loaded.model,
            sites,
            sequences,
            last_only=last_only,
            inner_only=inner_only,
            distinct=distinct,
            start=start,
            share=share,
            batch_size=batch_size,
            pad_token_id=padding,
            progress=report,
        ):
            yield {layer: rows.to(device) for layer, rows in batch.items()}

    def home_of_sums(self, width: int, count: int) -> torch.device:
        """Where so many sums lie (`lunar.memory`): for several processes in main memory, so that all compute alike."""
        alone = processes.place()[1] == 1
        return home_of_sums(self.loaded.model, width, count) if alone else torch.device("cpu")

    def rows(
        self,
        name: str,
        sites: Sequence[Site],
        records: Sequence[Record],
        *,
        with_answer: bool,
        last_only: bool = False,
        inner_only: bool = False,
    ) -> dict[int, Captured]:
        """By layer, all rows of at least one record, in the records' order; for sets small enough to hold.

        Every process runs all of them: in other batches they would round otherwise, and the edit with them, which
        stands or falls by these rows.
        """
        batches = list(
            self.capture(name, sites, records, with_answer=with_answer, last_only=last_only, inner_only=inner_only)
        )
        return {site.layer: join([batch[site.layer] for batch in batches]) for site in sites}

    def add_pinned(
        self,
        name: str,
        sites: Sequence[Site],
        records: Sequence[Record],
        sums: Mapping[int, Moments | FewRows],
        retain_weight: float,
        *,
        thin: int = 1,
        known: Sequence[Tensor] = (),
    ) -> None:
        """Add all tokens of records that are to be left alone to the sums, by layer, weighted by `pinned_weights`.

        Goes on where a run that was cut off had saved them; few rows are not saved, nor the share of one of several
        processes: they have parts of the sums before, and the same whole sums behind (`lunar.processes`). `known` are
        activations that were captured before, by which it is seen whether that was the same model.
        """
        start, batch_size, key = 0, None, ""
        large = {layer: one for layer, one in sums.items() if isinstance(one, Moments)}
        share = processes.place() if len(large) == len(sums) else (0, 1)
        saved = self.saved if len(large) == len(sums) and share[1] == 1 else None
        if saved is not None:
            tokens = self.encode(name, records, with_answer=True)
            before = [one.second.diagonal() for one in large.values()]
            key = digest(name, sites, tokens, retain_weight, thin, str(self.loaded.model.dtype), *known, *before)
            start, batch_size = saved.restore(key, large)
            if start:
                self.resumed[name] = start
        done = start
        waiting: dict[int, list[Weighted]] = {layer: [] for layer in sums}
        for batch in self.capture(
            name,
            sites,
            records,
            with_answer=True,
            inner_only=True,
            distinct=True,
            start=start,
            share=share,
            batch_size=batch_size,
            device=next(iter(sums.values())).device,
        ):
            for layer, rows in batch.items():
                weights = pinned_weights(rows.from_end, rows.sequence, retain_weight, thin)
                waiting[layer].append(rows.weighted(weights))
            size = len(next(iter(batch.values())).sequence.unique())
            done += size
            if _count(waiting) < SUMMED and done < len(records):
                continue
            _add(waiting, sums)
            if saved is not None:
                saved.save(key, large, done, size, complete=done == len(records))
        _add(waiting, sums)
        if share[1] > 1:
            processes.end_share(large)


def _count(waiting: Mapping[int, Sequence[Weighted]]) -> int:
    return max(sum(len(inner) for inner, _, _ in parts) for parts in waiting.values())


def _add(waiting: Mapping[int, list[Weighted]], sums: Mapping[int, Moments | FewRows]) -> None:
    """Add the rows that wait to the sums, and forget them."""
    for layer, parts in waiting.items():
        if parts:
            inner, weights, counts = zip(*parts, strict=True)
            sums[layer].update(torch.cat(inner), torch.cat(weights), sum(counts))
            parts.clear()


def editable(loaded: LoadedModel) -> tuple[Site, ...]:
    """The sites of all layers; refused where it is not understood how what the first writes arrives."""
    sites = find_sites(loaded.model)
    passage_of(loaded.model, sites[0])
    return sites


def measured(
    work: Work, sites: Sequence[Site], reference: Sequence[Record], tail: int
) -> tuple[dict[int, ReferenceMean], dict[int, Passage]]:
    """By layer, the reference mean and the passage, from one pass over the reference prompts.

    Raises LunarError where it is not understood how what a matrix writes arrives in the residual stream.
    """
    model = work.loaded.model
    passages = {site.layer: passage_of(model, site) for site in sites}
    means = {site.layer: ReferenceMean.zeros(tail, site.width) for site in sites}
    sizes = {site.layer: RowSize() for site in sites}
    with work.stage("reference"):
        for batch in work.capture("reference", sites, reference, with_answer=False, share=processes.place()):
            for site in sites:
                rows = batch[site.layer]
                means[site.layer].update(rows.residual, rows.from_end)
                if passages[site.layer].kind == NORMALISED:
                    last = (rows.from_end >= 0) & (rows.from_end < tail)
                    sizes[site.layer].update(written(model, site, rows.inner[last]))
        for site in sites:
            size = sizes[site.layer]
            for own in (means[site.layer].total, means[site.layer].count):
                processes.summed(own)
            total, count = processes.summed(torch.tensor([size.total, size.count], dtype=torch.float64)).tolist()
            sizes[site.layer] = RowSize(total, int(count))
    return means, {layer: passage.sized(sizes[layer]) for layer, passage in passages.items()}


def tail_of(settings: Settings) -> int:
    """How many of the last prompt tokens are redirected."""
    return settings.tail or TAIL[settings.target]


def collect(work: Work, sites: Sequence[Site], sets: Sets, settings: Settings, *, thin: int = 1) -> dict[int, Problem]:
    """The least squares of every given layer, from one pass over each of the four sets.

    With `thin` above 1, only every so many of the retain prompts' tokens before the last are added, at so many times
    their weight: the sums are the same in expectation and cost less, which is enough for a search.
    """
    tail = tail_of(settings)
    means, passages = measured(work, sites, sets.reference, tail)
    count = work.tokens(sets.forget, sets.retain, sets.neighbours) // thin
    moments = _sums(work, sites, count)
    found = {}
    with work.stage("forget"):
        rows = work.rows("forget", sites, sets.redirected, with_answer=settings.redirect_answers)
        for site in sites:
            own = rows[site.layer]
            redirected = own.from_end < tail
            processes.add_share(moments[site.layer], own.inner[~redirected])
            found[site.layer] = Problem(
                site,
                passages[site.layer],
                means[site.layer],
                moments[site.layer],
                own.inner[redirected],
                own.residual[redirected],
                own.from_end[redirected],
                own.sequence[redirected] % len(sets.forget),
                own.sequence[redirected] >= len(sets.forget),
            )
    with work.stage("retain"):
        spared = [*sets.retain, *sets.neighbours]
        known = [mean.total for mean in means.values()]
        work.add_pinned("retain", sites, spared, moments, settings.retain_weight, thin=thin, known=known)
    return found


def _sums(work: Work, sites: Sequence[Site], rows: int) -> dict[int, Moments | FewRows]:
    """Where pinned rows are added: kept, where they and their products with each other take less than their sum.

    All of one kind, since processes share the sums of all layers or none.
    """
    width = min(site.inner_width for site in sites)
    kind = FewRows if rows * (rows + width) < width**2 else Moments.zeros
    home = work.home_of_sums(max(site.inner_width for site in sites), len(sites))
    return {site.layer: kind(site.inner_width, home) for site in sites}


def edit_of(
    loaded: LoadedModel,
    site: Site,
    solution: Solution,
    settings: dict[str, object],
    strength: float,
    behind: Edit | None = None,
    *,
    passage: Passage | None = None,
) -> Edit:
    """A solution as an edit of the model's matrix, multiplied by the strength; `behind` is added to it as it is.

    `passage` translates what is to arrive into what the matrix writes; None is for a solution that says the latter.
    """
    if passage is not None:
        solution = translated(solution, passage.factor())
    weight = parameter_of(site.module(loaded.model))
    factors = Factors.of(site.module_name, solution, site.transposed, fingerprint(weight))
    edit = Edit((factors,), settings).scaled(strength)
    return edit if behind is None else Edit((*edit.factors, *behind.factors), settings)


def translated(solution: Solution, factor: Float[Tensor, " d"]) -> Solution:
    """What is to arrive in the residual stream as what the matrix has to write; `Passage.factor` gives the factor."""
    return Solution(factor.to(solution.write)[:, None] * solution.write, solution.read)


def pinned_weights(from_end: Tensor, sequence: Tensor, retain_weight: float, thin: int) -> Tensor:
    """Last prompt tokens and answer tokens decide what the model says, so they are pinned harder."""
    others = torch.where((from_end + sequence) % thin == 0, float(thin), 0.0)
    return torch.where(from_end <= 0, retain_weight, others)
