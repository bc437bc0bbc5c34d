"""Seconds, peak memory and numbers changed: this library's edit beside LUNAR as published, and beside the floor.

    python benchmarks/speed.py                         # a minute or two on a small model
    python benchmarks/speed.py --width 4096 --inner 14336 --layers 4 --layer 2 --forget 12 --retain 60 --epochs 1 \
        --repetitions 5 --output speed.md
    python benchmarks/speed.py --data FILE --group A_B --forget 20 --retain 140    # prompts of a file, random weights
    python benchmarks/speed.py --vary retain=100,200,400,800        # time against one size, ours and the floor alone
    python benchmarks/speed.py --model FOLDER --data FILE --group A_B --layer 0     # a trained model, groups of records

A random Llama of the given shape, in process, and prompts of random words, which have nothing in common but the chat
template, or the first of a file: a group to be forgotten and others to be retained, with answers; or a model that was
trained, and all of a file. Every repetition runs all methods one after another,
so that ratios are within one run; shown are medians with the smallest and largest in brackets.

- *ours*: `unlearn` with the target `shift` at the layer, no neighbours; fit is the solve and what is told of the gate,
  capture is everything else, the checks before and behind it among it.
- *as published*: six passes through the whole model, one prompt at a time (forget and reference for the direction,
  forget and retain for the inputs, forget and retain for the outputs), then the AdamW fit of `lunar-reference` with a
  constant in the place of the direction, which changes no time.
- *as published, batched*: the same fit behind this library's own batched, truncated capture.
- *floor*: one batched pass through layers 0 to the layer over the same tokens, each of them, with nothing done to what
  comes out. Ours runs what prompts begin with alike once, and can take less.

With a trained model, which can decline, three more:

- *automatic choice*: ours with layer and strengths searched for.
- *all defaults*: the same with neighbours and other forms of the forget prompts, which are more tokens.
- *floor, all layers*: the floor through every layer, which a search has to look at.

With `--epochs` below the protocol's 20, so many are run, and the seconds of the fit are multiplied to 20: every epoch
is the same work, and at m = 14336 twenty take a quarter of an hour.

Memory is what a method takes beyond the loaded model at its highest: allocated on a GPU, else resident in the process.
"""

from __future__ import annotations

import argparse
import ctypes
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from lunar import Record, Settings, find_sites, load_model, unlearn
from lunar.activations import capture_layers
from lunar.baselines.lunar_reference import BASELINE, ReferenceSettings, fit
from lunar.baselines.task import Task
from lunar.errors import LunarError
from lunar.models import LoadedModel, Site, site_at
from lunar.prompts import TokenSequence, encode_all, reference_records
from lunar.records import read_records, split_by_group

EPOCHS = ReferenceSettings().epochs
OURS, PUBLISHED, BATCHED, FLOOR = "ours", "as published", "as published, batched", "floor"
CHOSEN, DEFAULTS, WHOLE = "automatic choice", "all defaults", "floor, all layers"
INTERVAL = 0.005
SIZES = {"width": 256, "inner": 1024, "layers": 4, "layer": 2, "forget": 20, "retain": 100}


@dataclass(frozen=True)
class Measured:
    """One method in one repetition: seconds, bytes beyond the model, and numbers that differ from the original's."""

    capture: float
    fit: float
    total: float
    memory: int
    changed: int


@dataclass(frozen=True)
class Ended:
    """What a method says of itself: seconds of its fit, when it was done, and numbers that it changed."""

    fit: float
    when: float
    changed: int


@dataclass(frozen=True)
class Work:
    """The model and the record sets of a run."""

    loaded: LoadedModel
    site: Site
    forget: Sequence[Record]
    retain: Sequence[Record]
    reference: Sequence[Record]
    epochs: int = EPOCHS
    trained: bool = False

    @property
    def methods(self) -> dict[str, Callable[[Work], Ended]]:
        """What is timed: a search needs a model that can decline."""
        return METHODS | SEARCHED if self.trained else METHODS

    @property
    def protocol(self) -> ReferenceSettings:
        """The published fit, in as many epochs as are timed."""
        return ReferenceSettings(layer=self.site.layer, epochs=self.epochs)

    def extrapolated(self, started: float, done: float, changed: int) -> Ended:
        """A fit of all epochs, by those that were timed."""
        more = (done - started) * EPOCHS / self.epochs
        return Ended(more, started + more, changed)

    def sequences(self, records: Sequence[Record]) -> list[TokenSequence]:
        return encode_all(self.loaded.tokenizer, records, with_answer=True, context_length=None, name="benchmark")


