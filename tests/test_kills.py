"""A short form of `experiments/kills.py`: ten kills, and every ledger holds."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
import kills

from lunar.models import load_model


def test_a_ledger_survives_ten_kills(checkpoint, tmp_path, monkeypatch):
    # A tokenizer of 96 words knows none of these, but rows are rows.
    counts = kills.run(load_model(str(checkpoint("llama")), device="cpu"), tmp_path, 10, 0, adapters=False)
    assert counts.total() == 10
