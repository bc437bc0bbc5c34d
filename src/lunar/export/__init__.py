"""What others can load: an edit as a LoRA adapter, or as a checkpoint of its own.

adapter.py   a PEFT adapter, whose ranks and names vLLM takes as well
merged.py    the source's checkpoint with the edited tensors in the place of the old ones
effect.py    is what was written loaded again, and does it move the logits?
    ledger.py    all of that for a ledger, noted in its record
"""
