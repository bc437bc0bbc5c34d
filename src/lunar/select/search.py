"""Choose the layer and the strength of an edit, and say why.

One pass profiles all layers; the best few get the full least squares; their edits are tried by teacher forcing from
cached residuals; the one that redirects and spares most is confirmed by a short generation. Retain prompts by which a
trial is judged are kept out of its edit; the edit that is made in the end uses all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lunar.collect import Problem, Sets, Work, collect, editable
from lunar.errors import LunarError
from lunar.gated import build, can_build
from lunar.models import LoadedModel, Site
from lunar.records import Record, sample
from lunar.select.choice import Choice, Confirmation, Effort
from lunar.select.feasible import check_separable, check_words
from lunar.select.holdout import hold_out
from lunar.select.own_words import REFERENCES, OwnWords, own_words
from lunar.select.paper import choose_by_answers
from lunar.select.profile import LayerProfile, profile, ranked
from lunar.select.strengths import Strengths, Tried
from lunar.select.trials import Bench, Candidate, Trial
from lunar.select.verdict import complete, ordered, reason
from lunar.settings import GATED, Settings

LAYERS = 3
"""How many layers get the full least squares."""
NEARLY = 0.1
"""Share of pairs by which a layer may separate less than the best one does where the lowest is to be taken."""
PINNED, THIN = 10_000, 4
"""Beyond so many pinned tokens, the trials pin only a part of those before the last, at least every fourth: sums at
three layers would otherwise cost three times what the edit itself does."""
PROFILED = 200
"""Retain prompts in the profile at most, and half as many neighbours: its cost goes with the third power."""
MOST_PASSES = 3.5
"""No further layer is tried that would take the search beyond this cost."""
ASKED, JUDGED = 48, 128
"""Forget prompts asked and retain prompts judged at most."""


def choose(
    loaded: LoadedModel,
    forget: Sequence[Record],
    retain: Sequence[Record],
    reference: Sequence[Record],
    settings: Settings,
    *,
    work: Work | None = None,
    most: int = LAYERS,
    refuse: bool = True,
    covered: bool = True,
) -> Choice:
    """Find the layer and, unless the settings name one, the strength.

    Args:
        loaded: model and tokenizer; the model is left as it was.
        forget: prompts to forget; answers are not read.
        retain: prompts to leave alone; a fifth of them, whole groups where these are small, is held out to judge.
        reference: prompts that the model declines.
        settings: target, weights and ridge are taken from here; a strength, if set, is the only one tried.
        work: for progress and timing.
        most: how many layers are tried at most.
        refuse: whether to raise where it cannot be done; otherwise that is among the obstacles.
        covered: whether the retain prompts are a user's own; built-in ones stand for nobody like the forgotten, and
            say nothing of what a deeper layer would take along.

    Raises LunarError where forget and retain prompts cannot be told apart, the model does not decline the reference
    prompts, or declines the forget prompts already, each with the figure that shows it; and as `unlearn` does.
    """
    work = work or Work(loaded)
    if settings.layer == "paper":
        return choose_by_answers(loaded, forget, reference, settings, work)
    sites = editable(loaded)
    kept, held = hold_out(retain, settings.seed)
    judged = {record.messages for record in held}
    sets = Sets.of(forget, kept, reference, settings)
    sets = replace(sets, neighbours=[record for record in sets.neighbours if record.messages not in judged])
    effort = Effort(work.tokens(sets.redirected, retain, sets.neighbours, reference), len(sites))

    with work.stage("profile"):
        lines = _profile(work, sites, sets, [*kept, *held], settings, effort)
    with work.stage("asking"):
        words = _words(work, forget, reference, settings, effort)
    warnings, obstacles = _feasible(lines, len(forget), len(retain), words)
    if obstacles and refuse:
        raise LunarError(obstacles[0])
    best = _best(loaded, sites, lines, settings, most, covered)
    problems = _problems(work, [sites[layer] for layer in sorted(best)], sets, settings)
    effort.add(work.tokens(sets.redirected, kept, sets.neighbours, reference), max(best) + 1)
    with work.stage("trials", announced=True):
        bench = Bench(loaded, [sites[layer] for layer in sorted(best)], words, sample(held, JUDGED, settings.seed))
        effort.add(bench.forget_tokens + bench.retain_tokens, max(best) + 1)
        strengths = Strengths(bench, forget, settings, effort)
        tried, untried = _tried(work, strengths, sets, [problems[layer] for layer in best])
        warnings += untried
    with work.stage("confirmation", announced=True):
        order = ordered([one.trial for one in tried], covered)
        taken, confirmations, further = _confirmed(work, strengths, tried, order, words)
        chosen, trials = taken.trial, [one.trial for one in [*tried, *further]]
    if not confirmations[-1].passed:
        warnings.append(
            f"No trial both redirected the forget prompts and held when answers were generated: the best redirects "
            f"{chosen.redirected:.0%} of them, so read the scores."
        )
    return Choice(
        "auto",
        chosen.layer,
        chosen.strength,
        reason(chosen, order, lines, confirmations, covered),
        tuple(warnings),
        lines,
        tuple(trials),
        tuple(confirmations),
        strengths=taken.strengths,
        held_out=len(held),
        passes=effort.spent,
        obstacles=tuple(obstacles),
    )


# Steps of `choose`


def _profile(
    work: Work, sites: Sequence[Site], sets: Sets, retain: Sequence[Record], settings: Settings, effort: Effort
) -> tuple[LayerProfile, ...]:
    records = {
        "forget": sample(sets.forget, PROFILED, settings.seed),
        "retain": sample(retain, PROFILED, settings.seed),
        "neighbours": sample(sets.neighbours, PROFILED // 2, settings.seed),
        "reference": sample(sets.reference, PROFILED, settings.seed),
    }
    encoded = {name: work.encode(name, group, with_answer=False) for name, group in records.items()}
    effort.add(sum(len(one.tokens) for group in encoded.values() for one in group), len(sites))
    report = work.reporter("profile", sum(map(len, encoded.values())))
    return profile(work.loaded, sites, encoded, settings, progress=report)


def _words(
    work: Work, forget: Sequence[Record], reference: Sequence[Record], settings: Settings, effort: Effort
) -> OwnWords:
    asked = sample(forget, ASKED, settings.seed)
    total = 2 * len(asked) + min(len(reference), REFERENCES)
    words = own_words(work.loaded, asked, reference, settings.seed, progress=work.reporter("asking", total))
    effort.add(words.tokens, effort.layers)
    return words


def _feasible(lines: Sequence[LayerProfile], forget: int, retain: int, words: OwnWords) -> tuple[list[str], list[str]]:
    """Warnings, and why it cannot be done."""
    warnings: list[str] = []
    obstacles = []
    for check in (lambda: check_separable(lines, forget, retain), lambda: check_words(words)):
        try:
            warnings += check()
        except LunarError as error:
            obstacles.append(str(error))
    return warnings, obstacles


def _problems(work: Work, sites: Sequence[Site], sets: Sets, settings: Settings) -> dict[int, Problem]:
    """The full least squares of some layers, timed as one stage of the search."""
    own = replace(work, seconds={})
    pinned = work.tokens(sets.retain, sets.neighbours)
    with work.stage("search"):
        return collect(own, sites, sets, settings, thin=max(1, min(THIN, pinned // PINNED)))


def _best(
    loaded: LoadedModel,
    sites: Sequence[Site],
    lines: Sequence[LayerProfile],
    settings: Settings,
    most: int,
    covered: bool,
) -> list[int]:
    """The layers to try, the best separated first; for a gated edit, those that have a place for it behind them.

    Where the retain prompts are not a user's own, the lowest that redirects will be taken: the lowest come first that
    separate nearly as well as the best.

    Raises LunarError where none has.
    """
    order = [line.layer for line in ranked(lines)]
    if not covered:
        separated = {line.layer: line.ordered for line in lines}
        near = [layer for layer in order if separated[layer] >= separated[order[0]] - NEARLY]
        order = [*sorted(near), *(layer for layer in order if layer not in near)]
    if settings.target in GATED:
        order = [layer for layer in order if can_build(loaded, sites[layer])]
    if not order:
        raise LunarError(
            "A model with gated MLPs behind root-mean-square norms was expected, as Llama's, but this one has none: "
            f"choose another target than {settings.target}."
        )
    return order[:most]


def _candidate(work: Work, sets: Sets, problem: Problem, settings: Settings, effort: Effort) -> Candidate:
    """The solution of one layer's problem; raises LunarError where a gated edit finds no threshold there.

    A hardened edit is tried by its threshold alone: what lies under it would cost several passes more.
    """
    if settings.target not in GATED:
        each = settings.strength is None and problem.may_get_more(settings)
        solution = problem.solve(settings)
        return Candidate(problem.site, solution, passage=problem.passage, problem=problem if each else None)
    effort.add(*_building(work, sets, problem.site))
    built = build(replace(work, seconds={}, saved=None, resumed={}), sets, problem, replace(settings, target="gated"))
    return Candidate(problem.site, built.solution, built.behind)


def _building(work: Work, sets: Sets, site: Site) -> tuple[int, int]:
    """Tokens and layers that a gated edit takes: the pinned prompts as they are, and with its flags in place."""
    pinned = work.tokens(sets.retain, sets.neighbours)
    return 2 * pinned + work.tokens(sets.redirected, sets.reference), site.layer + 2


def _tried(work: Work, strengths: Strengths, sets: Sets, problems: Sequence[Problem]) -> tuple[list[Tried], list[str]]:
    """The trials at each layer, in the given order until the search has cost enough, and warnings.

    A gated edit that redirects is taken without a look at further layers: building one costs two passes.
    """
    tried: list[Tried] = []
    warnings = []
    refused: LunarError | None = None
    settings, effort = strengths.settings, strengths.effort
    for problem in problems:
        layer, gated = problem.site.layer, settings.target in GATED
        if gated and any(complete(one.trial) for one in tried):
            break
        cost = effort.spent + (effort.of(*_building(work, sets, problem.site)) if gated else 0.0)
        if (tried or refused) and cost > MOST_PASSES:
            warnings.append(f"Layer {layer} was not tried: the search had cost {effort.spent:.1f} passes by then.")
            continue
        try:
            candidate = _candidate(work, sets, problem, settings, effort)
        except LunarError as error:
            refused = error
            continue
        tried += strengths.at(candidate)
    if refused is not None and not tried:
        raise LunarError(" ".join([str(refused), *warnings]))
    return tried, warnings


def _confirmed(
    work: Work, strengths: Strengths, tried: Sequence[Tried], order: Sequence[Trial], words: OwnWords
) -> tuple[Tried, list[Confirmation], list[Tried]]:
    """The first of the two best candidates that holds when answers are generated, else the best; and further trials.

    Prompts that are still answered are given the next strength before another layer comes.
    """
    known = {one.trial: one for one in tried}
    confirmations: list[Confirmation] = []
    further: list[Tried] = []
    for trial in order[:2]:
        held, heard, more = strengths.hold(work, known[trial], words)
        confirmations += heard
        further += more
        if heard[-1].passed:
            return held, confirmations, further
    return known[order[0]], confirmations, further
