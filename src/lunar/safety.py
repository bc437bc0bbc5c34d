"""Refuse a checkpoint that could run code, read files outside its folder, or load as something else than it says.

Looks at names, links, configurations and the headers of weights, before anything is loaded and without torch. A
checkpoint may come from anywhere: what it says is never taken as an instruction.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lunar.errors import LunarError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIGURATIONS = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "processor_config.json"),
    *("preprocessor_config.json", "adapter_config.json"),
)
KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
"""Settings that may name a repository of compiled code, which transformers would download and run."""
ELSEWHERE = ("transformers_weights", "configuration_files")
"""Settings by which transformers reads other weights or another configuration than those that are looked at here."""
TEMPLATES = "additional_chat_templates"
"""The one folder within a checkpoint of which transformers reads files."""
LONGEST_HEADER = 100_000_000
"""Bytes, as the format's own library allows."""
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1} | {
    **{"U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "C64": 8, "F8_E4M3": 1, "F8_E5M2": 1}
}


def check_safe(folder: Path, source: str, trust_remote_code: bool) -> None:
    """Raise LunarError for a checkpoint folder that is not what it should be; `source` is what to call it.

    Refused are links that lead out of the folder, an adapter beside the model, an index or a configuration that names
    other files than the usual ones or tensors that are not there, truncated files, tensors that overlap or leave gaps,
    and, without `trust_remote_code`, configurations that ask for code of their own.
    """
    _check_links(folder, source)
    if os.path.lexists(folder / "config.json") and os.path.lexists(folder / "adapter_config.json"):
        # transformers would add the adapter to the model without a word, so that other weights answer than are edited.
        raise LunarError(
            f"A model was expected, but {source} holds an adapter beside it (adapter_config.json): move the adapter to "
            "a folder of its own, or merge it into the model."
        )
    for name in CONFIGURATIONS:
        settings = list(_settings(_content(folder / name)))
        _check_names(settings, name, folder, source)
        if not trust_remote_code:
            _check_code(settings, name, source)
    headers = {name: _checked_header(folder / name, source) for name in weight_files(folder, source)}
    for tensor, name in index_of(folder, source).items():
        if name in headers and tensor not in headers[name]:
            raise LunarError(f"The index of {source} names a tensor in {name} that is not there: download it again.")


def weight_files(folder: Path, source: str = "the model") -> list[str]:
    """The weight files that transformers would load: one of the usual name, else those of the index, else all."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    named = sorted(set(index_of(folder, source).values()))
    return named or sorted(path.name for path in folder.glob("*.safetensors"))


def index_of(folder: Path, source: str = "the model") -> dict[str, str]:
    """Tensor name to shard, as the index says; empty without one. Raises LunarError for names that leave the folder."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        named = dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LunarError(f"The index {INDEX} of {source} cannot be read ({type(error).__name__}).") from error
    for name in set(map(str, named.values())):
        if not _plain(name) or not name.endswith(".safetensors"):
            raise LunarError(
                f"The index of {source} names a file that is not a *.safetensors in its own folder, so it is not "
                "loaded: get the checkpoint from somebody you trust."
            )
        if not (folder / name).is_file():
            raise LunarError(f"The index of {source} names {name}, but there is no such file: download it again.")
    return {str(tensor): str(name) for tensor, name in named.items()}


def _check_links(folder: Path, source: str) -> None:
    """Refuse symbolic links that leave the folder, but for those of the Hub's cache, which lead to its blobs.

    Links to folders count as well: a name with a slash would be read through them. Of what stands in folders within
    only the chat templates are looked at, since nothing else there is read.
    """
    home = folder.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    templates = folder / TEMPLATES
    for path in [*folder.iterdir(), *(templates.iterdir() if templates.is_dir() else ())]:
        # realpath and not Path.resolve: the latter raises for links that lead to each other.
        real = Path(os.path.realpath(path))
        if path.is_symlink() and not any(real.is_relative_to(place) for place in allowed):
            raise LunarError(
                f"{path.relative_to(folder)} of {source} is a symbolic link that leads out of the folder, so it is not "
                "loaded: put there what it leads to."
            )


def _content(path: Path) -> Any:
    """What a configuration says; None where there is none or it cannot be read: whoever needs it says what is wrong."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None


def _check_names(settings: Sequence[tuple[str, Any]], file: str, folder: Path, source: str) -> None:
    """Refuse what makes transformers read other files than those of the usual names in the folder."""
    for name, value in settings:
        if name in ELSEWHERE and value:
            raise LunarError(
                f"The usual files of a checkpoint were expected to be read, but {file} of {source} names others "
                f"({name}): take that out, and give the files their usual names."
            )
        names = value if isinstance(value, list) else [value]
        if name == "fast_tokenizer_files" and value and not all(map(_plain, names)):
            raise LunarError(
                f"Names of files in the model's own folder were expected, but {file} of {source} has {name} with "
                "something else, so it is not loaded: take that out."
            )
        # Old checkpoints hold paths of the machine they were made on, which lead nowhere here and so do no harm.
        if name.endswith("_file") and name != "special_tokens_map_file" and any(_outside(one, folder) for one in names):
            raise LunarError(
                f"Files in the model's own folder were expected, but {file} of {source} has {name} with a file outside "
                "it, so it is not loaded: take that out."
            )


def _plain(name: Any) -> bool:
    """Whether this names a file in the folder itself."""
    return isinstance(name, str) and Path(name).name == name and "\\" not in name


def _outside(name: Any, folder: Path) -> bool:
    """Whether this names a file that is there and lies outside the folder, seen from the folder or from here."""
    if not isinstance(name, str) or _plain(name) or "\0" in name:
        return False
    places = (os.path.realpath(name), os.path.realpath(folder / name))
    return any(os.path.isfile(place) and not Path(place).is_relative_to(folder.resolve()) for place in places)


def _check_code(settings: Sequence[tuple[str, Any]], file: str, source: str) -> None:
    """Refuse what asks for code: auto_map, trust_remote_code, and kernels from somewhere else."""
    for name, value in settings:
        if name == "auto_map" or (name in ("trust_remote_code", "custom_code") and value not in (False, None)):
            raise LunarError(
                f"The model {source} runs code of its own ({file} has {name}): read it, then allow it with "
                "trust_remote_code=True."
            )
        if name in KERNELS and isinstance(value, str) and os.sep in value:
            raise LunarError(
                f"The model {source} asks for compiled code from elsewhere ({file} has {name}): take that out."
            )


def _settings(content: Any) -> Iterator[tuple[str, Any]]:
    """All names and values of a configuration, those of its parts included."""
    open_ones = [content]
    while open_ones:
        one = open_ones.pop()
        if isinstance(one, dict):
            yield from one.items()
            open_ones.extend(one.values())
        elif isinstance(one, list):
            open_ones.extend(one)


def _checked_header(path: Path, source: str) -> dict[str, Any]:
    """The header of a weight file whose tensors fill it without gaps and overlaps; raises LunarError otherwise."""
    size = os.stat(path).st_size

    def damaged(why: str) -> LunarError:
        return LunarError(f"The weights {path.name} of {source} are damaged or were tampered with: {why}.")

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(LONGEST_HEADER, size - 8):
            raise damaged("the file is cut off in its header")
        try:
            pairs: list[tuple[str, Any]] = json.loads(file.read(length), object_pairs_hook=list)
            names = [name for name, _ in pairs]
            header = {name: dict(entry) for name, entry in pairs if name != "__metadata__"}
            spans = [_span(entry) for entry in header.values()]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise damaged("the header cannot be read") from error
    if len(set(names)) < len(names):
        raise damaged("a tensor is named twice")
    end = 0
    for first, last, expected in sorted(spans):
        if first != end or last < first or expected not in (None, last - first):
            raise damaged("tensors overlap, leave gaps, or have another size than they say")
        end = last
    if end != size - 8 - length:
        raise damaged("the file is shorter or longer than its tensors")
    return header


def _span(entry: dict[str, Any]) -> tuple[int, int, int | None]:
    """First and last byte of a tensor, and its size where the type's is known."""
    first, last = entry["data_offsets"]
    shape = [number for number in entry["shape"] if type(number) is int and number >= 0]
    if len(shape) != len(entry["shape"]) or type(first) is not int or type(last) is not int:
        raise ValueError("no numbers")
    size = _SIZES.get(entry["dtype"])
    return first, last, None if size is None else math.prod(shape) * size
