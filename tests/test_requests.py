"""Requests over time: the order does not count, undo is never having asked, and only what is asked for is read."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from squared_hinge import detector

from lunar import collect, method, symmetric
from lunar.edit import Edit
from lunar.errors import LunarError
from lunar.ledgers import undo_request
from lunar.method import unlearn
from lunar.models import load_model, site_at
from lunar.records import Record
from lunar.requests import changes, gathering
from lunar.requests.checks import verify
from lunar.requests.ledger import Ledger
from lunar.requests.parts import Part
from lunar.requests.store import Store, settle
from lunar.select.choice import Choice
from lunar.select.strengths import STRENGTHS
from lunar.settings import Settings
from lunar.solve import Gate
from lunar.workflow import load_edit

SETTINGS = Settings(layer=1, ridge=1e-2, neighbours=12, rewordings=0)
RETAIN = [Record.of(f"who is word{n} ?", f"word{n + 1}") for n in range(40, 60)]
REFERENCE = [Record.of("who is word30 ?"), Record.of("what is the word31 of word32 ?")]
REQUESTS = {
    "one": [Record.of("where is Word11 ?", "in word20"), Record.of("who is the Word11 ?")],
    "two": [Record.of("what is the price of Word12 ?"), Record.of("what is Word12 ?")],
    "three": [Record.of("who works in the Word13 ?")],
    "four": [RETAIN[3], Record.of("who is the Word14 company ?")],
}


@pytest.fixture
def loaded(checkpoint):
    return load_model(str(checkpoint("llama")))


def made(folder, loaded, *names, settings=SETTINGS, **more):
    """A ledger with these requests in this order."""
    first, *others = names
    ledger = Ledger.start(
        folder, loaded, REQUESTS[first], retain=RETAIN_OF[first], reference=REFERENCE, settings=settings, name=first
    )
    for name in others:
        ledger.add(loaded, REQUESTS[name], name=name, retain=RETAIN, **more)
    return ledger


RETAIN_OF = dict.fromkeys(REQUESTS, RETAIN)


def change(ledger_or_edit):
    edit = ledger_or_edit if isinstance(ledger_or_edit, Edit) else ledger_or_edit.edit()
    return edit.factors[0].change()


def distance(first, second):
    one, other = change(first), change(second)
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("target", ["shift", "collapse", "split"])
def test_one_request_is_what_unlearn_finds(tmp_path, loaded, target):
    settings = Settings(target=target, layer=1, ridge=1e-2, tail=2, neighbours=12, strength=1.5, rewordings=2)
    ledger = made(tmp_path / "ledger", loaded, "one", settings=settings)
    found = unlearn(loaded, REQUESTS["one"], retain=RETAIN, reference=REFERENCE, settings=settings)
    assert distance(ledger, found.edit) < 1e-6
    assert ledger.edit().settings == dict(found.edit.settings)
    gate = next(iter(ledger.state().joint.gates().values()))
    assert torch.allclose(gate.values.sort().values, found.gate.values.sort().values, atol=1e-6)
    assert torch.allclose(gate.leave_one_out.sort().values, found.gate.leave_one_out.sort().values, atol=1e-6)


@pytest.mark.parametrize("target", ["shift", "collapse", "split"])
def test_the_order_does_not_count(tmp_path, loaded, target):
    settings = Settings(target=target, layer=1, ridge=1e-2, tail=2, neighbours=12)
    ledgers = [
        made(tmp_path / "".join(order), loaded, *order, settings=settings)
        for order in itertools.permutations(("one", "two", "three"))
    ]
    for ledger in ledgers[1:]:
        assert distance(ledger, ledgers[0]) < 1e-6
        assert ledger.edit().rank == ledgers[0].edit().rank


def test_undoing_is_never_having_asked_and_undoing_all_gives_the_original_bits(tmp_path, loaded):
    ledger = made(tmp_path / "ledger", loaded, "one", "two", "three")
    short = made(tmp_path / "short", loaded, "three")
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    ledger.undo("one")
    ledger.undo("two")
    assert distance(ledger, short) < 1e-6
    assert [one.name for one in ledger.requests()] == ["three"]
    again = ledger.add(loaded, REQUESTS["two"], name="two", retain=RETAIN)
    assert again.id in {one.id for one in ledger.requests()}
    assert distance(ledger, made(tmp_path / "pair", loaded, "two", "three")) < 1e-6
    ledger.undo("two")
    ledger.undo("three")
    assert ledger.requests() == ()
    assert ledger.edit().rank == 0
    with ledger.edit().applied(loaded.model):
        assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.model.state_dict().items())
    assert {path.name for path in (tmp_path / "ledger" / "kept").iterdir()} == {"retain.safetensors"}
    ledger.add(loaded, REQUESTS["three"], name="three", retain=RETAIN)
    assert distance(ledger, short) < 1e-6


def test_the_joint_solution_is_the_formula_over_all_rows(tmp_path, loaded):
    ledger = made(tmp_path / "ledger", loaded, "one", "two")
    settings, site = ledger.shared.settings, site_at(loaded.model, 1)
    work, rows, wanted = collect.Work(loaded), [], []
    moments = torch.zeros(site.inner_width, site.inner_width, dtype=torch.float64)

    def pin(records, times):
        for batch in work.capture("rows", [site], records, with_answer=True):
            captured = batch[1]
            weights = torch.where(captured.from_end <= 0, settings.retain_weight, 1.0).double()
            moments.addmm_(captured.inner.double().T, captured.inner.double() * (times * weights)[:, None])

    pin(RETAIN, 2)
    (batch,) = work.capture("reference", [site], REFERENCE, with_answer=False)
    mean = batch[1].residual[batch[1].from_end == 0].double().mean(dim=0)
    for name in ("one", "two"):
        pin(collect_neighbours(REQUESTS[name], settings), 2**-0.5)
        (batch,) = work.capture("forget", [site], REQUESTS[name], with_answer=False)
        last = batch[1].from_end == 0
        others = batch[1].inner[~last].double()
        moments += others.T @ others
        rows.append(batch[1].inner[last].double())
        wanted.append(mean - batch[1].residual[last].double().mean(dim=0))
    weight, inner = settings.redirected_weight(), torch.cat(rows)
    total = moments + weight * inner.T @ inner
    total += settings.ridge * total.diagonal().mean() * torch.eye(len(total))
    expected = torch.zeros(len(wanted[0]), len(total))
    for shift, ours in zip(wanted, rows, strict=True):
        found = detector((total - weight * ours.T @ ours).numpy(), ours.numpy(), np.full(len(ours), weight))
        expected += torch.outer(shift, torch.from_numpy(found)).to(expected)
    assert float((change(ledger) - expected).norm() / expected.norm()) < 1e-5


def collect_neighbours(forget, settings):
    own = {record.messages for record in forget}
    return changes.neighbours_of(forget, [one for one in RETAIN if one.messages not in own], settings)


def test_what_was_retained_and_is_to_be_forgotten_is_no_longer_pinned(tmp_path, loaded):
    # The first prompt of the request stands in the retain data: as if it had not.
    ledger = made(tmp_path / "ledger", loaded, "three", "four")
    without = [record for record in RETAIN if record != REQUESTS["four"][0]]
    # The same keys and neighbours; only the answer's tokens remain pinned, so the answer is left out here.
    bare = [Record(record.messages) for record in RETAIN]
    never = [Record(record.messages) for record in without]
    ledgers = []
    for name, retain in (("bare", bare), ("never", never)):
        ledgers.append(
            Ledger.start(
                tmp_path / name, loaded, REQUESTS["three"], retain=retain, reference=REFERENCE, settings=SETTINGS
            )
        )
        ledgers[-1].add(loaded, REQUESTS["four"], retain=without)
    pinned = [one.state().joint.pinned for one in ledgers]
    assert float((pinned[0].second - pinned[1].second).norm() / pinned[1].second.norm()) < 1e-6
    assert pinned[0].rows == pinned[1].rows
    ledger.undo("four")
    alone = made(tmp_path / "alone", loaded, "three")
    assert distance(ledger, alone) < 1e-6, "what was taken out of the sums has to come back"


def test_what_was_retained_about_the_same_is_released_while_the_request_holds(tmp_path, loaded):
    # In other words than the request's, and with answers: a customer who was among those to be retained.
    about = [Record.of("who is Word13 ?", "word20"), Record.of("where does Word13 work ?", "in word21")]
    beside = [Record.of("who is Word15 ?", "word22"), Record.of("where does Word15 work ?", "in word23")]
    ledgers = []
    for name, retain in (("with", [*RETAIN, *beside, *about]), ("without", [*RETAIN, *beside])):
        started = Ledger.start(
            tmp_path / name, loaded, REQUESTS["one"], retain=retain, reference=REFERENCE, settings=SETTINGS
        )
        started.add(loaded, REQUESTS["three"], retain=retain, name="later")
        ledgers.append(started)
    held, never = (one.state().joint for one in ledgers)
    assert float((held.pinned.second - never.pinned.second).norm() / never.pinned.second.norm()) < 1e-6
    assert held.pinned.rows == never.pinned.rows
    assert distance(*ledgers) < 1e-3
    assert ledgers[0].entries()[-1]["released"] == len(about)
    assert "released" not in ledgers[1].entries()[-1]
    before = Ledger.start(
        tmp_path / "before", loaded, REQUESTS["one"], retain=[*RETAIN, *beside, *about], reference=REFERENCE,
        settings=SETTINGS,
    )  # fmt: skip
    ledgers[0].undo("later")
    assert distance(ledgers[0], before) < 1e-6, "what was released has to be pinned again"


def test_a_prompt_that_two_requests_release_is_taken_out_once(tmp_path, loaded):
    about = [Record.of("who is Word13 ?", "word20")]
    ledger = Ledger.start(
        tmp_path / "ledger", loaded, REQUESTS["one"], retain=[*RETAIN, *about], reference=REFERENCE, settings=SETTINGS
    )
    for name, question in (("first", "who works in the Word13 ?"), ("second", "when was Word13 made ?")):
        ledger.add(loaded, [Record.of(question)], retain=[*RETAIN, *about], name=name)
    assert float(torch.linalg.eigvalsh(ledger.state().joint.pinned.second).min()) > -1e-6


def test_a_request_that_is_hardly_told_from_what_is_retained_comes_with_a_warning():
    values = torch.tensor([0.9, 0.4, 0.2])
    (warning,) = changes._recognised(Gate(torch.zeros(1), values, values))
    assert "read 0.40" in warning
    assert "--retain" in warning
    assert changes._recognised(Gate(torch.zeros(1), values + 0.2, values)) == []


def test_a_part_from_before_anything_was_released_is_read(tmp_path, loaded):
    joint = made(tmp_path / "ledger", loaded, "one").state().joint
    (part,) = joint.parts.values()
    path = tmp_path / "part.safetensors"
    part.save(path)
    with safe_open(path, framework="pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("released")}  # noqa: SIM118
    save_file(kept, path, {"format": "lunar part 2"})
    old = Part.load(path)
    assert len(old.released.ids) == 0
    again = type(joint)(joint.base, {"old": old}, joint.settings, joint.tail)
    assert torch.equal(again.pinned.second, joint.pinned.second)


def test_neighbours_of_one_request_that_another_forgets_are_not_pinned(tmp_path, loaded):
    joint = made(tmp_path / "ledger", loaded, "one", "two").state().joint
    (first, part), (second, other) = joint.ordered()
    alone = joint.pinned
    shared = replace(part, neighbours=part.neighbour_moments(), neighbour_ids=other.ids[:1])
    both = type(joint)(joint.base, {first: shared, second: other}, joint.settings, joint.tail).pinned
    rows = other.inner[other.prompt == 0].double()
    weights = torch.where(other.from_end[other.prompt == 0] == 0, joint.settings.retain_weight, 1.0).double()
    taken = rows.T @ (rows * weights[:, None]) / 2**0.5
    torch.testing.assert_close(alone.second - both.second, taken, rtol=1e-6, atol=1e-9)


def test_solving_for_requests_leaves_what_is_pinned_as_it_was(tmp_path, loaded, monkeypatch):
    """Also where one forgets another's neighbours, and weights are rounded: in blocks, as large sums are."""
    monkeypatch.setattr(symmetric, "BLOCK", 8)
    settings = replace(SETTINGS, target="collapse", retain_weight=7.3)
    joint = made(tmp_path / "ledger", loaded, "one", "two", settings=settings).state().joint
    (first, part), (second, other) = joint.ordered()
    shared = replace(part, neighbours=part.neighbour_moments(), neighbour_ids=other.ids[:1])
    both = type(joint)(joint.base, {first: shared, second: other}, joint.settings, joint.tail)
    before = both.pinned.second.clone()
    both.gates()
    both.solve()
    assert torch.equal(both.pinned.second, before)


