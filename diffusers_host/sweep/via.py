"""A sweep's engine over servers that run already: ComfyUI, A1111 and Forge with this package, by their own APIs.

One thread a server gives it units and asks for their answers. Labels come back, not pictures. A server that nobody
reaches any more is lost, and used again once it answers.
"""
from __future__ import annotations

import http.client
import json
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any
from urllib.parse import quote

from ...core.errors import DebiasError, quoted, short
from ...core.sweep.unit import Recipe, Unit
from ...core.sweep.wire import question
from ...core.version import VERSION
from ...demo_model.model import CFG, STEPS
from .address import Address
from .engine import Answer
from .workflow import EXPORT, SWEEP, Workflow, demo_workflow

WAITS = (1.0, 2.0, 4.0, 8.0, 15.0)  # seconds before each further try to reach a server
AGAIN = 15.0          # seconds between looks whether a lost server is back
CONNECT, READ = 10.0, 60.0  # seconds that a server may take
LARGEST = 64 << 20    # bytes of an answer
POLL = 0.1, 2.0       # seconds between two looks at a unit, at least and at most: a twentieth of what it took so far
LOOK_AFTER = 30.0     # seconds after which a server is asked whether it still knows of a unit
PREFIX = "/sd-debias/v1"
DEMO = dict(steps=STEPS, cfg=CFG, width=64, height=64)
OURS = "sd_debias_unit"  # the node's output
CLIENT = "sd-debias sweep"  # without a client's name, some ComfyUIs tell nothing of what they have in their cache
KINDS = {"ComfyUI": "a ComfyUI", "web UI": "a web UI"}


@dataclass(frozen=True)
class Wish:
    """The model and settings that servers use.

    model     "demo", or, of web UIs, a checkpoint's name there
    workflow  of ComfyUI
    given     further options of the command line, by their names
    """
    model: str = "demo"
    workflow: Workflow | None = None
    given: dict = field(default_factory=dict)


class Unreachable(Exception):
    """The server does not answer."""


class Failed(Exception):
    """A server could not do what it was asked to."""


class _Server:
    """One server's API. Raises Unreachable; DebiasError where it wants another login."""

    def __init__(self, address: Address, waits: Sequence[float] = (), stop: Event | None = None):
        self.address, self.waits, self.stop, self.broken = address, waits, stop or Event(), 0

    def ask(self, method: str, path: str, data: dict | None = None) -> tuple[int, Any]:
        """(status, answer of JSON, or None); asked again where the connection fails."""
        for wait in (*self.waits, None):
            try:
                return self._ask(method, path, data)
            except (OSError, http.client.HTTPException) as error:
                if wait is None or self.stop.wait(wait):
                    raise Unreachable("the server does not answer "
                                      f"({short(str(error) or type(error).__name__)})") from error
                self.broken += 1
        raise AssertionError

    def tell(self, method: str, path: str, data: dict | None = None) -> None:
        """Asked once, whatever comes of it."""
        try:
            self._ask(method, path, data)
        except (OSError, http.client.HTTPException, DebiasError):
            pass

    def _ask(self, method: str, path: str, data: dict | None) -> tuple[int, Any]:
        own = self.address
        kind = http.client.HTTPSConnection if own.scheme == "https" else http.client.HTTPConnection
        connection = kind(own.host, own.port, timeout=CONNECT)
        try:
            connection.connect()
            connection.sock.settimeout(READ)
            connection.request(method, own.path + path, None if data is None else json.dumps(data).encode(),
                               {"Content-Type": "application/json", "Connection": "close", **own.headers})
            response = connection.getresponse()
            status, text = response.status, response.read(LARGEST + 1)
        finally:
            connection.close()
        if status in (502, 503, 504):  # what stands before a server that is being started
            raise OSError(f"status {status}")
        if status in (401, 403):
            raise DebiasError("it needs a user and a password: give them as --via http://USER:PASSWORD@HOST:PORT"
                              if own.login is None else "it refuses this user or password")
        try:
            return status, json.loads(text) if len(text) <= LARGEST else None
        except ValueError:
            return status, None


# --- the two kinds of servers ----------------------------------------------------------------------------------------

