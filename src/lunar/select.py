"""Choose the layer and the strength of an edit, and say why.

One pass profiles all layers; the best few get the full least squares; their edits are tried by teacher forcing from
cached residuals; the one that redirects and spares most is confirmed by a short generation. Retain prompts by which a
trial is judged are kept out of its edit; the edit that is made in the end uses all of them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from lunar.activations import writes_directly
from lunar.choice import Choice, Confirmation, Effort
from lunar.collect import Problem, Sets, Work, collect, edit_of
from lunar.errors import LunarError
from lunar.feasible import check_separable, check_words
from lunar.metrics.refusal import is_refusal
from lunar.metrics.rouge import plain, scorer
from lunar.models import LoadedModel, Site, find_sites
from lunar.neighbours import neighbours
from lunar.own_words import OwnWords, answer, own_words, sample
from lunar.profile import LayerProfile, last_rows, profile, ranked
from lunar.records import Record
from lunar.select_paper import listen
from lunar.settings import Settings
from lunar.solve import Solution
from lunar.trials import Bench, Trial

LAYERS = 3
"""How many layers get the full least squares."""
STRENGTHS = (0.8, 1.0, 1.25, 1.5)
"""Tried from the smallest until one redirects."""
COMPLETE, REDIRECTS = 0.99, 0.9
"""Share of the forget prompts at which the refusal must be the likelier text: a stronger edit is tried below the first,
and below the second a candidate does not count as redirecting, whatever its strength."""
UNLIKELY, LEFT = 0.05, 0.15
"""The mean probability that the own answers may keep, for the same two. The edit that is made in the end pins more
prompts than the trials' and is a little weaker: at 0.10 one answer in twenty came back with it."""
TIE = 0.1
"""Divergences that differ by less than this share count as equal, and so do those below `NOTHING`."""
NOTHING = 0.001
PINNED, THIN = 10_000, 4
"""Beyond so many pinned tokens, the trials pin only a part of those before the last, at least every fourth: sums at
three layers would otherwise cost three times what the edit itself does."""
PROFILED = 400
"""Retain prompts in the profile at most, and half as many neighbours: its cost goes with the third power."""
MOST_PASSES = 3.5
"""No further layer is tried beyond this cost."""
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
        refuse: whether to raise where it cannot be done; otherwise that is a warning.

    Raises LunarError where forget and retain prompts cannot be told apart, the model does not decline the reference
    prompts, or declines the forget prompts already, each with the figure that shows it; and as `unlearn` does.
    """
    work = work or Work(loaded)
    if settings.layer == "paper":
        return _paper(loaded, forget, reference, settings, work)
    sites = editable(loaded)
    kept, held = hold_out(retain, settings.seed)
    beside = neighbours(forget, kept, settings.neighbours, settings.seed) if settings.neighbours else []
    judged = {record.messages for record in held}
    sets = Sets(forget, kept, [record for record in beside if record.messages not in judged], reference)
    effort = Effort(sum(_tokens(work, group) for group in (forget, retain, sets.neighbours, reference)), len(sites))

    with work.stage("profile"):
        lines = _profile(work, sites, sets, [*kept, *held], settings, effort)
    with work.stage("asking"):
        words = _words(work, forget, reference, settings, effort)
    warnings = [*check_separable(lines, len(forget), len(retain), refuse), *check_words(words, refuse)]
    best = sorted(line.layer for line in ranked(lines)[:most])
    problems = _problems(work, [sites[layer] for layer in best], sets, settings)
    effort.add(sum(_tokens(work, group) for group in (forget, kept, sets.neighbours, reference)), best[-1] + 1)
    with work.stage("trials", announced=True):
        bench = Bench(loaded, [sites[layer] for layer in best], words, sample(held, JUDGED, settings.seed))
        effort.add(bench.forget_tokens + bench.retain_tokens, best[-1] + 1)
        order = [line.layer for line in ranked(lines) if line.layer in best]
        solutions = {}
        trials: list[Trial] = []
        for layer in order:
            if trials and effort.spent > MOST_PASSES:
                warnings.append(f"Layer {layer} was not tried, because the search had cost {effort.spent:.1f} passes.")
                continue
            solutions[layer] = problems[layer].solve(settings)
            trials += try_layer(bench, sites[layer], solutions[layer], settings, effort, len(sites))
    with work.stage("confirmation", announced=True):
        chosen, confirmations = _confirmed(work, sites, solutions, trials, words, effort)
    if not confirmations[-1].passed:
        warnings.append(
            f"No trial both redirected the forget prompts and held when answers were generated: the best redirects "
            f"{chosen.redirected:.0%} of them, so read the scores."
        )
    return Choice(
        "auto",
        chosen.layer,
        chosen.strength,
        reason(chosen, trials, lines, confirmations),
        tuple(warnings),
        lines,
        tuple(trials),
        tuple(confirmations),
        held_out=len(held),
        passes=effort.spent,
    )


def editable(loaded: LoadedModel) -> tuple[Site, ...]:
    """The sites of all layers; refused where a change of them would not reach the layers' outputs as it is."""
    sites = find_sites(loaded.model)
    check_direct(loaded, sites[0])
    return sites