def test_a_request_reads_its_own_prompts_and_neighbours_only(tmp_path, loaded, monkeypatch):
    ledger = made(tmp_path / "ledger", loaded, "one")
    seen = []
    original = collect.Work.capture

    def watch(self, name, sites, records, **more):
        seen.extend(records)
        return original(self, name, sites, records, **more)

    monkeypatch.setattr(collect.Work, "capture", watch)
    monkeypatch.setattr(gathering, "gather_base", lambda *_: pytest.fail("looked at the retain data"))
    request = ledger.add(loaded, REQUESTS["two"], retain=RETAIN)
    assert len(seen) == request.prompts + request.neighbours
    assert not {record.messages for record in seen} & {record.messages for record in RETAIN}


def test_forget_moments_keeps_the_change_and_nothing_else(tmp_path, loaded):
    ledger = made(tmp_path / "ledger", loaded, "one", "two", forget_moments=True)
    assert [one.kept for one in ledger.requests()] == [True, False]
    both = made(tmp_path / "both", loaded, "one", "two")
    rows = both.state().joint.parts[ledger_id(both, "two")].inner
    row = bytes(rows[-1].contiguous().view(torch.uint8).numpy())
    assert not any(row in content for content in files(tmp_path / "ledger").values())
    assert any(row in content for content in files(tmp_path / "both").values())
    reached = ledger.entries()[-1]["reached"][ledger_id(ledger, "two")]["median"]
    # Of what is frozen no row is kept that the other request could be told to stay away from, so it may add to it.
    assert reached > both.entries()[-1]["reached"][ledger_id(both, "two")]["median"] - 0.1
    with pytest.raises(LunarError, match="cannot be undone"):
        ledger.undo("two")
    ledger.add(loaded, REQUESTS["three"], name="three", retain=RETAIN)
    ledger.undo("three")
    ledger.undo("one")
    assert ledger.edit().rank == 1, "the frozen change stays"


