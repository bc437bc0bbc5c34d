"""Several processes over the data find the edit that one finds; the first of them writes it."""

import json
import os
import socket

import pytest
import torch

from lunar import activations, processes, symmetric, workflow
from lunar.collect import Sets, Work, collect
from lunar.models import load_model, site_at
from lunar.moments import FewRows, Moments
from lunar.passage import NORMALISED
from lunar.prompts import TokenSequence
from lunar.recipe import Recipe
from lunar.records import Record
from lunar.settings import Settings

QUESTIONS = {
    "forget": [{"question": "where is word11 ?"}, {"question": "who is the word11 ?"}],
    "retain": [
        {"question": f"who is word{n} {'of the city ' * (n % 3)}?", "answer": f"word{n + 1}"} for n in range(40, 90)
    ],
    "reference": [{"question": "who is word30 ?"}, {"question": "what is the word31 of word32 ?"}],
}
TRIED_OUT = 4
"""Sequences that `lunar.passage` runs."""
SETTINGS = Settings("collapse", 1, 1.0, tail=2, neighbours=12)


def in_two(work):
    """Run a function of its number in two processes that know each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for number in range(2):
        child = os.fork()
        if not child:
            status = 1
            try:
                os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                work(number)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_two_processes_give_the_edit_of_one(tmp_path, checkpoint):
    for name, lines in QUESTIONS.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = {name: str(tmp_path / f"{name}.jsonl") for name in QUESTIONS}
    recipe = Recipe(str(checkpoint("llama")), files["forget"], files["retain"], files["reference"], (), SETTINGS)
    alone = workflow.unlearn_files(recipe, tmp_path / "alone", device="cpu", progress=lambda *_: None)
    assert alone is not None

    def work(number):
        seen = []
        original = activations.capture_batch
        activations.capture_batch = lambda *given: seen.append(len(given[3])) or original(*given)
        outcome = workflow.unlearn_files(recipe, tmp_path / "together", device="cpu", progress=lambda *_: None)
        assert (outcome is None) == (number > 0)
        (tmp_path / f"ran.{number}").write_text(json.dumps(sum(seen)))

    in_two(work)
    one, two = (workflow.load_edit(tmp_path / name).factors[0].change() for name in ("alone", "together"))
    assert torch.linalg.matrix_norm(two - one) <= 1e-6 * torch.linalg.matrix_norm(one)
    report = json.loads((tmp_path / "together" / "report.json").read_text())
    assert report["counts"] == alone.report["counts"]
    ran = [json.loads((tmp_path / f"ran.{number}").read_text()) for number in range(2)]
    # Reference and retain prompts are shared; the forget prompts and what the passage is tried out on run in both.
    assert ran[1] == 2 + (2 + 50) // 2 + TRIED_OUT
    # The first also looks at forget and retain prompts for the report.
    assert ran[0] == ran[1] + 2 + 50


@pytest.mark.filterwarnings("ignore:.*fork.*")
@pytest.mark.parametrize(("retained", "kind"), [(30, Moments), (0, FewRows)])
def test_every_process_has_what_one_has(tmp_path, checkpoint, monkeypatch, retained, kind):
    monkeypatch.setattr(symmetric, "BLOCK", 7)  # so that a sum of 24 × 24 is sent in parts
    loaded = load_model(str(checkpoint("gemma2")))  # which normalises what its layers write
    site = site_at(loaded.model, 1)
    forget, *others = (Record.of(f"who is word{n} ?", f"the word{n + 1}") for n in range(40, 70))
    reference = [Record.of(f"where was {'the ' * (n % 3)} word{n} ?") for n in range(30, 37)]
    half = retained // 2
    sets = Sets([forget], others[:half], others[half:retained], reference)
    settings = Settings("shift", 1, 1.0, redirect_answers=True)

    def found():
        problem = collect(Work(loaded), [site], sets, settings)[1]
        assert isinstance(problem.moments, kind)
        assert problem.passage.kind == NORMALISED
        mean = problem.mean
        return [
            problem.sums().second,
            torch.tensor([problem.moments.rows, problem.passage.size]),
            mean.total,
            mean.count,
        ]

    def work(number):
        with processes.joined():
            torch.save([*found(), torch.tensor(processes.of_first(number))], tmp_path / f"{number}.pt")

    in_two(work)
    alone = found()
    for number in range(2):
        *together, first = torch.load(tmp_path / f"{number}.pt")
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
        assert first == 0


def test_shares_are_disjoint_and_complete(checkpoint):
    loaded = load_model(str(checkpoint("llama")))
    given = [TokenSequence(tuple(range(4, 6 + index % 5)), 2) for index in range(11)]
    seen = [
        torch.cat(
            [
                rows[1].sequence.unique()
                for rows in activations.capture_layers(
                    loaded.model, [site_at(loaded.model, 1)], given, start=2, share=(number, 3), batch_size=2
                )
            ]
        )
        for number in range(3)
    ]
    assert sorted(len(one) for one in seen) == [3, 3, 3]
    assert len(torch.cat(seen).unique()) == 9


def test_alone_nothing_is_shared():
    assert processes.place() == (0, 1)
    assert processes.own_device() is None
    sums = {0: Moments.zeros(2), 1: FewRows(2)}
    for one in sums.values():
        processes.add_share(one, torch.ones(1, 2))
    processes.end_share(sums)
    assert sums[0].rows == 1
    assert float(sums[0].second.sum()) == 4
    with processes.joined():
        assert processes.place() == (0, 1)
