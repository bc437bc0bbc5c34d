"""How far the detector of an edit is from one solved in float64 by another route, at any width.

    python benchmarks/precision.py                     # a few seconds at m = 2048
    python benchmarks/precision.py --inner 14336 --output precision.md        # 5 GB of memory, a few minutes

Made-up activations: heavy tails, and a few rows a hundred times as large as the others, as first tokens have in large
models. The reference is LU of the products of all rows with each other, in float64 by numpy; beside it stand the
library's two ways, a streamed sum with its Cholesky factor and the kept rows, and the same least squares on a sum that
was added up in float32, as a control that shows what the precision buys. What is compared are the readings g·h of
redirected rows and of rows that are to be left alone: 1 is forgotten, 0 is left alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import speed
import torch

from lunar.errors import LunarError
from lunar.moments import FewRows, Moments
from lunar.solve import detectors

SIZES = {"inner": 2048, "rows": 3000, "forget": 20}
RIDGE, WEIGHT, BATCH = 1e-4, 1000.0, 500


def made(inner: int, rows: int, forget: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pinned rows, their weights, and redirected rows near some of them; float32, as a model hands them over."""
    generator = torch.Generator().manual_seed(0)
    pinned = torch.randn(rows, inner, generator=generator) ** 3
    pinned[:: max(1, rows // 20)] *= 100.0
    redirected = pinned[1 : forget + 1] + torch.randn(forget, inner, generator=generator)
    return pinned, torch.where(torch.arange(rows) % 10 == 0, 10.0, 1.0), redirected


def reference(pinned: torch.Tensor, weights: torch.Tensor, redirected: torch.Tensor) -> np.ndarray:
    """The detector by the dual in float64: Gᵀ (G Gᵀ + λI)⁻¹ of all rows times the roots of their weights."""
    roots = np.sqrt(np.concatenate([weights.double().numpy(), np.full(len(redirected), WEIGHT)]))
    every = torch.cat([pinned, redirected]).double().numpy() * roots[:, None]
    products = every @ every.T
    products[np.diag_indices_from(products)] += RIDGE * np.trace(products) / every.shape[1]
    wanted = np.where(np.arange(len(every)) < len(pinned), 0.0, roots)
    return np.asarray(every.T @ np.linalg.solve(products, wanted))


def by_library(sums: Moments | FewRows, redirected: torch.Tensor) -> np.ndarray:
    """The library's detector from what it keeps of the pinned rows."""
    weights = torch.full((len(redirected),), WEIGHT, dtype=torch.float64)
    return np.asarray(detectors(sums, redirected.double(), weights, RIDGE).sum(0).numpy())


def added(pinned: torch.Tensor, weights: torch.Tensor, sums: Moments | FewRows) -> Moments | FewRows:
    """Batch by batch, as a pass over the data adds them."""
    for start in range(0, len(pinned), BATCH):
        sums.update(pinned[start : start + BATCH], weights[start : start + BATCH])
    return sums


def in_float32(pinned: torch.Tensor, weights: torch.Tensor) -> Moments:
    """The control: products and their sum in float32, and float64 from there on."""
    total = torch.zeros(pinned.shape[1], pinned.shape[1])
    for start in range(0, len(pinned), BATCH):
        batch = pinned[start : start + BATCH] * weights[start : start + BATCH].sqrt()[:, None]
        total.addmm_(batch.T, batch)
    return Moments(total.double(), len(pinned))


def table(inner: int, rows: int, forget: int) -> str:
    """Markdown: the largest difference of a reading by the way it was found, and the seconds it took."""
    pinned, weights, redirected = made(inner, rows, forget)
    known = reference(pinned, weights, redirected)
    ways: dict[str, Callable[[], Moments | FewRows]] = {
        "sum in float64 (ours)": lambda: added(pinned, weights, Moments.zeros(inner)),
        "rows kept (ours)": lambda: added(pinned, weights, FewRows(inner)),
        "sum in float32 (control)": lambda: in_float32(pinned, weights),
    }
    lines = [
        f"m = {inner}, {rows} pinned rows, {forget} redirected; readings {readings(known, redirected)}",
        "",
        "| way | largest difference, redirected rows | pinned rows | seconds |",
        "| --- | --- | --- | --- |",
    ]
    for name, sums in ways.items():
        started = time.perf_counter()
        try:
            found = by_library(sums(), redirected)
        except LunarError:
            lines.append(f"| {name} | not solved | | |")
            continue
        seconds = time.perf_counter() - started
        cells = [f"{apart(found - known, some):.1e}" for some in (redirected, pinned)]
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds:.3g} |")
    return "\n".join(lines) + "\n"


def apart(difference: np.ndarray, rows: torch.Tensor) -> float:
    """The largest absolute reading of a difference of detectors."""
    return float(np.abs(rows.double().numpy() @ difference).max())


def readings(detector: np.ndarray, rows: torch.Tensor) -> str:
    """The least and the largest reading."""
    values = rows.double().numpy() @ detector
    return f"{values.min():.3f} to {values.max():.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    for name, default in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output", type=Path, help="a Markdown file to write the table to")
    arguments = parser.parse_args(argv)
    speed.shown(table(arguments.inner, arguments.rows, arguments.forget), arguments.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
