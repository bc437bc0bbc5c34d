"""Streaming sums: any split and order of the data gives the same sums, and files come back as they were written."""

import itertools
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lunar.errors import LunarError
from lunar.moments import Moments, ReferenceMean

WIDTH = 7


def rows_and_weights(seed: int, count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    return rows, torch.rand(count, generator=generator, dtype=torch.float64) * 100


def random_splits(count: int, seed: int) -> list[slice]:
    cuts = torch.randperm(count - 1, generator=torch.Generator().manual_seed(seed))[: 1 + seed % 6] + 1
    edges = [0, *sorted(cuts.tolist()), count]
    return [slice(*pair) for pair in itertools.pairwise(edges)]


def one_sentence(error: pytest.ExceptionInfo[LunarError]) -> bool:
    message = str(error.value)
    return message.endswith(".") and ". " not in message and "\n" not in message


@pytest.mark.parametrize("seed", range(8))
def test_any_split_and_order_gives_the_sums_of_one_batch(seed: int) -> None:
    rows, weights = rows_and_weights(seed)
    whole = Moments.zeros(WIDTH).update(rows, weights)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    stream = Moments.zeros(WIDTH)
    for part in random_splits(len(rows), seed):
        assert stream.update(rows[order[part]], weights[order[part]]) is stream
    torch.testing.assert_close(stream.second, whole.second, rtol=1e-12, atol=1e-12 * float(whole.second.abs().max()))
    assert stream.rows == whole.rows == len(rows)


def test_the_sum_is_that_of_the_definition() -> None:
    rows, weights = rows_and_weights(0)
    expected = sum(w * torch.outer(h, h) for h, w in zip(rows, weights, strict=True))
    torch.testing.assert_close(Moments.zeros(WIDTH).update(rows, weights).second, expected, rtol=1e-12, atol=1e-10)


def test_a_row_of_weight_three_counts_as_three_rows_and_of_weight_zero_as_none() -> None:
    rows, _ = rows_and_weights(1)
    thrice = Moments.zeros(WIDTH).update(rows, torch.full((len(rows),), 3.0))
    repeated = Moments.zeros(WIDTH).update(rows.repeat(3, 1), torch.ones(3 * len(rows)))
    torch.testing.assert_close(thrice.second, repeated.second, rtol=1e-12, atol=1e-10)
    assert not Moments.zeros(WIDTH).update(rows, torch.zeros(len(rows))).second.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_rows_are_added_up_in_float64(dtype: torch.dtype) -> None:
    rows, weights = rows_and_weights(2, count=3)
    rows, weights = rows.to(dtype), weights.float()
    small = Moments.zeros(WIDTH).update(rows, weights)
    exact = Moments.zeros(WIDTH).update(rows.double(), weights.double())
    assert small.second.dtype == torch.float64
    torch.testing.assert_close(small.second, exact.second, rtol=1e-5, atol=1e-4)
    large = Moments(torch.full((WIDTH, WIDTH), 1e9, dtype=torch.float64))
    for _ in range(100):
        large.update(torch.ones(1, WIDTH, dtype=dtype), torch.ones(1))
    assert torch.equal(large.second, torch.full((WIDTH, WIDTH), 1e9 + 100, dtype=torch.float64))


def test_an_empty_batch_changes_nothing() -> None:
    rows, weights = rows_and_weights(3)
    moments = Moments.zeros(WIDTH).update(rows, weights)
    before = moments.second.clone()
    moments.update(rows[:0], weights[:0])
    assert torch.equal(moments.second, before)
    assert moments.rows == len(rows)


@pytest.mark.parametrize("seed", range(4))
def test_merging_two_streams_equals_one_stream_and_changes_neither(seed: int) -> None:
    rows, weights = rows_and_weights(seed)
    cut = 5 + 7 * seed
    first = Moments.zeros(WIDTH).update(rows[:cut], weights[:cut])
    second = Moments.zeros(WIDTH).update(rows[cut:], weights[cut:])
    copies = first.second.clone(), second.second.clone()
    whole = Moments.zeros(WIDTH).update(rows, weights)
    for merged in (first.merge(second), second.merge(first)):
        torch.testing.assert_close(merged.second, whole.second, rtol=1e-12, atol=1e-9)
        assert merged.rows == len(rows)
    first.merge(second).update(rows, weights)
    assert torch.equal(first.second, copies[0])
    assert torch.equal(second.second, copies[1])
    assert (first.rows, second.rows) == (cut, len(rows) - cut)


@pytest.mark.parametrize("other", [1, WIDTH + 1])
def test_other_widths_are_refused(other: int) -> None:
    moments = Moments.zeros(WIDTH)
    with pytest.raises(LunarError, match=f"{WIDTH} and {other}") as error:
        moments.merge(Moments.zeros(other))
    assert one_sentence(error)
    with pytest.raises(LunarError, match=f"width {WIDTH}") as error:
        moments.update(torch.ones(2, other), torch.ones(2))
    assert one_sentence(error)
    assert not moments.second.any()
    assert moments.rows == 0


def test_a_file_comes_back_as_it_was_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    rows, weights = rows_and_weights(4)
    moments = Moments.zeros(WIDTH).update(rows, weights)
    path = tmp_path / "moments.safetensors"
    path.write_text("an older file that everybody may read")
    path.chmod(0o644)
    moments.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = Moments.load(path)
    assert torch.equal(loaded.second, moments.second)
    assert loaded.second.dtype == torch.float64
    assert loaded.rows == moments.rows
    fresh = tmp_path / "fresh.safetensors"
    moments.save(fresh)
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o600


def test_a_loaded_stream_goes_on(tmp_path: Path) -> None:
    rows, weights = rows_and_weights(5)
    Moments.zeros(WIDTH).update(rows[:9], weights[:9]).save(tmp_path / "half")
    resumed = Moments.load(tmp_path / "half").update(rows[9:], weights[9:])
    torch.testing.assert_close(resumed.second, Moments.zeros(WIDTH).update(rows, weights).second, rtol=1e-12, atol=1e-9)


def damaged_files(folder: Path) -> dict[str, Path]:
    good = folder / "good"
    Moments.zeros(WIDTH).update(*rows_and_weights(6)).save(good)
    content = good.read_bytes()
    metadata = {"rows": "3", "format": "lunar moments 1"}
    square = torch.ones(3, 3, dtype=torch.float64)
    files = {name: folder / name for name in ("missing", "empty", "cut header", "cut data", "text", "folder")}
    files["empty"].write_bytes(b"")
    files["cut header"].write_bytes(content[:20])
    files["cut data"].write_bytes(content[:-8])
    files["text"].write_text("not a safetensors file, but long enough to hold the length of a header")
    files["folder"].mkdir()
    others: dict[str, tuple[dict[str, torch.Tensor], dict[str, str] | None]] = {
        "other tensor": ({"first": square}, metadata),
        "no metadata": ({"second": square}, None),
        "no rows": ({"second": square}, {"format": "lunar moments 1"}),
        "rows no number": ({"second": square}, metadata | {"rows": "many"}),
        "other format": ({"second": square}, metadata | {"format": "lunar moments 99"}),
        "not square": ({"second": square[:2].clone()}, metadata),
        "one axis": ({"second": square[0].clone()}, metadata),
        "not finite": ({"second": square * float("nan")}, metadata),
    }
    for name, (tensors, header) in others.items():
        files[name] = folder / name
        save_file(tensors, files[name], header)
    return files


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    for name, path in damaged_files(tmp_path).items():
        with pytest.raises(LunarError, match="collect them again") as error:
            Moments.load(path)
        assert one_sentence(error), name


POSITIONS = 3


def residuals(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    residual = torch.randn(30, WIDTH, generator=generator, dtype=torch.float64)
    from_end = torch.randint(-2, POSITIONS + 2, (30,), generator=generator)
    from_end[:POSITIONS] = torch.arange(POSITIONS)
    return residual, from_end


@pytest.mark.parametrize("seed", range(8))
def test_reference_mean_is_the_mean_per_position_however_it_is_streamed(seed: int) -> None:
    residual, from_end = residuals(seed)
    order = torch.randperm(len(residual), generator=torch.Generator().manual_seed(seed))
    stream = ReferenceMean.zeros(POSITIONS, WIDTH)
    for part in random_splits(len(residual), seed):
        assert stream.update(residual[order[part]], from_end[order[part]]) is stream
    expected = torch.stack([residual[from_end == position].mean(dim=0) for position in range(POSITIONS)])
    torch.testing.assert_close(stream.mean(), expected, rtol=1e-12, atol=1e-12)
    assert stream.count.tolist() == [int((from_end == position).sum()) for position in range(POSITIONS)]


def test_merged_reference_means_equal_one_stream_and_stay_as_they_were() -> None:
    residual, from_end = residuals(9)
    first = ReferenceMean.zeros(POSITIONS, WIDTH).update(residual[:11], from_end[:11])
    second = ReferenceMean.zeros(POSITIONS, WIDTH).update(residual[11:], from_end[11:])
    before = first.total.clone()
    merged = first.merge(second)
    whole = ReferenceMean.zeros(POSITIONS, WIDTH).update(residual, from_end)
    torch.testing.assert_close(merged.mean(), whole.mean(), rtol=1e-12, atol=1e-12)
    assert torch.equal(merged.count, whole.count)
    merged.update(residual, from_end)
    assert torch.equal(first.total, before)


@pytest.mark.parametrize("shape", [(1, WIDTH), (POSITIONS, WIDTH + 1), (POSITIONS, 1)])
def test_reference_means_of_other_shapes_are_not_merged(shape: tuple[int, int]) -> None:
    with pytest.raises(LunarError) as error:
        ReferenceMean.zeros(POSITIONS, WIDTH).merge(ReferenceMean.zeros(*shape))
    assert one_sentence(error)


def test_low_precision_residuals_are_averaged_in_float64() -> None:
    residual, from_end = residuals(10)
    mean = ReferenceMean.zeros(POSITIONS, WIDTH).update(residual.bfloat16(), from_end).mean()
    exact = ReferenceMean.zeros(POSITIONS, WIDTH).update(residual.bfloat16().double(), from_end).mean()
    assert mean.dtype == torch.float64
    torch.testing.assert_close(mean, exact, rtol=1e-12, atol=1e-12)


def test_positions_without_rows_are_refused() -> None:
    empty = ReferenceMean.zeros(POSITIONS, WIDTH)
    with pytest.raises(LunarError, match=f"at least {POSITIONS} tokens long, but the longest has 0") as error:
        empty.mean()
    assert one_sentence(error)
    short = empty.update(torch.ones(3, WIDTH), torch.tensor([0, 1, -1]))
    with pytest.raises(LunarError, match="the longest has 2"):
        short.mean()
    assert bool(torch.isfinite(short.update(torch.ones(1, WIDTH), torch.tensor([2])).mean()).all())
