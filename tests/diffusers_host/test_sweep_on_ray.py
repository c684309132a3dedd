"""Sweeps on Ray: whatever dies, fails or is stopped there, the labels are those of a sweep that nothing disturbed."""
import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import painted_host
import psutil
import pytest
from painted_host import (
    PLAN, DiskFull, Dies, Fails, NotFinite, Several, Stuck, Together, jobs_of, labels_of, open_amid, open_painter,
    open_two_models)
from sd_debias.core.errors import DebiasError
from sd_debias.diffusers_host.cli import sweeping
from sd_debias.diffusers_host.cli.main import main
from sd_debias.diffusers_host.sweep import driver, on_ray
from sd_debias.diffusers_host.sweep.driver import Driver
from sd_debias.diffusers_host.sweep.engine import Here
from sd_debias.diffusers_host.sweep.journal import lines
from sd_debias.diffusers_host.sweep.on_ray import OnRay

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(os.name == "nt", reason="Ray is in beta there, and the signals are those of POSIX")]

ROOT = Path(__file__).resolve().parents[2]
JOBS = 5  # four teach the fifth
VERIFICATION = 1_000_000  # where its seeds begin
BATCHES = 10  # of the sweep of a command
PATIENCE = 180  # seconds, with which tests wait for what takes some on a machine that is at rest


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """Shells ignore it for what they start with `&`: these tests, and the commands that they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of one node with two CPU cores, to which this process is connected."""
    place = tmp_path_factory.mktemp("package") / "sd_debias"
    place.mkdir()
    for part in ("core", "demo_model", "diffusers_host", "profiles"):
        (place / part).symlink_to(ROOT / part)
    with pytest.MonkeyPatch.context() as patch:  # Ray's processes, and commands, have this environment
        patch.setenv("PYTHONPATH", os.pathsep.join([str(place.parent), str(Path(__file__).parent)]))
        for name, value in dict(RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE").items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        found = cluster_utils.Cluster(True, head_node_args=dict(num_cpus=2, include_dashboard=False))
        on_ray.connect(found.address)
        yield found
        ray.shutdown()
        found.shutdown()


@pytest.fixture(scope="module")
def undisturbed():
    jobs = jobs_of(JOBS)
    Driver(jobs, Here(open_painter), record=lambda *_: None).run()
    assert all(job.finished and job.error is None for job in jobs)
    return labels_of(jobs)


class Swept:
    """A sweep on Ray that ran to its end; `by` counts the units of each worker, `said` are the warnings.

    quiet        seconds between two units, once there was one, after which it hangs
    when_warned  f(), called at every warning
    """

    def __init__(self, open_worker, workers=2, cpus=1.0, quiet=PATIENCE, when_warned=lambda: None, **more):
        self.by, self.said, jobs = Counter(), [], jobs_of(JOBS)
        until = time.monotonic() + PATIENCE

        def record(unit, found, worker):
            nonlocal until
            self.by[worker] += 1
            until = time.monotonic() + quiet

        def check_time():
            assert time.monotonic() < until, f"It hangs. It said: {self.said}"

        def warn(text):
            self.said.append(text)
            when_warned()

        engine = OnRay("painter", open_worker, workers, cpus)
        try:
            Driver(jobs, engine, record=record, warn=warn, say=check_time, **more).run()
        finally:
            engine.close()
        self.labels = labels_of(jobs)

    def warned(self, *words) -> bool:
        """Is this all that it said?"""
        return len(self.said) == 1 and all(word in self.said[0] for word in words)


def once(folder, name, kind=Dies, **more):
    (folder / name).mkdir()
    return kind(folder / name, **more)


# --- what dies -------------------------------------------------------------------------------------------------------

def test_two_workers_on_ray_give_the_labels_and_pictures_of_one_here(cluster, undisturbed, tmp_path):
    found = Swept(partial(open_painter, trouble=once(tmp_path, "both", Together, processes=2),
                          pictures=str(tmp_path / "pictures")))
    assert found.labels == undisturbed and len(found.by) == 2 and not found.said
    kept = [path.name for path in (tmp_path / "pictures" / "painter" / "4").iterdir()]
    assert len(kept) == sum(len(seeds) for _, seeds, *_ in undisturbed[4][2])


def test_workers_killed_while_opening_and_in_every_phase_change_no_label(cluster, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "RESTARTS", 4)  # all four deaths may be the same worker's
    opening, *phases = (once(tmp_path, name, place=place) for name, place in (
        ("opening", 0), ("audit", 0), ("round", PLAN.images), ("verification", VERIFICATION)))
    found = Swept(partial(open_amid, opening, trouble=Several(*phases)))
    assert found.labels == undisturbed
    assert all(death.happened for death in (opening, *phases))
    assert not found.said  # Ray opened them again


def test_what_a_worker_cannot_do_that_dies_too_often_is_done_by_another(cluster, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "RESTARTS", 1)
    last = PLAN.images - PLAN.batch_size  # one batch, so that the same worker is killed each time
    death = once(tmp_path, "death", prompt="number 0", place=last, times=2)
    found = Swept(partial(open_painter, trouble=death))
    assert found.labels == undisturbed and death.happened
    assert found.warned("was lost")


def killed_when_stuck(cluster, stuck, *nodes):
    """Kill the node whose worker is stuck, as soon as it is; returns the thread that does."""
    def kill():
        wait(lambda: stuck.node)
        cluster.remove_node(*[node for node in nodes if node.node_id == stuck.node], allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    return killer


def test_a_sweep_goes_on_without_a_node_that_was_killed_with_its_worker(cluster, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "PATIENCE", 2.0)
    node = cluster.add_node(num_cpus=2)
    stuck = Stuck(tmp_path, node.node_id)
    killer = killed_when_stuck(cluster, stuck, node)
    found = Swept(partial(open_painter, trouble=Several(once(tmp_path, "both", Together, processes=2), stuck)), cpus=2)
    killer.join(PATIENCE)
    assert found.labels == undisturbed and stuck.happened and len(found.by) == 1


def test_after_a_node_was_killed_what_failed_once_is_tried_again(cluster, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "PATIENCE", 2.0)
    node = cluster.add_node(num_cpus=2)
    stuck, failure = Stuck(tmp_path, node.node_id), once(tmp_path, "failure", Fails, place=VERIFICATION)
    killer = killed_when_stuck(cluster, stuck, node)
    both = once(tmp_path, "both", Together, processes=2)
    found = Swept(partial(open_painter, trouble=Several(both, stuck, failure)), cpus=2, quiet=10)
    killer.join(PATIENCE)
    assert found.labels == undisturbed and stuck.happened and failure.happened


def test_a_worker_whose_node_was_killed_begins_again_on_another_node(cluster, undisturbed, tmp_path):
    nodes = [cluster.add_node(num_cpus=3) for _ in range(2)]
    stuck = Stuck(tmp_path, *[node.node_id for node in nodes])
    killer = killed_when_stuck(cluster, stuck, *nodes)
    try:
        found = Swept(partial(open_painter, trouble=stuck), workers=1, cpus=3)
    finally:
        killer.join(PATIENCE)
        cluster.remove_node(next(node for node in nodes if node.node_id != stuck.node))
    assert found.labels == undisturbed and not found.said


def test_what_failed_once_is_tried_again_while_the_other_worker_waits_for_a_place(cluster, undisturbed, tmp_path,
                                                                                monkeypatch):
    monkeypatch.setattr(driver, "PATIENCE", 1.0)
    failure = once(tmp_path, "failure", Fails, place=PLAN.images)
    found = Swept(partial(open_painter, trouble=failure), cpus=2, quiet=6)  # there are no cores for the second
    assert found.labels == undisturbed and failure.happened


# --- what fails ------------------------------------------------------------------------------------------------------

def test_a_worker_whose_pictures_are_not_finite_is_put_aside(cluster, undisturbed, tmp_path):
    found = Swept(partial(open_painter, trouble=NotFinite(tmp_path)))
    assert found.labels == undisturbed
    assert found.warned("no picture is finite", "Check its machine")


def test_a_worker_with_a_full_disk_is_put_aside(cluster, undisturbed, tmp_path):
    found = Swept(partial(open_painter, trouble=DiskFull(tmp_path)))
    assert found.labels == undisturbed
    assert found.warned("gets no more work", "No space left on device")


def test_where_no_worker_can_keep_pictures_the_sweep_says_why(cluster, tmp_path):
    (tmp_path / "a file").write_text("no folder")
    with pytest.raises(DebiasError, match="No worker is left.*Not a directory.*run the same command again"):
        Swept(partial(open_painter, pictures=str(tmp_path / "a file" / "pictures")), workers=1)


def test_a_worker_of_another_model_is_refused(cluster, undisturbed, tmp_path):
    refused = tmp_path / "refused"
    found = Swept(partial(open_two_models, tmp_path, refused), facts=open_painter().facts, when_warned=refused.touch)
    assert found.labels == undisturbed and len(found.by) == 1
    assert found.warned("is refused: its model is another model, but this sweep's is painter")


def test_workers_of_another_version_are_all_refused_in_a_sentence(cluster, monkeypatch):
    monkeypatch.setattr(on_ray, "VERSION", "999")
    with pytest.raises(DebiasError, match="No worker is left.*is installed there, but the driver has 999"):
        Swept(open_painter, workers=1)


def test_a_worker_that_cannot_open_its_model_says_why(cluster, tmp_path):
    with pytest.raises(DebiasError, match="No worker is left.*illegal memory access"):
        Swept(partial(open_amid, Fails(tmp_path)), workers=1)


# --- the command -----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.csv"
    file.write_text("subject\ndoctor\nnurse\nclerk\nfarmer\njudge\n")
    return ["sweep", "--prompts", str(file), "--audit", "--count", "12", "--batch-size", "6", "--steps", "4"]


@pytest.fixture
def asked(prompts, tmp_path, monkeypatch):
    """A sweep of the painter, but its folder and engine; and the table of an undisturbed one."""
    monkeypatch.setattr(sweeping, "opened", partial(painted_host.opened, seconds=0))
    assert main([*prompts, "--out", str(tmp_path / "undisturbed")]) == 0
    monkeypatch.setattr(sweeping, "opened", painted_host.opened)
    return prompts, table(tmp_path / "undisturbed")


def table(folder):
    return list(csv.DictReader((folder / "demo" / "labels.csv").open(encoding="utf-8", newline="")))


def journal_of(folder):
    return folder / "journals" / "1-of-1.jsonl"


def units(folder):
    """Of each batch in the journal its place, again where it is there again."""
    if not journal_of(folder).exists():
        return []
    return [(*line["unit"], batch["first"]) for line in lines(journal_of(folder)) if "unit" in line
            for batch in line["batches"]]


@pytest.fixture
def command(tmp_path):
    """Start a command in a process of its own, which ends with the test, and wait until something is so."""
    started = []

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


def test_a_killed_sweep_goes_on_where_it_was_and_a_second_one_beside_it_is_refused(cluster, asked, command, tmp_path,
                                                                                capsys):
    arguments, expected = asked
    out = tmp_path / "out"
    arguments = [*arguments, "--out", str(out), "--ray", cluster.address, "--workers", "1"]
    first = command(arguments, lambda own: units(out))
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "Another sweep is working on this part" in said and len(said.splitlines()) == 1
    before = len(units(out))
    wait(lambda: len(units(out)) > before)  # the first goes on
    first.send_signal(signal.SIGKILL)
    assert first.wait(PATIENCE) == -signal.SIGKILL
    before = journal_of(out).read_bytes()
    assert len(units(out)) < BATCHES

    assert main(arguments) == 0
    assert journal_of(out).read_bytes().startswith(before)
    assert len(units(out)) == len(set(units(out))) == BATCHES
    assert table(out) == expected


def test_ctrl_c_stops_a_sweep_with_a_sentence_leaves_no_process_behind_and_the_sweep_goes_on(cluster, asked, command,
                                                                                           tmp_path):
    arguments, expected = asked
    out = tmp_path / "out"
    arguments = [*arguments, "--out", str(out), "--ray", "--workers", "1"]
    own = command(arguments, lambda own: units(out))
    begun = family(own.pid)
    assert any("raylet" in process.name() for process in begun)
    os.killpg(own.pid, signal.SIGINT)  # as a terminal does
    assert own.wait(PATIENCE) == 130, own.said()
    assert "Stopped." in own.said() and "run the same command again to continue" in own.said()
    assert "Traceback" not in own.said()
    assert not psutil.wait_procs(begun, timeout=30)[1]

    assert 0 < len(units(out)) < BATCHES
    assert main(arguments) == 0  # on the cluster that this process is connected to
    assert len(units(out)) == len(set(units(out))) == BATCHES
    assert table(out) == expected


def test_sigterm_stops_a_sweep_as_ctrl_c_does(cluster, asked, command, tmp_path):
    arguments, _ = asked
    own = command([*arguments, "--out", str(tmp_path / "out"), "--ray", cluster.address, "--workers", "1"],
                  lambda own: "0 of " in own.said())
    own.send_signal(signal.SIGTERM)
    assert own.wait(PATIENCE) == 143, own.said()
    assert "run the same command again to continue" in own.said()


def test_ctrl_c_while_ray_begins_waits_until_it_has_begun(monkeypatch):
    begun = []

    def init(**_):
        signal.raise_signal(signal.SIGINT)
        begun.append(True)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(KeyboardInterrupt):
        on_ray.connect(None)
    assert begun


@pytest.mark.parametrize("mode,hint", [(None, True), ("token", False)])
def test_a_cluster_that_asks_for_a_token_is_refused_with_what_to_set(monkeypatch, mode, hint):
    monkeypatch.setenv("RAY_AUTH_MODE", mode or "")

    def init(**_):
        raise ConnectionError("Failed to connect to Ray cluster at 127.0.0.1:6379")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(DebiasError) as refused:
        on_ray.connect("127.0.0.1:6379")
    assert ("set RAY_AUTH_MODE=token" in str(refused.value)) == hint


def test_with_json_every_line_is_json_also_where_a_worker_is_killed(cluster, asked, tmp_path, capsys):
    arguments, expected = asked
    out = tmp_path / "out"
    capsys.readouterr()
    wait(lambda: not painting())  # workers of other tests

    def kill():
        wait(lambda: units(out) and painting())
        painting()[0].kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert main([*arguments, "--out", str(out), "--ray", cluster.address, "--workers", "1", "--json"]) == 0
    killer.join()
    assert table(out) == expected
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def painting():
    """Ray's processes of this one's cluster that are at work on pictures of a prompt."""
    return [process for process in family(os.getpid()) if "ray::a photo" in title(process)]


def title(process):
    """What a process calls itself, which macOS knows as its command alone."""
    try:
        return " ".join([process.name(), *process.cmdline()])
    except psutil.Error:  # it has ended
        return ""


def test_the_demo_model_on_ray_gives_the_labels_of_one_here(cluster, prompts, tmp_path):
    assert main([*prompts, "--out", str(tmp_path / "here")]) == 0
    assert main([*prompts, "--out", str(tmp_path / "ray"), "--ray", cluster.address, "--workers", "1"]) == 0
    assert table(tmp_path / "ray") == table(tmp_path / "here")
