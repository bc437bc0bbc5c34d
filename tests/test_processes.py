"""Several processes over the data find the edit that one finds; the first of them writes it."""

import json
import os
import socket

import pytest
import torch

from lunar import activations, processes, workflow
from lunar.models import load_model, site_at
from lunar.moments import FewRows, Moments
from lunar.prompts import TokenSequence
from lunar.recipe import Recipe
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


def run(folder, recipe, number, port, ran):
    """A process of two; returns how it ended."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        seen = []
        original = activations.capture_batch
        activations.capture_batch = lambda *given: seen.append(len(given[3])) or original(*given)
        outcome = workflow.unlearn_files(recipe, folder, device="cpu", progress=lambda *_: None)
        ran.with_suffix(f".{number}").write_text(json.dumps(sum(seen)))
        status = 0 if (outcome is None) == (number > 0) else 3
    finally:
        os._exit(status)


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_two_processes_give_the_edit_of_one(tmp_path, checkpoint):
    for name, lines in QUESTIONS.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = {name: str(tmp_path / f"{name}.jsonl") for name in QUESTIONS}
    recipe = Recipe(str(checkpoint("llama")), files["forget"], files["retain"], files["reference"], (), SETTINGS)
    alone = workflow.unlearn_files(recipe, tmp_path / "alone", device="cpu", progress=lambda *_: None)
    assert alone is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [run(tmp_path / "together", recipe, number, port, tmp_path / "ran") for number in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    one, two = (workflow.load_edit(tmp_path / name).factors[0].change() for name in ("alone", "together"))
    assert torch.linalg.matrix_norm(two - one) <= 1e-6 * torch.linalg.matrix_norm(one)
    report = json.loads((tmp_path / "together" / "report.json").read_text())
    assert report["counts"] == alone.report["counts"]
    ran = [json.loads((tmp_path / f"ran.{number}").read_text()) for number in range(2)]
    # Reference and retain prompts are shared; the forget prompts and what the passage is tried out on run in both.
    assert ran[1] == 2 + (2 + 50) // 2 + TRIED_OUT
    # The first also looks at forget and retain prompts for the report.
    assert ran[0] == ran[1] + 2 + 50


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