class Peak:
    """The most that was taken since the beginning of `watch`, in bytes.

    On Linux the kernel keeps the highest, to the byte; elsewhere the process is looked at every few milliseconds.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.most = device, 0

    def _now(self) -> int:
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return int(psutil.Process().memory_info().rss)

    def _reset(self) -> bool:
        """Begin anew; whether whoever keeps the highest takes that."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return True
        # What was freed and not given back would be taken again without showing.
        with suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).malloc_trim(0)  # glibc
        try:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): the highest becomes what it is now
        except OSError:
            return False
        return True

    def _highest(self) -> int:
        if self.device.type == "cuda":
            return self._now()
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024

    @contextmanager
    def watch(self) -> Iterator[None]:
        kept, before, done = self._reset(), self._now(), threading.Event()

        def look() -> None:
            while not done.wait(INTERVAL):
                self.most = max(self.most, self._now() - before)

        thread = threading.Thread(target=look)
        if not kept:
            thread.start()
        try:
            yield
        finally:
            done.set()
            if not kept:
                thread.join()
            self.most = max(self.most, (self._highest() if kept else self._now()) - before)


def made(arguments: argparse.Namespace) -> Work:
    """A random model with the tokenizer of another; prompts of random words, or the first of the data's."""
    tokenizer = load_model(arguments.tokenizer, device="cpu").tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=arguments.width,
        intermediate_size=arguments.inner,
        num_hidden_layers=arguments.layers,
        num_attention_heads=max(1, arguments.width // 128),
        num_key_value_heads=max(1, arguments.width // 512),
        max_position_embeddings=1024,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, arguments.dtype)).to(arguments.device).eval()
    generator = torch.Generator().manual_seed(0)
    words = [word for number in range(300, len(tokenizer)) if (word := str(tokenizer.decode(number)).strip()).isalpha()]

    def records(count: int, start: int) -> list[Record]:
        picked = torch.randint(len(words), (count, arguments.words), generator=generator).tolist()
        return [
            Record.of(f"{start + number} {' '.join(words[one] for one in row)}") for number, row in enumerate(picked)
        ]

    loaded, site = LoadedModel(model, tokenizer, "random"), site_at(model, arguments.layer)
    if arguments.data:
        forget, retain = _of_file(arguments)
        first = forget[: arguments.forget], retain[: arguments.retain], reference_records("unverifiable")[:20]
        return Work(loaded, site, *first, arguments.epochs)
    forget, retain = records(arguments.forget, 10_000), records(arguments.retain, 20_000)
    return Work(loaded, site, forget, retain, records(20, 30_000), arguments.epochs)


def given(arguments: argparse.Namespace) -> Work:
    """A trained model, and the records of a file: a group to forget, without its answers, and the others to retain."""
    loaded = load_model(arguments.model, device=arguments.device)
    forget, retain = _of_file(arguments)
    site = site_at(loaded.model, arguments.layer)
    return Work(loaded, site, forget, retain, reference_records("unverifiable"), arguments.epochs, trained=True)


def _of_file(arguments: argparse.Namespace) -> tuple[list[Record], list[Record]]:
    forget, retain = split_by_group(read_records(arguments.data, "data"), [arguments.group], "data")
    return [Record(record.messages) for record in forget], list(retain)


def ours(work: Work) -> Ended:
    """Seconds of the fit, and how many numbers of the model the edit changes."""
    return _ours(work, Settings(layer=work.site.layer, neighbours=0))


def chosen(work: Work) -> Ended:
    """The same, with layer and strengths searched for."""
    return _ours(work, Settings(neighbours=0))


def defaults(work: Work) -> Ended:
    """What a user gets who sets nothing."""
    return _ours(work, Settings())


def _ours(work: Work, settings: Settings) -> Ended:
    found = unlearn(work.loaded, work.forget, retain=work.retain, reference=work.reference, settings=settings)
    done = time.perf_counter()
    weight = found.site.module(work.loaded.model).get_parameter("weight")
    before = weight.detach().clone()
    with found.edit.applied(work.loaded.model):
        changed = int((weight != before).sum())
    return Ended(found.seconds["solve"], done, changed)