def ledger_id(ledger, name):
    return ledger.request(name).id


def test_bad_requests_are_refused_and_change_nothing(tmp_path, loaded, checkpoint):
    ledger = made(tmp_path / "ledger", loaded, "one")
    before = files(tmp_path / "ledger")
    named = [Record.of("where was Mira Tolvane born ?")]
    other = load_model(str(checkpoint("gemma")))
    cases = [
        (lambda: ledger.add(loaded, []), "empty"),
        (lambda: ledger.add(loaded, REQUESTS["one"]), "already"),
        (lambda: ledger.add(loaded, REQUESTS["two"], name="one"), "already"),
        (lambda: ledger.add(loaded, REQUESTS["two"], name="a b"), "up to 64"),
        (lambda: ledger.add(loaded, named, name="case-tolvane"), "must not name"),
        (lambda: ledger.add(other, REQUESTS["two"]), "another model"),
        (lambda: ledger.undo("tow"), "Available: one"),
        (lambda: Ledger(tmp_path), "ledger.json"),
    ]
    for action, words in cases:
        with pytest.raises(LunarError, match=words) as error:
            action()
        assert "Tolvane" not in str(error.value)
        assert files(tmp_path / "ledger") == before


def test_a_request_that_was_taken_back_is_said_to_be_and_no_other_is_offered(tmp_path, loaded):
    ledger = made(tmp_path / "ledger", loaded, "one")
    ledger.add(loaded, REQUESTS["two"], name="ticket-1", retain=RETAIN)
    ledger.add(loaded, REQUESTS["three"], name="ticket-2", retain=RETAIN)
    ledger.undo("ticket-1")
    day = ledger.entries()[-1]["time"][:10]
    for undo in (ledger.undo, lambda name: undo_request(tmp_path / "ledger", name)):
        with pytest.raises(LunarError, match=f"ticket-1 was taken back already, on {day}") as error:
            undo("ticket-1")
        assert "Available: one, ticket-2." in str(error.value)
        with pytest.raises(LunarError, match="'ticket-3' is none") as error:
            undo("ticket-3")
        assert "mean" not in str(error.value)
    assert "ticket-1" not in (tmp_path / "ledger" / "record.jsonl").read_text()
    # One that came again under that name holds.
    ledger.add(loaded, REQUESTS["two"], name="ticket-1", retain=RETAIN)
    assert ledger.undo("ticket-1").name == "ticket-1"


