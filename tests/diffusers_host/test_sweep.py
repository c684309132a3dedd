"""Sweeps: many prompts, whatever order their images come in."""
import csv
import errno
import json
import random
from collections import deque
from dataclasses import replace

import pytest
from painted_host import METHOD, PLAN, Painter, jobs_of, labels_of, open_painter

from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan, seeds_of
from sd_debias.core.study.host import advance
from sd_debias.core.errors import DebiasError
from sd_debias.core.judge.check import Check
from sd_debias.core.method.methods import METHODS
from sd_debias.core.profile.file import Profile
from sd_debias.diffusers_host.cli.main import main
from sd_debias.diffusers_host.cli.sweeping import _absolute
from sd_debias.diffusers_host.sweep import driver, result
from sd_debias.diffusers_host.sweep.driver import Answer, Driver, Here, answer
from sd_debias.diffusers_host.sweep.folder import Request, SweepFolder
from sd_debias.diffusers_host.sweep.job import GROUP, Wanted, groups
from sd_debias.diffusers_host.sweep.prompts import read_prompts, suites

pytestmark = pytest.mark.usefixtures("one_demo_model")
SWEEP = ["sweep", "--count", "6", "--batch-size", "6", "--steps", "2", "--audit"]
FULL = OSError(errno.ENOSPC, "No space left on device")


def run(jobs, pool, **more):
    more.setdefault("keep", lambda job, images: None)
    Driver(jobs, pool, **more).run()
    return labels_of(jobs)


@pytest.fixture(scope="module")
def undisturbed():
    return run(jobs_of(), Here(open_painter))


class Shuffled:
    """Several workers in this process whose answers come in any order, late, or never.

    openers  of workers that are no good painters, by number
    waiting  how many more wait for a place that they never get
    """
    seconds = 0.0

    def __init__(self, seed, workers=3, lose=0.0, openers=None, waiting=0):
        self.chance, self.lose, self.waiting = random.Random(seed), lose, waiting
        self.open = {f"worker {i}": (openers or {}).get(i, open_painter)() for i in range(workers)}
        self.hello, self.out = deque(self.open), {}

    def workers(self):
        return len(self.open) + self.waiting

    def free(self):
        return [name for name in self.open if name not in self.out and name not in self.hello]

    def give(self, worker, task):
        self.out[worker] = task

    def answers(self, seconds):
        if self.hello:
            name = self.hello.popleft()
            return [Answer(name, found=self.open[name].facts)]
        if not self.out:
            return []
        name = self.chance.choice(list(self.out))
        task = self.out.pop(name)
        if self.chance.random() < self.lose:
            return [Answer(name, task.job, error="lost on the way")]
        return [answer(self.open[name], name, task)]

    def retire(self, worker):
        del self.open[worker]
        self.out.pop(worker, None)

    def close(self):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_order_and_loss_change_no_label(undisturbed, seed):
    assert run(jobs_of(), Shuffled(seed, lose=0.05)) == undisturbed


def test_a_sweep_of_one_prompt_is_its_calibration():
    job = jobs_of(1)[0]
    run([job], Here(open_painter))
    prompt = job.wanted.prompt  # each has a block of seeds of its own
    plan = replace(PLAN, seed=PLAN.seed + seeds_of(prompt))
    alone = Calibration(prompt, (GENDER,), METHOD, plan)
    for _ in advance(Painter(), alone):
        pass
    assert [(r.kind, r.labels, r.steerings) for r in job.calibration.rounds] == [
        (r.kind, r.labels, r.steerings) for r in alone.rounds]


def painter(**more):
    """Opens a painter of this kind."""
    return lambda: open_painter(**more)


def troubled(error, *numbers):
    """Opens a painter that raises this error, or with None makes nothing finite, at all prompts
    or those of these numbers."""
    def trouble(prompt, seeds):
        if numbers and not any(f"number {n}" in prompt for n in numbers):
            return None
        if error is None:
            return [None] * len(seeds)
        raise error
    return painter(trouble=trouble)


@pytest.mark.slow
@pytest.mark.parametrize("opener, words", [
    (troubled(None), "is finite"), (painter(name="another model"), "refused: its model is"),
    pytest.param(troubled(FULL), "No space left", marks=pytest.mark.slow),
    pytest.param(troubled(DebiasError("CLIP gave NaN.")), "CLIP gave NaN", marks=pytest.mark.slow)],
    ids=["nothing finite", "another model", "full disk", "broken judge"])
