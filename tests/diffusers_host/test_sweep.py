"""Sweeps: many prompts, whatever order their pictures come in."""
import csv
import json
import random
from collections import deque

import pytest
from painted_host import METHOD, PLAN, Painter, jobs_of, labels_of, open_painter
from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.calibration.runner import advance
from sd_debias.core.errors import DebiasError
from sd_debias.core.judge.check import Check
from sd_debias.core.method.methods import METHODS
from sd_debias.core.profile.file import Profile
from sd_debias.diffusers_host.cli.main import main
from sd_debias.diffusers_host.sweep.driver import Driver
from sd_debias.diffusers_host.sweep.engine import Answer, Here, answer
from sd_debias.diffusers_host.sweep.folder import Asked, SweepFolder, shard_of, unit_line
from sd_debias.diffusers_host.sweep.job import GROUP, Wanted, groups
from sd_debias.diffusers_host.sweep.journal import Journal, lines
from sd_debias.diffusers_host.sweep.prompts import read_prompts, suites

SWEEP = ["sweep", "--count", "6", "--batch-size", "6", "--steps", "4", "--audit"]


def run(jobs, engine, **more):
    more.setdefault("record", lambda unit, found, worker: None)
    Driver(jobs, engine, **more).run()
    return labels_of(jobs)


@pytest.fixture(scope="module")
def undisturbed():
    return run(jobs_of(), Here(open_painter))


class Shuffled:
    """Several workers in this process whose answers come in any order, late, twice, or never."""

    def __init__(self, seed, workers=3, lose=0.0, double=0.0, openers=None):
        self.chance, self.lose, self.double = random.Random(seed), lose, double
        self.open = {f"worker {i}": (openers or {}).get(i, open_painter)() for i in range(workers)}
        self.hello, self.out = deque(self.open), []

    def workers(self):
        return len(self.open)

    def free(self, avoid=frozenset()):
        busy = [name for name, _ in self.out]
        return sum(2 - busy.count(name) for name in self.open if name not in avoid and name not in self.hello)

    def give(self, unit, avoid=frozenset()):
        name = self.chance.choice([n for n in self.open if n not in avoid and n not in self.hello
                                   and [o for o, _ in self.out].count(n) < 2])
        self.out.append((name, unit))
        return name

    def answers(self, seconds):
        if self.hello:
            name = self.hello.popleft()
            return [Answer(name, None, self.open[name].facts)]
        name, unit = self.out.pop(self.chance.randrange(len(self.out)))
        if self.chance.random() < self.lose:
            return [Answer(name, unit, error="lost on the way")]
        found = answer(self.open[name], name, unit)
        return [found, found] if self.chance.random() < self.double else [found]

    def retire(self, worker):
        del self.open[worker]
        self.out = [(name, unit) for name, unit in self.out if name != worker]

    def close(self):
        pass


@pytest.mark.parametrize("seed", range(5))
def test_order_loss_and_doubling_change_no_label(undisturbed, seed):
    engine = Shuffled(seed, lose=0.05, double=0.1)
    assert run(jobs_of(), engine) == undisturbed


def test_a_sweep_of_one_prompt_is_its_calibration():
    job = jobs_of(1)[0]
    Driver([job], Here(open_painter), record=lambda *_: None).run()
    alone = Calibration(job.wanted.prompt, (GENDER,), METHOD, PLAN)
    for _ in advance(Painter(), alone):
        pass
    assert [(r.kind, r.labels, r.steerings) for r in job.calibration.rounds] == [
        (r.kind, r.labels, r.steerings) for r in alone.rounds]


def test_every_measured_unit_is_recorded_before_it_counts_and_gives_the_same_result_again(undisturbed, tmp_path):
    journal = Journal(tmp_path / "a.jsonl")
    seen = []

    def record(unit, found, worker):
        seen.append(unit)
        journal.add(dict(unit=[unit.job, unit.round, unit.weights], batches=found["batches"]))

    run(jobs_of(), Here(open_painter), record=record)
    journal.close()
    again = jobs_of()
    for line in lines(tmp_path / "a.jsonl"):
        for batch in line["batches"]:
            again[line["unit"][0]].remember(line["unit"][1], line["unit"][2], batch, 0.0)
    for job in again:
        job.replay()
    assert labels_of(again) == undisturbed and all(job.finished for job in again)


