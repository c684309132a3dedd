"""A real host, started once for all tests and spoken to through its API.

Its installation is changed in five places: the extension is linked into extensions/; so are two others until the server
stops, one whose hooks fail where a test asks for that, and in Forge Neo one with a small Z-Image; the demo model is
exported to models/ (of A1111), and the tests' profiles are written.
"""
from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import types
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

ARGUMENTS = ["--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-version-check", "--api"]
OLDER = ["--do-not-download-clip", "--no-half"]  # which Forge Neo does not know


def is_neo(place: Path) -> bool:
    """Is Forge's installation one of Forge Neo?"""
    return (place / "backend" / "diffusion_engine" / "zimage.py").exists()


class Server:
    """A1111, Forge or reForge, whose installation the variable <NAME>_PATH names, e.g. FORGE_PATH.

    <NAME>_URL is a server that runs already. Else <NAME>_PYTHON is its Python, by default the one of the installation's
    venv, and <NAME>_ARGS are further arguments, such as --use-cpu all. <NAME>_CHECKPOINT is what it generates with, by
    default the demo model; Forge and reForge want a text encoder and a VAE of Stable Diffusion's real size.

    options are arguments of a server of its own, whatever <NAME>_URL says.
    """

    def __init__(self, name: str, root: Path, options: list[str] | None = None):
        place = Path(os.environ[f"{name}_PATH"])
        given = {key: os.environ.get(f"{name}_{key}") for key in ("URL", "PYTHON", "ARGS", "CHECKPOINT")}
        self.forge, self.place = name != "A1111", place
        self.profiles = place / "models" / "debias_profiles"
        link = place / "extensions" / "sd-debias"
        if not link.exists():
            link.symlink_to(root, target_is_directory=True)
        own = options is None and not given["URL"]
        names = ["failing", *["tiny"] * is_neo(place)] if own else []
        self.helpers = [place / "extensions" / name for name in names]
        for helper in self.helpers:
            if not helper.exists():
                helper.symlink_to(Path(__file__).with_name(helper.name).resolve(), target_is_directory=True)
        self.stub: Path | None = None
        self.bare = "--disable-extra-extensions" in (options or ())
        self.page = options is not None and "--nowebui" not in options
        self.process, self.python = None, given["PYTHON"] or str(place / "venv" / "bin" / "python")
        if given["URL"] and options is None:
            self.url = given["URL"].rstrip("/")
            return
        checkpoint = given["CHECKPOINT"] or self.exported("sd-debias-test")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.log = open(place / ("sd-debias-test.log" if options is None else "sd-debias-test-own.log"), "w")
        self.process = subprocess.Popen(
            [self.python, "launch.py", *ARGUMENTS, *([] if is_neo(place) else OLDER),
             *(["--nowebui"] if options is None else options), "--port", str(port),
             "--ckpt", str(checkpoint), *(given["ARGS"] or "").split()],
            cwd=place, stdout=self.log, stderr=subprocess.STDOUT)
        self.url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                self.ready()
                return
            except OSError:
                assert self.process.poll() is None, f"The host ended; see {self.log.name}"
                time.sleep(1)
        self.stop()
        raise AssertionError(f"The host did not start; see {self.log.name}")

    def ready(self) -> None:
        """Raises OSError until the host generates: beside a page, its API answers before it knows all scripts."""
        if "debias" not in self.call("/sdapi/v1/scripts")["txt2img"] and not self.bare:
            raise ConnectionError("no scripts yet")
        if self.page:  # its API is complete when the extensions' own addresses are there
            try:
                self.call("/sd-debias/report/none/report.html")
            except urllib.error.HTTPError as error:
                if json.load(error) == {"detail": "Not Found"}:
                    raise ConnectionError("no addresses yet") from error

    def exported(self, name: str, *weights: Path) -> Path:
        """The demo model, or one of other weights, in the host's folder of checkpoints."""
        from sd_debias.demo_model.export import export
        return export(self.place / "models" / "Stable-diffusion", name, *weights, overwrite=True)

    def loadable(self, name: str, **settings) -> dict:
        """Payload for a checkpoint that was written."""
        self.call("/sdapi/v1/refresh-checkpoints", {})
        return dict(override_settings=dict(sd_model_checkpoint=name, **settings))

    def checkpoint(self, name: str, unet=None, **settings) -> dict:
        """Payload for a variant of the demo model: another UNet of diffusers, other settings of its YAML."""
        from sd_debias.demo_model.model import FOLDER
        with tempfile.TemporaryDirectory() as folder:
            weights = shutil.copytree(FOLDER, Path(folder) / "weights")
            if unet is not None:
                unet.save_pretrained(weights / "unet")
            path = self.exported(name, weights)
        description = path.with_suffix(".yaml")
        document = json.loads(description.read_text())
        document["model"]["params"].update(settings)
        description.write_text(json.dumps(document))
        return self.loadable(name)

    def sdxl(self, name: str) -> dict:
        """Payload for a tiny model of SDXL's kind, which `sdxl.py` writes."""
        text = self.exported("sd-debias-test").with_name("sd-debias-test-text")
        subprocess.run([self.python, Path(__file__).with_name("sdxl.py"), self.place, name, text], check=True)
        # A live preview of SDXL downloads a model of its own.
        return self.loadable(name, live_previews_enable=False)

    def zimage(self) -> dict:
        """Payload for the small Z-Image of Forge Neo's, whose checkpoint file says nothing but its name. Skips the
        test where the extension that makes it is not there: on other hosts, and on a server that ran already."""
        if not any(helper.name == "tiny" for helper in self.helpers):
            pytest.skip("only a Forge Neo that the tests start has a small Z-Image")
        name = "sd-debias-tiny-zimage"
        self.stub = self.place / "models" / "Stable-diffusion" / f"{name}.safetensors"
        save_file({"weight": np.zeros(1, np.float32)}, self.stub)
        return self.loadable(name)

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(60)
            for helper in self.helpers:
                if helper.is_symlink():
                    helper.unlink()
            if self.stub:
                self.stub.unlink(missing_ok=True)

    def call(self, path: str, payload: dict | None = None):
        """Raises HTTPError, an OSError."""
        data = None if payload is None else json.dumps(payload).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=900) as answer:
            return json.load(answer)

    def post(self, tab: str, payload: dict):
        """As the double's: an object with images, infotexts, info. Raises ValueError for the host's errors."""
        payload = dict(payload, override_settings={"return_grid": False, **payload.get("override_settings", {})})
        if self.forge:
            # Its API fails without them: on any hires pass, and on any infotext, for which it cannot check lists.
            payload = {"styles": [], "hr_additional_modules": ["Use same choices"], **payload}
        if payload.get("hr_upscaler") == "Latent" and not self.call("/sdapi/v1/latent-upscale-modes"):  # Forge Neo's
            payload["hr_upscaler"] = "None"
        if payload.get("init_images"):
            payload["init_images"] = list(map(encoded, payload["init_images"]))
        if payload.get("mask") is not None:
            payload["mask"] = encoded(payload["mask"])
        try:
            answer = self.call(f"/sdapi/v1/{tab}", payload)
        except urllib.error.HTTPError as error:
            raise ValueError(error.read().decode()) from error
        info = json.loads(answer["info"])
        pictures = [Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB") for image in answer["images"]]
        return types.SimpleNamespace(images=pictures, infotexts=info["infotexts"], info=info["infotexts"][0])


_running: dict[str, Server] = {}


def running(name: str, root: Path) -> Server:
    """The server that all tests share."""
    if name not in _running:
        _running[name] = Server(name, root)
    return _running[name]


def stop() -> None:
    while _running:
        _running.popitem()[1].stop()


def encoded(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def arrays(result) -> list[np.ndarray]:
    return [np.asarray(image.convert("RGB")).astype(int) for image in result.images]
