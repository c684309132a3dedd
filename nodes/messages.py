"""Messages of a run: as text on a node, in the log, and in the metadata of saved images."""
from __future__ import annotations

import logging
import sys
import threading
import uuid
import warnings
from contextlib import contextmanager
from itertools import dropwhile
from pathlib import Path
from typing import Iterator, Sequence
from weakref import WeakValueDictionary

from . import panel
from .graph import making, upstream
from .passes import still_there, text_of

log = logging.getLogger("sd-debias")

METADATA = "debias"
# Records of prompts; each is the very list that SaveImage later writes. The host's queue and history hold them, so that
# each lives as long as its prompt, however many wait.
_records: WeakValueDictionary[str, Record] = WeakValueDictionary()
# What nodes recorded when they last ran, by `making`: taken from ComfyUI's cache, they do not run again.
_earlier: dict[tuple[str, str], list[dict]] = {}
# What nodes said last, by `making`: where a node is taken from the cache, its page is told again.
_said: dict[tuple[str, str], tuple[dict, list]] = {}
_KEPT = 200
_lock = threading.Lock()  # prompts are queued by one thread and run by another


class Record(list):
    """What guidance did in one prompt, node by node; at first what is known of nodes that ran before just as they stand
    in this prompt.
    """

    def __init__(self, prompt: dict):
        super().__init__()
        self.prompt = prompt
        self.did: dict[str, list[dict]] = {}
        self.ran: set[str] = set()
        self.needed = needed(prompt)
        for node in {node for node, _ in _earlier}:
            self.learn(node)

    def __deepcopy__(self, memo):
        return self  # a copy of the prompt, which some hosts run instead of it, holds the same record

    def learn(self, node: str) -> None:
        """Take over what a node did before, unless it has run in this prompt itself, or leads to no output."""
        if node in self.needed - self.ran and (made := making(self.prompt, node)) in _earlier:
            self.did[node] = _earlier[made] = _earlier.pop(made)  # still in use: the last to be forgotten
            self._write()

    def add(self, node: str, entry: dict) -> None:
        """What a node does in this prompt."""
        if node not in self.ran:
            self.ran.add(node)
            self.did[node] = []
        self.did[node].append(entry)
        self._write()

    def _write(self) -> None:
        self[:] = [entry for entries in self.did.values() for entry in entries]


def needed(prompt: dict) -> set[str]:
    """The nodes that lead to an output, which alone a host runs; none where it does not say which nodes are outputs."""
    known = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {})
    return set(upstream(prompt, [key for key, node in prompt.items() if isinstance(node, dict) and getattr(
        known.get(str(node.get("class_type"))), "OUTPUT_NODE", False)]))


def say(node_id: str | None, text: str, warning: bool = False, passes: Sequence = (), **shown) -> None:
    """Show text on a node and in the log, with what else its panel shows. Without a server there is only the log.

    passes  what it was made of, where it is of samplers that come later (passes.py)
    """
    log.log(logging.WARNING if warning else logging.INFO, "sd-debias: %s", text)
    server = _server()
    if server is not None and node_id is not None:
        _remember(str(node_id), text, warning, shown, passes)
    if server is not None and node_id is not None and not panel.send(server, node_id, text, warning, shown):
        text = text.replace("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}")  # some frontends show it as HTML
        server.send_progress_text(text, node_id)


def _remember(node: str, text: str, warning: bool, shown: dict, passes: Sequence) -> None:
    with _lock:
        now, _ = running()
        if now is None or "total" in shown:  # progress is nothing to repeat
            return
        key = making(now.prompt, node)
        _said.pop(key, None)
        _said[key] = dict(shown, text=text, warning=warning), list(passes)
        while len(_said) > _KEPT:
            _said.pop(next(iter(_said)))


def _again(prompt: dict, node: str) -> dict | None:
    """What a node said that stands in a prompt as it did; of passes, those whose samplers do too."""
    found, passes = _said.get(making(prompt, node), (None, []))
    there = still_there(passes, prompt)
    if found is None or len(there) == len(passes):
        return found
    return dict(found, text=text_of(there), warning=any(one.warning for one in there)) if there else None


@contextmanager
def collected() -> Iterator[list[str]]:
    """Collects the core's warnings instead of printing them: a node shows them."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    found += [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def place(path) -> str:
    """A path as users know it: from ComfyUI's folder on, where it lies in there. Its output, input and user folders may
    lie elsewhere. Panels are saved with workflows, which are shared: of any other path the name alone is said."""
    import folder_paths
    path, base = Path(path), Path(folder_paths.models_dir).parent
    if path.is_relative_to(base):
        return path.relative_to(base).as_posix()
    for name in ("output", "input", "user"):
        own = Path(getattr(folder_paths, f"get_{name}_directory")())
        if path.is_relative_to(own):
            return (Path(name) / path.relative_to(own)).as_posix()
    return path.name


def running() -> tuple[Record | None, str]:
    """The record of the prompt that runs, None where there is none, and the node that runs."""
    from comfy_execution.utils import get_executing_context
    context = get_executing_context()
    prompt = getattr(context, "prompt_id", getattr(context, "task_id", None))  # the latter in a fork
    return _records.get(str(prompt)), str(getattr(context, "node_id", None))


def record(metadata: dict) -> None:
    """Add what guidance did to the metadata of the images that the running prompt saves, with the node that runs."""
    with _lock:
        running_now, node = running()
        if running_now is None:
            return
        running_now.add(node, {**metadata, "Debias node": node})
        _earlier[making(running_now.prompt, node)] = running_now.did[node]
        while len(_earlier) > _KEPT:
            _earlier.pop(next(iter(_earlier)))
        for waiting in dropwhile(lambda one: one is not running_now, list(_records.values())):
            waiting.learn(node)


def open_record(json_data: dict) -> dict:
    """Prompt handler of the server: gives a prompt with nodes of ours a record in its images' metadata.

    A node cannot do this while it runs: a cached node does not run, and images would go without their record.
    """
    prompt = json_data.get("prompt")
    if isinstance(prompt, dict) and any(str(node.get("class_type", "")).startswith("Debias")
                                        for node in prompt.values() if isinstance(node, dict)):
        with _lock:
            entry = Record(prompt)
            _records[str(json_data.setdefault("prompt_id", str(uuid.uuid4())))] = entry
            again = [(node, found) for node in prompt if (found := _again(prompt, node))]
        for node, found in again:
            panel.again(_server(), json_data.get("client_id"), node, found)
        extra = json_data.get("extra_data")
        extra = json_data["extra_data"] = extra if isinstance(extra, dict) else {}
        info = extra.get("extra_pnginfo")
        extra["extra_pnginfo"] = {**(info if isinstance(info, dict) else {}), METADATA: entry}
    return json_data


def register() -> None:
    """Called once, when the pack is loaded."""
    server = _server()
    add = getattr(server, "add_on_prompt_handler", None)  # not every fork's server has it
    if add is not None:
        add(open_record)
        add(panel.without_panels)
    if hasattr(server, "routes"):
        panel.register(server)


def _server():
    """ComfyUI's server, where one runs."""
    module = sys.modules.get("server")
    return module and getattr(module.PromptServer, "instance", None)