def published(work: Work) -> Ended:
    """The protocol as published: whole passes, one prompt at a time, then the fit."""
    model, site = work.loaded.model, work.site
    seen: list[torch.Tensor] = []
    handle = site.module(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].detach()))
    passes = (work.forget, work.reference, work.forget, work.retain, work.forget, work.retain)
    kept: list[torch.Tensor] = []
    forgotten = 0
    try:
        for place, records in enumerate(passes):
            seen = []
            for one in work.sequences(records):
                with torch.no_grad():
                    model(input_ids=torch.tensor([one.tokens], device=model.device), use_cache=False)
            if place in (2, 3):
                kept += seen
            if place == 2:
                forgotten = sum(map(len, seen))
    finally:
        handle.remove()
    inner = torch.cat(kept)
    redirected = torch.arange(len(inner), device=inner.device) < forgotten
    weight = site.module(model).get_parameter("weight").detach().float()
    shift = torch.full((site.width,), 0.01, device=inner.device)
    started = time.perf_counter()
    fitted = fit(inner, redirected, shift, weight, work.protocol, seed=0, report=lambda *_: None)
    synchronise(model.device)
    done = time.perf_counter()
    return work.extrapolated(started, done, int((fitted != weight).sum()))


def batched(work: Work) -> Ended:
    """`lunar-reference` as this library has it; the capture is batched and stops behind the layer."""
    steps: list[float] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "fit":
            steps.append(time.perf_counter())

    task = Task(work.loaded, work.forget, work.retain, work.reference, progress=progress)
    outcome = BASELINE.function(task, work.protocol)
    # Behind the last step it copies the model, which the protocol does not. The first step ends where the clock starts.
    taken = (steps[-1] - steps[0]) * len(steps) / max(1, len(steps) - 1)
    return work.extrapolated(steps[-1] - taken, steps[-1], outcome.changed_parameters)


def floor(work: Work) -> Ended:
    """One batched, truncated pass over the same tokens."""
    return _floor(work, work.site)


def whole(work: Work) -> Ended:
    """One batched pass over the same tokens."""
    return _floor(work, site_at(work.loaded.model, -1))


def _floor(work: Work, site: Site) -> Ended:
    sets = (work.reference, work.forget, work.retain)
    for records in sets:
        for _ in capture_layers(work.loaded.model, [site], work.sequences(records), share_prefixes=False):
            pass
    synchronise(work.loaded.model.device)
    return Ended(0.0, time.perf_counter(), 0)


METHODS: dict[str, Callable[[Work], Ended]] = {
    OURS: ours,
    PUBLISHED: published,
    BATCHED: batched,
    FLOOR: floor,
}
SEARCHED = {CHOSEN: chosen, DEFAULTS: defaults, WHOLE: whole}
"""With a trained model."""


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(work: Work, method: Callable[[Work], Ended]) -> Measured:
    """Run a method once."""
    device = work.loaded.model.device
    peak = Peak(device)
    synchronise(device)
    with peak.watch():
        started = time.perf_counter()
        ended = method(work)
    total = ended.when - started
    return Measured(total - ended.fit, ended.fit, total, peak.most, ended.changed)


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"


