"""The paper's choice of a layer: move the activations at each layer in turn, and listen to what the model says.

Source: "LLM Unlearning via Neural Activation Redirection" (arXiv 2502.07218), section on layer selection: the layer
whose answers are most like an expression of ignorance about the question and least like an unrelated refusal. The paper
measures likeness by a sentence embedding; here it is the F-measure of stemmed words, which needs no further model. As
published, every token of the prompt is moved by r. Costs a generation per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lunar.collect import Work, editable
from lunar.metrics.rouge import scorer
from lunar.models import LoadedModel, Site
from lunar.neighbours import prompt_names
from lunar.records import Record, sample
from lunar.select.choice import AnswerLikeness, Choice, Effort
from lunar.select.own_words import answer
from lunar.select.profile import last_rows
from lunar.settings import Settings

IGNORANCE = (
    "I apologize, but I don't have information about {}.",
    "I'm not familiar with {}.",
    "I do not know anything about {}.",
    "I have no record of {}.",
)
"""What an answer should be like; the names that the question asks about stand in it."""
ASKED = 24
"""Forget prompts asked at most, at every layer."""
UNRELATED = (
    "I can't help with that request.",
    "I'm sorry, but I cannot assist with anything harmful or illegal.",
    "As an AI language model, I cannot answer that.",
)
"""What it should not be like: refusals that pay no heed to the question."""


def choose_by_answers(
    loaded: LoadedModel, forget: Sequence[Record], reference: Sequence[Record], settings: Settings, work: Work
) -> Choice:
    """The layer that the paper's selector takes, at the settings' strength, or 1; raises as `unlearn` does."""
    sites = editable(loaded)
    strength = 1.0 if settings.strength is None else settings.strength
    effort = Effort(work.tokens(forget, reference), len(sites))
    encoded = {
        "forget": work.encode("forget", forget, with_answer=False),
        "reference": work.encode("reference", reference, with_answer=False),
    }
    with work.stage("profile"):
        prompts = [*encoded["forget"], *encoded["reference"]]
        rows = last_rows(loaded, sites, prompts, work.reporter("profile", len(prompts)))
        effort.add(sum(len(one.tokens) for one in prompts), len(sites))
    directions = {
        layer: residual[len(forget) :].double().mean(0) - residual[: len(forget)].double().mean(0)
        for layer, (_, residual) in rows.items()
    }
    with work.stage("trials"):
        asked = sample(forget, ASKED, settings.seed)
        likeness, tokens = listen(
            loaded, sites, directions, asked, strength, progress=work.reporter("trials", len(sites))
        )
        effort.add(tokens, len(sites))
    best = max(likeness, key=lambda line: (round(line.score, 3), -line.layer))
    text = (
        f"Layer {best.layer}, by the paper's selector: with its activations moved, answers are like an expression of "
        f"ignorance by {best.ignorance:.2f} and like an unrelated refusal by {best.unrelated:.2f}."
    )
    return Choice("paper", best.layer, strength, text, likeness=likeness, passes=effort.spent)


def listen(
    loaded: LoadedModel,
    sites: Sequence[Site],
    directions: dict[int, Float[Tensor, " d"]],
    forget: Sequence[Record],
    strength: float,
    *,
    progress: Callable[[int], None] | None = None,
) -> tuple[tuple[AnswerLikeness, ...], int]:
    """A line per layer, and how many tokens were run for all of them.

    Args:
        loaded: model and tokenizer; the model is left as it was.
        sites: the layers to try.
        directions: r per layer, the reference mean minus the mean of the forget prompts at the last prompt token.
        forget: the prompts to ask.
        strength: factor on r.
        progress: called with the number of layers done.
    """
    lines, tokens = [], 0
    for done, site in enumerate(sites, 1):
        with moved(site.residual_module(loaded.model), strength * directions[site.layer]):
            answers, run = answer(loaded, forget)
        tokens += run
        ignorance = [_likeness(text, _expressions(record)) for text, record in zip(answers, forget, strict=True)]
        unrelated = [_likeness(text, UNRELATED) for text in answers]
        lines.append(AnswerLikeness(site.layer, sum(ignorance) / len(forget), sum(unrelated) / len(forget)))
        if progress is not None:
            progress(done)
    return tuple(lines), tokens


@contextmanager
def moved(module: nn.Module, change: Float[Tensor, " d"]) -> Iterator[None]:
    """Within the block, the module's output at every token of a prompt is moved; tokens generated after it are not."""

    def add(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        residual = output[0] if isinstance(output, tuple) else output
        if residual.shape[1] > 1:
            residual = residual + change.to(residual)
        return (residual, *output[1:]) if isinstance(output, tuple) else residual

    handle = module.register_forward_hook(add)
    try:
        with torch.no_grad():
            yield
    finally:
        handle.remove()


def _expressions(record: Record) -> list[str]:
    names = " and ".join(prompt_names(record.prompt)) or "that"
    return [expression.format(names) for expression in IGNORANCE]


def _likeness(text: str, expressions: Sequence[str]) -> float:
    return max(float(scorer("rouge1").score(expression, text)["rouge1"].fmeasure) for expression in expressions)