def test_a_line_that_a_killed_process_left_unfinished_is_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": 2')
    journal = Journal(path)
    journal.add({"c": 3})
    journal.close()
    assert list(lines(path)) == [{"a": 1}, {"c": 3}]
    path.write_bytes(b"no\njournal\n")
    with pytest.raises(DebiasError, match="not a journal"):
        list(lines(path))


@pytest.mark.parametrize("which", ["broken", "other"])
def test_a_worker_that_makes_nonsense_or_has_another_model_is_put_aside(undisturbed, which):
    bad = (lambda: open_painter(trouble=lambda prompt, seeds: [None] * len(seeds))) if which == "broken" else (
        lambda: open_painter(name="another model"))
    said = []
    assert run(jobs_of(), Shuffled(1, openers={1: bad}), warn=said.append) == undisturbed
    assert any("worker 1" in text for text in said), said
    assert any(("is finite" if which == "broken" else "refused: its model is") in text for text in said), said


def test_a_model_that_gives_nothing_finite_for_one_prompt_fails_that_prompt_alone(undisturbed):
    def trouble(prompt, seeds):
        return [None] * len(seeds) if "number 3" in prompt else None

    found = run(jobs_of(), Shuffled(1, openers={i: lambda: open_painter(trouble=trouble) for i in range(3)}))
    assert found[:3] == undisturbed[:3]  # the later two were taught by this one
    assert [error for _, error, _ in found].count(None) == 5
    assert "No image can be counted" in found[3][1]


def test_a_disk_that_is_full_on_one_worker_changes_nothing(undisturbed):
    def full(prompt, seeds):
        raise OSError(28, "No space left on device")

    said = []
    assert run(jobs_of(), Shuffled(2, openers={0: lambda: open_painter(trouble=full)}), warn=said.append) == undisturbed
    assert any("worker 0 gets no more work" in text and "No space left" in text for text in said)


def test_when_all_workers_fail_the_sweep_says_why_and_that_all_is_kept():
    def full(prompt, seeds):
        raise OSError(28, "No space left on device")

    with pytest.raises(DebiasError, match="No space left.*run the same command again"):
        run(jobs_of(), Shuffled(2, openers={i: lambda: open_painter(trouble=full) for i in range(3)}))


def raising(error, *numbers):
    def trouble(prompt, seeds):
        if not numbers or any(f"number {n}" in prompt for n in numbers):
            raise error
    return trouble


def test_what_only_one_worker_says_cannot_be_measured_is_measured_by_another(undisturbed):
    said = []
    broken = lambda: open_painter(trouble=raising(DebiasError("CLIP gave NaN.")))  # noqa: E731
    assert run(jobs_of(), Shuffled(4, openers={1: broken}), warn=said.append) == undisturbed
    assert any("worker 1 failed, but worker" in text and "CLIP gave NaN" in text for text in said)


@pytest.mark.parametrize("error", [RuntimeError("too long"), DebiasError("too long")])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_prompt_that_nobody_can_measure_fails_alone(undisturbed, error, workers):
    opener = lambda: open_painter(trouble=raising(error, 1))  # noqa: E731
    engine = Here(opener) if workers == 1 else Shuffled(5, openers={i: opener for i in range(3)})
    found = run(jobs_of(), engine)
    assert "too long" in found[1][1] and [own[1] for own in found].count(None) == 5
    assert found[0] == undisturbed[0]


def test_a_worker_that_fails_at_everything_ends_a_sweep_in_one_process_with_its_reason():
    with pytest.raises(DebiasError, match="out of memory.*What was measured is kept"):
        run(jobs_of(), Here(lambda: open_painter(trouble=raising(RuntimeError("out of memory")))))


def test_figures_do_not_depend_on_which_prompts_an_earlier_run_had_finished(tmp_path):
    jobs = jobs_of(10)
    asked = Asked(("painter",), tuple(job.wanted for job in jobs), ((GENDER,),), METHOD, PLAN)
    folder = SweepFolder(tmp_path, asked)
    with folder.journal("1-of-1") as journal:
        own = folder.jobs(0)

        def ended(job):
            folder.state(0, job.number).parent.mkdir(exist_ok=True)
            job.calibration.save(folder.state(0, job.number))
        Driver(own, Here(open_painter), ended=ended,
               record=lambda unit, found, worker: journal.add(unit_line(0, unit, found, worker))).run()

    def expected():
        again = SweepFolder(tmp_path).jobs(0)
        folder.load(0, again)
        for job in again:
            job.replay()
        return [job.calibration.expected(0) for job in again]

    with_states = expected()
    for path in (tmp_path / "done").iterdir():
        path.unlink()
    assert expected() == with_states == [job.calibration.expected(0) for job in own]