def test_a_worker_that_alone_cannot_do_it_changes_no_label(undisturbed, opener, words):
    said = []
    pool = Shuffled(1, openers={1: opener})
    assert run(jobs_of(), pool, facts=open_painter().facts, warn=said.append) == undisturbed
    assert any("worker 1" in text and words in text for text in said), said


@pytest.mark.slow
def test_what_a_worker_is_at_when_it_is_put_aside_is_given_to_others(undisturbed):
    """The sweep waited for it for ever."""
    jobs, turns = jobs_of(), iter(range(10_000))
    for job in jobs:
        job.teachers = []
    pool, said = Shuffled(0, openers={1: troubled(None)}), []
    found = run(jobs, pool, facts=open_painter().facts, warn=said.append, say=lambda: next(turns))
    assert len(said) == 1 and found[:2] == undisturbed[:2] and not any(own[1] for own in found)


@pytest.mark.slow
@pytest.mark.parametrize("error, words, workers", [
    (RuntimeError("too long"), "too long", 1), (DebiasError("too long"), "too long", 3),
    pytest.param(RuntimeError("too long"), "too long", 3, marks=pytest.mark.slow),
    pytest.param(DebiasError("too long"), "too long", 1, marks=pytest.mark.slow),
    pytest.param(None, "is finite", 3, marks=pytest.mark.slow)])
def test_a_prompt_that_nobody_can_measure_fails_alone(undisturbed, error, words, workers):
    opener = troubled(error, 4)
    pool = Here(opener) if workers == 1 else Shuffled(5, openers={i: opener for i in range(3)})
    found = run(jobs_of(), pool)
    assert words in found[4][1] and [own[1] for own in found].count(None) == 5
    assert found[:4] == undisturbed[:4] and found[5] == undisturbed[5]


@pytest.mark.slow
def test_several_bad_prompts_in_a_row_put_no_worker_aside(undisturbed):
    opener = troubled(DebiasError("too long"), 2, 3, 4, 5)
    for pool in (Here(opener), Shuffled(1, openers={i: opener for i in range(3)})):
        found = run(jobs_of(), pool)
        assert found[:2] == undisturbed[:2] and [own[1] for own in found[2:]] == ["too long"] * 4


@pytest.mark.slow
def test_when_all_workers_fail_the_sweep_says_why_and_that_all_is_kept(tmp_path):
    (tmp_path / "a file").write_text("no folder")
    nowhere = painter(pictures=str(tmp_path / "a file" / "pictures"))
    full = {i: troubled(FULL) for i in range(3)}
    for pool, why in ((Shuffled(2, openers=full), "No space left"),
                      (Here(troubled(RuntimeError("out of memory"))), "out of memory"),
                      (Here(nowhere), "Not a directory")):
        with pytest.raises(DebiasError, match=f"{why}.*run the same command again"):
            run(jobs_of(), pool)


@pytest.mark.slow
def test_what_failed_once_is_tried_again_while_a_worker_waits_for_a_place(undisturbed, monkeypatch):
    monkeypatch.setattr(driver, "PATIENCE", 0.0)
    failures = [RuntimeError("an illegal memory access")]

    def trouble(prompt, seeds):
        if failures:
            raise failures.pop()

    pool = Shuffled(1, workers=1, openers={0: painter(trouble=trouble)}, waiting=1)
    turns = iter(range(100_000))  # so that it does not wait for ever
    assert run(jobs_of(), pool, say=lambda: next(turns)) == undisturbed and not failures


def request_for(jobs, **more):
    wanted = tuple(job.wanted for job in jobs)
    return Request(("painter",), wanted, ((GENDER,),), METHOD, PLAN, **more)


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_where_it_was_and_gives_the_same_figures(tmp_path, undisturbed):
    folder, left = SweepFolder(tmp_path, request_for(jobs_of())), []

    def keep(job, images):
        folder.keep(0, job)
        left.append(images)
        if len(left) == 40:
            raise Killed

    with pytest.raises(Killed):
        run(folder.jobs(0), Here(open_painter), keep=keep)
    for _ in range(2):  # the second time nothing is left to measure
        own = folder.jobs(0)
        assert run(own, Here(open_painter), keep=keep) == undisturbed
    assert sum(left) == sum(len(r.seeds) for job in own for r in job.calibration.rounds)
    assert [job.evaluations for job in own] == [sum(r.done for r in job.calibration.rounds) for job in own]


