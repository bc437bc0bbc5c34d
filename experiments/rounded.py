"""Does an exported adapter work over a base model that is loaded in 8 or 4 bits?

    python experiments/rounded.py

The embedded model forgets one person (20 questions, layer 0), the ledger's adapter is exported, and PEFT loads it over
the model as transformers rounds it, on the CPU: by torchao (`pip install torchao`) and bitsandbytes (`pip install
bitsandbytes`), whichever is installed. One line each: ROUGE-1 on the forgotten and on four other people in phrasings
that nothing was given in, for the rounded model, with the adapter, and with the adapter disabled.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TorchAoConfig

from lunar import Ledger, Record, Settings, answer_records, load_model
from lunar.checkpoints import find_checkpoint
from lunar.errors import LunarError
from lunar.export.ledger import export_adapter
from lunar.metrics import mean
from lunar.metrics.rouge import rouge1
from lunar.models import LoadedModel
from lunar.preflight import check_peft
from lunar.tiny import world


def roundings() -> Iterator[tuple[str, Any]]:
    """The ways of rounding whose library is installed."""
    if find_spec("torchao"):
        config = import_module("torchao.quantization").Int8WeightOnlyConfig()
        yield "torchao, 8 bits", TorchAoConfig(config)
    if find_spec("bitsandbytes"):
        yield "bitsandbytes, 8 bits", BitsAndBytesConfig(load_in_8bit=True)
        four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
        yield "bitsandbytes, 4 bits (nf4)", BitsAndBytesConfig(load_in_4bit=True, **four)


def people() -> tuple[list[Record], list[Record]]:
    """Questions about one person, and others about four."""
    known = list(world.build().people.values())
    forget = [record for fact in known[1] for record in fact.records(held_out=False)[:2]]
    others = [record for facts in known[30:34] for fact in facts for record in fact.records(held_out=True)[:1]]
    return forget, others


def recall(loaded: LoadedModel, sets: Sequence[Sequence[Record]]) -> str:
    """ROUGE-1 on each set."""
    values = [mean(rouge1(answer_records(loaded, records), records)) or 0.0 for records in sets]
    return ", ".join(f"{value:.3f}" for value in values)


def main() -> int:
    forget, others = people()
    sets = (forget, others)
    try:
        check_peft()
        peft: Any = import_module("peft")
        with tempfile.TemporaryDirectory() as place:
            loaded, adapter = load_model("tiny"), Path(place) / "adapter"
            ledger = Ledger.start(Path(place) / "ledger", loaded, forget, settings=Settings(layer=0))
            with ledger.locked():
                export_adapter(ledger, loaded, adapter)
            source = find_checkpoint("tiny")
            for name, config in roundings():
                base = AutoModelForCausalLM.from_pretrained(source, quantization_config=config)
                rounded = LoadedModel(base, AutoTokenizer.from_pretrained(source), name)
                before = recall(rounded, sets)
                wrapped = peft.PeftModel.from_pretrained(base, str(adapter))
                served = LoadedModel(wrapped, rounded.tokenizer, name)
                after = recall(served, sets)
                with wrapped.disable_adapter():
                    disabled = recall(served, sets)
                print(f"{name:28s} base {before}   adapter {after}   disabled {disabled}", flush=True)
    except LunarError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
