"""Leave one part of the model out: the MLP of a layer, or the whole layer, every one in turn.

Source: layer skipping is one of the white-box attacks of "LLM Unlearning via Neural Activation Redirection" (arXiv
2502.07218), there of the edited layer, here of every one. An attacker needs the weights, and no data. Control: the
model that never knew with the same parts left out, or the answers to other questions of the same form; and the retain
set, since a model that is broken by the gap proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from transformers import PreTrainedModel

from lunar.attacks.attack import Attack, Attacked, Case, Variant
from lunar.attacks.hooks import without_layer, without_mlp
from lunar.models import LoadedModel, Site, find_sites

PARTS: dict[str, Callable[[PreTrainedModel, Site], AbstractContextManager[None]]] = {
    "mlp": without_mlp,
    "layer": without_layer,
}


@contextmanager
def skipped(loaded: LoadedModel, site: Site, part: str) -> Iterator[Attacked]:
    """The model without the "mlp" of the site's layer, or without the whole "layer"."""
    with PARTS[part](loaded.model, site):
        yield Attacked(loaded)


def variants(case: Case) -> Iterator[Variant]:
    """Each part of each layer; that is little enough for every budget."""
    for site in find_sites(case.unlearned.model):
        for part in PARTS:
            yield Variant({"layer": site.layer, "part": part}, partial(skipped, case.unlearned, site, part))


ATTACK = Attack(
    name="skip",
    title="One layer left out",
    source="Shen et al., arXiv 2502.07218 (layer skipping)",
    access="weights",
    needs="the weights; no data",
    control="the same part of the control left out",
    variants=variants,
)