@pytest.mark.slow
def test_a_damaged_state_is_measured_again(tmp_path, undisturbed):
    folder = SweepFolder(tmp_path, request_for(jobs_of()))
    run(folder.jobs(0), Here(open_painter), keep=lambda job, images: folder.keep(0, job))
    whole = folder.state(0, 3).read_text(encoding="utf-8")
    for content in ('{"state": 1}', "{}", "not json", '{"state": {}, "thumbs": {}, "evaluations": 1}'):
        folder.state(0, 3).write_text(content, encoding="utf-8")
        assert [job.images > 0 for job in folder.jobs(0)] == [True] * 3 + [False] + [True] * 2
    own = folder.jobs(0)
    assert run(own, Here(open_painter), keep=lambda job, images: folder.keep(0, job)) == undisturbed
    assert json.loads(folder.state(0, 3).read_text(encoding="utf-8"))["thumbs"] == json.loads(whole)["thumbs"]


@pytest.mark.slow
def test_pictures_that_were_not_finite_are_made_again_by_the_next_run(tmp_path, undisturbed):
    folder = SweepFolder(tmp_path, request_for(jobs_of()))
    for opener in (troubled(None), open_painter):
        found = run(folder.jobs(0), Here(opener), keep=lambda job, images: job.error or folder.keep(0, job))
    assert found == undisturbed


def test_a_check_of_another_classifier_is_refused(tmp_path):
    check = Check.of(GENDER, [0] * 9 + [1] * 9, [0] * 9 + [1] * 9, judge="somebody else",
                     prompts=("a", "b"), by="prompts")
    folder = SweepFolder(tmp_path, request_for(jobs_of(), checks=(check,)))
    with pytest.raises(DebiasError, match="'somebody else'.*'red or not'"):
        folder.learn(0, open_painter().facts)


def test_groups_of_eight_are_taught_by_their_first_two():
    jobs = jobs_of(20)
    assert all(not job.teachers for job in jobs[:2] + jobs[8:10] + jobs[16:18])
    assert all(job.teachers == jobs[:2] for job in jobs[2:8])
    assert all(job.teachers == jobs[8:10] for job in jobs[10:16])
    assert [len(group) for group in groups(tuple(job.wanted for job in jobs), METHOD, PLAN)] == [GROUP, GROUP, 4]


@pytest.mark.slow
def test_what_is_learned_of_other_prompts_counts(undisturbed):
    taught, alone = jobs_of(), jobs_of()
    for job in alone:
        job.teachers = []
    assert run(taught, Shuffled(3)) == undisturbed
    learnt = [bool(job.calibration.solvers[0].elsewhere) for job in taught]
    assert learnt == [False, False, True, True, True, True]
    run(alone, Here(open_painter))
    assert any(own.calibration.expected(0) != other.calibration.expected(0)
               for own, other in zip(taught[2:], alone[2:], strict=True))


def test_prompts_that_state_a_group_are_audited_and_teach_nothing():
    wanted = [Wanted("a photo of a man", 0, states={"gender": "man"}), *(Wanted(f"number {i}", 0) for i in range(5))]
    assert groups(wanted, METHOD, PLAN) == [[0], [1, 2, 3, 4, 5]]
    audit = Plan(50, rounds=0, held_out=0)
    assert groups(wanted, METHOD, audit) == groups(wanted, METHODS["shift"], PLAN) == [[i] for i in range(6)]


@pytest.mark.slow
def test_labels_do_not_depend_on_the_size_of_a_task(undisturbed):
    pool = Here(open_painter)
    pool.seconds = 60.0
    assert run(jobs_of(), pool) == undisturbed


# --- prompts -------------------------------------------------------------------------------------

def test_every_suite_has_as_many_prompts_as_its_source_says():
    known = suites()
    assert {"winobias-36", "equisteer-8", "occupations-150", "explicit", "demo-20"} <= set(known)
    for name, about in known.items():
        rows = read_prompts(name)
        assert len(rows) == about["prompts"] and about["source"] and about["licence"]
        assert name != "explicit" or all(row.states for row in rows)


