"""Where a model comes from: the embedded one, a local folder, or the hub; and whether the folder can be a checkpoint.

Looks at paths and small files only, so that a wrong one is refused before torch is imported and without asking the hub
again and again. What the weights say is for `lunar.models` to read.
"""

import json
import os
import re
from pathlib import Path

from lunar.errors import LunarError
from lunar.safety import check_safe

TINY = "tiny"
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
HUB_NAME_LENGTH = 96
# Consolidated or variant copies of the same weights, and everything in subfolders, would be downloaded for nothing.
HUB_FILES = ["*.json", "model*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "*.tiktoken", "tekken.json")
PICKLED_FILES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
FULL_PRECISION = (
    "Make the ledger from the full-precision checkpoint and export an adapter, which then works over a copy in 8 or 4 "
    "bits as well."
)
"""What somebody with a quantised checkpoint is to do."""
CONTEXT_SETTINGS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")


def find_checkpoint(source: str, trust_remote_code: bool = False) -> Path:
    """The local folder of a model, downloaded first where `source` is a name on the hub; `source` may be "tiny".

    Raises `LunarError` when there is no such model, or the folder cannot be a usable checkpoint: no configuration, no
    safetensors, no tokenizer, what `lunar.safety` refuses. Never after minutes of retrying the hub.
    """
    folder = _folder(source, trust_remote_code)
    check_folder(folder, source, trust_remote_code)
    return folder


def _folder(source: str, trust_remote_code: bool) -> Path:
    """The local folder that holds the model, downloaded first where `source` is a name on the hub."""
    if source == TINY:
        folder = Path(__file__).parent / "tiny" / "weights"
        if not folder.is_dir():
            raise LunarError("The embedded model 'tiny' is missing from this installation: install the package again.")
        return folder
    path = Path(source).expanduser() if source.strip() else None
    if path is None:
        raise LunarError("A model's folder or its name on the hub was expected, but the text is empty.")
    if os.path.isdir(path):
        return path
    # os.path and not Path.exists: the latter raises for names that are too long for the file system.
    if os.path.exists(path):
        raise LunarError(f"A model is a folder with config.json and *.safetensors, but {source} is a file.")
    if source[0] in "~." or not HUB_NAME.fullmatch(source) or len(source) > HUB_NAME_LENGTH:
        raise LunarError(
            f"There is no folder {_short(source)!r}, and this is not a name of the form organisation/model."
        )
    return _from_hub(source, trust_remote_code)


def _from_hub(name: str, trust_remote_code: bool) -> Path:
    """Download a model, or find it in the cache where the hub cannot be reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    from lunar.hub import hub_offline, hub_reachable

    online = hub_reachable()
    patterns = [*HUB_FILES, "*.py"] if trust_remote_code else HUB_FILES
    try:
        return Path(
            snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"], local_files_only=not online)
        )
    except LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if hub_offline() else "the hub cannot be reached"
        raise LunarError(
            f"There is no folder {name!r}, no such model is cached and {why}: give a local folder, or connect first."
        ) from error
    except GatedRepoError as error:
        raise LunarError(
            f"The model {name} is gated: accept its terms on the hub and log in with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise LunarError(f"There is neither a folder nor a public model on the hub called {name!r}.") from error
    except Exception as error:
        # Connection libraries raise classes of their own, which are no part of the hub client's interface.
        raise LunarError(f"The model {name} could not be downloaded from the hub ({reason(error)}).") from error


def check_folder(folder: Path, source: str, trust_remote_code: bool) -> None:
    """Refuse, before anything is loaded, a folder that cannot be a usable checkpoint."""
    if not (folder / "config.json").is_file():
        adapter = " (it looks like an adapter)" if (folder / "adapter_config.json").is_file() else ""
        raise LunarError(f"The folder of {source} is not a model{adapter}: it has no config.json.")
    if not any(folder.glob("*.safetensors")):
        pickled = any(any(folder.glob(pattern)) for pattern in PICKLED_FILES)
        fault = "has only pickled weights, and only safetensors are read" if pickled else "has no *.safetensors"
        raise LunarError(f"The folder of {source} cannot be loaded as a model: it {fault}.")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LunarError(f"The config.json of {source} cannot be read as JSON ({reason(error)}).") from error
    if not isinstance(config, dict) or not config.get("model_type"):
        raise LunarError(f"The config.json of {source} does not describe a model: it has no model_type.")
    check_safe(folder, source, trust_remote_code)
    if not trust_remote_code and not any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES):
        # Checked here because transformers makes an empty tokenizer for some model types instead of failing.
        raise LunarError(f"The folder of {source} has no tokenizer: expected tokenizer.json beside config.json.")


def _short(text: str) -> str:
    """Text of a caller, cut to a length an error message can carry."""
    return text if len(text) <= HUB_NAME_LENGTH else text[:HUB_NAME_LENGTH] + "…"


def reason(error: Exception) -> str:
    """The first sentence of somebody else's error message."""
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".:, ")[:200] if lines else type(error).__name__