class Comfy:
    """A ComfyUI with the node Debias Sweep Unit."""
    kind, at_once = "ComfyUI", 2  # while one unit is measured, the next one is queued

    def __init__(self, server: _Server, recipe: Recipe, wish: Wish):
        self.server, self.recipe, self.asked = server, recipe, {}  # type: ignore[var-annotated]
        self.workflow = wish.workflow or self._demo(wish)

    @staticmethod
    def _demo(wish: Wish) -> Workflow:
        if wish.model != "demo":
            raise DebiasError(f"on a ComfyUI, the model {quoted(wish.model)} comes from a workflow. {EXPORT}")
        idle = [f"--{name}" for name in ("classifier", "look", "detector", "sampler") if wish.given.get(name)]
        if idle:
            raise DebiasError(f"it is a ComfyUI, where {' and '.join(idle)} is part of a workflow. {EXPORT}")
        return demo_workflow({**DEMO, **wish.given})

    def begin(self, unit: Unit | None) -> str:
        text = json.dumps(question(self.recipe, unit))
        status, answer = self.server.ask("POST", "/prompt", dict(prompt=self.workflow.asking(text), client_id=CLIENT))
        if status != 200 or not isinstance(answer, dict) or "prompt_id" not in answer:
            raise Failed(f"it refuses the workflow: {_refusal(answer, status)}")
        self.asked[answer["prompt_id"]] = time.monotonic(), self.server.broken
        return answer["prompt_id"]

    def look(self, ticket: str) -> dict | None:
        found = self._history(ticket)
        if found is None and self._forgotten(ticket):
            found = self._history(ticket)  # done just now
            if found is None:
                raise Failed("it lost this unit; perhaps it was restarted, or its queue cleared")
        if found is None:
            return None
        self.asked.pop(ticket, None)
        self.server.tell("POST", "/history", dict(delete=[ticket]))
        for kind, about in map(_message, (found.get("status") or {}).get("messages") or ()):
            if kind == "execution_error":
                said = " ".join(str(about.get("exception_message")).split())
                raise Failed(short(f"{about['node_type']}: {said}" if "node_type" in about else said))
            if kind == "execution_interrupted":
                raise Failed("it was cancelled there")
        try:
            return json.loads(found["outputs"][self.workflow.node][OURS][0])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Failed("it ended without a result") from error

    def _history(self, ticket: str) -> dict | None:
        _, answer = self.server.ask("GET", f"/history/{quote(ticket)}")
        return answer.get(ticket) if isinstance(answer, dict) else None

    def _forgotten(self, ticket: str) -> bool:
        """Is it neither at work nor waiting? Asked for only now and then, and after the connection broke."""
        since, broken = self.asked.get(ticket, (0.0, 0))
        if time.monotonic() - since < LOOK_AFTER and broken == self.server.broken:
            return False
        self.asked[ticket] = time.monotonic(), self.server.broken
        return ticket not in [own for part in self._queue() for own in part]

    def _queue(self) -> tuple[list[str], list[str]]:
        """Ids of what is at work, and of what waits."""
        _, answer = self.server.ask("GET", "/queue")
        parts = answer if isinstance(answer, dict) else {}
        running, waiting = ([own["prompt_id"] if isinstance(own, dict) else own[1] for own in parts.get(name) or ()]
                            for name in ("queue_running", "queue_pending"))
        return running, waiting

    def cancel(self, tickets: Sequence[str]) -> None:
        self.server.tell("POST", "/queue", dict(delete=list(tickets)))
        for ticket in set(self._queue()[0]) & set(tickets):
            self.server.tell("POST", "/interrupt", dict(prompt_id=ticket))


class WebUi:
    """A1111 or Forge with the extension, started with --api."""
    kind, at_once = "web UI", 1

    def __init__(self, server: _Server, recipe: Recipe, wish: Wish):
        if wish.workflow is not None:
            raise DebiasError("it is a web UI, and --workflow is for ComfyUI: leave it out, and name the checkpoint "
                              "with --model")
        self.server, self.recipe = server, recipe
        given = {**DEMO, "sampler": "Euler", "classifier": ["demo"], **wish.given} if wish.model == "demo" else \
            wish.given
        names = dict(steps="steps", cfg="cfg_scale", width="width", height="height", sampler="sampler_name",
                     negative_prompt="negative_prompt")
        self.request = dict(
            txt2img=dict(seed=0, **{own: given[name] for name, own in names.items() if name in given}),
            model=wish.model, classifier="\n".join(given.get("classifier") or ()),
            **{name: given[name].replace("-", " ") for name in ("look", "detector") if name in given})

    def begin(self, unit: Unit | None) -> str | None:
        """None where another job is at work there."""
        status, answer = self.server.ask("POST", f"{PREFIX}/measure", {
            **self.request, "sweep": question(self.recipe, unit)})
        if status == 409:
            return None
        if status in (404, 405):
            raise DebiasError(f"the sd-debias there is too old for sweeps: install {VERSION}")
        if status != 202 or not isinstance(answer, dict):
            raise Failed(_detail(answer, status))
        return answer["id"]

    def look(self, ticket: str) -> dict | None:
        status, job = self.server.ask("GET", f"{PREFIX}/jobs/{quote(ticket)}")
        if status == 404:
            raise Failed("it lost this unit; perhaps it was restarted")
        if status != 200 or not isinstance(job, dict):
            raise Failed(_detail(job, status))
        if job["state"] in ("waiting", "running"):
            return None
        if job["state"] != "done":
            raise Failed(short(job.get("error") or "it was cancelled there"))
        return job["result"][0]

    def cancel(self, tickets: Sequence[str]) -> None:
        for ticket in tickets:
            self.server.tell("DELETE", f"{PREFIX}/jobs/{quote(ticket)}")


