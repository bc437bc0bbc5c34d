"""The one training loop that all baselines with a loss share: AdamW over seeded batches of forget and retain records.

Every step takes a batch of forget records and as many retain records. The forward pass is in evaluation mode: dropout
would only blur a comparison of losses. Weights are trained in float32, whatever their dtype, since small steps are lost
in 16 bits, and put back into their own dtype at the end. Knows nothing of any loss. The schedule is that of "TOFU: A
Task of Fictitious Unlearning for LLMs" (arXiv 2401.06121): a warm-up over the first epoch, then linear decay to zero.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lunar.baselines.settings import TrainingSettings
from lunar.baselines.task import Outcome, Task, count_changed, unchanged
from lunar.errors import LunarError
from lunar.models import LoadedModel


@dataclass(frozen=True)
class Step:
    """The records of one step, as indices into the forget and the retain set; no retain ones where there are none."""

    epoch: int
    forget: list[int]
    retain: list[int]


Loss = Callable[[PreTrainedModel, Step], Tensor]
"""A scalar to be lowered, from the model as it is and the records of the step."""


def train(task: Task, settings: TrainingSettings, loss: Loss, trainable: Sequence[str] | None = None) -> Outcome:
    """Lower `loss` on a copy of the task's model.

    Args:
        task: its model stays as it is, to the bit.
        settings: how to train.
        loss: what to lower.
        trainable: names of the parameters that may change; None for all.

    Raises LunarError, naming the step, as soon as the loss, its gradient or a trained weight is not finite.
    """
    started = time.perf_counter()
    original = task.loaded.model
    model = copy.deepcopy(original).eval()
    dtypes = {name: part.dtype for name, part in model.named_parameters()}
    for name, part in model.named_parameters():
        part.data = part.data.float()
        part.requires_grad_(trainable is None or name in trainable)
    steps = plan(len(task.forget), len(task.retain), settings, task.seed)
    _fit(task, model, steps, settings, loss)
    for name, part in model.named_parameters():
        part.grad = None
        part.data = part.data.to(dtypes[name])
        check_finite_step(part.data, len(steps), len(steps), settings.learning_rate)
        part.requires_grad_(original.get_parameter(name).requires_grad)
    loaded = LoadedModel(model, task.loaded.tokenizer, task.loaded.source)
    seconds = time.perf_counter() - started
    return Outcome(loaded, unchanged, count_changed(original, model), seconds, asdict(settings) | {"steps": len(steps)})


def plan(forget: int, retain: int, settings: TrainingSettings, seed: int) -> list[Step]:
    """All steps: every forget record once per epoch in a new order, retain records in turn, reshuffled when used up."""
    rng = random.Random(seed)
    others = _in_turn(retain, rng)
    steps = []
    for epoch in range(settings.epochs):
        order = rng.sample(range(forget), forget)
        for start in range(0, forget, settings.batch_size):
            chosen = order[start : start + settings.batch_size]
            steps.append(Step(epoch, chosen, [next(others) for _ in chosen] if retain else []))
    return steps


def _in_turn(count: int, rng: random.Random) -> Iterator[int]:
    while True:
        yield from rng.sample(range(count), count)


def rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """The share of the learning rate at a step, from 0."""
    warmup = round(settings.warmup_epochs * steps / settings.epochs)
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / max(1, steps - warmup) if settings.decay else 1.0


def _fit(task: Task, model: PreTrainedModel, steps: list[Step], settings: TrainingSettings, loss: Loss) -> None:
    parameters = [part for part in model.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, len(steps), settings))
    for number, step in enumerate(steps, 1):
        with torch.enable_grad():
            value = loss(model, step)
            optimizer.zero_grad()
            value.backward()
        norm = nn.utils.clip_grad_norm_(parameters, settings.clip)
        check_finite_step(value.detach() + norm.to(value.device), number, len(steps), settings.learning_rate)
        optimizer.step()
        schedule.step()
        task.report("training", number, len(steps))


def check_finite_step(value: Tensor, number: int, total: int, learning_rate: float) -> None:
    """Raise LunarError if a step's loss, or a weight after the last step, is NaN or infinite."""
    if not bool(torch.isfinite(value).all()):
        raise LunarError(
            f"Loss and weights were expected to stay finite, but at step {number} of {total} they are not: lower the "
            f"learning rate of {learning_rate:g}."
        )
