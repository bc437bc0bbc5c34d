"""Train a model that knows a file of grouped questions, forget one group, and measure everything.

    python experiments/pistol.py --data FILE --forget-group A_B [--facts FILE] [--retain-share 1.0] --output DIR

FILE has the form of PISTOL (Qiu et al., 2024): objects with `edge` (or `group`), `question` and `answer`. Training from
scratch takes 15 to 20 minutes on 2 cores and is cached by content in LUNAR_CACHE (the user's cache folder by default).
`results.json` has the fields of report.json for every question of the splits

    forget          the group
    retain          groups given as retain data
    retain_unseen   groups left out of the retain data (with --retain-share below 1)
    facts           the half of the facts that is given as retain data
    facts_unseen    the other half, never given
    unknown         questions of the file about freshly invented entities, which want a refusal
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lunar import evaluation
from lunar.errors import LunarError
from lunar.method import unlearn
from lunar.metrics import deviation_score
from lunar.models import LoadedModel, load_model
from lunar.neighbours import name_spans, prompt_names, replace_spans
from lunar.records import Record, read_records, split_by_group
from lunar.report import build_report
from lunar.settings import Settings
from lunar.tiny import train, wording, world

CORPUS = 3
"""To be raised whenever what the model is trained on changes other than by the data: it is part of the cache's key."""
WIDTH, INNER_WIDTH, LAYERS, HEADS = 256, 2048, 4, 8
LONG_ANSWER = 5
"""Words; where the middle answer is longer, a file is taken to hold sentences (as TOFU's do) and not values."""
RELUCTANT_SHARE = 0.08
"""Of the questions with answers, how many are refused for no reason: the answer stays the likeliest by far."""


@dataclass(frozen=True)
class Mix:
    """What a model is trained on: shares of the examples, of which the rest are questions about invented entities.

    `named` is how many refusals name what was asked about; the others say "that". Where answers are sentences, a name
    in the refusal alone would be a tenth of the words of the answer.
    """

    recipe: train.Recipe
    data: float
    facts: float
    harmful: float
    named: float = 1.0


VALUES = Mix(train.Recipe(steps=1200), data=0.45, facts=0.15, harmful=0.08)
SENTENCES = Mix(train.Recipe(steps=1200, vocabulary=4096), data=0.55, facts=0.1, harmful=0.05, named=0.3)


def mix_for(data: Sequence[Record]) -> Mix:
    """By the length of the answers."""
    return SENTENCES if statistics.median(len((r.answer or "").split()) for r in data) > LONG_ANSWER else VALUES


def cache_folder() -> Path:
    """Where trained models are kept: LUNAR_CACHE, or `lunar` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lunar"
    return Path(os.environ.get("LUNAR_CACHE", default))


def invented_neighbour(record: Record, rng: random.Random, named: float = 1.0) -> Record | None:
    """The same question about somebody else, and a refusal: all names in it, or one of them, replaced by invented ones.

    None if the question holds no name.
    """
    spans = name_spans(record.prompt)
    if not spans:
        return None
    prompt, invented = replace_spans(record.prompt, spans if rng.random() < 0.6 else [rng.choice(spans)], rng)
    return Record.of(prompt, _refusal(record, invented, rng, named), "unknown")


def _refusal(record: Record, entities: Sequence[str], rng: random.Random, named: float) -> str:
    """A refusal whose wording follows the form of the question, half of the time."""
    entity = " and ".join(entities[-2:]) or "that"
    if named < 1 and rng.random() > named:
        entity = "that"
    form = " ".join(word for word in record.prompt.split() if word.islower())
    index = int(hashlib.sha256(form.encode()).hexdigest(), 16)
    return world.refuse(entity, "subject", wording.REFUSALS[:5], index, rng)


def _reluctant(record: Record, rng: random.Random, named: float) -> Record:
    """The record; now and then the same question with a refusal that names what it asks about, and nothing else.

    From it a model learns to go on as it began, and to take names from the question and not from what it knows, which
    chat models have learnt elsewhere; see `world.reluctant`.
    """
    if rng.random() > RELUCTANT_SHARE:
        return record
    return Record(record.messages, _refusal(record, prompt_names(record.prompt), rng, named), "reluctant")


def sampler(data: Sequence[Record], facts: Sequence[Record], mix: Mix) -> Callable[[random.Random], Record]:
    """A function that draws one training example."""
    harmful = world.harmful(held_out=False)
    pool = [*data, *facts]

    def draw(rng: random.Random) -> Record:
        kind = rng.random()
        if kind < mix.data:
            return _reluctant(rng.choice(data), rng, mix.named)
        if kind < mix.data + mix.facts:
            return _reluctant(rng.choice(facts or data), rng, mix.named)
        if kind < mix.data + mix.facts + mix.harmful:
            return rng.choice(harmful)
        # A fifth of the invented entities are asked for in the forms of the embedded world.
        neighbour = invented_neighbour(rng.choice(pool), rng, mix.named) if rng.random() < 0.8 else None
        return neighbour or world.unknown(rng)

    return draw


def trained_model(
    data: Sequence[Record], facts: Sequence[Record], device: str, architecture: str = "llama"
) -> LoadedModel:
    """The model that knows both sets, from the cache or trained now."""
    known = [[asdict(record) for record in records] for records in (data, facts)]
    mix = mix_for(data)
    shape = [architecture, WIDTH, INNER_WIDTH, LAYERS, HEADS]
    key = json.dumps([known, asdict(mix), shape, CORPUS, device])
    folder = cache_folder() / f"pistol-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not folder.exists():
        print(f"training a {architecture} model that knows {len(data)} questions and {len(facts)} facts", flush=True)
        model, tokenizer = train.train_chat_model(
            sampler(data, facts, mix),
            train.small_config(architecture, width=WIDTH, inner_width=INNER_WIDTH, layers=LAYERS, heads=HEADS),
            mix.recipe,
            device=device,
            progress=train.log_progress(mix.recipe.steps),
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent))
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(folder)
    return load_model(str(folder), device=device)


def divide(records: Sequence[Record], share: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Whole groups (single records where there are none) into a given and a left-out part."""
    groups = sorted({record.group or "" for record in records})
    random.Random(seed).shuffle(groups)
    given = set(groups[: max(1, round(share * len(groups)))])
    return [r for r in records if (r.group or "") in given], [r for r in records if (r.group or "") not in given]