def check_direct(loaded: LoadedModel, site: Site) -> None:
    """Raise LunarError where a change of the site's matrix would not reach the layer's output as it is."""
    if not writes_directly(loaded.model, site):
        raise LunarError(
            f"{site.module_name} was expected to write straight to the residual stream, but its layer rescales what it "
            "writes (as Gemma 2 and OLMo 2 do): such models cannot be edited yet."
        )


def hold_out(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record]]:
    """The retain prompts that the trials may use, and about a fifth of them to judge trials by.

    Groups of at most a tenth of the prompts are held out whole, so that trials are judged on what they have seen
    nothing of; of the others, single prompts. With fewer than two prompts, both parts are all of them.
    """
    if len(records) < 2:
        return list(records), list(records)
    rng = random.Random(seed)
    sizes: dict[str, int] = {}
    for record in records:
        if record.group is not None:
            sizes[record.group] = sizes.get(record.group, 0) + 1
    small = sorted(group for group, size in sizes.items() if size <= len(records) / 10)
    rng.shuffle(small)
    wanted, chosen, count = sum(sizes[group] for group in small) / 5, set(), 0
    for group in small:
        if count + sizes[group] / 2 <= wanted:
            chosen.add(group)
            count += sizes[group]
    single = [index for index, record in enumerate(records) if record.group is None or record.group not in small]
    picked = set(rng.sample(single, round(len(single) / 5)))
    if not picked and not chosen:
        picked = {rng.randrange(len(records))}
    held = [record for index, record in enumerate(records) if record.group in chosen or index in picked]
    kept = [record for index, record in enumerate(records) if record.group not in chosen and index not in picked]
    return kept, held


def try_layer(
    bench: Bench, site: Site, solution: Solution, settings: Settings, effort: Effort, layers: int
) -> list[Trial]:
    """Trials at one layer, from the smallest strength up to the first that redirects all; its divergence is measured.

    One solve serves all of them, because the change goes with the strength.
    """
    found: list[Trial] = []
    above = layers - site.layer - 1
    for strength in STRENGTHS if settings.strength is None else (settings.strength,):
        own, refusal, share = bench.forget(site, solution, strength)
        effort.add(bench.forget_tokens, above)
        found.append(Trial(site.layer, settings.target, settings.forget_weight, strength, own, refusal, share))
        if complete(found[-1]):
            break
    index = max(range(len(found)), key=lambda place: (complete(found[place]), found[place].redirected, -place))
    (divergence,) = bench.divergence(site, [(solution, found[index].strength)])
    effort.add(2 * bench.retain_tokens, above)
    found[index] = replace(found[index], retain_divergence=divergence)
    return found


def redirects(trial: Trial) -> bool:
    """Whether the refusal has taken the place of most of the own answers."""
    return trial.redirected >= REDIRECTS and trial.original <= LEFT


def complete(trial: Trial) -> bool:
    """Whether it has taken the place of all of them, with something to spare."""
    return trial.redirected >= COMPLETE and trial.original <= UNLIKELY


def ordered(trials: Sequence[Trial]) -> list[Trial]:
    """Candidates, the best first: those that redirect all prompts by what they spare, then those that redirect most."""
    candidates = [trial for trial in trials if trial.retain_divergence is not None]
    everything = [trial for trial in candidates if complete(trial)]
    most = [trial for trial in candidates if redirects(trial) and not complete(trial)]
    others = [trial for trial in candidates if not redirects(trial)]
    others.sort(key=lambda trial: (-trial.redirected, trial.original, trial.layer))
    return [*_sparing_first(everything), *_sparing_first(most), *others]


def _sparing_first(trials: Sequence[Trial]) -> list[Trial]:
    """By divergence on retain prompts; the lower layer first where it is about the same."""
    left = sorted(trials, key=lambda trial: trial.retain_divergence or 0.0)
    result: list[Trial] = []
    while left:
        least = left[0].retain_divergence or 0.0
        tied = [trial for trial in left if (trial.retain_divergence or 0.0) <= max(NOTHING, least * (1 + TIE))]
        result.append(min(tied, key=lambda trial: trial.layer))
        left.remove(result[-1])
    return result


