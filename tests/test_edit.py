"""An edit adds exactly its change and takes it out again to the bit, whatever other edits come and go."""

import copy
import gc
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lunar import edit as edit_module
from lunar.edit import CARD_FILE, WEIGHTS_FILE, Edit, Factors, changed_tensors, fingerprint
from lunar.errors import LunarError
from lunar.solve import Solution

WIDTH, INNER = 6, 9
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FIRST, SECOND = "layers.0.down", "layers.1.down"


class Conv1D(nn.Module):
    """Stores its weight as [inputs, outputs], like the class of that name in transformers."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))


class Layer(nn.Module):
    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, INNER)
        self.down = Conv1D(INNER, WIDTH) if transposed else nn.Linear(INNER, WIDTH)


class Model(nn.Module):
    def __init__(self, transposed: bool = False, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(transposed) for _ in range(layers))
        self.register_buffer("steps", torch.arange(3))


def model(dtype: torch.dtype = torch.float32, transposed: bool = False) -> Model:
    torch.manual_seed(0)
    return Model(transposed).to(dtype)


def factors(seed: int, name: str = FIRST, transposed: bool = False, rank: int = 2) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    write = torch.randn(WIDTH, rank, generator=generator, dtype=torch.float64)
    read = torch.randn(rank, INNER, generator=generator, dtype=torch.float64)
    return Factors.of(name, Solution(write, read), transposed)


def edit(seed: int, *names: str, transposed: bool = False) -> Edit:
    return Edit(tuple(factors(seed + 100 * i, name, transposed) for i, name in enumerate(names or (FIRST,))))


def state(of: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in of.state_dict().items()}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def same_bits(of: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(bits(tensor) == bits(before[name]) for name, tensor in of.state_dict().items())


def with_changes(weight: torch.Tensor, *parts: Factors) -> torch.Tensor:
    """The formula: original plus the changes in float64, rounded once."""
    exact = weight.double()
    for part in parts:
        change = part.write.double() @ part.read.double()
        exact = exact + (change.T if part.transposed else change)
    return exact.to(weight.dtype)


def one_sentence(error: pytest.ExceptionInfo[LunarError]) -> bool:
    message = str(error.value)
    return message.endswith(".") and ". " not in message and "\n" not in message


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_applying_adds_exactly_the_change_and_reverting_restores_the_bits(dtype: torch.dtype, transposed: bool) -> None:
    subject = model(dtype, transposed)
    before, some = state(subject), edit(1, FIRST, SECOND, transposed=transposed)
    parameters = dict(subject.named_parameters())
    some.apply(subject)
    assert changed_tensors(before, subject) == [f"{FIRST}.weight", f"{SECOND}.weight"]
    for name, tensor in subject.state_dict().items():
        part = next((part for part in some.factors if name == f"{part.module_name}.weight"), None)
        expected = before[name] if part is None else with_changes(before[name], part)
        assert bits(tensor) == bits(expected), name
    some.revert(subject)
    assert same_bits(subject, before)
    assert all(parameter is parameters[name] for name, parameter in subject.named_parameters())
    assert all(parameter.requires_grad for parameter in subject.parameters())


def test_the_change_acts_on_outputs_as_write_times_read() -> None:
    subject, some = model(), edit(2)
    inner = torch.randn(5, INNER)
    before = subject.layers[0].down(inner)
    with some.applied(subject):
        after = subject.layers[0].down(inner)
    expected = inner @ some.factors[0].read.T @ some.factors[0].write.T
    torch.testing.assert_close(after - before, expected, rtol=1e-4, atol=1e-4)


def test_signs_of_zero_and_special_values_come_back() -> None:
    subject = model()
    with torch.no_grad():
        subject.layers[0].down.weight[0, :4] = torch.tensor([-0.0, float("inf"), 1e-42, float("nan")])
    before, some = state(subject), edit(3)
    some.apply(subject)
    some.revert(subject)
    assert same_bits(subject, before)


def test_applied_reverts_after_an_exception_and_lets_it_through() -> None:
    subject, some = model(), edit(4)
    before = state(subject)
    with pytest.raises(KeyError, match="inside"), some.applied(subject):  # noqa: PT012
        assert not same_bits(subject, before)
        raise KeyError("inside")
    assert same_bits(subject, before)
    with some.applied(subject):
        assert not same_bits(subject, before)
    assert same_bits(subject, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("come", "go"), itertools.product(itertools.permutations(range(2)), repeat=2))
def test_two_edits_in_any_order_restore_the_bits(
    dtype: torch.dtype, come: tuple[int, ...], go: tuple[int, ...]
) -> None:
    subject, both = model(dtype), (edit(5, FIRST), edit(6, FIRST, SECOND))
    before = state(subject)
    for index in come:
        both[index].apply(subject)
    both[go[0]].revert(subject)
    left = both[go[1]]
    for part in left.factors:
        weight = subject.get_submodule(part.module_name).weight
        assert bits(weight) == bits(with_changes(before[f"{part.module_name}.weight"], part))
    left.revert(subject)
    assert same_bits(subject, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_long_walk_of_edits_leaves_base_plus_the_active_ones(dtype: torch.dtype) -> None:
    subject, chance = model(dtype), random.Random(0)
    edits = [edit(10 + number, *names) for number, names in enumerate([[FIRST], [SECOND], [FIRST, SECOND], [FIRST]])]
    before, active = state(subject), []
    for _ in range(60):
        some = chance.choice(edits)
        if some in active:
            some.revert(subject)
            active.remove(some)
        else:
            some.apply(subject)
            active.append(some)
        for name in (FIRST, SECOND):
            parts = [part for one in active for part in one.factors if part.module_name == name]
            expected = with_changes(before[f"{name}.weight"], *parts)
            assert bits(subject.get_submodule(name).weight) == bits(expected)
    for some in active:
        some.revert(subject)
    assert same_bits(subject, before)


def test_one_edit_on_two_models_keeps_them_apart() -> None:
    one, two, some = model(), model(), edit(20)
    with torch.no_grad():
        two.layers[0].down.weight.add_(1)
    before = state(one), state(two)
    some.apply(one)
    assert same_bits(two, before[1])
    some.apply(two)
    some.revert(one)
    assert same_bits(one, before[0])
    assert not same_bits(two, before[1])
    some.revert(two)
    assert same_bits(two, before[1])


def test_a_model_that_goes_away_with_an_edit_on_is_not_kept() -> None:
    gc.collect()
    known = len(edit_module._originals)
    subject = model()
    edit(21).apply(subject)
    assert len(edit_module._originals) == known + 1
    del subject
    gc.collect()
    assert len(edit_module._originals) == known


def test_applying_twice_and_reverting_what_is_not_active_are_refused() -> None:
    subject, some, other = model(), edit(22), edit(23)
    before = state(subject)
    with pytest.raises(LunarError, match="not active") as error:
        some.revert(subject)
    assert one_sentence(error)
    some.apply(subject)
    active = state(subject)
    with pytest.raises(LunarError, match="active on the model already") as error:
        some.apply(subject)
    assert one_sentence(error)
    with pytest.raises(LunarError, match="not active"):
        other.revert(subject)
    assert same_bits(subject, active)
    some.revert(subject)
    with pytest.raises(LunarError, match="not active"):
        some.revert(subject)
    assert same_bits(subject, before)


def wrong_edits() -> dict[str, Callable[[], Edit]]:
    good = factors(30)
    return {
        "no such matrix": lambda: Edit((good, replace(good, module_name="layers.7.down"))),
        "has no weight": lambda: Edit((good, replace(good, module_name="layers.1"))),
        "of shape": lambda: Edit((good, replace(good, module_name="layers.1.up"))),
        r"of shape \(9, 6\)": lambda: Edit((good, replace(good, module_name=SECOND, transposed=True))),
        "other values": lambda: Edit((good, replace(good, module_name=SECOND, fingerprint="0" * 64))),
    }


@pytest.mark.parametrize("match", sorted(wrong_edits()))
def test_an_edit_of_another_model_is_refused_and_leaves_the_model_untouched(match: str) -> None:
    subject, some = model(), wrong_edits()[match]()
    before = state(subject)
    with pytest.raises(LunarError, match=match) as error:
        some.apply(subject)
    assert one_sentence(error)
    assert same_bits(subject, before)
    with pytest.raises(LunarError):
        some.revert(subject)
    good = edit(30)
    good.apply(subject)  # nothing was left behind
    good.revert(subject)
    assert same_bits(subject, before)


def test_the_right_model_is_recognised_also_while_another_edit_is_active() -> None:
    subject = model(torch.bfloat16)
    known = fingerprint(subject.layers[0].down.weight)
    some = Edit((replace(factors(31), fingerprint=known),))
    other = edit(32)
    before = state(subject)
    other.apply(subject)
    some.apply(subject)
    other.revert(subject)
    some.revert(subject)
    assert same_bits(subject, before)
    with torch.no_grad():
        subject.layers[0].down.weight[0, 0] += 1
    with pytest.raises(LunarError, match="other values"):
        some.apply(subject)


@pytest.mark.parametrize("transposed", [False, True])
def test_fingerprints_equal_between_bfloat16_and_its_upcast_and_differ_between_values(transposed: bool) -> None:
    weight = model(torch.bfloat16, transposed).layers[0].down.weight
    assert fingerprint(weight) == fingerprint(weight.float()) == fingerprint(weight.detach().double())
    assert len(fingerprint(weight)) == 64
    other = weight.detach().clone()
    other[-1, -1] = other[-1, -1] * 2 + 1
    assert fingerprint(other) != fingerprint(weight)
    assert fingerprint(weight.T.contiguous().T) == fingerprint(weight)


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0, -1.0])
def test_scaling_multiplies_the_change_and_zero_is_the_identity(strength: float) -> None:
    subject, some = model(), edit(33, FIRST, SECOND)
    before, scaled = state(subject), some.scaled(strength)
    for part, original in zip(scaled.factors, some.factors, strict=True):
        torch.testing.assert_close(part.change(), strength * original.change(), rtol=1e-6, atol=1e-6)
        assert part.read is original.read
    scaled.apply(subject)
    assert (changed_tensors(before, subject) == []) == (strength == 0)
    scaled.revert(subject)
    assert same_bits(subject, before)


def test_rank_and_stored_numbers() -> None:
    some = Edit((factors(34, FIRST, rank=3), factors(35, SECOND, rank=1)))
    assert some.rank == 3
    assert some.stored_numbers == 4 * (WIDTH + INNER)


def test_an_edit_without_matrices_or_with_two_changes_of_one_is_refused() -> None:
    for parts in ((), (factors(36), factors(37))):
        with pytest.raises(LunarError, match="one change for each") as error:
            Edit(parts)
        assert one_sentence(error)


@pytest.mark.parametrize("transposed", [False, True])
def test_saving_and_loading_gives_the_same_edit(tmp_path: Path, transposed: bool) -> None:
    subject = model(transposed=transposed)
    parts = tuple(
        replace(part, fingerprint=fingerprint(subject.get_submodule(part.module_name).weight))
        for part in edit(40, FIRST, SECOND, transposed=transposed).factors
    )
    settings = {"target": "collapse", "ridge": 1e-4, "layers": [0, 1], "note": "Ωλ", "nested": {"none": None}}
    some = Edit(parts, settings)
    some.save(tmp_path / "new" / "folder")
    loaded = Edit.load(tmp_path / "new" / "folder")
    assert loaded.settings == settings
    for part, original in zip(loaded.factors, some.factors, strict=True):
        assert (part.module_name, part.transposed, part.fingerprint) == (
            original.module_name,
            original.transposed,
            original.fingerprint,
        )
        assert torch.equal(part.write, original.write)
        assert torch.equal(part.read, original.read)
    twin = copy.deepcopy(subject)
    some.apply(subject)
    loaded.apply(twin)
    assert same_bits(twin, state(subject))


def damage(folder: Path, how: str) -> None:
    card_file, weights_file = folder / CARD_FILE, folder / WEIGHTS_FILE
    card, tensors = json.loads(card_file.read_text()), load_file(weights_file)
    matrix = card["matrices"][0]
    actions: dict[str, Callable[[], object]] = {
        "no card": card_file.unlink,
        "no weights": weights_file.unlink,
        "cut card": lambda: card_file.write_text(card_file.read_text()[:-20]),
        "empty card": lambda: card_file.write_text(""),
        "binary card": lambda: card_file.write_bytes(b"\xff\xfe\x00"),
        "cut weights": lambda: weights_file.write_bytes(weights_file.read_bytes()[:-4]),
        "empty weights": lambda: weights_file.write_bytes(b""),
        "missing tensor": lambda: save_file({f"{FIRST}.read": tensors[f"{FIRST}.read"]}, weights_file),
        "ranks differ": lambda: save_file(tensors | {f"{FIRST}.read": torch.ones(5, INNER)}, weights_file),
        "one axis": lambda: save_file(tensors | {f"{FIRST}.write": torch.ones(5)}, weights_file),
        "not finite": lambda: save_file(tensors | {f"{FIRST}.write": torch.full((WIDTH, 2), torch.nan)}, weights_file),
        "other shape": lambda: save_file(tensors | {f"{FIRST}.write": torch.ones(WIDTH + 1, 2)}, weights_file),
    }
    cards: dict[str, object] = {
        "list": [1, 2],
        "text": "an edit",
        "no matrices": card | {"matrices": []},
        "matrices missing": {"format": 1},
        "no fingerprint": card | {"matrices": [{key: matrix[key] for key in matrix if key != "fingerprint"}]},
        "matrix twice": card | {"matrices": [matrix, matrix]},
        "other format": card | {"format": 99},
        "settings a list": card | {"settings": ["target"]},
    }
    if how in cards:
        card_file.write_text(json.dumps(cards[how]))
    else:
        # By what they say, and not only by the hash that no longer fits.
        card_file.write_text(json.dumps({key: value for key, value in card.items() if key != "sha256"}))
        actions[how]()


DAMAGE = [
    *("no card", "no weights", "cut card", "empty card", "binary card", "cut weights", "empty weights"),
    *("missing tensor", "ranks differ", "one axis", "not finite", "other shape", "list", "text", "no matrices"),
    *("matrices missing", "no fingerprint", "matrix twice", "other format", "settings a list"),
]


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_folder_is_refused(tmp_path: Path, how: str) -> None:
    edit(41).save(tmp_path)
    Edit.load(tmp_path)
    damage(tmp_path, how)
    with pytest.raises(LunarError, match=r"make it again|was expected to hold an edit") as error:
        Edit.load(tmp_path)
    assert one_sentence(error)


def test_a_card_beside_the_weights_of_another_edit_is_refused(tmp_path: Path) -> None:
    edit(41).save(tmp_path / "one")
    edit(42).save(tmp_path / "two")
    (tmp_path / "one" / WEIGHTS_FILE).write_bytes((tmp_path / "two" / WEIGHTS_FILE).read_bytes())
    with pytest.raises(LunarError, match="make it again"):
        Edit.load(tmp_path / "one")


def test_an_edit_of_rank_zero_changes_no_bit_and_can_be_saved(tmp_path: Path) -> None:
    nothing = Edit((Factors(FIRST, torch.zeros(WIDTH, 0), torch.zeros(0, INNER)),))
    nothing.save(tmp_path)
    loaded = Edit.load(tmp_path)
    assert (loaded.rank, loaded.stored_numbers) == (0, 0)
    of = model()
    with torch.no_grad():
        of.layers[0].down.weight[0, 0] = -0.0
    before = state(of)
    with loaded.applied(of):
        assert same_bits(of, before)
    assert same_bits(of, before)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LunarError, match="was expected to hold an edit"):
        Edit.load(tmp_path / "nowhere")


def test_changed_tensors_names_every_tensor_with_other_bits() -> None:
    subject = model()
    before = state(subject)
    assert changed_tensors(before, subject) == []
    with torch.no_grad():
        subject.layers[1].up.bias[0] += 1
    subject.steps[0] = 5
    assert sorted(changed_tensors(before, subject)) == ["layers.1.up.bias", "steps"]


@pytest.mark.parametrize("block", [1, 7, 1 << 22])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_weight_is_changed_in_blocks_as_in_one(monkeypatch: pytest.MonkeyPatch, block: int, transposed: bool) -> None:
    monkeypatch.setattr("lunar.edit.BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    write, read = (torch.randn(*shape, generator=generator) for shape in ((5, 2), (2, 8)))
    part = Factors("0", write, read, transposed)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8) if transposed else torch.nn.Linear(8, 5))
    before = model[0].weight.detach().clone()
    with Edit((part,)).applied(model):
        expected = (before.double() + part.change()).float()
        torch.testing.assert_close(model[0].weight.detach(), expected, rtol=0, atol=1e-7)
    assert torch.equal(model[0].weight, before)