Client = Comfy | WebUi


def kind_of(server: _Server) -> type[Client]:
    """Which kind of server this is. Raises Unreachable, and DebiasError where it is none that can be used."""
    status, answer = server.ask("GET", f"/object_info/{SWEEP}")
    if status == 200 and isinstance(answer, dict):
        if SWEEP not in answer:
            raise DebiasError("this ComfyUI has no node Debias Sweep Unit: install this version of sd-debias into its "
                              "custom_nodes, and start it again")
        return Comfy
    status, answer = server.ask("GET", f"{PREFIX}/profiles")
    if status == 200 and isinstance(answer, list):
        return WebUi
    raise DebiasError("neither a ComfyUI nor a web UI with sd-debias answers there. Is the package installed, and the "
                      "web UI started with --api?")


def _message(of_history: str | Sequence) -> tuple[str, dict]:
    """(kind, what is said); the installable fork of ComfyUI gives a text, "kind: message"."""
    if not isinstance(of_history, str):
        return of_history[0], of_history[1]
    kind, _, said = of_history.partition(": ")
    return kind, dict(exception_message=said)


def _refusal(answer: object, status: int) -> str:
    """Why ComfyUI queues nothing."""
    if not isinstance(answer, dict) or "error" not in answer:
        return f"status {status}"
    wrong = [f"{node.get('class_type')}: {error.get('message')} ({error.get('details')})"
             for node in (answer.get("node_errors") or {}).values() for error in node.get("errors") or ()]
    error = answer["error"] if isinstance(answer["error"], dict) else dict(message=answer["error"])
    return short("; ".join(wrong) or f"{error.get('message')} {error.get('details') or ''}".strip())


def _detail(answer: object, status: int) -> str:
    detail = answer.get("detail") if isinstance(answer, dict) else None
    return short(detail) if detail else f"it answers with status {status}"


# --- the engine ------------------------------------------------------------------------------------------------------

class _Open:
    """A server that answers: the units that it is given, and how many it has."""

    def __init__(self, at_once: int):
        self.at_once, self.busy, self.todo = at_once, 0, SimpleQueue()  # type: ignore[var-annotated]


