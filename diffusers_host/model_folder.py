"""What a diffusers folder may name: parts of diffusers and transformers alone.

Versions of diffusers before 0.42 run Python files that lie in a folder, and import whatever package its index names,
without a word. Here no folder is loaded that needs that, whatever the version.
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from ..core.errors import DebiasError, quoted, short
from ..core.files import read_json

LIBRARIES = ("diffusers", "transformers")


def check_no_code(folder: Path) -> None:
    """Raises DebiasError for a folder whose loading would run its own code, import another package, or unpickle."""
    wrong = next(_wrong(folder), None)
    if wrong is not None:
        raise DebiasError(f"{quoted(folder)} cannot be loaded without running code that comes with it: {wrong}. Use a "
                          "model that needs none.")


def _wrong(folder: Path) -> Iterator[str]:
    from diffusers import pipelines
    index = read_json(folder / "model_index.json")
    parts = index if isinstance(index, dict) else {}
    if not isinstance(parts.get("_class_name"), str) or (folder / "None.py").exists():  # which diffusers takes for one
        yield "its pipeline is a file of its own"
    for part, named in parts.items():
        if part.startswith("_") or not isinstance(named, list) or len(named) != 2 or not all(
                isinstance(text, str) for text in named):
            continue  # no part, or one that is left out
        library, kind = named
        if library not in LIBRARIES and not isinstance(getattr(pipelines, library, None), ModuleType):
            yield f"{short(part)} is of the package {short(library)}"
        for file in (f"{library}.py", "adapter_config.json"):  # adapters may be pickles
            if (folder / part / file).exists():
                yield f"{short(part)} has a {short(file)}"
        if kind.startswith("Auto"):
            for file in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
                known = read_json(folder / part / file) if (folder / part / file).exists() else {}
                if isinstance(known, dict) and "auto_map" in known:
                    yield f"{short(part)} names its own classes in {file}"