def test_pictures_that_were_not_finite_are_made_again_by_the_next_run(tmp_path, undisturbed):
    asked = Asked(("painter",), tuple(job.wanted for job in jobs_of()), ((GENDER,),), METHOD, PLAN)
    folder = SweepFolder(tmp_path, asked)
    for opener in (lambda: open_painter(trouble=lambda prompt, seeds: [None] * len(seeds)), open_painter):
        with folder.journal("1-of-1") as journal:
            jobs = folder.jobs(0)
            folder.load(0, jobs)
            found = run(jobs, Here(opener),
                        record=lambda unit, found, worker, to=journal: to.add(unit_line(0, unit, found, worker)))
    assert found == undisturbed


def test_a_check_of_another_classifier_is_refused(tmp_path):
    check = Check.of(GENDER, [0] * 9 + [1] * 9, [0] * 9 + [1] * 9, judge="somebody else", prompts=("a", "b"),
                     by="prompts")
    asked = Asked(("painter",), tuple(job.wanted for job in jobs_of()), ((GENDER,),), METHOD, PLAN, checks=(check,))
    with pytest.raises(DebiasError, match="is of the classifier 'somebody else', but 'red or not' judges here"):
        SweepFolder(tmp_path, asked).check_judges(open_painter().facts)


def test_groups_of_eight_are_taught_by_their_first_two_and_shards_take_whole_groups():
    jobs = jobs_of(20)
    assert all(not job.teachers for job in jobs[:2] + jobs[8:10] + jobs[16:18])
    assert all(job.teachers == jobs[:2] for job in jobs[2:8])
    assert all(job.teachers == jobs[8:10] for job in jobs[10:16])
    wanted = tuple(job.wanted for job in jobs)
    assert [len(group) for group in groups(wanted, METHOD, PLAN)] == [GROUP, GROUP, 4]
    asked = Asked(("a", "b"), wanted, ((GENDER,),), METHOD, PLAN)
    parts = [shard_of(asked, number, 4) for number in range(1, 5)]
    for model in range(2):
        assert sorted(n for part in parts for n in part[model]) == list(range(20))
    for own in (own for part in parts for own in part if own):
        assert all(teacher.number in own for number in own for teacher in jobs[number].teachers)


def test_what_is_learned_of_other_prompts_does_not_depend_on_the_order():
    shuffled, one_by_one, alone = jobs_of(4), jobs_of(4), jobs_of(4)
    for job in alone:
        job.teachers = []
    assert run(shuffled, Shuffled(3)) == run(one_by_one, Here(open_painter))
    assert shuffled[2].calibration.solvers[0].elsewhere and not shuffled[1].calibration.solvers[0].elsewhere
    assert labels_of(shuffled)[2:] != run(alone, Here(open_painter))[2:]


def test_prompts_that_state_a_group_are_audited_and_teach_nothing():
    wanted = [Wanted("a photo of a man", 0, states={"gender": "man"}), *(Wanted(f"number {i}", 0) for i in range(5))]
    assert groups(wanted, METHOD, PLAN) == [[0], [1, 2, 3, 4, 5]]
    audit = Plan(50, rounds=0, held_out=0)
    assert groups(wanted, METHOD, audit) == groups(wanted, METHODS["shift"], PLAN) == [[i] for i in range(6)]


def test_labels_of_a_unit_do_not_depend_on_its_size():
    small, large = jobs_of(1), jobs_of(1)
    worker = open_painter()
    for job, most in ((small[0], 1), (large[0], 100)):
        while (unit := job.due(most)) is not None:
            for batch in worker.measure(unit)["batches"]:
                job.remember(unit.round, unit.weights, batch, 0.0)
    assert labels_of(small) == labels_of(large) and small[0].finished


