"""Set the smallest weights of every matrix to zero, as one does to make a model sparse, and with them perhaps the edit.

Source: magnitude pruning, "Learning both Weights and Connections for Efficient Neural Networks" (arXiv 1506.02626),
here without training afterwards, by torch.nn.utils.prune. An attacker needs the weights, and no data; nobody needs to
mean it as an attack. Control: the model that never knew pruned in the same way, or wrong answers to like questions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn
from torch.nn.utils import prune
from transformers.pytorch_utils import Conv1D

from lunar.attacks.attack import Attack, Attacked, Case, Variant
from lunar.errors import LunarError
from lunar.models import LoadedModel, find_sites

SHARES = (0.1, 0.3, 0.5)


@contextmanager
def pruned(loaded: LoadedModel, share: float) -> Iterator[Attacked]:
    """A copy of the model without that share of each matrix of its decoder layers; the model stays as it is.

    Raises LunarError for a share that is not between 0 and 1.
    """
    if not 0 <= share < 1:
        raise LunarError(f"The share of weights to prune must be at least 0 and below 1, but {share} came.")
    model = copy.deepcopy(loaded.model)
    # torch's function has no annotations.
    zero: Any = prune.l1_unstructured
    settle: Any = prune.remove
    for site in find_sites(model):
        for module in site.layer_module(model).modules():
            if isinstance(module, nn.Linear | Conv1D):
                zero(module, "weight", amount=share)
                settle(module, "weight")
    yield Attacked(replace(loaded, model=model))


def variants(case: Case) -> Iterator[Variant]:
    """Few weights and more of them."""
    for share in SHARES:
        yield Variant({"share": share}, partial(pruned, case.unlearned, share))


ATTACK = Attack(
    name="prune",
    title="The smallest weights set to zero",
    source="magnitude pruning, Han et al., arXiv 1506.02626, by torch.nn.utils.prune",
    access="weights",
    needs="the weights; no data",
    control="the control pruned in the same way",
    variants=variants,
)
