"""What a run says: as text on a node, in the log, and in the metadata of saved images."""
from __future__ import annotations

import logging
import sys
import uuid
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

log = logging.getLogger("sd-debias")

METADATA = "debias"
# Records of prompts that wait or run; each is the very list that SaveImage later writes.
_records: dict[str, Record] = {}
_KEPT = 200


class Record(list):
    """What guidance did in one prompt. A copy of the prompt, which some hosts run instead of it, holds the same record.
    """

    def __deepcopy__(self, memo):
        return self


def say(node_id: str | None, text: str, warning: bool = False) -> None:
    """Show text on a node and in the log. Without a server there is only the log."""
    log.log(logging.WARNING if warning else logging.INFO, "sd-debias: %s", text)
    server = _server()
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)


@contextmanager
def collected() -> Iterator[list[str]]:
    """Collects the core's warnings instead of printing them: a node shows them."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    found += [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def place(path) -> str:
    """A path as users know it: from ComfyUI's folder on, where it lies in there."""
    import folder_paths
    base = Path(folder_paths.models_dir).parent
    return Path(path).relative_to(base).as_posix() if Path(path).is_relative_to(base) else str(path)


def record(metadata: dict) -> None:
    """Add what guidance did to the metadata of the images that the running prompt saves."""
    from comfy_execution.utils import get_executing_context
    context = get_executing_context()
    prompt = getattr(context, "prompt_id", getattr(context, "task_id", None))  # the latter in a fork
    if prompt in _records:
        _records[prompt].append(metadata)


def open_record(json_data: dict) -> dict:
    """Prompt handler of the server: gives a prompt with nodes of ours an empty record in its images' metadata.

    A node cannot do this while it runs: a cached node does not run, and images would go without their record.
    """
    prompt = json_data.get("prompt")
    if isinstance(prompt, dict) and any(str(node.get("class_type", "")).startswith("Debias")
                                        for node in prompt.values() if isinstance(node, dict)):
        entry = Record()
        info = json_data.setdefault("extra_data", {}).get("extra_pnginfo") or {}
        json_data["extra_data"]["extra_pnginfo"] = {**info, METADATA: entry}
        _records[str(json_data.setdefault("prompt_id", str(uuid.uuid4())))] = entry
        while len(_records) > _KEPT:
            _records.pop(next(iter(_records)))
    return json_data


def register() -> None:
    """Called once, when the pack is loaded."""
    server = _server()
    if server is not None:
        server.add_on_prompt_handler(open_record)


def _server():
    """ComfyUI's server, where one runs."""
    module = sys.modules.get("server")
    return module and getattr(module.PromptServer, "instance", None)