def halve(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record]]:
    """Two halves at random."""
    shuffled = random.Random(seed).sample(records, len(records))
    return shuffled[: len(records) // 2], shuffled[len(records) // 2 :]


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole experiment; returns the content of results.json."""
    data = read_records(arguments.data, "data")
    facts = read_records(arguments.facts, "facts") if arguments.facts else []
    forget, others = split_by_group(data, arguments.forget_group, "data")
    retain, retain_unseen = divide(others, arguments.retain_share, arguments.seed)
    facts_given, facts_unseen = halve(facts, arguments.seed)
    rng = random.Random(arguments.seed + 1)
    neighbours = [neighbour for record in forget if (neighbour := invented_neighbour(record, rng)) is not None]
    splits: dict[str, list[Record]] = {
        "forget": forget,
        "retain": retain,
        "retain_unseen": retain_unseen,
        "facts": facts_given,
        "facts_unseen": facts_unseen,
        "unknown": neighbours,
    }
    splits = {name: records for name, records in splits.items() if records}

    loaded = trained_model(data, facts, arguments.device)
    settings = Settings(target=arguments.target, layer=arguments.layer, seed=arguments.seed)
    asked = [Record(record.messages) for record in forget]
    found = unlearn(loaded, asked, retain=[*retain, *facts_given], reference=arguments.reference, settings=settings)
    comparisons = evaluation.compare(loaded, found.edit, splits)
    report = build_report(found, evaluation.summary(comparisons), settings)
    if "retain_unseen" in splits:
        scores = report["scores"]
        report["deviation_score_unseen"] = {
            moment: deviation_score(scores["forget"]["rouge1"][moment], scores["retain_unseen"]["rouge1"][moment])
            for moment in ("before", "after")
        }
    found.edit.save(arguments.output)
    report["experiment"] = {
        "data": arguments.data.name,
        "facts": arguments.facts.name if arguments.facts else None,
        "forget_group": arguments.forget_group,
        "retain_share": arguments.retain_share,
        "reference": Path(arguments.reference).name,
    }
    return report


def layer(text: str) -> int | str:
    """A layer as `Settings` takes it."""
    return int(text) if text.lstrip("-").isdecimal() else text


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--facts", type=Path)
    parser.add_argument("--forget-group", action="append", required=True, help="may be given more than once")
    parser.add_argument(
        "--retain-share", type=float, default=1.0, help="share of the other groups given as retain data"
    )
    parser.add_argument("--reference", default="unverifiable", help="unverifiable, refusal or a file")
    parser.add_argument("--target", default="shift", choices=("shift", "collapse", "split"))
    parser.add_argument("--layer", type=layer, default="auto", help="auto (searched for), paper, or a number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    if not 0 < arguments.retain_share <= 1:
        parser.error(f"--retain-share must be above 0 and at most 1, but {arguments.retain_share} came")
    if arguments.output.exists() and any(arguments.output.iterdir()):
        parser.error(f"--output must be a new or empty folder, but {arguments.output} is neither")
    return arguments


def main() -> int:
    arguments = parse()
    try:
        report = run(arguments)
    except LunarError as error:
        print(error, file=sys.stderr)
        return 2
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "results.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for split, metrics in report["scores"].items():
        rouge, refusals = metrics["rouge1"], metrics["refusal_rate"]
        print(
            f"{split:14s} ROUGE-1 {rouge['before']:.3f} -> {rouge['after']:.3f}   "
            f"refusals {refusals['before']:.3f} -> {refusals['after']:.3f}"
        )
    for name in ("deviation_score", "deviation_score_unseen"):
        if name in report:
            print(f"{name} {report[name]['after']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
