"""LUNAR as published: refit one down-projection by gradient descent, so that all tokens of forget prompts move by 2r.

Source: "LLM Unlearning via Neural Activation Redirection" (arXiv 2502.07218) and its published configuration: AdamW at
1e-2, 20 epochs with the rate times 0.9 after each, batches of 64 tokens, unweighted, coefficient 2, one layer chosen by
hand (22 of 32 for Llama 3 8B). r is the mean over the reference prompts minus the mean over the forget prompts at the
last prompt token. The layer's input does not depend on the matrix, so activations are captured once. It fits in float32
where the published code fits in bfloat16. Knows nothing of answers.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from lunar.activations import capture, capture_all
from lunar.baselines.examples import Examples, examples
from lunar.baselines.settings import check_not_negative, check_positive
from lunar.baselines.task import Baseline, Outcome, Task, count_changed, unchanged
from lunar.baselines.training import check_finite_step
from lunar.errors import LunarError
from lunar.models import LoadedModel, Site, find_sites, site_at
from lunar.moments import ReferenceMean
from lunar.passage import DIRECT, passage_of
from lunar.records import Record


@dataclass(frozen=True)
class ReferenceSettings:
    """As published.

    Attributes:
        layer: the one to change, negative from the end; None takes the one at `depth`.
        depth: from 0 for the first layer up to 1, where no layer is named; 22 of 32 as published.
        coefficient: times r is the wanted change.
        learning_rate: of AdamW in the first epoch.
        rate_decay: factor on the learning rate after each epoch.
        epochs: passes over all tokens.
        batch_size: tokens in a step.
        weight_decay: of AdamW; the usual one, which the published code does not change.
    """

    layer: int | None = None
    depth: float = 22 / 32
    coefficient: float = 2.0
    learning_rate: float = 1e-2
    rate_decay: float = 0.9
    epochs: int = 20
    batch_size: int = 64
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not 0 <= self.depth <= 1:
            raise LunarError("At least 1 epoch, 1 token a batch and a depth from 0 to 1 were expected: correct them.")
        check_positive(coefficient=self.coefficient, learning_rate=self.learning_rate, rate_decay=self.rate_decay)
        check_not_negative(weight_decay=self.weight_decay)


def lunar_reference(task: Task, settings: ReferenceSettings) -> Outcome:
    """Fit one matrix to the original outputs, plus 2r on the tokens of forget prompts, and put it into a copy.

    Raises LunarError for a layer that does not exist or rescales what its MLP writes, or if a set is empty.
    """
    started = time.perf_counter()
    model = task.loaded.model
    site = _site(task, settings)
    inner, redirected, direction = _rows(task, site)
    module = site.module(model)
    stored = module.get_parameter("weight").detach()
    weight = (stored.T if site.transposed else stored).float()
    fitted = fit(
        inner, redirected, settings.coefficient * direction, weight, settings, seed=task.seed, report=task.report
    )
    changed = copy.deepcopy(model).eval()
    with torch.no_grad():
        site.module(changed).get_parameter("weight").copy_(fitted.T if site.transposed else fitted)
    loaded = LoadedModel(changed, task.loaded.tokenizer, task.loaded.source)
    used = asdict(settings) | {"layer": site.layer, "rows": len(inner)}
    return Outcome(loaded, unchanged, count_changed(model, changed), time.perf_counter() - started, used)


def fit(
    inner: Float[Tensor, "rows m"],
    redirected: Bool[Tensor, " rows"],
    shift: Float[Tensor, " d"],
    weight: Float[Tensor, "d m"],
    settings: ReferenceSettings,
    *,
    seed: int,
    report: Callable[[str, int, int], None],
) -> Float[Tensor, "d m"]:
    """Lower mean (W h − W₀ h − shift where redirected)² from W₀ = `weight`; returns W."""
    changed = torch.nn.Parameter(weight.clone())
    optimizer = torch.optim.AdamW([changed], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, settings.rate_decay)
    generator = torch.Generator().manual_seed(seed)
    per_epoch = -(-len(inner) // settings.batch_size)
    step, total = 0, per_epoch * settings.epochs
    for _ in range(settings.epochs):
        order = torch.randperm(len(inner), generator=generator).to(inner.device)
        for chosen in order.split(settings.batch_size):
            step += 1
            rows = inner[chosen].float()
            wanted = rows @ weight.T + redirected[chosen, None] * shift
            with torch.enable_grad():
                loss = functional.mse_loss(rows @ changed.T, wanted)
                optimizer.zero_grad()
                loss.backward()
            check_finite_step(loss.detach(), step, total, settings.learning_rate)
            optimizer.step()
            report("fit", step, total)
        schedule.step()
    check_finite_step(changed.detach(), step, total, settings.learning_rate)
    return changed.detach()


def _site(task: Task, settings: ReferenceSettings) -> Site:
    model = task.loaded.model
    count = len(find_sites(model)) if settings.layer is None else 0
    site = site_at(model, min(count - 1, int(settings.depth * count)) if settings.layer is None else settings.layer)
    if passage_of(model, site).kind != DIRECT:
        raise LunarError(
            f"{site.module_name} was expected to write straight to the residual stream, but its layer rescales what it "
            "writes: this baseline cannot be used on such a model."
        )
    return site


def _rows(task: Task, site: Site) -> tuple[Float[Tensor, "rows m"], Bool[Tensor, " rows"], Float[Tensor, " d"]]:
    """The matrix's inputs at all prompt tokens of forget and retain, which are to move, and r."""
    model = task.loaded.model
    mean = ReferenceMean.zeros(1, site.width)
    given = _prompts(task, task.reference, "reference")
    for batch in capture(model, site, given.sequences, pad_token_id=given.padding):
        mean.update(batch.residual.cpu(), batch.from_end.cpu())
    given = _prompts(task, task.forget, "forget")
    forget = capture_all(model, site, given.sequences, pad_token_id=given.padding)
    direction = mean.mean()[0] - forget.residual[forget.from_end == 0].double().mean(0).cpu()
    given = _prompts(task, task.retain, "retain")
    retain = [batch.inner for batch in capture(model, site, given.sequences, pad_token_id=given.padding)]
    inner = torch.cat([forget.inner, *retain])
    redirected = torch.arange(len(inner), device=inner.device) < len(forget.inner)
    return inner, redirected, direction.float().to(inner.device)


def _prompts(task: Task, records: Sequence[Record], name: str) -> Examples:
    return examples(task, [replace(record, answer=None) for record in records], name, needs_answers=False)


BASELINE = Baseline(
    name="lunar-reference",
    title="LUNAR as published",
    source="Shen et al., arXiv 2502.07218",
    settings=ReferenceSettings(),
    search=tuple(ReferenceSettings(depth=depth) for depth in (0.0, 0.25, 0.5, 22 / 32)),
    function=lunar_reference,
)
