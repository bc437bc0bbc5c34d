"""A little fine-tuning: 30 steps of AdamW on something that is not what the attack is scored on.

Source: relearning as in "Eight Methods to Evaluate Robust Unlearning in LLMs" (arXiv 2402.16835) and "Unlearning or
Obfuscating? Jogging the Memory of Unlearned LLMs via Benign Relearning" (arXiv 2406.13356); the steps, the rate of
2e-4 and the 64 examples are this library's. Three kinds of data, each an attack: retain records, facts that have
nothing to do with the data, and one half of the forget records, scored on the other half. Where there is time also by
LoRA, for the most steps. An attacker needs the weights, a training loop and that data. Control: the model that never
knew trained in the same way, since whoever has read one half of the answers guesses the form of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from torch import Tensor
from transformers import PreTrainedModel

from lunar.attacks.attack import Attack, Attacked, Case, Variant
from lunar.attacks.lora import merge, with_low_rank
from lunar.attacks.unrelated import unrelated_records
from lunar.baselines.examples import examples, mean_loss
from lunar.baselines.settings import TrainingSettings
from lunar.baselines.task import Task
from lunar.baselines.training import Step, train
from lunar.errors import LunarError
from lunar.models import LoadedModel
from lunar.records import Record, sample

EXAMPLES = 64
BATCH = 32
LEARNING_RATE = 2e-4
LORA_RATE, RANK = 2e-3, 16
"""Low-rank changes take about ten times the rate of whole matrices."""
Variants = Callable[[Case], Iterator[Variant]]


@contextmanager
def relearnt(
    loaded: LoadedModel,
    records: Sequence[Record],
    steps: int,
    *,
    learning_rate: float = LEARNING_RATE,
    rank: int | None = None,
    seed: int = 0,
) -> Iterator[Attacked]:
    """A copy of the model after so many steps of AdamW on the answers of the records; the model stays as it is.

    With a rank, low-rank changes of the decoder layers' matrices are trained in the place of all weights.

    A step takes 32 records, or all where there are fewer. Raises LunarError for records without answers, a number of
    steps that is no multiple of those of one pass over the records, and where the training does not stay finite.
    """
    per_pass = -(-len(records) // BATCH) or 1
    if steps < 1 or steps % per_pass:
        raise LunarError(
            f"Passes over {len(records)} records take a multiple of {per_pass} steps, but {steps} came: change it."
        )
    settings = TrainingSettings(
        learning_rate=learning_rate, epochs=steps // per_pass, batch_size=BATCH, warmup_epochs=0.0, decay=False
    )
    model, trainable = with_low_rank(loaded.model, rank, seed) if rank else (loaded.model, None)
    task = Task(replace(loaded, model=model), records, (), (), seed)
    known = examples(task, records, "training")

    def loss(trained: PreTrainedModel, step: Step) -> Tensor:
        return mean_loss(trained, known.batch(step.forget))

    trained = train(task, settings, loss, trainable).loaded
    merge(trained.model)
    yield Attacked(trained)


def _variants(case: Case, data: str, records: Sequence[Record]) -> Iterator[Variant]:
    chosen = sample(records, EXAMPLES, case.seed)
    for steps in case.budget.steps:
        settings = {"data": data, "records": len(chosen), "steps": steps, "learning_rate": LEARNING_RATE}
        yield Variant(settings, partial(relearnt, case.unlearned, chosen, steps, seed=case.seed))
        if len(case.budget.steps) > 1 and steps == max(case.budget.steps):
            low = settings | {"learning_rate": LORA_RATE, "rank": RANK}
            trained = partial(relearnt, learning_rate=LORA_RATE, rank=RANK, seed=case.seed)
            yield Variant(low, partial(trained, case.unlearned, chosen, steps))


def on_retain(case: Case) -> Iterator[Variant]:
    """On retain records with answers. Raises LunarError where there are none."""
    answered = [record for record in case.retain if record.answer]
    if not answered:
        raise LunarError("Relearning on retain records needs some with answers, but there are none: add answers.")
    return _variants(case, "retain", answered)


def on_unrelated(case: Case) -> Iterator[Variant]:
    """On facts of general knowledge, without those that are to be forgotten."""
    return _variants(case, "unrelated", unrelated_records(case.forget))


def on_half(case: Case) -> Iterator[Variant]:
    """On one half of the forget records."""
    return _variants(case, "forget", case.halves()[0])


def _attack(name: str, data: str, variants: Variants, *, halves: bool = False, costly: bool = False) -> Attack:
    return Attack(
        name=name,
        title=f"Fine-tuning on {data}",
        source="Lynch et al., arXiv 2402.16835; Hu et al., arXiv 2406.13356; settings of this library",
        access="weights and training",
        needs=f"the weights, a training loop and {data}",
        control="the control trained in the same way",
        variants=variants,
        curve=True,
        halves=halves,
        costly=costly,
    )


ATTACKS = (
    _attack("relearn", "64 retain examples", on_retain),
    _attack("relearn-unrelated", "64 unrelated facts", on_unrelated, costly=True),
    _attack("relearn-forget", "half of what was forgotten", on_half, halves=True),
)