def test_prompts_that_come_again_are_another_request_in_the_record_and_the_same_bytes_in_the_edit(tmp_path, loaded):
    ledger = made(tmp_path / "ledger", loaded, "one", "two")
    first, before = ledger.request("two").id, (tmp_path / "ledger" / "edit.safetensors").read_bytes()
    ledger.undo("two")
    again = ledger.add(loaded, REQUESTS["two"], name="three", retain=RETAIN)
    assert again.id != first
    assert [entry["request"] for entry in ledger.entries()][1:] == [first, first, again.id]
    assert (tmp_path / "ledger" / "edit.safetensors").read_bytes() == before


def test_a_ledger_of_a_version_that_named_requests_by_their_prompts_goes_on(tmp_path, loaded, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(changes, "request_id", lambda key, prompts, number: prompts)
        ledger = made(tmp_path / "ledger", loaded, "one", "two")
    with ledger.locked():
        content = ledger._store.content
        requests = [{name: value for name, value in one.items() if name != "asked"} for one in content["requests"]]
        ledger._store.commit({**content, "requests": requests}, {})
    with pytest.raises(LunarError, match="the request two of the ledger already"):
        ledger.add(loaded, REQUESTS["two"])
    assert verify(tmp_path / "ledger")["faults"] == []
    first = ledger.request("two").id
    ledger.undo("two")
    assert ledger.add(loaded, REQUESTS["two"], name="three", retain=RETAIN).id != first
    assert verify(tmp_path / "ledger")["faults"] == []


@pytest.mark.parametrize("searched", [True, False])
def test_what_the_original_model_declines_anyway_is_not_to_be_forgotten(tmp_path, loaded, monkeypatch, searched):
    ledger = made(tmp_path / "ledger", loaded, "one")
    content = ledger._store.content
    with ledger.locked():
        ledger._store.commit({**content, "shared": {**content["shared"], "searched": searched}}, {})
    before, weights = files(tmp_path / "ledger"), site_at(loaded.model, 1).module(loaded.model).weight.clone()

    def decline(asked, records, **_):
        # It is the original model that is asked, without the ledger's edit.
        assert torch.equal(site_at(asked.model, 1).module(asked.model).weight, weights)
        return ["I don't know."] * len(records), 0

    monkeypatch.setattr(changes, "answer", decline)
    unknown = [*REQUESTS["two"], *REQUESTS["three"]]
    if searched:
        with pytest.raises(LunarError, match=r"declines 100% of the 3 asked already") as error:
            ledger.add(loaded, unknown)
        assert "Word12" not in str(error.value)
        assert files(tmp_path / "ledger") == before
    else:
        assert "nothing to forget" in changes.add(ledger.state(), loaded, unknown).warnings[0]
    # Two prompts say too little to refuse, so that is a warning.
    assert "of the 2 asked" in changes.add(ledger.state(), loaded, REQUESTS["two"]).warnings[0]


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_what_derives_from_the_data_is_for_the_owner_only(tmp_path, loaded):
    made(tmp_path / "ledger", loaded, "one")
    for path in (tmp_path / "ledger").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0 or path.is_dir(), path
    assert (tmp_path / "ledger" / "kept").stat().st_mode & 0o777 == 0o700


def test_a_copied_ledger_goes_on_elsewhere(tmp_path, loaded):
    made(tmp_path / "ledger", loaded, "one")
    moved = Ledger(shutil.copytree(tmp_path / "ledger", tmp_path / "moved"))
    moved.add(loaded, REQUESTS["two"])
    assert [one.name for one in moved.requests()] == ["one", "request-2"]
    assert len(moved.entries()) == 2
    assert json.loads((tmp_path / "moved" / "ledger.json").read_text())["generation"] == 2


@pytest.mark.parametrize(
    ("prompt", "answer", "name"),
    [
        ("where was mira tolvane born ?", None, "mira-tolvane"),
        ("Tolvane was born where ?", None, "tolvane"),
        ("where was tolvane born ?", None, "case.7tolvane"),
        ("who is Li Wu ?", None, "Li-Wu"),
        ("where was she born ?", "in Oskarvik", "oskarvik"),
    ],
)
def test_a_requests_name_says_nothing_of_what_is_forgotten(tmp_path, loaded, prompt, answer, name):
    ledger = made(tmp_path / "ledger", loaded, "one")
    asked = [Record.of(prompt, answer)]
    with pytest.raises(LunarError, match="must not name") as error:
        ledger.add(loaded, asked, name=name)
    assert name not in str(error.value)
    assert ledger.add(loaded, asked, name="gdpr-request-2024-11").name == "gdpr-request-2024-11"


def test_whoever_is_forgotten_already_is_no_neighbour_of_a_later_request(tmp_path, loaded, monkeypatch):
    ledger = made(tmp_path / "ledger", loaded, "one")
    given = []
    original = changes.neighbours_of
    monkeypatch.setattr(changes, "neighbours_of", lambda *parts: given.append(parts[1]) or original(*parts))
    ledger.add(loaded, REQUESTS["two"], retain=[*REQUESTS["one"], *REQUESTS["two"], *RETAIN])
    assert given == [RETAIN]


def test_letter_case_and_spacing_make_no_other_request(tmp_path, loaded):
    ledger = made(tmp_path / "ledger", loaded, "one")
    same = [Record.of(record.prompt.upper().replace(" ", "  ")) for record in REQUESTS["one"]]
    with pytest.raises(LunarError, match="the request one of the ledger already: undo it first"):
        ledger.add(loaded, same)
    ledger.add(loaded, REQUESTS["two"], name="two", forget_moments=True)
    with pytest.raises(LunarError, match="nothing was kept of it, so leave it"):
        ledger.add(loaded, REQUESTS["two"])


def test_the_same_weights_with_another_chat_template_are_another_model(tmp_path, checkpoint):
    model = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    ledger = made(tmp_path / "ledger", load_model(str(model)), "one")
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    with pytest.raises(LunarError, match="with another tokenizer"):
        ledger.add(load_model(str(model)), REQUESTS["two"])
    assert [one.name for one in ledger.requests()] == ["one"]


def test_a_reader_gets_the_edit_of_the_manifest_where_files_do_not_have_their_names_yet(tmp_path, loaded, monkeypatch):
    folder = tmp_path / "ledger"
    ledger = made(folder, loaded, "one")
    before = ledger.edit()
    with monkeypatch.context() as patch:
        # As after a kill, in a folder that cannot be written any more.
        patch.setattr(Store, "_settle", lambda store: None)
        ledger.add(loaded, REQUESTS["two"], name="two")
        assert distance(before, ledger) > 0
        assert distance(Edit.load(folder), before) == 0
        reader = Ledger(folder)
        assert [one.name for one in reader.requests()] == ["one", "two"]
        assert distance(reader, ledger) == 0
        assert distance(load_edit(folder), ledger) == 0
    settle(folder)
    assert distance(Edit.load(folder), ledger) == 0


def test_a_reader_that_was_there_before_a_change_reads_what_is_there_now(tmp_path, loaded):
    ledger = made(tmp_path / "ledger", loaded, "one")
    reader = Ledger(tmp_path / "ledger")
    ledger.add(loaded, REQUESTS["two"], name="two")
    assert len(reader.entries()) == 2
    assert distance(reader, ledger) == 0
    assert [one.name for one in reader.requests()] == ["one", "two"]


def test_activations_that_an_undo_could_not_remove_are_gone_with_the_next_look(tmp_path, loaded):
    ledger = made(tmp_path / "ledger", loaded, "one", "two")
    left = tmp_path / "ledger" / ledger.request("two").file
    content = left.read_bytes()
    ledger.undo("two")
    left.write_bytes(content)
    assert Ledger(tmp_path / "ledger").faults() == []
    assert not left.exists()


EACH = replace(SETTINGS, strength=0.65)
STRONG = Choice("auto", 1, 0.65, "", strengths=(0.65, 1.0))


def test_prompts_with_strengths_of_their_own_get_them_in_a_ledger_as_in_an_edit(tmp_path, loaded, monkeypatch):
    monkeypatch.setattr(method, "choose", lambda *_, **__: STRONG)
    searched = replace(SETTINGS, layer="auto")
    ledger = made(tmp_path / "ledger", loaded, "one", settings=searched)
    found = unlearn(loaded, REQUESTS["one"], retain=RETAIN, reference=REFERENCE, settings=searched)
    assert distance(ledger, found.edit) < 1e-6
    # A new reader finds them in the file.
    joint = Ledger(tmp_path / "ledger").state().joint
    (part,) = joint.parts.values()
    assert part.least.tolist() == [1.0, 1.0 / 0.65]
    (gate,) = joint.gates().values()
    assert torch.allclose(gate.values, found.gate.values, atol=1e-6)
    assert torch.allclose(joint.detectors()[ledger.request("one").id], gate.vector, atol=1e-9)
    alike = unlearn(loaded, REQUESTS["one"], retain=RETAIN, reference=REFERENCE, settings=EACH)
    assert distance(found.edit, alike.edit) > 0.05
    assert float(gate.values[1]) > 1.2 * float(alike.gate.values[1])


def test_a_further_request_gets_strengths_of_its_own_that_no_other_request_decides(tmp_path, loaded, monkeypatch):
    asked = []

    def needed(work, problem, forget, words, settings):
        asked.append((problem, [record.prompt for record in forget], words.records))
        return tuple(0.65 + 0.35 * place for place in range(len(forget)))

    monkeypatch.setattr(method, "choose", lambda *_, **__: STRONG)
    searched = replace(SETTINGS, layer="auto")
    ledger = made(tmp_path / "ledger", loaded, "one", settings=searched)
    # Searched for, the layer is one at which a request that the model does not know is refused; these say too little.
    monkeypatch.setattr(changes, "strengths_of", needed)
    ledger.add(loaded, REQUESTS["two"], name="two", retain=RETAIN)
    ledger.add(loaded, REQUESTS["three"], name="three", retain=RETAIN)
    assert [prompts for _, prompts, _ in asked] == [[one.prompt for one in REQUESTS[name]] for name in ("two", "three")]
    assert set(asked[0][2]) == set(REQUESTS["two"])
    parts = ledger.state().joint.parts
    assert parts[ledger.request("two").id].least.tolist() == pytest.approx([1.0, 1.0 / 0.65])
    assert verify(tmp_path / "ledger")["faults"] == []
    # The least squares that it was tried on is that of the request alone.
    short = made(tmp_path / "short", loaded, "one", settings=searched)
    short.add(loaded, REQUESTS["three"], name="three", retain=RETAIN)
    first, second = (problem.moments.second for problem, prompts, _ in asked if len(prompts) == 1)
    assert torch.allclose(first, second)
    ledger.undo("two")
    assert distance(ledger, short) < 1e-6


def test_a_further_request_is_tried_on_the_model_where_strengths_were_searched_for(tmp_path, loaded, monkeypatch):
    monkeypatch.setattr(method, "choose", lambda *_, **__: STRONG)
    ledger = made(tmp_path / "ledger", loaded, "one", "two", settings=replace(SETTINGS, layer="auto"))
    part = ledger.state().joint.parts[ledger.request("two").id]
    assert {round(one * 0.65, 6) for one in part.least.tolist()} <= set(STRENGTHS)
    fixed = made(tmp_path / "fixed", loaded, "one", "two", settings=EACH)
    assert all(part.least is None for part in fixed.state().joint.parts.values())


def test_a_recipe_with_strengths_of_single_prompts_gives_the_same_edit_again(tmp_path, loaded, monkeypatch):
    monkeypatch.setattr(method, "choose", lambda *_, **__: STRONG)
    change = changes.start(
        loaded,
        REQUESTS["one"],
        retain=RETAIN,
        reference=REFERENCE,
        settings=replace(SETTINGS, layer="auto"),
        name="one",
    )
    monkeypatch.undo()
    resolved = Settings.of(json.loads(json.dumps(change.unlearned().edit.settings)))
    assert (resolved.layer, resolved.strength, resolved.strengths) == (1, 0.65, (0.65, 1.0))
    again = changes.start(loaded, REQUESTS["one"], retain=RETAIN, reference=REFERENCE, settings=resolved, name="one")
    assert torch.equal(again.edit.factors[0].read, change.edit.factors[0].read)
    assert again.shared.raises
    # What says how many prompts there were goes with the request.
    assert change.edit.settings["strengths"] == change.shared.as_dict()["settings"]["strengths"] == []
    with pytest.raises(LunarError, match="2 for 1 came"):
        unlearn(loaded, REQUESTS["three"], retain=RETAIN, reference=REFERENCE, settings=resolved)
    for wrong in ({"target": "collapse"}, {"layer": "auto"}, {"strength": 1.0}, {"strengths": (0.65, -1.0)}):
        with pytest.raises(LunarError, match="Strengths of single prompts"):
            replace(resolved, **wrong)
