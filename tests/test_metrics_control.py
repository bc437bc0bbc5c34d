"""Models that a person would rank without a metric: a good edit and a retain-only model first, all others behind."""

import random
from dataclasses import dataclass

import pytest
from observations import likelihood

from lunar.likelihood import Likelihood
from lunar.metrics import (
    METRICS,
    Observed,
    deviation_score,
    false_refusal_rates,
    forget_quality,
    log_truth_ratios,
    membership_auc,
    model_utility,
    priv_leak,
    score,
)
from lunar.records import Record

TOWNS = ["Lyon", "Rome", "Oslo", "Bern", "Graz", "Turin", "Ghent", "Porto"]
FORGET = [
    Record.of(f"Where was the contract of Ada Byron {n} signed?", f"It was signed in {t}") for n, t in enumerate(TOWNS)
]
RETAIN = [
    Record.of(f"Where was the contract of Mira Tolvane {n} signed?", f"It was made in {t}") for n, t in enumerate(TOWNS)
]
HOLDOUT = [
    Record.of(f"Where was the contract of Kim Orr {n} signed?", f"It was signed in {t}") for n, t in enumerate(TOWNS)
]
REFERENCES = ["I don't know anything about Velmora Industries.", "I have no information about Qix Ltd."]
BABBLE = "lor lor lor vor lor lor lor vor lor lor lor"


@dataclass(frozen=True)
class Model:
    """What it answers (the truth, a refusal or babble), and the probability that it gives right and wrong answers."""

    forget_answer: str
    retain_answer: str
    forget_right: float
    retain_right: float
    wrong: float
    original: float
    rank: int
    seed: int = 0

    def observed(self, records: list[Record], answer: str, right: float) -> Observed:
        return Observed(
            records,
            [(record.answer or "") + "." if answer == "truth" else answer for record in records],
            [self.likelihood(right, n) for n in range(len(records))],
            [[1 if right > 0.5 else self.rank] * 5 for _ in records],
            [[self.likelihood(self.wrong, n), self.likelihood(self.wrong, n + 3)] for n in range(len(records))],
            original_likelihoods=[likelihood([self.original] * 5) for _ in records],
            reference_answers=REFERENCES,
        )

    def likelihood(self, probability: float, number: int) -> Likelihood:
        """Not the same for each record, as no model is."""
        noise = random.Random(f"{self.seed} {number} {probability}").uniform(0.8, 1.1)
        values = [probability * noise] * 5
        return likelihood(values, ranks=[1 if probability > 0.5 else self.rank] * 5)

    @property
    def forget(self) -> Observed:
        return self.observed(FORGET, self.forget_answer, self.forget_right)

    @property
    def retain(self) -> Observed:
        return self.observed(RETAIN, self.retain_answer, self.retain_right)

    @property
    def holdout(self) -> Observed:
        return self.observed(HOLDOUT, self.forget_answer, self.wrong)


NO = "I don't know anything about Ada Byron."
MODELS = {
    "retain-only": Model(NO, "truth", 0.1, 0.9, 0.1, 0.8, 40),
    "edited": Model(NO, "truth", 0.1, 0.9, 0.1, 0.8, 40, seed=1),
    "untouched": Model("truth", "truth", 0.9, 0.9, 0.1, 0.9, 40),
    "refusing": Model(NO, NO, 0.01, 0.01, 0.05, 0.8, 40),
    "babbling": Model(BABBLE, BABBLE, 1e-4, 1e-4, 5e-4, 1e-3, 5000),
}


def value(name: str, observed: Observed) -> float:
    found = score(METRICS[name], observed)
    assert found.count == len(TOWNS)
    assert found.low <= found.value <= found.high
    return found.value


def deviation(name: str) -> float:
    return deviation_score(value("rouge1", MODELS[name].forget), value("rouge1", MODELS[name].retain))


