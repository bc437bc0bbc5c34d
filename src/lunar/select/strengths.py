"""How strong an edit is to be: no stronger than it takes.

A target that asks for exactly so much has one strength for all prompts. One that asks for at least so much has a
strength per prompt: most prompts need less than the most stubborn one, and what they do not get is spared elsewhere.
Knows trials and prompts, not which layer is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lunar.collect import Problem, Work
from lunar.models import find_sites
from lunar.records import Record
from lunar.select.choice import Confirmation, Effort
from lunar.select.own_words import OwnWords, answer
from lunar.select.trials import Bench, Candidate, Heard, Trial
from lunar.select.verdict import complete, judge, still_answered
from lunar.settings import Settings

STRENGTHS = (0.65, 0.75, 0.85, 1.0, 1.25, 1.5)
"""Tried from the smallest on."""
ALIKE = (0.8, 0.85, 0.9, 1.0, 1.25, 1.5)
"""Likewise, where all prompts have the same."""
LISTENED = 3
"""Times that answers of a candidate are generated at most, each time a little stronger where one still came."""


@dataclass(frozen=True, eq=False)
class Tried:
    """A trial and what was tried.

    Attributes:
        trial: its figures.
        candidate: the change, at strength 1.
        left: the prompts that are not redirected.
        strengths: one per forget prompt where each has its own; empty where all have the trial's.
    """

    trial: Trial
    candidate: Candidate
    left: tuple[Record, ...]
    strengths: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Strengths:
    """Tries candidates, each time a little stronger where it takes more.

    Attributes:
        bench: what is listened to.
        forget: all prompts to forget; those that the bench does not ask get as much as the most stubborn one it asks.
        settings: of the edit; a strength that they name is the only one.
        effort: every trial is added to it.
    """

    bench: Bench
    forget: Sequence[Record]
    settings: Settings
    effort: Effort

    def at(self, candidate: Candidate) -> list[Tried]:
        """From the smallest strength up to where all prompts are redirected; the divergence of the best is measured."""
        found = [self._first(candidate)]
        while not complete(found[-1].trial):
            stronger = self.stronger(found[-1], found[-1].left)
            if stronger is None:
                break
            found.append(stronger)
        trials = [one.trial for one in found]
        best = max(range(len(found)), key=lambda place: (complete(trials[place]), trials[place].redirected, -place))
        found[best] = self.judged(found[best])
        return found

    def stronger(self, tried: Tried, records: Sequence[Record]) -> Tried | None:
        """The next strength, for some prompts where each has its own; None where there is none.

        A prompt may have got more than it was asked for already: it is asked for more than that.
        """
        candidate, asked = tried.candidate, [record.messages for record in self.bench.compared]
        if candidate.problem is None:
            above = [one for one in ALIKE if one > tried.trial.strength]
            fixed = self.settings.strength is not None or candidate.behind is not None
            return None if fixed or not above else self._try(candidate, above[0])
        got = [tried.trial.strength * share for share in candidate.problem.received(self.settings)]
        new = {record.messages: has for record, has in zip(self.forget, tried.strengths, strict=True)}
        for record, has, gets in zip(self.forget, tried.strengths, got, strict=True):
            if record in records:
                new[record.messages] = next((one for one in STRENGTHS if one > max(has, gets)), has)
        most = max((new[messages] for messages in asked), default=ALIKE[0])
        strengths = tuple(new[one.messages] if one.messages in asked else most for one in self.forget)
        return None if strengths == tried.strengths else self._try_each(candidate, candidate.problem, strengths)

    def judged(self, tried: Tried) -> Tried:
        """With its divergence on retain prompts."""
        trial = tried.trial
        self.effort.add(2 * self.bench.retain_tokens, self.effort.layers - trial.layer - 1)
        divergence = self.bench.divergence(tried.candidate, trial.strength)
        return replace(tried, trial=replace(trial, retain_divergence=divergence))

    def hold(self, work: Work, tried: Tried, words: OwnWords) -> tuple[Tried, list[Confirmation], list[Tried]]:
        """Answers are generated; prompts that are still answered are given the next strength, while that makes fewer.

        A trial sees first words alone. Returns the last that was listened to, what was heard, and further trials.
        """
        confirmations: list[Confirmation] = []
        further: list[Tried] = []
        before = len(words.records) + 1
        while True:
            with tried.candidate.edit(work.loaded, tried.trial.strength).applied(work.loaded.model):
                answers, tokens = answer(work.loaded, words.records)
            self.effort.add(tokens, self.effort.layers)
            confirmations.append(judge(tried.trial, answers, words))
            answered = still_answered(answers, words)
            done = not answered or len(answered) >= before or len(confirmations) == LISTENED
            before, stronger = len(answered), None if done else self.stronger(tried, answered)
            if stronger is None:
                return tried, confirmations, further
            tried = self.judged(stronger)
            further.append(tried)

    def _first(self, candidate: Candidate) -> Tried:
        if candidate.problem is not None:
            return self._try_each(candidate, candidate.problem, (STRENGTHS[0],) * len(self.forget))
        usual = ALIKE[0] if candidate.behind is None else 1.0
        return self._try(candidate, usual if self.settings.strength is None else self.settings.strength)

    def _try_each(self, candidate: Candidate, problem: Problem, strengths: tuple[float, ...]) -> Tried:
        """With a strength for each prompt: the smallest for the whole, and shares of more for those that need more."""
        least, most = min(strengths), max(strengths)
        problem = problem.raised([one / least for one in strengths])
        tried = self._try(replace(candidate, problem=problem, solution=problem.solve(self.settings)), least)
        raised = sum(one > least for one in strengths)
        trial = replace(tried.trial, raised=raised, strongest=most if raised else None)
        return replace(tried, trial=trial, strengths=strengths)

    def _try(self, candidate: Candidate, strength: float) -> Tried:
        layer, bench = candidate.site.layer, self.bench
        heard = bench.forget(candidate, strength)
        self.effort.add(bench.forget_tokens, self.effort.layers - layer - 1)
        settings, done = self.settings, heard.redirected()
        trial = Trial(
            layer,
            settings.target,
            settings.redirected_weight(),
            strength,
            _mean(heard.own),
            _mean(heard.refusal),
            _mean(done),
        )
        return Tried(trial, candidate, self._left(heard))

    def _left(self, heard: Heard) -> tuple[Record, ...]:
        """The prompts that are not redirected; where all are, the quarter whose own answers are the likeliest."""
        left = ~heard.redirected()
        if len(left) and not bool(left.any()):
            left = heard.own >= heard.own.quantile(0.75)
        return tuple(record for record, one in zip(self.bench.compared, left.tolist(), strict=True) if one)


def strengths_of(
    work: Work, problem: Problem, forget: Sequence[Record], words: OwnWords, settings: Settings
) -> tuple[float, ...]:
    """One strength per forget prompt for the least squares of a layer that is settled.

    Args:
        work: of the model, which is left as it was.
        problem: of a target that asks for at least so much.
        forget: its prompts.
        words: what the model says to them.
        settings: of the edit; their strength is not asked for.
    """
    sites = find_sites(work.loaded.model)
    bench = Bench(work.loaded, [problem.site], words, ())
    strengths = Strengths(bench, forget, settings, Effort(work.tokens(forget), len(sites)))
    tried = strengths.at(Candidate(problem.site, problem.solve(settings), passage=problem.passage, problem=problem))
    best = next(one for one in tried if one.trial.retain_divergence is not None)
    return strengths.hold(work, best, words)[0].strengths


def _mean(values: Tensor) -> float:
    return float(values.double().mean()) if len(values) else 0.0
