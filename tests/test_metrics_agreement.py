"""Agreement with open-unlearning (locuslab/open-unlearning, 2025): its numbers for four recorded inputs.

The inputs are made by a formula, so that nothing has to be stored. The numbers came out of its definitions at commits
2db47ec (memorization.py), 5420d43 (utils.py) and f4d8463 (min_k_plus_plus.py), computed in float64; in float32 its
min-k++ is off by up to 2e-6 of its own, since it subtracts two large squares. Differences that are meant stand in the
tests of the single metrics: extraction strength where nothing matches, and no 1e-10 in denominators.
"""

import pytest
import torch

from lunar.likelihood import Likelihood, likelihood_of
from lunar.metrics import METRICS, Observed, forget_quality, log_truth_ratios, score
from lunar.records import Record

END = 10
ANSWERS = {0: [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, END], 1: [7, 2, 8, END], 2: [1, 6, END], 3: [7, 7, 7, 1, 9, END]}
RECORDED = {
    "answer_probability": [0.07071119726598761, 0.04803916282921139, 0.08576860667491604, 0.2025861793887663],
    "loss": [2.6491513414489796, 3.035738708458181, 2.4561022290118846, 1.5965899057393715],
    "exact_memorisation": [1 / 11, 2 / 3, 0.0, 0.8],
    "extraction_strength": [0.0, 0.0, 0.0, 0.8],  # there 1/11, 1/3 and 1/2 where nothing matches
    "min_k": [3.8604797752137183, 4.088411215355358, 3.9694722147307324, 3.5777687162850387],
    "min_k_plus_plus": [2.4230542152777454, 2.826423468122624, 2.5547730042600487, 1.9378328031286],
    "choice_probability": [0.4065127387126224, 0.25648495417683653, 0.2817663434549441, 0.7420223878418902],
}
TRUTH_RATIOS = [0.6830752607780998, 1.403335649384346, 1.0789505145504596, 0.17304245345704677]


def recorded(seed: int, answer: list[int]) -> Likelihood:
    step = torch.arange(len(answer), dtype=torch.float64)[:, None]
    token = torch.arange(11, dtype=torch.float64)[None]
    wave = torch.sin(0.37 * (seed + 1) * (step + 1) + 1.3 * (token + 1))
    logits = 2.5 * wave * torch.cos(0.9 * (token + 1) * (step + 2) + seed)
    return likelihood_of(logits.float(), answer, len(answer) - 1)


@pytest.fixture
def observed() -> Observed:
    return Observed(
        [Record.of("Where?", "In Lyon")] * 4,
        likelihoods=[recorded(seed, answer) for seed, answer in ANSWERS.items()],
        wrong_likelihoods=[[recorded(seed + more, answer) for more in (5, 9)] for seed, answer in ANSWERS.items()],
    )


@pytest.mark.parametrize("name", RECORDED)
def test_values_agree_to_a_millionth(observed: Observed, name: str) -> None:
    assert METRICS[name](observed) == pytest.approx(RECORDED[name], rel=1e-6, abs=1e-6)


def test_the_measures_of_tofu_agree_to_a_millionth(observed: Observed) -> None:
    assert torch.tensor(log_truth_ratios(observed)).exp().tolist() == pytest.approx(TRUTH_RATIOS, rel=1e-6, abs=1e-6)
    assert score(METRICS["truth_ratio_forget"], observed).value == pytest.approx(0.6238830443547364, abs=1e-6)
    assert score(METRICS["truth_ratio_retain"], observed).value == pytest.approx(0.2859705714412134, abs=1e-6)
    others = torch.tensor([1.2, 0.9, 0.01, 3.0, 0.8]).log().tolist()
    assert forget_quality(log_truth_ratios(observed), others) == pytest.approx(0.9682539682539681, abs=1e-6)