class Via:
    """Servers by their addresses.

    waits  seconds before each further try to reach a server; again: between looks whether a lost one is back

    Raises DebiasError where no server can be used, and where they are of two kinds.
    """

    def __init__(self, addresses: Sequence[Address], recipe: Recipe, wish: Wish, waits: Sequence[float] = WAITS,
                 again: float = AGAIN):
        names = [own.url for own in addresses]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DebiasError(f"Expected different servers, got {twice} twice. Give each one once.")
        _check_kinds(addresses)
        self._recipe, self._wish, self._waits, self._again = recipe, wish, tuple(waits), again
        self._alive, self._opened = set(names), {}  # type: ignore[var-annotated]
        self._came: SimpleQueue = SimpleQueue()
        self._stops = {name: Event() for name in names}
        self._threads = {own.url: Thread(target=self._serve, args=(own, self._stops[own.url]), daemon=True,
                                         name=f"sd-debias {own.url}") for own in addresses}
        for thread in self._threads.values():
            thread.start()

    # --- what the driver asks

    def workers(self) -> int:
        return len(self._alive)

    def free(self, avoid: frozenset[str] = frozenset()) -> int:
        return sum(max(own.at_once - own.busy, 0) for name, own in self._opened.items() if name not in avoid)

    def give(self, unit: Unit, avoid: frozenset[str] = frozenset()) -> str:
        name = min((name for name in self._opened if name not in avoid),
                   key=lambda name: self._opened[name].busy / self._opened[name].at_once)
        self._opened[name].busy += 1
        self._opened[name].todo.put(unit)
        return name

    def answers(self, seconds: float) -> list[Answer]:
        found = []
        try:
            found.append(self._took(*self._came.get(timeout=seconds)))
            while True:
                found.append(self._took(*self._came.get_nowait()))
        except Empty:
            return [answer for answer in found if answer is not None]

    def _took(self, answer: Answer, opened: _Open | None) -> Answer | None:
        name = answer.worker
        if self._stops[name].is_set():  # retired meanwhile
            return None
        if answer.lost:
            self._alive.discard(name)
            self._opened.pop(name, None)
        elif answer.unit is not None:
            if self._opened.get(name) is not opened:
                return None  # of before it was lost
            self._opened[name].busy -= 1
        elif opened is not None:
            self._alive.add(name)
            self._opened[name] = opened
        return answer

    def retire(self, worker: str) -> None:
        self._alive.discard(worker)
        self._stops[worker].set()
        opened = self._opened.pop(worker, None)
        if opened is not None:
            opened.todo.put(None)

    def close(self) -> None:
        for name in self._stops:
            self.retire(name)
        until = time.monotonic() + 5.0
        for thread in self._threads.values():
            thread.join(max(until - time.monotonic(), 0.0))

    # --- one server's thread

    def _serve(self, address: Address, stop: Event) -> None:
        name, gone = address.url, False
        while not stop.is_set():
            opened = None
            try:
                server = _Server(address, () if gone else self._waits, stop)
                client = kind_of(_Server(address, (), stop))(server, self._recipe, self._wish)
                facts = _facts(client, stop)
                server.waits, opened, gone = self._waits, _Open(client.at_once), False
                self._came.put((Answer(name, None, facts), opened))
                self._work(name, client, opened, stop)
            except Unreachable as error:
                if not gone:
                    self._came.put((Answer(name, None, error=f"{error}.", lost=True), None))
                gone = True
                stop.wait(self._again)
            except Exception as error:  # of an answer that has another form, too: this server is of no use
                said = str(error) if isinstance(error, (DebiasError, Failed)) else f"{type(error).__name__}: {error}"
                self._came.put((Answer(name, None, error=f"{said.rstrip('.')}."), None))
                return

    def _work(self, name: str, client: Client, opened: _Open, stop: Event) -> None:
        """Do units until there are no more. The first of them is at work, the others wait there."""
        own: deque[_Given] = deque()
        while True:
            try:
                unit = opened.todo.get(timeout=own[0].pause if own else None)
                if unit is not None:
                    own.append(_Given(unit))
            except Empty:
                pass
            if stop.is_set():
                _cancel(client, [given.ticket for given in own if given.ticket is not None])
                return
            for given in list(own):
                try:
                    if given.ticket is None:
                        given.ticket = client.begin(given.unit)
                        continue
                    found = client.look(given.ticket) if given is own[0] else None
                except (Failed, DebiasError) as error:
                    answer = Answer(name, given.unit, error=str(error))
                else:
                    if found is None:
                        continue
                    answer = Answer(name, given.unit, error=found["wrong"], wrong=True) if "wrong" in found else \
                        Answer(name, given.unit, found)
                own.remove(given)
                if own:
                    own[0].since = time.monotonic()
                self._came.put((answer, opened))


class _Given:
    """A unit that a server was given; ticket: None where it has not taken it yet."""

    def __init__(self, unit: Unit):
        self.unit, self.ticket, self.since = unit, None, time.monotonic()  # type: ignore[var-annotated]

    @property
    def pause(self) -> float:
        """Seconds until it is worth looking."""
        return _pause(time.monotonic() - self.since)


def _pause(seconds: float) -> float:
    return min(max(seconds / 20, POLL[0]), POLL[1])


def _facts(client: Client, stop: Event) -> dict:
    """What decides a server's labels; asked for once, which has it load its model."""
    began, ticket, found = time.monotonic(), None, None
    while found is None:
        ticket = ticket or client.begin(None)
        found = client.look(ticket) if ticket else None
        if found is None and stop.wait(_pause(time.monotonic() - began)):
            raise Unreachable("it is not needed any more")
    version = found["facts"].get("software")
    if version != VERSION:
        raise DebiasError(f"sd-debias {short(version)} is installed there, but {VERSION} here: install the same "
                          "version on both machines")
    return found["facts"]


def _cancel(client: Client, tickets: Sequence[str]) -> None:
    """Cancel units that are not needed any more."""
    client.server.waits = ()
    try:
        if tickets:
            client.cancel(tickets)
    except (Unreachable, DebiasError):
        pass


def _check_kinds(addresses: Sequence[Address]) -> None:
    """Raises DebiasError where no server can be used, and where they are of two kinds."""
    def known(own: Address) -> tuple[str, str]:
        try:
            return kind_of(_Server(own)).kind, ""
        except (Unreachable, DebiasError) as error:
            return "", str(error)

    with ThreadPoolExecutor(min(len(addresses), 32)) as pool:
        found = list(zip(addresses, pool.map(known, addresses), strict=True))
    kinds = {kind: own.url for own, (kind, _) in found if kind}
    if len(kinds) > 1:
        said = " and ".join(f"{url} is {KINDS[kind]}" for kind, url in kinds.items())
        raise DebiasError(f"Expected servers of one kind, got different ones: {said}. Their pictures differ, so use "
                          "one kind.")
    if not kinds:
        raise DebiasError(" ".join(f"{own.url} cannot be used: {why.rstrip('.')}." for own, (_, why) in found))
