"""Profiles from a name, a file or the hub, and to the hub: only when asked."""
from __future__ import annotations

import json
from pathlib import Path

from ..core.errors import DebiasError, quoted, short
from ..core.profile.file import Profile, located
from ..core.report.card import card_of
from ..core.report.page import card_markdown

FILE = "profile.json"  # of a repository
HEAD = """---
license: other
tags: [sd-debias, fairness, text-to-image]
---

A profile of the package sd-debias. `sd_debias.load("{repo}", allow_download=True)` loads it.

"""


def load(source: str | Path, allow_download: bool = False) -> Profile:
    """A profile: its file, the name of one that comes with the package, or a repository of the hub.

    Without `allow_download` a repository is only looked for in the local cache. Raises DebiasError.
    """
    text = str(source)
    if "/" not in text or Path(text).expanduser().exists() or text.endswith(".json"):
        return Profile.load(located(text))
    from huggingface_hub import hf_hub_download
    try:
        return Profile.load(hf_hub_download(text, FILE, local_files_only=not allow_download))
    except DebiasError:
        raise
    except Exception as error:  # the hub raises every kind of error
        more = "" if allow_download else ", or add allow_download=True"
        raise DebiasError(f"There is no file {quoted(text)}, and no such repository in the cache "
                          f"({short(type(error).__name__)}). Check the name{more}.") from error


def push_to_hub(profile: Profile, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Upload a profile, with a model card made of its report, and return the repository's address.

    Raises what the hub raises.
    """
    from huggingface_hub import HfApi
    hub = HfApi(token=token)
    place = str(hub.create_repo(repo_id, private=private, exist_ok=True))
    files = {FILE: json.dumps(profile.to_dict(), indent=2),
             "README.md": HEAD.format(repo=repo_id) + card_markdown(card_of(profile, {}))}
    for name, text in files.items():
        hub.upload_file(path_or_fileobj=text.encode(), path_in_repo=name, repo_id=repo_id)
    return place