# --- prompts ---------------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("text, said", [
    ("", "holds no prompt"),
    ("a photo of a doctor\na  photo of a DOCTOR\n", "twice, as number 1 and number 2"),
    ("subject,targets\ndoctor,half\n", "Expected targets as"),
    ("subject,template\ndoctor,a photo\n", "with {subject}"),
    ("subject\na,b\n", "has 2 cells"),
    ("prompt,subject\n,\n", "holds no prompt"),
])
def test_bad_files_of_prompts_are_refused_in_a_sentence(tmp_path, text, said):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DebiasError, match=said):
        read_prompts(str(tmp_path / "a.csv"))


def test_a_million_prompts_are_refused_before_anything_is_made(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"number {i}" for i in range(1_000_000)), encoding="utf-8")
    with pytest.raises(DebiasError, match="at most 10,000 prompts for a sweep, got 1,000,000"):
        read_prompts(str(tmp_path / "a.txt"))


# --- the command -----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of the demo model with few pictures, all at once; and its prompts."""
    root = tmp_path_factory.mktemp("sweep")
    (root / "prompts.csv").write_text("subject,states\ndoctor,\nnurse,\nwoman,gender=woman\n", encoding="utf-8")
    assert main([*SWEEP, "--prompts", str(root / "prompts.csv"), "--out", str(root / "all"), "--show", "2"]) == 0
    return root


def table(folder):
    return sorted(csv.DictReader((folder / "demo" / "labels.csv").open(encoding="utf-8", newline="")),
                  key=lambda row: (row["prompt"], row["picture"]))


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


def test_parts_of_a_sweep_merged_are_the_sweep(swept, capsys):
    first, second = swept / "first", swept / "second"
    for number, out in ((1, first), (2, second)):
        assert main([*SWEEP, "--prompts", str(swept / "prompts.csv"), "--out", str(out), "--show", "2", "--shard",
                     f"{number}/2"]) == 0
    assert main(["merge", str(first), str(second), "--out", str(swept / "merged")]) == 0
    assert table(swept / "merged") == table(swept / "all")
    assert main(["merge", str(first), "--out", str(swept / "half")]) == 1
    assert "1 prompts are not finished" in capsys.readouterr().out


def test_a_finished_sweep_measures_nothing_again_and_another_one_is_refused(swept, capsys):
    before = (swept / "all" / "journals" / "1-of-1.jsonl").read_bytes()
    assert main([*SWEEP, "--prompts", str(swept / "prompts.csv"), "--out", str(swept / "all"), "--show", "2"]) == 0
    assert (swept / "all" / "journals" / "1-of-1.jsonl").read_bytes() == before
    assert main([*SWEEP, "--prompts", "demo-20", "--out", str(swept / "all")]) == 2
    assert "holds another sweep: its 3 prompts differ from these 20" in capsys.readouterr().err
    assert main(["sweep", "--status", str(swept / "all")]) == 0
    assert "demo: 3 of 3 prompts, 18 pictures" in capsys.readouterr().out


def test_an_edited_profile_or_table_is_not_overwritten(swept, tmp_path, capsys):
    command = [*SWEEP, "--prompts", str(swept / "prompts.csv"), "--out", str(tmp_path / "out")]
    (tmp_path / "out" / "demo").mkdir(parents=True)
    (tmp_path / "out" / "demo" / "labels.csv").write_text("mine", encoding="utf-8")
    assert main(command) == 2
    assert "labels.csv' exists already, and a sweep did not write it" in capsys.readouterr().err
    assert (tmp_path / "out" / "demo" / "labels.csv").read_text(encoding="utf-8") == "mine"
    assert main([*command, "--overwrite"]) == main(command) == 0
    (tmp_path / "out" / "demo" / "card.md").write_text("mine", encoding="utf-8")
    assert main(["merge", str(tmp_path / "out")]) == 2


@pytest.mark.parametrize("last", ["card.json", "card.md"])
def test_a_sweep_that_was_killed_while_it_wrote_its_results_writes_them_again(swept, tmp_path, monkeypatch, last):
    from sd_debias.diffusers_host.sweep import result

    class Killed(BaseException):
        pass

    command = [*SWEEP, "--prompts", str(swept / "prompts.csv"), "--out", str(tmp_path / "out")]
    write = result.write_atomic

    def killed(path, content):
        write(path, content)
        if path.name == last:
            raise Killed

    monkeypatch.setattr(result, "write_atomic", killed)
    with pytest.raises(Killed):
        main(command)
    monkeypatch.setattr(result, "write_atomic", write)
    assert main(command) == 0
    own, undisturbed = (place / "demo" / "labels.csv" for place in (tmp_path / "out", swept / "all"))
    assert own.read_bytes() == undisturbed.read_bytes()