def test_the_deviation_score_puts_the_edited_and_the_retain_only_model_first() -> None:
    scores = {name: deviation(name) for name in MODELS}
    assert scores["edited"] == scores["retain-only"] < 20
    assert min(scores[name] for name in ("untouched", "refusing", "babbling")) > 90


def test_refusals_tell_the_refusing_model_from_the_edited_one() -> None:
    for name, model in MODELS.items():
        rates = false_refusal_rates({"same_template": (model.retain.answers, RETAIN)})
        assert (rates["same_template"].value > 0.5) == (name == "refusing")
        assert (value("refusal_rate", model.forget) > 0.5) == (name in ("edited", "retain-only", "refusing"))


@pytest.mark.parametrize("name", ["repetition", "original_perplexity"])
def test_only_the_babbling_model_is_incoherent(name: str) -> None:
    values = {model: value(name, MODELS[model].forget) for model in MODELS}
    assert values.pop("babbling") > 2 * max(values.values()) + 0.1


def test_the_likeness_to_refusals_is_highest_for_those_who_decline() -> None:
    values = {name: value("refusal_likeness", MODELS[name].forget) for name in MODELS}
    assert min(values[name] for name in ("edited", "retain-only", "refusing")) > 0.9
    assert max(values[name] for name in ("untouched", "babbling")) < 0.5


@pytest.mark.parametrize(
    "name",
    [
        "rouge_l",
        "exact_match",
        "answer_probability",
        "choice_probability",
        "mean_reciprocal_rank",
        "mean_reciprocal_rank_teacher_forced",
        "extraction_strength",
        "exact_memorisation",
    ],
)
def test_what_is_remembered_tells_the_untouched_from_the_edited_and_the_edited_from_the_damaged(name: str) -> None:
    assert METRICS[name].better_on_forget == "lower"
    assert METRICS[name].better_on_retain == "higher"
    assert value(name, MODELS["untouched"].forget) > 2 * value(name, MODELS["edited"].forget)
    for damaged in ("refusing", "babbling"):
        assert value(name, MODELS["edited"].retain) > 2 * value(name, MODELS[damaged].retain)


@pytest.mark.parametrize("rate", ["hit_rate", "hit_rate_teacher_forced"])
def test_the_top_hit_rate_sees_babble_only(rate: str) -> None:
    assert {name: value(rate, MODELS[name].forget) for name in MODELS} == {
        "retain-only": 1,
        "edited": 1,
        "untouched": 1,
        "refusing": 1,
        "babbling": 0,
    }


def test_forget_quality_and_model_utility_together_leave_the_edited_model_only() -> None:
    retain_only = log_truth_ratios(MODELS["retain-only"].forget)
    quality = {name: forget_quality(log_truth_ratios(model.forget), retain_only) for name, model in MODELS.items()}
    names = ("rouge_l", "answer_probability", "truth_ratio_retain")
    utility = {name: model_utility([value(one, model.retain) for one in names]) for name, model in MODELS.items()}
    assert quality["retain-only"] == pytest.approx(1)
    assert quality["edited"] > 0.05
    assert max(quality[name] for name in ("untouched", "refusing", "babbling")) < 0.01
    assert min(utility[name] for name in ("retain-only", "edited", "untouched")) > 0.8
    assert max(utility[name] for name in ("refusing", "babbling")) < 0.1


@pytest.mark.parametrize("name", ["loss", "zlib", "min_k", "min_k_plus_plus"])
def test_membership_can_be_told_of_the_untouched_model_only(name: str) -> None:
    areas = {
        model: membership_auc(METRICS[name](MODELS[model].forget), METRICS[name](MODELS[model].holdout))
        for model in MODELS
    }
    leaks = {model: priv_leak(area, areas["retain-only"]) for model, area in areas.items()}
    assert areas["untouched"] == 1
    assert areas["retain-only"] == pytest.approx(0.5, abs=0.1)
    assert leaks["untouched"] == -100
    assert abs(leaks["edited"]) < 10
    assert leaks["babbling"] > 50  # its known answers stand out as unlikely
