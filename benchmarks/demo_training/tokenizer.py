"""CLIP's tokenizer (Radford et al. 2021, MIT) as a transformers folder, from its list of byte-pair merges.

    python -m demo_training.tokenizer bpe_simple_vocab_16e6.txt.gz FOLDER

The list comes with CLIP and with the package open_clip_torch.
"""
from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def build(merges_file: Path, folder: Path) -> None:
    """Write vocab.json (49,408 entries), merges.txt and the tokenizer's settings."""
    merges = gzip.decompress(Path(merges_file).read_bytes()).decode().split("\n")[1:49152 - 256 - 2 + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    # CLIP writes each byte as one visible character: printable ones as they are, the others from code point 256 up.
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(m.split()) for m in merges] + list(SPECIAL)
    settings = dict(tokenizer_class="CLIPTokenizer", model_max_length=77, do_lower_case=True, add_prefix_space=False,
                    bos_token=SPECIAL[0], eos_token=SPECIAL[1], unk_token=SPECIAL[1], pad_token=SPECIAL[1])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    build(*map(Path, sys.argv[1:3]))