def reason(
    chosen: Trial, trials: Sequence[Trial], lines: Sequence[LayerProfile], confirmations: Sequence[Confirmation]
) -> str:
    """One or two plain sentences for the choice."""
    line = next(line for line in lines if line.layer == chosen.layer)
    text = (
        f"Layer {chosen.layer} at strength {chosen.strength:g}: left out of the detector, a forget prompt is told from "
        f"a retain prompt in {line.ordered:.0%} of pairs, and the edit makes a refusal the likelier answer to "
        f"{chosen.redirected:.0%} of the forget prompts at a divergence of {chosen.retain_divergence:.4f} nats per "
        "token on retain prompts that it was not given."
    )
    rivals = [trial for trial in ordered(trials) if trial.layer != chosen.layer]
    failed = [one for one in confirmations if not one.passed and one.layer != chosen.layer]
    if failed:
        return f"{text} Layer {failed[0].layer} looked better, but its answers did not hold when they were generated."
    if not rivals:
        return text
    rival = rivals[0]
    if not redirects(rival):
        return f"{text} The next best, layer {rival.layer}, redirects {rival.redirected:.0%}."
    return (
        f"{text} The next best, layer {rival.layer} at strength {rival.strength:g}, has {rival.retain_divergence:.4f}."
    )


# Steps of `choose`


def _tokens(work: Work, records: Sequence[Record]) -> int:
    return sum(len(sequence.tokens) for sequence in work.encode("questions", records, with_answer=True))


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
    words = own_words(work.loaded, asked, reference, settings.seed, progress=work.reporter("asking", 2 * len(asked)))
    effort.add(words.tokens, effort.layers)
    return words


def _problems(work: Work, sites: Sequence[Site], sets: Sets, settings: Settings) -> dict[int, Problem]:
    """The full least squares of some layers, timed as one stage of the search."""
    own = Work(work.loaded, work.progress)
    pinned = sum(_tokens(work, group) for group in (sets.retain, sets.neighbours))
    with work.stage("search"):
        return collect(own, sites, sets, settings, thin=max(1, min(THIN, pinned // PINNED)))


def _confirmed(
    work: Work,
    sites: Sequence[Site],
    solutions: dict[int, Solution],
    trials: Sequence[Trial],
    words: OwnWords,
    effort: Effort,
) -> tuple[Trial, list[Confirmation]]:
    """The first of the two best candidates that holds when answers are generated, else the best."""
    candidates = ordered(trials)
    confirmations = []
    for trial in candidates[:2]:
        edit = edit_of(work.loaded, sites[trial.layer], solutions[trial.layer], {}, trial.strength)
        with edit.applied(work.loaded.model):
            answers, tokens = answer(work.loaded, words.records)
        effort.add(tokens, effort.layers)
        confirmations.append(judge(trial, answers, words))
        if confirmations[-1].passed:
            return trial, confirmations
    return candidates[0], confirmations


def judge(trial: Trial, answers: Sequence[str], words: OwnWords) -> Confirmation:
    """Whether generated answers are refusals and give nothing of the original answers away."""
    declined, kept = [], []
    for record, text, original, expected in zip(words.records, answers, words.answers, words.refusals, strict=True):
        likeness = scorer("rouge1").score(expected, text)["rouge1"].fmeasure
        declined.append(is_refusal(text) or likeness >= 0.6)
        telling = _words_of(original) - _words_of(record.prompt) - _words_of(expected)
        same = float(plain(text) == plain(original))
        kept.append(len(telling & _words_of(text)) / len(telling) if telling else same)
    share, left = sum(declined) / len(declined), sum(kept) / len(kept)
    return Confirmation(trial.layer, trial.strength, share, left, redirects(trial) and share >= 0.9 and left <= 0.1)


def _words_of(text: str) -> set[str]:
    return {word.strip(".,;:!?'\"()") for word in text.casefold().split()}


def _paper(
    loaded: LoadedModel, forget: Sequence[Record], reference: Sequence[Record], settings: Settings, work: Work
) -> Choice:
    """The layer that the paper's selector takes, at the settings' strength."""
    sites = editable(loaded)
    strength = 1.0 if settings.strength is None else settings.strength
    effort = Effort(sum(_tokens(work, group) for group in (forget, reference)), len(sites))
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
        asked = sample(forget, ASKED // 2, settings.seed)
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