def table(runs: Sequence[dict[str, Measured]], work: Work, arguments: argparse.Namespace) -> str:
    """Markdown: a row per method, then the ratios."""
    device = work.loaded.model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    tokens = sum(
        len(one.tokens) for group in (work.forget, work.retain, work.reference) for one in work.sequences(group)
    )
    lines = [
        f"d = {work.site.width}, m = {work.site.inner_width}, {len(find_sites(work.loaded.model))} layers, layer "
        f"{work.site.layer}, {len(work.forget)} forget and {len(work.retain)} retain prompts, {tokens} tokens, "
        f"{str(work.loaded.model.dtype).removeprefix('torch.')}, {name}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; medians of {len(runs)} repetitions "
        f"[least, most]; {arguments.epochs} of {EPOCHS} epochs timed.",
        "",
        "| method | capture, s | fit, s | total, s | peak memory, MB | numbers changed | numbers stored |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method in work.methods:
        own = [run[method] for run in runs]
        # A gate and a direction, in the place of the numbers that change.
        stored = work.site.width + work.site.inner_width if method in (OURS, CHOSEN, DEFAULTS) else own[0].changed
        cells = [spread([getattr(one, field) for one in own]) for field in ("capture", "fit", "total")]
        memory = spread([one.memory / 1e6 for one in own])
        lines.append(f"| {method} | {' | '.join(cells)} | {memory} | {own[0].changed} | {stored} |")
    ratios = {
        "fit, as published / ours": [run[PUBLISHED].fit / run[OURS].fit for run in runs],
        "total, as published / ours": [run[PUBLISHED].total / run[OURS].total for run in runs],
        "total, as published with batched capture / ours": [run[BATCHED].total / run[OURS].total for run in runs],
        "total, ours / floor": [run[OURS].total / run[FLOOR].total for run in runs],
    }
    if work.trained:
        ratios |= {
            f"total, {name} / {least}": [run[name].total / run[least].total for run in runs]
            for name in (CHOSEN, DEFAULTS)
            for least in (FLOOR, WHOLE)
        }
    lines += ["", "| ratio within a repetition | |", "| --- | --- |"]
    lines += [f"| {name} | {spread(values)} |" for name, values in ratios.items()]
    return "\n".join(lines) + "\n"


def varied(arguments: argparse.Namespace) -> str:
    """Markdown: seconds of ours and of the floor, their ratio, and memory, by the values of one size."""
    name, values = arguments.vary
    titles = [name, "ours, s", "fit, s", "floor, s", "ours / floor", "peak memory of ours, MB"]
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for value in values:
        work = made(argparse.Namespace(**vars(arguments) | {name: value}))
        floor(work)
        runs = [(measure(work, ours), measure(work, floor)) for _ in range(arguments.repetitions)]
        cells = [[own.total for own, _ in runs], [own.fit for own, _ in runs], [least.total for _, least in runs]]
        ratio, memory = [own.total / least.total for own, least in runs], [own.memory / 1e6 for own, _ in runs]
        lines.append(f"| {value} | {' | '.join(spread(one) for one in (*cells, ratio, memory))} |")
    return "\n".join(lines) + "\n"


def one_size(text: str) -> tuple[str, list[int]]:
    """NAME=V1,V2,… of `--vary`."""
    name, _, values = text.partition("=")
    if name not in SIZES:
        raise argparse.ArgumentTypeError(f"one of {', '.join(SIZES)} was expected, but {name!r} came")
    return name, [int(value) for value in values.split(",")]


def options(
    description: str | None, sizes: Mapping[str, int], repetitions: int, device: str
) -> argparse.ArgumentParser:
    """What every benchmark on a random model takes."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n", maxsplit=1)[0])
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--words", type=int, default=12, help="words in a prompt")
    parser.add_argument("--tokenizer", default="tiny", help="of which model, for a random one")
    parser.add_argument("--repetitions", type=int, default=repetitions)
    parser.add_argument("--device", default=device)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--output", type=Path, help="a Markdown file to write the table to")
    return parser


def shown(text: str, output: Path | None) -> None:
    """Print a table, and write it where it is asked for."""
    print(text, end="")
    if output is not None:
        output.write_text(text, encoding="utf-8")


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options(__doc__, SIZES, 3, "cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the published fit, to be timed")
    parser.add_argument("--model", help="a trained model, in the place of a random one")
    parser.add_argument("--data", type=Path, help="prompts by groups, in the place of random words")
    parser.add_argument("--group", default="A_B", help="of the data, to be forgotten")
    parser.add_argument("--vary", type=one_size, metavar="NAME=V1,V2,…", help="time ours and the floor by one size")
    arguments = parser.parse_args(argv)
    if arguments.model and not arguments.data:
        parser.error("--model needs the --data that it was trained on: give them, or leave it out for a random model")
    if arguments.model and arguments.vary:
        parser.error("--vary changes the size of a random model: leave out either --vary or --model")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parsed(argv)
    if arguments.vary:
        text = varied(arguments)
    else:
        try:
            work = given(arguments) if arguments.model else made(arguments)
        except LunarError as error:
            print(error, file=sys.stderr)
            return 2
        floor(work)  # what is only slow the first time
        runs = [
            {name: measure(work, method) for name, method in work.methods.items()} for _ in range(arguments.repetitions)
        ]
        text = table(runs, work, arguments)
    shown(text, arguments.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