def test_files_of_prompts(tmp_path):
    (tmp_path / "a.txt").write_text("# mine\na photo of a doctor\n\nportrait, of a nurse\n", encoding="utf-8")
    listed = read_prompts(str(tmp_path / "a.txt"))
    assert [row.prompt for row in listed] == ["a photo of a doctor", "portrait, of a nurse"]
    assert [(row.prompt, row.subject) for row in read_prompts(str(tmp_path / "a.txt"), "a {subject}!")] == [
        ("a a photo of a doctor!", "a photo of a doctor"), ("a portrait, of a nurse!", "portrait, of a nurse")]
    (tmp_path / "b.csv").write_text("subject,template,targets,states\n"
                                    '"nurse, old",a {subject},gender = 70:30;age = 1:1:1,\n'
                                    "woman,,,gender=woman\n", encoding="utf-8")
    first, second = read_prompts(str(tmp_path / "b.csv"))
    assert (first.prompt, first.subject, first.targets) == ("a nurse, old", "nurse, old", (("gender", "70:30"),
                                                                                          ("age", "1:1:1")))
    assert second.prompt == "a photo of a woman" and second.states == (("gender", "woman"),)


@pytest.mark.parametrize("text, facts", [
    ("", "a.csv' holds no prompt"),
    ("prompt,subject\n,\n", "a.csv' holds no prompt"),
    ("a photo of a doctor\na  photo of a DOCTOR\n", "'a  photo of a DOCTOR'.* 1 and number 2"),
    ("subject,targets\ndoctor,half\n", "line 2 says half"),
    ("subject,template\ndoctor,a photo\n", "{subject}.*'a photo'"),
    ("subject\na,b\n", "Line 2 of .*a.csv' has 2 cells.*1"),
    ("\n".join(map(str, range(10_001))), "10,000.*10,001"),
])
def test_bad_files_of_prompts_are_refused_in_a_sentence(tmp_path, text, facts):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DebiasError, match=facts):
        read_prompts(str(tmp_path / "a.csv"))


# --- the command ---------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def swept(one_demo_model, tmp_path_factory):
    """A sweep of the demo model with few images, all at once; and its prompts."""
    root = tmp_path_factory.mktemp("sweep")
    (root / "prompts.csv").write_text("subject,states\ndoctor,\nnurse,\nwoman,gender=woman\n", encoding="utf-8")
    assert sweep(root, root / "all") == 0
    return root


def sweep(root, out, *more):
    prompts = str(root / "prompts.csv")
    return main([*SWEEP, "--prompts", prompts, "--out", str(out), "--show", "2", *more])


def table(folder):
    return sorted(csv.DictReader((folder / "demo" / "labels.csv").open(encoding="utf-8", newline="")),
                  key=lambda row: (row["prompt"], row["image"]))


def test_a_sweep_gives_labels_of_every_picture_and_a_card(swept):
    out = swept / "all"
    rows = table(out)
    assert len(rows) == 18 and {row["gender"] for row in rows} <= {"man", "woman", "unsure"}
    card = json.loads((out / "demo" / "card.json").read_text("utf-8"))
    (own,) = card["sets"]
    assert [row["prompt"] for row in own["rows"]] == ["a photo of a doctor", "a photo of a nurse"]
    assert own["explicit"][0]["states"] == {"gender": "woman"} and own["explicit"][0]["shown"]["gender"][1] == 6
    assert len(own["rows"][0]["pictures"]["before"]) == 2 and card["cost"]["images"] == 18
    assert "a photo of a nurse" in (out / "demo" / "card.html").read_text("utf-8")


def test_a_finished_sweep_measures_nothing_again_and_another_one_is_refused(swept, capsys):
    out = swept / "all"
    before = {path: path.stat().st_mtime_ns for path in (out / "prompts").iterdir()}
    with SweepFolder(out).held():
        assert sweep(swept, out) == 2
    assert "Another sweep" in capsys.readouterr().err
    assert sweep(swept, out) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "prompts").iterdir()} == before
    assert main([*SWEEP, "--prompts", "demo-20", "--out", str(out)]) == 2
    assert "its 3 prompts differ from these 20" in capsys.readouterr().err
    assert main(["sweep", "--status", str(out)]) == 0
    assert "demo: 3 of 3 prompts, 18 images" in capsys.readouterr().out


