"""Sweeps on Ray: whatever dies, fails or is stopped there, the labels are those of a sweep that nothing disturbed."""
import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import painted_host
import psutil
import pytest
from painted_host import (
    PLAN, Once, Several, Stuck, Together, dies, disk_full, fails, jobs_of, labels_of, not_finite,
    open_amid, open_once_another, open_painter)

from sd_debias.core.errors import DebiasError
from sd_debias.core.version import VERSION
from sd_debias.diffusers_host.cli import sweeping
from sd_debias.diffusers_host.cli.main import main
from sd_debias.diffusers_host.sweep import driver, on_ray
from sd_debias.diffusers_host.sweep.driver import Driver, Here
from sd_debias.diffusers_host.sweep.on_ray import OnRay, SweepActor
from sd_debias.diffusers_host.sweep.worker import Task

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Ray is in beta there; signals of POSIX")

JOBS = 3  # two teach the third
VERIFICATION = 1_000_000  # where its seeds begin
PICTURES = 48  # of the sweep of a command
PATIENCE = 180  # seconds, with which tests wait for what takes some on a machine that is at rest


@pytest.fixture(scope="module")
def cluster(environment_of_ray):
    """A cluster of one node with two CPU cores, to which this process is connected."""
    found = cluster_utils.Cluster(True, head_node_args=dict(num_cpus=2, include_dashboard=False))
    on_ray.connect(found.address)
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture(scope="module")
def undisturbed():
    jobs = jobs_of(JOBS)
    Driver(jobs, Here(open_painter), keep=lambda *_: None).run()
    assert all(job.finished and job.error is None for job in jobs)
    return labels_of(jobs)


class Swept:
    """A sweep on Ray that ran to its end; `said` are the warnings, `open` the workers that were not put
    aside.

    quiet  seconds between two answers, once there was one, after which it hangs
    """

    def __init__(self, open_worker, workers=2, cpus=1.0, quiet=PATIENCE, **more):
        self.said, jobs = [], jobs_of(JOBS)
        until = time.monotonic() + PATIENCE

        def keep(job, images):
            nonlocal until
            until = time.monotonic() + quiet

        def check_time():
            assert time.monotonic() < until, f"It hangs. It said: {self.said}"

        pool = OnRay("painter", open_worker, workers, cpus)
        pool.seconds = 0.0  # a batch a task
        try:
            Driver(jobs, pool, keep=keep, warn=self.said.append, say=check_time, **more).run()
            self.open = pool.workers()
        finally:
            pool.close()
        self.labels = labels_of(jobs)


# --- what dies -----------------------------------------------------------------------------------

@pytest.mark.slow
def test_two_workers_on_ray_give_the_labels_and_pictures_of_one_here(cluster, undisturbed, tmp_path):
    found = Swept(partial(open_painter, trouble=Together(tmp_path, processes=2),
                          pictures=str(tmp_path / "pictures")))
    assert found.labels == undisturbed and found.open == 2 and not found.said
    kept = [path.name for path in (tmp_path / "pictures" / "painter" / "2").iterdir()]
    assert len(kept) == sum(len(seeds) for _, seeds, *_ in undisturbed[2][2])


@pytest.mark.slow
def test_a_worker_killed_in_several_phases_changes_no_label(cluster, undisturbed, tmp_path):
    opening, *phases = (Once(tmp_path / name, dies, place=place) for name, place in (
        ("opening", 0), ("round", PLAN.images), ("verification", VERIFICATION)))
    found = Swept(partial(open_amid, opening, trouble=Several(*phases)), workers=1)
    assert found.labels == undisturbed
    assert all(death.happened for death in (opening, *phases))
    assert not found.said  # Ray opened it again


