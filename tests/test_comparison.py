"""Methods are compared on equal terms, finished cells are kept, and a method that fails does not end a comparison."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

from lunar.baselines import Baseline, Outcome
from lunar.baselines.retain_only import RetainOnlySettings
from lunar.baselines.task import unchanged
from lunar.comparison import (
    METHODS,
    OURS,
    UNTOUCHED,
    Request,
    compare_methods,
    measurement,
    method,
    run,
    run_cell,
    search,
    search_all,
    tuning,
    validation_request,
    with_forget_quality,
)
from lunar.errors import LunarError
from lunar.models import LoadedModel
from lunar.records import Record
from lunar.settings import BASELINES, TARGETS, Settings, method_names

FORGET = [Record.of(f"where does word{i} live ?", f"in town{i}", "a") for i in range(3)]
RETAIN = [Record.of(f"what does word{i} eat ?", f"plain rice{i}", "b") for i in range(3, 8)]
REFERENCE = [Record.of(f"who is nobody{i} ?") for i in range(3)]


@pytest.fixture
def loaded():
    model = tiny_model("llama")
    return LoadedModel(model, tiny_tokenizer(), "tiny-random")


@pytest.fixture
def request_():
    return Request(FORGET, RETAIN, REFERENCE, {"forget": FORGET, "retain": RETAIN, "retain_unseen": RETAIN[:2]}, seed=3)


def test_every_method_is_known_by_name_and_has_as_many_candidates_as_the_others():
    assert list(METHODS)[:5] == list(OURS) == ["shift", "collapse", "split", "gated", "hardened"]
    assert list(METHODS) == [*TARGETS, *BASELINES]
    assert {len(one.search) for name, one in METHODS.items() if name != "retain-only"} == {4}
    assert method_names("all") == [name for name in METHODS if name not in ("retain-only", "hardened")]
    assert method_names(" npo, shift,npo ") == ["npo", "shift"]
    for wrong in ("", "nop"):
        with pytest.raises(LunarError, match=r"npo|At least one"):
            method_names(wrong)


def test_all_methods_are_measured_alike_and_leave_the_model_as_it_was(loaded, request_, tmp_path):
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    quick = {
        "ascent": dataclasses.replace(method("ascent").settings, epochs=1),
        "shift": Settings(neighbours=0),
        "retain-only": RetainOnlySettings(loaded),
    }
    names = ["shift", "ascent", "retain-only"]
    cells = list(compare_methods(loaded, request_, names, tmp_path, settings=quick))
    assert [cell["method"] for cell in cells] == [UNTOUCHED, *names]
    for cell in cells:
        assert set(cell["scores"]) == {"forget", "retain", "retain_unseen"}
        assert set(cell["scores"]["retain"]) == set(cells[0]["scores"]["retain"])
        assert {"rouge1", "refusal_rate"} <= set(cell["scores"]["forget"])
        assert cell["deviation_score"] is not None
        assert cell["deviation_score_unseen"] is not None
        assert json.loads((tmp_path / f"{cell['method']}.json").read_text()) == json.loads(json.dumps(cell))
    by_name = {cell["method"]: cell for cell in cells}
    assert by_name["retain-only"]["changed_parameters"] == 0 < by_name["ascent"]["changed_parameters"]
    assert by_name[UNTOUCHED]["scores"] == by_name["retain-only"]["scores"]
    assert (
        by_name["ascent"]["scores"]["forget"]["answer_probability"]
        != by_name[UNTOUCHED]["scores"]["forget"]["answer_probability"]
    )
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())
    assert FORGET[0].prompt not in (tmp_path / "shift.json").read_text()


def test_a_finished_cell_is_kept_and_a_changed_one_is_run_again(loaded, request_, tmp_path, monkeypatch):
    first = list(compare_methods(loaded, request_, ["lunar-reference"], tmp_path))
    ran = []
    real = run_cell
    monkeypatch.setattr(run, "run_cell", lambda *given: ran.append(given[2]) or real(*given))
    assert list(compare_methods(loaded, request_, ["lunar-reference"], tmp_path)) == first
    assert ran == []
    (tmp_path / "lunar-reference.json").write_text("{ half a fi")
    list(compare_methods(loaded, request_, ["lunar-reference"], tmp_path))
    list(compare_methods(loaded, dataclasses.replace(request_, seed=4), ["lunar-reference"], tmp_path))
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[0, 0] += 1
    list(compare_methods(loaded, dataclasses.replace(request_, seed=4), ["lunar-reference"], tmp_path))
    assert ran == ["lunar-reference", UNTOUCHED, "lunar-reference", UNTOUCHED, "lunar-reference"]


def test_a_method_that_fails_says_why_and_the_others_go_on(loaded, request_, tmp_path):
    unanswered = dataclasses.replace(request_, forget=[Record(record.messages) for record in FORGET])
    cells = list(compare_methods(loaded, unanswered, ["ascent", "retain-only", "lunar-reference"], tmp_path))
    assert ["failed" in cell for cell in cells] == [False, True, True, False]
    assert "answer" in cells[1]["failed"]


def test_the_search_takes_the_best_candidate_and_leaves_out_those_that_fail(loaded, request_, monkeypatch):
    def run(task, settings):
        if settings == 2:
            raise LunarError("This one cannot.")
        return Outcome(task.loaded, unchanged, 0, 0.0)

    fake = Baseline("fake", "a fake", "nowhere", 1, (1, 2, 3, 4), run)
    scores = iter([0.9, 1.0, 0.2, 1.0, 0.5, 1.0])
    monkeypatch.setattr(tuning, "method", lambda name: fake)
    monkeypatch.setattr(tuning, "score", lambda metric, observed: SimpleNamespace(value=next(scores)))
    settings, found = search(loaded, request_, "fake")
    assert settings == 3
    assert found == [pytest.approx(90), None, pytest.approx(20), pytest.approx(50)]
    monkeypatch.setattr(tuning, "method", lambda name: dataclasses.replace(fake, search=(2, 2)))
    assert search(loaded, request_, "fake") == (1, [None, None])  # nothing worked, so what its paper says


def test_a_search_is_kept_until_the_request_changes(loaded, request_, tmp_path, monkeypatch):
    ran = []
    fake = Baseline("fake", "a fake", "nowhere", 1, (1, 2), lambda task, settings: ran.append(settings))
    monkeypatch.setattr(tuning, "method", lambda name: fake)
    monkeypatch.setattr(tuning, "search", lambda *given: (ran.append(given[2]) or 2, [9.0, 3.0]))
    assert search_all(loaded, request_, ["fake"], tmp_path) == {"fake": 2}
    assert search_all(loaded, request_, ["fake"], tmp_path) == {"fake": 2}
    assert ran == ["fake"]
    search_all(loaded, dataclasses.replace(request_, seed=4), ["fake"], tmp_path)
    assert ran == ["fake", "fake"]


def test_settings_are_tried_out_on_a_part_of_the_retain_set_and_never_on_the_request(request_):
    retain = [Record.of(f"what does word{i} eat ?", f"rice{i}", "bcd"[i % 3]) for i in range(15)]
    tried = validation_request(dataclasses.replace(request_, retain=retain))
    assert len({record.group for record in tried.forget}) == 1  # a whole group, where there are groups
    assert {record.prompt for record in tried.forget} | {record.prompt for record in tried.retain} == {
        record.prompt for record in retain
    }
    assert not {record.prompt for record in tried.forget} & {record.prompt for record in tried.retain}
    assert set(tried.splits) == {"forget", "retain"}
    plain = [dataclasses.replace(record, group=None) for record in retain]
    named = [Record.of(f"What does {name} eat {when}?", "rice") for name in ("Ada", "Bo", "Cy") for when in "abcde"]
    tried = validation_request(dataclasses.replace(request_, retain=named))
    assert len({record.prompt.split()[2] for record in tried.forget}) == 1  # all that is asked about one of them
    assert (len(tried.forget), len(tried.retain)) == (5, 10)
    assert len(validation_request(dataclasses.replace(request_, retain=plain)).forget) == 3
    assert validation_request(dataclasses.replace(request_, retain=plain[:7])) is None


def test_a_cell_says_who_was_refused_by_mistake_and_how_it_compares_with_a_model_that_never_knew(loaded, request_):
    cells = [
        {"method": name, **run_cell(loaded, request_, name, settings, ["I do not know."])}
        for name, settings in (("original", None), ("retain-only", RetainOnlySettings(loaded)))
    ]
    assert {"same_template", "same_entity", "same_domain", "general"} == set(cells[0]["false_refusals"])
    assert len(cells[0]["log_truth_ratios"]) == len(FORGET)
    compared = with_forget_quality(cells)
    assert [cell["forget_quality"] for cell in compared] == [1.0, 1.0]  # the same model, so nothing tells them apart
    assert "forget_quality" not in with_forget_quality(cells[:1])[0]


def test_an_instruction_to_decline_does_not_count_as_no_divergence(loaded, request_):
    short = dataclasses.replace(method("prompt").settings, instruction="no {subjects}")
    cell = run_cell(loaded, request_, "prompt", short, ["I do not know."])
    assert cell["scores"]["retain"]["kl_divergence"]["value"] > 0


def test_membership_is_told_against_records_nobody_trained_on(loaded, request_):
    others = [Record.of(f"where does word{i} sleep ?", f"in town{i}") for i in range(8, 11)]
    asked = dataclasses.replace(request_, splits={**request_.splits, "holdout": others})
    cells = [
        {"method": name, **run_cell(loaded, asked, name, settings, ["I do not know."])}
        for name, settings in (("original", None), ("retain-only", RetainOnlySettings(loaded)))
    ]
    assert set(cells[0]["membership_auc"]) == {"loss", "zlib", "min_k", "min_k_plus_plus"}
    assert set(with_forget_quality(cells)[0]["priv_leak"].values()) <= {0.0, None}
    without = run_cell(loaded, request_, "original", None, ["I do not know."])
    assert without["false_refusals"] == cells[0]["false_refusals"]  # the holdout was not to be kept
    assert without["model_utility"] == cells[0]["model_utility"]


def test_of_a_large_split_a_sample_is_asked_which_is_the_same_for_every_method(loaded, request_, monkeypatch):
    monkeypatch.setattr(measurement, "SAMPLE", 2)
    few = dataclasses.replace(request_, asked=3)
    cells = [run_cell(loaded, few, name, None, ["I do not know."]) for name in ("original", "original")]
    assert cells[0]["questions"] == {"forget": len(FORGET), "retain": 3, "retain_unseen": 2}
    assert cells[0]["scores"]["retain"]["answer_probability"]["count"] == 2
    assert cells[0]["scores"] == cells[1]["scores"]