def test_an_edited_profile_or_table_is_not_overwritten(swept, tmp_path, capsys):
    own = tmp_path / "out" / "demo"
    own.mkdir(parents=True)
    (own / "labels.csv").write_text("mine", encoding="utf-8")
    assert sweep(swept, tmp_path / "out") == 2
    assert "labels.csv' exists already" in capsys.readouterr().err
    assert (own / "labels.csv").read_text(encoding="utf-8") == "mine"
    assert sweep(swept, tmp_path / "out", "--overwrite") == sweep(swept, tmp_path / "out") == 0
    (own / "card.md").write_text("mine", encoding="utf-8")
    assert sweep(swept, tmp_path / "out") == 2
    assert "card.md" in capsys.readouterr().err
    assert (own / "card.md").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("last", ["card.json", "card.md"])
def test_a_sweep_that_was_killed_while_it_wrote_its_results_writes_them_again(swept, tmp_path, monkeypatch, last):
    write = result.write_atomic

    def killed(path, content):
        write(path, content)
        if path.name == last:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(result, "write_atomic", killed)
        with pytest.raises(Killed):
            sweep(swept, tmp_path)
    assert sweep(swept, tmp_path) == 0
    own, undisturbed = (place / "demo" / "labels.csv" for place in (tmp_path, swept / "all"))
    assert own.read_bytes() == undisturbed.read_bytes()


def test_a_sweep_without_a_picture_may_be_asked_for_anew_and_speaks_json(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["sweep", "--model", "nowhere", "--judge", "x", "--prompts", "demo-20", "--out", out]) == 2
    (tmp_path / "a.txt").write_text("a photo of a doctor\n", encoding="utf-8")
    assert main([*SWEEP, "--prompts", str(tmp_path / "a.txt"), "--out", out, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["event"] == "progress" and events[-1]["models"][0]["images"] == 6


@pytest.mark.slow
def test_a_calibrating_sweep_saves_one_profile_that_generates(tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("subject\ndoctor\nnurse\n", encoding="utf-8")
    assert main(["sweep", "--prompts", str(prompts), "--out", str(tmp_path / "out"), "--count",
                 "6", "--rounds", "1", "--held-out", "6", "--batch-size", "6", "--steps", "2"]) == 0
    profile = Profile.load(tmp_path / "out" / "demo" / "out.json")
    assert [(e.prompt, e.subject) for e in profile.entries] == [("a photo of a doctor", "doctor"),
                                                               ("a photo of a nurse", "nurse")]
    assert profile.setting["model"] == "demo" and profile.classifier
    assert profile.entries[0].cost["evaluations"]
    assert main(["generate", "--prompt", "portrait of a doctor", "--steps", "2",
                 "--out", str(tmp_path / "pictures"), "--profile",
                 str(tmp_path / "out" / "demo" / "out.json")]) == 0


BOTH = ["--prompts", "demo-20", "--out", "x"]


@pytest.mark.parametrize("arguments, facts", [
    (["--prompts", "demo-20"], ["--out"]),
    (["--out", "x"], ["--prompts"]),
    (["--prompts", "nowhere.txt", "--out", "x"], ["'nowhere.txt'", "demo-20"]),
    ([*BOTH, "--workers", "2"], ["--workers", "--ray"]),
    ([*BOTH, "--audit", "--sure", "quick"], ["--sure", "--audit"]),
    ([*BOTH, "--model", "demo", "--model", "demo"], ["models", "('demo', 'demo')"]),
    ([*BOTH, "--set", "gender", "--attribute", "age"], ["--attribute", "--set"]),
    ([*BOTH, "--set", "gender", "--set", "gender = 1:1"], ["sets of attributes", "twice"]),
    ([*BOTH, "--look", "people"], ["--look people", "--audit", "--look largest-face"]),
    ([*BOTH, "--template", "a {subject}"], ["--template", "'demo-20'"]),
    ([*BOTH, "--allow-download"], ["--allow-download", "demo model"]),
    ([*BOTH, "--name", "card"], ["'card'", "--name"]),
    (["--status", "x", "--template", "a {subject}"], ["--template", "--status"]),
])
def test_bad_options_are_refused_in_a_sentence(tmp_path, monkeypatch, refused, arguments, facts):
    monkeypatch.chdir(tmp_path)
    refused(["sweep", *arguments], *facts)


def test_a_folder_called_demo_is_not_taken_for_the_demo_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "mine"):
        (tmp_path / name).mkdir()
    given = dict(model="demo", config="mine", judge=["demo", "age=mine", "gender=photo"], labels=None)
    assert _absolute(given) == dict(model="demo", config=str(tmp_path / "mine"), labels=None,
                                    judge=["demo", f"age={tmp_path / 'mine'}", "gender=photo"])