def test_a_sweep_of_which_nothing_was_measured_yet_may_be_asked_for_anew(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["sweep", "--model", "nowhere", "--classifier", "x", "--prompts", "demo-20", "--out", out]) == 2
    (tmp_path / "a.txt").write_text("a photo of a doctor\n", encoding="utf-8")
    assert main([*SWEEP, "--prompts", str(tmp_path / "a.txt"), "--out", out]) == 0


def test_two_sweeps_on_one_part_of_a_folder_are_refused(swept, capsys):
    with SweepFolder(swept / "all").journal("1-of-1"):
        assert main([*SWEEP, "--prompts", str(swept / "prompts.csv"), "--out", str(swept / "all"), "--show", "2"]) == 2
    assert "Another sweep is working on this part" in capsys.readouterr().err


def test_a_calibrating_sweep_saves_one_profile_that_generates(tmp_path):
    (tmp_path / "prompts.csv").write_text("subject\ndoctor\nnurse\n", encoding="utf-8")
    assert main(["sweep", "--prompts", str(tmp_path / "prompts.csv"), "--out", str(tmp_path / "out"), "--images", "6",
                 "--rounds", "1", "--held-out", "6", "--batch-size", "6", "--steps", "4"]) == 0
    profile = Profile.load(tmp_path / "out" / "demo" / "out.json")
    assert [(e.prompt, e.subject) for e in profile.entries] == [("a photo of a doctor", "doctor"),
                                                               ("a photo of a nurse", "nurse")]
    assert profile.setting["model"] == "demo" and profile.classifier and profile.entries[0].cost["evaluations"]
    assert main(["generate", "--prompt", "portrait of a doctor", "--steps", "4", "--out", str(tmp_path / "pictures"),
                 "--profile", str(tmp_path / "out" / "demo" / "out.json")]) == 0


@pytest.mark.parametrize("arguments, said", [
    (["--prompts", "demo-20"], "Expected --out for a sweep"),
    (["--out", "x"], "Expected --prompts for a sweep"),
    (["--prompts", "nowhere.txt", "--out", "x"], "no suite of this name"),
    (["--prompts", "demo-20", "--out", "x", "--workers", "2"], "does nothing without --ray"),
    (["--prompts", "demo-20", "--out", "x", "--audit", "--sure", "quick"], "does nothing with --audit"),
    (["--prompts", "demo-20", "--out", "x", "--model", "demo", "--model", "demo"], "different models, got one twice"),
    (["--prompts", "demo-20", "--out", "x", "--set", "gender", "--attribute", "age"], "does nothing with --set"),
    (["--prompts", "demo-20", "--out", "x", "--set", "gender", "--set", "gender = 1:1"], "got one twice"),
    (["--prompts", "demo-20", "--out", "x", "--look", "people"], "needs --audit"),
    (["--prompts", "demo-20", "--out", "x", "--worker-cpus", "2"], "does nothing without --ray"),
    (["--prompts", "demo-20", "--out", "x", "--template", "a {subject}"], "does nothing with the suite"),
    (["--prompts", "demo-20", "--out", "x", "--allow-download"], "does nothing with the demo model"),
    (["--prompts", "demo-20", "--out", "x", "--name", "card"], "would replace the card"),
    (["--status", "x", "--template", "a {subject}"], "does nothing with --status"),
])
def test_bad_options_are_refused_in_a_sentence(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_progress_and_result_are_lines_of_json(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a photo of a doctor\n", encoding="utf-8")
    assert main([*SWEEP, "--prompts", str(tmp_path / "a.txt"), "--out", str(tmp_path / "out"), "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["event"] == "progress" and events[-1]["models"][0]["images"] == 6


def test_a_folder_called_demo_is_not_taken_for_the_demo_model(tmp_path, monkeypatch):
    from sd_debias.diffusers_host.cli.sweeping import _absolute
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "mine"):
        (tmp_path / name).mkdir()
    given = dict(model="demo", config="mine", classifier=["demo", "age=mine", "gender=photo"], labels=None)
    assert _absolute(given) == dict(model="demo", config=str(tmp_path / "mine"), labels=None,
                                    classifier=["demo", f"age={tmp_path / 'mine'}", "gender=photo"])
