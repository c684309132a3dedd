"""Is everything in the wheel that users need, and nothing else?

    python .github/check_wheel.py dist
"""
import sys
import zipfile
from pathlib import Path

NEEDED = (
    "sd_debias/core/py.typed", "sd_debias/core/report/page.html", "sd_debias/profiles/demo-gender.json",
    "sd_debias/demo_model/weights/model_index.json", "sd_debias/demo_model/weights/tokenizer/vocab.json",
    "sd_debias/diffusers_host/cli/main.py", "sd_debias/diffusers_host/sweep/suites/demo-20.csv",
    "sd_debias/nodes/__init__.py", "sd_debias/webui_extension/__init__.py",
)
WEIGHTS = ("unet", "vae", "text_encoder", "classifier")  # each with a file of safetensors
UNWANTED = ("benchmarks", "demo_training", "tests", "docs", "install.py", "conftest.py", ".pt", ".ckpt", ".bin",
            "artwork.png")

wheel, = Path(sys.argv[1]).glob("*.whl")
names = zipfile.ZipFile(wheel).namelist()
missing = [name for name in NEEDED if name not in names]
missing += [f"weights of {part}" for part in WEIGHTS
            if not any(name.startswith(f"sd_debias/demo_model/weights/{part}/") and name.endswith(".safetensors")
                       for name in names)]
found = [name for name in names if any(part in UNWANTED for part in Path(name).parts) or name.endswith(UNWANTED)]
outside = [name for name in names if not name.startswith(("sd_debias/", "sd_debias-"))]
for what, list_ in (("missing", missing), ("unwanted", found), ("outside of the package", outside)):
    if list_:
        print(f"{wheel.name}: {what}: {', '.join(list_)}")
print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size >> 20} MB")
sys.exit(bool(missing or found or outside))
