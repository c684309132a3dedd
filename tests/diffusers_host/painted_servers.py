"""Doubles of ComfyUI's server and of a web UI's, as far as sweeps ask them; they measure with the painter."""
from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue

from painted_host import Painter
from sd_debias.core.sweep.unit import Worker
from sd_debias.core.sweep.wire import answered, read

TYPES = ("DebiasDemoModel", "DebiasClipClassifier", "DebiasSweepUnit", "CheckpointLoaderSimple")


class Server:
    """What both kinds share: jobs that are done one after the other, and a server that can die and come back.

    trouble, seconds, name  of the painter
    login    "user:password" that it wants
    version  that it says it has
    """

    def __init__(self, port=0, trouble=None, seconds=0.0, name="painter", login=None, version=None):
        self.host, self.login, self.version = Painter(seconds, trouble, name), login, version
        self.jobs, self.todo, self.asked, self.measured = {}, SimpleQueue(), [], 0
        self.cancelled = set()
        own = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                data = json.loads(self.rfile.read(length)) if length else None
                own.asked.append((self.command, self.path))
                wanted = own.login and f"Basic {base64.b64encode(own.login.encode()).decode()}"
                status, found = (401, {"detail": "Not authenticated"}) if wanted and \
                    self.headers.get("Authorization") != wanted else own.route(self.command, self.path, data)
                text = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        threading.Thread(target=self._work, daemon=True).start()

    def die(self):
        self.todo.put(None)
        self.server.shutdown()
        self.server.server_close()

    def start(self, asked) -> str:
        identity = uuid.uuid4().hex
        self.jobs[identity] = None
        self.todo.put((identity, asked))
        return identity

    def _work(self):
        while (job := self.todo.get()) is not None:
            identity, asked = job
            if identity in self.cancelled:
                continue
            try:
                recipe, unit = read(asked)
                found = answered(Worker(self.host, recipe), unit)
                if unit is None and self.version:
                    found["facts"]["software"] = self.version
                self.measured += unit is not None
                self.jobs[identity] = found, None
            except Exception as error:
                self.jobs[identity] = None, error

    def waiting(self):
        return [identity for identity, ended in self.jobs.items() if ended is None and identity not in self.cancelled]


class ComfyDouble(Server):
    node = "DebiasSweepUnit"  # "": the package is not there

    def route(self, method, path, data):
        if path.startswith("/object_info/"):
            return 200, {path.rpartition("/")[2]: {}} if self.node == path.rpartition("/")[2] else {}
        if path == "/prompt":
            graph = data["prompt"]
            strange = {own["class_type"] for own in graph.values()} - set(TYPES)
            if strange:
                return 400, {"error": {"message": "no such node", "details": ", ".join(strange)}, "node_errors": {}}
            (self.at, asked), = ((at, own["inputs"]["unit"]) for at, own in graph.items()
                                 if own["class_type"] == "DebiasSweepUnit")
            return 200, {"prompt_id": self.start(asked), "number": 1, "node_errors": {}}
        if path == "/history":
            for identity in data["delete"]:
                self.jobs.pop(identity, None)
            return 200, None
        if path.startswith("/history/"):
            identity = path.rpartition("/")[2]
            ended = self.jobs.get(identity)
            return 200, {} if ended is None else {identity: self.history(*ended)}
        if path == "/queue" and method == "GET":
            running, *pending = [[1, identity, {}, {}, []] for identity in self.waiting()] or [None]
            return 200, dict(queue_running=[running] if running else [], queue_pending=pending)
        if path in ("/queue", "/interrupt"):
            self.cancelled |= set(data.get("delete") or [data.get("prompt_id")])
            return 200, None
        return 404, None

    def history(self, found, error):
        if error is not None:
            said = dict(node_type="DebiasSweepUnit", exception_message=str(error))
            return dict(status=dict(status_str="error", messages=[["execution_error", said]]), outputs={})
        return dict(status=dict(status_str="success", messages=[]),
                    outputs={self.at: {"sd_debias_unit": [json.dumps(found)]}})


class ForkDouble(ComfyDouble):
    """The installable fork: its history holds texts, its queue objects. What it has in its cache, it gives only to a
    client with a name, and so does ComfyUI itself from the end of 2025 to the middle of 2026."""

    def __init__(self, *args, **given):
        self.cached, self.withheld = set(), set()
        super().__init__(*args, **given)

    def route(self, method, path, data):
        status, found = super().route(method, path, data)
        if path == "/prompt" and status == 200:
            asked = data["prompt"][self.at]["inputs"]["unit"]
            if asked in self.cached and "client_id" not in data:
                self.withheld.add(found["prompt_id"])
            self.cached.add(asked)
        if path == "/queue" and method == "GET":
            found = {part: [dict(prompt_id=own[1]) for own in items] for part, items in found.items()}
        if path.startswith("/history/"):
            for identity, ended in found.items():
                ended["status"]["messages"] = ["execution_start", *(
                    f"{kind}: {about['exception_message']}" for kind, about in ended["status"]["messages"])]
                ended["outputs"] = {} if identity in self.withheld else ended["outputs"]
        return status, found


class WebDouble(Server):
    def route(self, method, path, data):
        if path == "/sd-debias/v1/profiles":
            return 200, []
        if path == "/sd-debias/v1/measure":
            if self.waiting():
                return 409, {"detail": "The audit is running."}
            self.request = {name: value for name, value in data.items() if name != "sweep"}
            return 202, self.state(self.start(data["sweep"]))
        if path.startswith("/sd-debias/v1/jobs/"):
            identity = path.rpartition("/")[2]
            if identity not in self.jobs:
                return 404, {"detail": "There is no job."}
            if method == "DELETE":
                self.cancelled.add(identity)
            return 200, self.state(identity)
        return 404, {"detail": "Not Found"}

    def state(self, identity):
        found, error = self.jobs[identity] or (None, None)
        state = "cancelled" if identity in self.cancelled else "running" if self.jobs[identity] is None else \
            "failed" if error else "done"
        return dict(id=identity, state=state, error=error and str(error), result=found and [found])


class Bare(Server):
    """A server of something else."""

    def route(self, method, path, data):
        return 404, {"detail": "Not Found"}


def until(what, seconds=20.0):
    """Wait for something."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