def killed_when_stuck(cluster, stuck, *nodes):
    """Kill the node whose worker is stuck, as soon as it is; returns the thread that does."""
    def kill():
        wait(lambda: stuck.node)
        cluster.remove_node(*[node for node in nodes if node.node_id == stuck.node], allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    return killer


@pytest.mark.slow
def test_without_a_killed_node_a_sweep_goes_on_and_tries_again_what_failed(
        cluster, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "PATIENCE", 2.0)
    node = cluster.add_node(num_cpus=2)
    stuck = Stuck(tmp_path, node.node_id)
    failure = Once(tmp_path / "failure", fails, place=VERIFICATION)
    killer = killed_when_stuck(cluster, stuck, node)
    troubles = Several(Together(tmp_path, processes=2), stuck, failure)
    found = Swept(partial(open_painter, trouble=troubles), cpus=2, quiet=60)
    killer.join(PATIENCE)
    assert found.labels == undisturbed
    assert stuck.happened and failure.happened


# --- what fails ----------------------------------------------------------------------------------

@pytest.mark.slow
def test_workers_that_cannot_do_it_change_no_label(cluster, undisturbed, tmp_path):
    once = [Once(tmp_path / what.__name__, what, for_good=True) for what in (disk_full, not_finite)]
    found = Swept(partial(open_once_another, tmp_path, trouble=Several(*once)), workers=4, cpus=0.5,
                  facts=open_painter().facts)
    assert found.labels == undisturbed and all(trouble.happened for trouble in once)
    assert any("its model is another model" in text for text in found.said), found.said


def test_a_worker_of_another_version_or_without_a_model_answers_with_its_reason(tmp_path):
    other = SweepActor("painter 1", open_painter, "999")
    broken = SweepActor("painter 1", partial(open_amid, Once(tmp_path, fails)), VERSION)
    task = Task(0, "a photo", 0, {})
    assert VERSION in other.facts().error and "999" in other.advance(task).error
    assert "illegal memory access" in broken.facts().error
    assert broken.advance(task).error == broken.facts().error


# --- connecting ----------------------------------------------------------------------------------

@pytest.fixture
def begins(monkeypatch):
    """f(init): Ray is not there yet, and begins so."""
    def begin(init):
        monkeypatch.setattr(ray, "init", init)
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
    return begin


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_sigterm_while_ray_begins_waits_until_it_has_begun(begins, number):
    begun, heard = [], []

    def init(**_):
        signal.raise_signal(number)
        begun.append(not heard)
        signal.signal(number, signal.SIG_IGN)  # as Ray takes it for itself

    begins(init)
    before = signal.signal(number, lambda *_: heard.append(number))
    try:
        on_ray.connect(None)
        signal.raise_signal(number)
        assert begun == [True] and heard == [number] * 2
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("mode, hint", [(None, True), ("token", False)])
def test_a_cluster_that_asks_for_a_token_says_what_to_set(begins, monkeypatch, mode, hint):
    def init(**_):
        raise ConnectionError("Failed to connect to Ray cluster at 127.0.0.1:6379")

    monkeypatch.setenv("RAY_AUTH_MODE", mode or "")
    begins(init)
    with pytest.raises(DebiasError, match="127.0.0.1:6379") as refused:
        on_ray.connect("127.0.0.1:6379")
    assert ("RAY_AUTH_MODE=token" in str(refused.value)) == hint


# --- the command ---------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.csv"
    file.write_text("subject\ndoctor\nnurse\n")
    return ["sweep", "--prompts", str(file), "--audit", "--count", "24", "--batch-size", "6",
            "--steps", "2"]


@pytest.fixture
def asked(prompts, tmp_path, monkeypatch):
    """A sweep of the painter, but its folder and engine; and the table of an undisturbed one."""
    monkeypatch.setattr(sweeping, "opened", partial(painted_host.opened, seconds=0))
    assert main([*prompts, "--out", str(tmp_path / "undisturbed")]) == 0
    monkeypatch.setattr(sweeping, "opened", painted_host.opened)
    return prompts, table(tmp_path / "undisturbed")


def table(folder):
    return list(csv.DictReader((folder / "demo" / "labels.csv").open(encoding="utf-8", newline="")))


def measured(folder):
    """How many images the states of a sweep hold."""
    return sum(r["labels"] and len(r["labels"][0]) for path in folder.glob("prompts/*.json")
               for r in json.loads(path.read_text("utf-8"))["state"]["rounds"])


@pytest.fixture
def command(tmp_path):
    """Start a command in a process of its own, which ends with the test, and wait until something is so."""
    started = []
    # Shells ignore it for what they start with `&`: these tests, and what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def start(arguments, until):
        with (tmp_path / "said").open("w") as file:
            own = subprocess.Popen([sys.executable, "-m", "painted_host", *arguments],
                                   stdout=file, stderr=file, start_new_session=True)
        own.said = (tmp_path / "said").read_text
        started.append(own)
        wait(lambda: own.poll() is not None or until(own))
        assert own.poll() is None, own.said()
        return own

    yield start
    signal.signal(signal.SIGINT, before)
    for own in started:
        for left in [*family(own.pid), own] if own.poll() is None else []:
            left.kill()
        own.wait()


def family(pid):
    return psutil.Process(pid).children(recursive=True)


def wait(until):
    end = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < end, "It takes too long."
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was_though_its_worker_is_killed_too(
        cluster, asked, command, tmp_path, capsys, refused):
    """A second sweep beside it is refused, and with --json every line is JSON."""
    arguments, expected = asked
    out = tmp_path / "out"
    arguments = [*arguments, "--out", str(out), "--ray", cluster.address, "--workers", "1"]
    first = command(arguments, lambda own: measured(out))
    refused(arguments, "Another sweep")
    first.send_signal(signal.SIGKILL)
    assert first.wait(PATIENCE) == -signal.SIGKILL
    assert 0 < measured(out) < PICTURES
    wait(lambda: not painting())  # its worker ends, too

    def kill():
        wait(painting)
        painting()[0].kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert main([*arguments, "--json"]) == 0
    killer.join()
    assert measured(out) == PICTURES and table(out) == expected
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def painting():
    """Ray's processes of this one's cluster that are at work on images of a prompt."""
    return [process for process in family(os.getpid()) if "ray::a photo" in title(process)]


def title(process):
    """What a process calls itself, which macOS knows as its command alone."""
    try:
        return " ".join([process.name(), *process.cmdline()])
    except psutil.Error:  # it has ended
        return ""


@pytest.mark.slow
def test_ctrl_c_stops_a_sweep_and_leaves_no_process_behind(cluster, asked, command, tmp_path):
    arguments, expected = asked
    out = tmp_path / "out"
    arguments = [*arguments, "--out", str(out), "--ray", "local", "--workers", "1"]
    own = command(arguments, lambda own: measured(out))
    begun = family(own.pid)
    assert any("raylet" in process.name() for process in begun)
    os.killpg(own.pid, signal.SIGINT)  # as a terminal does
    assert own.wait(PATIENCE) == 130, own.said()
    assert "Stopped." in own.said() and "run the same command again to continue" in own.said()
    assert "Traceback" not in own.said()
    assert not psutil.wait_procs(begun, timeout=30)[1]

    assert 0 < measured(out) < PICTURES
    assert main(arguments) == 0  # on the cluster that this process is connected to
    assert measured(out) == PICTURES and table(out) == expected
