"""Whole runs, from configuration to results."""

import copy
import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf, open_dict

from grade_lightning.compose import CONFIG_DIR, config_hash
from grade_lightning.given import give
from grade_lightning.models.cache import cache_root
from grade_lightning.run import execute
from tests.entry import SMALL, SMALL_LM, compose_run, run_small
from tests.rewards.test_function import length
from tests.rewards.test_preference import write_pairs
from tests.rewards.vocabularies import save_classifier


@pytest.fixture(scope="module", autouse=True)
def cache(shared_cache):
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADE_CACHE", shared_cache)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("runs") / "first"
    return folder, run_small(folder, "evaluation.validate_every=1")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as stream:
        return [{name: value for name, value in row.items() if name != "train/seconds"} for row in csv.DictReader(stream)]


def test_results(finished):
    folder, results = finished
    assert json.loads((folder / "results.json").read_text()) == results
    assert {key: results[key] for key in ("method", "seed", "protocol", "model", "data", "steps")} == {
        "method": "grade_ste", "seed": 1, "protocol": "controlled", "model": "tiny", "data": "synthetic", "steps": 2,
    }  # fmt: skip
    for split in ("initial", "test"):
        assert results[split]["n"] == 24 == len(results[split]["per_prompt"]["reward"])
        mean = sum(results[split]["per_prompt"]["reward"]) / 24
        assert results[split]["reward_mean"] == pytest.approx(mean, abs=1e-5)
    assert results["initial"]["kl_mean"] == 0
    assert results["test"]["kl_mean"] > 0
    assert results["initial"]["per_prompt"]["prompt_id"] == results["test"]["per_prompt"]["prompt_id"]
    assert [validation["step"] for validation in results["validation"]] == [0, 1, 2]
    best = max(results["validation"], key=lambda validation: validation["reward_mean"])
    assert results["best_validation"]["reward_mean"] == best["reward_mean"]
    assert results["seconds"]["total"] >= results["seconds"]["fit"] > 0
    assert results["reward_head"]["heldout_accuracy_openings"] > 0.6


def test_metrics(finished):
    rows = rows_of(finished[0])
    assert [row["step"] for row in rows] == ["1", "2"]
    needed = ["reward", "loss", "kl", "grad_norm", "grad_norm_tensor_mean", "grad_norm_tensor_std", "tau"]
    assert all(float(row[f"train/{name}"]) is not None for row in rows for name in needed)
    assert all(row["val/reward_mean"] for row in rows)
    assert abs(float(rows[0]["train/kl"])) < 1e-6


def test_config_environment_and_samples(finished):
    folder, results = finished
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["rollout"]["max_new_tokens"] == 8
    assert "${" not in (folder / "config.yaml").read_text()
    assert json.loads((folder / "environment.json").read_text())["packages"]["torch"]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {sample["split"] for sample in samples} == {"initial", "validation", "test"}
    for split in ("initial", "test"):
        rewards = [sample["reward"] for sample in samples if sample["split"] == split]
        assert rewards == pytest.approx(results[split]["per_prompt"]["reward"], abs=1e-6)


def test_last_adapter_is_what_was_tested(finished, tmp_path):
    """Load the saved adapter with PEFT and score the test prompts again."""
    from safetensors.torch import load_file

    last = load_file(str(finished[0] / "checkpoints" / "last" / "adapter_model.safetensors"))
    assert any(value.abs().max() > 0 for name, value in last.items() if "lora_B" in name)
    assert (finished[0] / "checkpoints" / "best" / "adapter_config.json").exists()
    again = run_small(tmp_path / "again", "evaluation.validate_every=1")
    other = load_file(str(tmp_path / "again" / "checkpoints" / "last" / "adapter_model.safetensors"))
    assert all(torch.equal(last[name], other[name]) for name in last)
    assert again["test"]["per_prompt"] == finished[1]["test"]["per_prompt"]
    assert rows_of(tmp_path / "again") == rows_of(finished[0])


def test_best_adapter_is_the_one_of_the_best_validation(tmp_path, monkeypatch):
    """It is what a run that ends at that step ends with.

    Which step of a real run is best differs between processors, so the validation rewards are given here: the second of four is best.
    """
    from safetensors.torch import load_file

    from grade_lightning.training.recorder import StepRecorder

    record, given = StepRecorder.record_validation, {0: 0.2, 1: 0.3, 2: 0.6, 3: 0.5, 4: 0.4}

    def with_given_reward(recorder, method, step):
        method.last_evaluation = {**method.last_evaluation, "reward_mean": given[step]}
        record(recorder, method, step)

    monkeypatch.setattr(StepRecorder, "record_validation", with_given_reward)
    options = [
        "evaluation.validate_every=1",
        "evaluation.test=false",
        "protocol.anneal_steps=4",
        "optimizer.lr=3e-2",
        "optimizer.lr_decay_steps=4",
    ]
    whole = run_small(tmp_path / "whole", *options, "max_steps=4")
    assert whole["best_validation"] == {"step": 2, "reward_mean": 0.6}
    run_small(tmp_path / "short", *options, "max_steps=2")
    kept, ended, last = (
        load_file(str(tmp_path / folder / "adapter_model.safetensors"))
        for folder in ("whole/checkpoints/best", "short/checkpoints/last", "whole/checkpoints/last")
    )
    assert all(torch.equal(kept[name], ended[name]) for name in ended)
    assert any(not torch.equal(kept[name], last[name]) for name in last)


def test_evaluation_does_not_depend_on_its_batch_size(finished, tmp_path):
    other = run_small(tmp_path / "run", "evaluation.validate_every=1", "evaluation.batch_size=5")
    assert other["test"]["per_prompt"]["reward"] == pytest.approx(finished[1]["test"]["per_prompt"]["reward"], abs=2e-5)


def test_initial_reward_is_the_same_for_every_method(finished, tmp_path):
    soft = run_small(tmp_path / "run", "method=grade")
    assert soft["method"] == "grade"
    assert soft["initial"]["per_prompt"] == finished[1]["initial"]["per_prompt"]
    assert soft["test"]["per_prompt"] != finished[1]["test"]["per_prompt"]


def test_without_test_split(tmp_path):
    results = run_small(tmp_path / "run", "evaluation.test=false")
    assert "test" not in results
    assert "initial" not in results


def test_wandb_offline_writes_a_run_and_a_second_run_is_another(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("a", "b"):
        run_small(tmp_path / name, "logger=wandb", "max_steps=1", "evaluation.test=false")
    runs = [next((tmp_path / name / "wandb").glob("offline-run-*")).name.rsplit("-", 1)[1] for name in ("a", "b")]
    assert runs[0] != runs[1]
    assert any((tmp_path / "a" / "wandb").glob("offline-run-*/run-*.wandb"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        pytest.param(
            ["hardware=a100", "effective_batch_size=16"],
            "hardware=cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="right on a machine with a GPU"),
        ),
        (["rollout.top_k=5000"], "top_k=5000 is above the vocabulary size 900"),
        (["max_steps=0"], "max_steps=0 .command line.: it must be a whole number, at least 1"),
        (["evaluation.test_prompts=0"], "at least 1, or null"),
        (["hardware.grad_accumulation=9"], "cannot split 4 completions"),
        (["data.policy_rows=4000"], "data.policy_rows"),
        (["data=parquet"], "needs data.path"),
        (["data=parquet", "data.path={missing}"], "is not a folder"),
        (["reward.scope=everything"], "full, completion"),
        (["model=local", "model.path={missing}"], "is not a folder"),
        (["run.resume={missing}"], "holds no run"),
        (["method=hybrid", "effective_batch_size=4"], "multiple of 16"),
        (["protocol.kl_reduction=mean"], "token_mean, sequence"),
        (["method=ppo", "protocol.kl_in=reward"], "kl_estimator=k1"),
        (["method=ppo", "protocol.kl_alignment=shifted"], "leave it at correct"),
        (["optimizer.name=lion"], "adamw, sgd"),
        (["method=ppo", "optimizer.name=sgd"], "value head"),
        (["method=ppo", "method.epochs=0"], "method.epochs=0 .command line.: it must be a whole number, at least 1"),
    ],
)
def test_errors_say_what_to_do(tmp_path, overrides, message):
    small = [item for item in SMALL if not ("data=parquet" in overrides and item.startswith("data.source"))]
    lm = [] if "model=local" in overrides else SMALL_LM
    overrides = [override.format(missing=tmp_path / "missing") for override in overrides]
    with pytest.raises(ValueError, match=message):
        execute(compose_run([*small, *lm, *overrides], tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_bf16_on_a_cpu_without_it(monkeypatch, tmp_path):
    monkeypatch.setattr("grade_lightning.training.machine.cpu_has_bf16", lambda: False)
    with pytest.raises(ValueError, match=r"hardware\.precision=fp32"):
        run_small(tmp_path / "run", "hardware.precision=bf16")


def test_a_run_folder_is_never_overwritten(finished):
    with pytest.raises(ValueError, match="already holds a run"):
        run_small(finished[0])


def test_unwritable_run_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"set run.dir"):
        run_small(tmp_path / "file" / "run")


def test_vocabulary_mismatch_names_both_sizes(policy64):
    from tests.conftest import make_context, make_reward

    reward = make_reward(policy64)
    reward.vocabulary = 77
    with pytest.raises(ValueError, match=r"77 tokens .* 320"):
        make_context(policy64, reward).check()


# launcher and hparams_search need a sweep: they have tests of their own.
GROUPS = [
    "model",
    "data",
    "reward",
    "method",
    "temperature",
    "protocol",
    "hardware",
    "evaluation",
    "logger",
    "trainer",
    "callbacks",
    "experiment",
]
FILES = [f"{group}={file.stem}" for group in GROUPS for file in sorted(Path(CONFIG_DIR, group).glob("[!_]*.yaml"))]
NEEDS = {
    "model=local": ["model.path=x"], "reward=function": ["reward.function=a:b", "method=rloo"],
    "reward=sequence_classifier": ["reward.path=x"], "reward=likelihood": ["reward.path=x"], "reward=preference": ["reward.path=x"],
    "reward=surrogate": ["reward.of.function=a:b"], "reward=given": ["reward.name=x", "method=rloo"],
    "data=prompts": ["data.path=x"],
}  # fmt: skip


@pytest.mark.parametrize("choice", FILES)
def test_every_yaml_composes_and_resolves(choice, tmp_path):
    cfg = compose_run([choice, *NEEDS.get(choice, []), *(["model.path=x"] if choice.startswith("experiment") else [])], tmp_path)
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert plain["optimizer"]["lr"] > 0


@pytest.mark.parametrize(
    "choice",
    [["temperature=adaptive"], ["protocol=paper", "max_steps=2"], ["method=grade"], ["method=ppo", "protocol=released", "max_steps=2"]],
)
def test_choices_run(choice, tmp_path):
    results = run_small(tmp_path / "run", *choice)
    assert results["steps"] == 2


@pytest.fixture(scope="module")
def small_lm(finished):
    """The base LM that the small run pretrained, as a local model folder."""
    (folder,) = (path for path in (cache_root() / "base-lm").iterdir() if path.is_dir())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("choice", [choice for choice in FILES if not choice.startswith("data=")])
def test_every_yaml_runs(choice, small_lm, tmp_path, monkeypatch):
    """Two steps of each file; what needs a hub gets a local model, what needs a GPU gets the CPU."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    if choice == "logger=mlflow":  # its local store lies where a command is run
        monkeypatch.chdir(tmp_path)
    overrides = [choice, "max_steps=2", "effective_batch_size=4", "max_new_tokens=8", "rollout.top_k=64", "evaluation.validate_every=2"]
    if choice.startswith(("model=local", "model=qwen3")):
        overrides += [f"model.path={small_lm}", "reward.head.lr=3e-3", "reward.head.epochs=40"]
    if choice == "reward=function":
        overrides += ["reward.function=tests.rewards.test_function:length", "method=rloo"]
    if choice == "reward=given":
        overrides += [f"reward.name={give(length)}", "method=rloo"]
    if choice in ("reward=surrogate", "method=residual"):
        overrides += ["reward=surrogate", "reward.of.function=tests.rewards.test_function:length", "reward.least=4"]
    if choice == "reward=likelihood":
        overrides += [f"reward.path={small_lm}", "method=rloo"]
    if choice == "reward=sum":
        overrides += ["+reward@reward.parts.a=function", "reward.parts.a.function=tests.rewards.test_function:length", "method=rloo"]
    if choice == "reward=preference":
        overrides += [f"reward.path={write_pairs(tmp_path / 'pairs.jsonl')}"]
    if choice == "reward=sequence_classifier":
        overrides += [f"reward.path={save_classifier(tmp_path / 'classifier')}"]
    if choice == "method=hybrid":
        overrides += ["effective_batch_size=8", "method.completions_per_prompt=2"]
    if choice.startswith("hardware"):
        overrides += ["hardware.accelerator=cpu", "hardware.precision=fp32", "hardware.grad_accumulation=2"]
        overrides += ["hardware.distributed=false", "hardware.sharded=false"]
    data = []
    # What brings its own source of data and its own model: both are replaced by local ones.
    if choice.startswith("experiment=imdb") or choice == "experiment=table1_paper":
        from grade_lightning.data.synthetic import SyntheticSource
        from tests.data.test_sources import write_parquet

        corpus = SyntheticSource(1300, 24, 800).load()
        for name, reviews in (("train", corpus.train), ("test", corpus.test)):
            write_parquet(tmp_path / "data", list(reviews.texts), reviews.labels.tolist(), (name,))
        data = ["data=parquet", f"data.path={tmp_path / 'data'}", f"model.path={small_lm}", "reward.head.lr=3e-3", "reward.head.epochs=40"]
        if choice == "experiment=table1_paper":
            data += ["hardware.accelerator=cpu", "hardware.precision=fp32", "hardware.grad_accumulation=2"]
    headless = choice == "method=residual" or (choice.startswith("reward=") and choice != "reward=classifier_head")
    small = [item for item in SMALL if not ((data and item.startswith("data.source")) or (headless and item.startswith("reward.head")))]
    lm = [] if data or choice.startswith(("model=local", "model=qwen3")) else SMALL_LM
    assert execute(compose_run([*small, *lm, *overrides, *data], tmp_path / "run"))["steps"] == 2


def test_a100_settings_on_a_cpu_stand_in(tmp_path):
    """The hub's model and the GPU are replaced; everything else of the groups stays."""
    overrides = ["hardware=a100", "hardware.accelerator=cpu", "hardware.precision=fp32", "hardware.grad_accumulation=4"]
    assert run_small(tmp_path / "run", *overrides)["steps"] == 2


def test_every_data_group_runs(tmp_path, monkeypatch):
    from grade_lightning.data.synthetic import SyntheticSource
    from tests.data.test_sources import write_parquet

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    corpus = SyntheticSource(1300, 24, 800).load()
    folder = tmp_path / "data"
    for name, reviews in (("train", corpus.train), ("test", corpus.test), ("unsupervised", corpus.unsupervised())):
        write_parquet(folder, list(reviews.texts), reviews.labels.tolist(), (name,))
    for part, reviews in (("train", corpus.train), ("test", corpus.test)):
        for label, name in ((0, "neg"), (1, "pos")):
            (tmp_path / "acl" / part / name).mkdir(parents=True)
            for row, (text, own) in enumerate(zip(reviews.texts, reviews.labels, strict=True)):
                if own == label:
                    (tmp_path / "acl" / part / name / f"{row}_5.txt").write_text(text)
    splits = "".join(f"\n  - split: {name}\n    path: {name}-*" for name in ("train", "test", "unsupervised"))
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: plain_text\n  data_files:{splits}\n---\n")  # as on the hub
    (tmp_path / "acl" / "train" / "unsup").mkdir()
    for row, text in enumerate(corpus.unsupervised().texts):
        (tmp_path / "acl" / "train" / "unsup" / f"{row}_0.txt").write_text(text)
    small = [item for item in SMALL if not item.startswith("data.source")]
    found = {}
    for group, path in (("parquet", folder), ("aclimdb", tmp_path / "acl"), ("hub", folder)):
        results = execute(compose_run([*small, *SMALL_LM, f"data={group}", f"data.path={path}"], tmp_path / group))
        found[group] = results["splits"]
    assert found["parquet"] == found["aclimdb"] == found["hub"]


@pytest.mark.parametrize("content", [None, "", "a: ["])
def test_the_configuration_of_a_finished_run_is_written_again(content, finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    before = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").unlink() if content is None else (folder / "config.yaml").write_text(content)
    assert run_small(folder, "evaluation.validate_every=1") == finished[1]
    after = yaml.safe_load((folder / "config.yaml").read_text())
    assert {**after, "run": None} == {**before, "run": None}


def test_hash_ignores_folders_and_nothing_else():
    base = ["data=parquet", "data.path=/a/imdb", "model=local", "model.path=/b/lm"]
    moved = ["data=parquet", "data.path=/c/d/imdb", "model=local", "model.path=/e/lm"]
    assert config_hash(compose_run(base, Path("/x"))) == config_hash(compose_run(moved, Path("/y")))
    other = [compose_run(["model=local", f"model.path={hub_id}"]) for hub_id in ("a/model", "b/model")]
    assert config_hash(other[0]) != config_hash(other[1])
    assert config_hash(compose_run([*base, "seed=2"])) != config_hash(compose_run(base))
    assert config_hash(compose_run([*base, "logger=wandb"])) == config_hash(compose_run(base))


@pytest.mark.parametrize(("hops", "same"), [("null", True), ("1", False)])
def test_a_setting_that_changed_its_meaning_changes_the_hash(hops, same, monkeypatch):
    """Earlier versions counted the first hop as none."""
    cfg = compose_run([f"method.max_hops={hops}"])
    now = config_hash(cfg)
    monkeypatch.setattr("grade_lightning.records.identity._with_changed", lambda plain: plain)
    assert (config_hash(cfg) == now) == same


def test_hash_of_a_run_that_could_not_choose_its_optimizer():
    now = compose_run(["method=rloo"])
    earlier = copy.deepcopy(now)
    with open_dict(earlier):
        del earlier.optimizer.name
    assert config_hash(earlier) == config_hash(now)
    assert config_hash(compose_run(["method=rloo", "optimizer.name=sgd"])) != config_hash(now)


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


def test_help_explains_the_groups_from_any_folder(tmp_path):
    done = python("-m", "grade_lightning.run", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "grade, grade_ste" in next(line for line in done.stdout.splitlines() if line.startswith("  method: "))
    assert "what is maximised" in done.stdout


def test_error_on_the_command_line_is_one_message(tmp_path):
    done = python("-m", "grade_lightning.run", "data=parquet", cwd=tmp_path)
    assert done.returncode != 0
    assert "needs data.path=FOLDER" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_learning_rate_search(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra `optuna`")
    done = python("-m", "grade_lightning.run", "-m", "hparams_search=lr", "method=rloo", "hydra.sweeper.n_trials=2",
                  *SMALL, *SMALL_LM, f"hydra.sweep.dir={tmp_path / 'sweep'}", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    runs = [json.loads(file.read_text()) for file in (tmp_path / "sweep").glob("*/results.json")]
    assert len(runs) == 2
    assert all("test" not in run for run in runs)
    assert best["best_value"] == pytest.approx(max(run["validation"][-1]["reward_mean"] for run in runs))


@pytest.mark.slow
def test_search_of_the_frontier(tmp_path):
    """Optuna's front is that of the runs; each run says how it ended; the report shows the front."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra `optuna`")
    from grade_lightning.reporting.pareto import pareto_front

    done = python("-m", "grade_lightning.run", "-m", "hparams_search=frontier", "method=rloo", "hydra.sweeper.n_trials=4",
                  *SMALL, *SMALL_LM, f"hydra.sweep.dir={tmp_path / 'sweep'}", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = [json.loads(file.read_text()) for file in (tmp_path / "sweep").glob("*/results.json")]
    points = [(run["validation"][-1]["reward_mean"], run["validation"][-1]["kl_mean"]) for run in runs]
    assert len(points) == 4
    assert all("test" not in run for run in runs)
    front = [p for p in points if not any(o != p and o[0] >= p[0] and o[1] <= p[1] for o in points)]
    found = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())["solutions"]
    assert sorted(tuple(solution["values"]) for solution in found) == sorted(front)
    table = pareto_front(tmp_path)[0]["pareto"]
    assert [(row["reward"], row["kl"]) for row in table.rows] == sorted(front, key=lambda point: point[1])
    lines = [line for line in done.stdout.splitlines() if line.startswith("run ")]
    assert [line.split(" (")[0] for line in lines] == [f"run {number} of 4" for number in range(1, 5)]
    assert all("optimizer.lr=" in line and "kl_coef=" in line and "data." not in line for line in lines)
    assert [" left" in line for line in lines] == [True, True, True, False]


@pytest.mark.slow
def test_sweep(tmp_path):
    done = python("-m", "grade_lightning.run", "-m", "method=grade,grade_ste", "seed=1,2", *SMALL, *SMALL_LM,
                  f"hydra.sweep.dir={tmp_path / 'sweep'}", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads(file.read_text()) for file in (tmp_path / "sweep").glob("*/results.json")]
    assert {(result["method"], result["seed"]) for result in results} == {(m, s) for m in ("grade", "grade_ste") for s in (1, 2)}
    names = {file.parent.name for file in (tmp_path / "sweep").glob("*/results.json")}
    assert {name.rsplit("-", 1)[0] for name in names} == {"grade-seed1", "grade-seed2", "grade_ste-seed1", "grade_ste-seed2"}
    assert {result["config_hash"] for result in results} == {name.rsplit("-", 1)[1] for name in names}
    assert all((tmp_path / "sweep" / name / "run.log").exists() for name in names)
    for number, varied in enumerate(["grade seed=1", "grade seed=2", "grade_ste seed=1", "grade_ste seed=2"], 1):
        assert f"run {number} of 4 (method={varied}): validation reward " in done.stdout
    assert not list((tmp_path / "sweep").glob(".ended*"))


@pytest.mark.slow
def test_pretrain_entry(tmp_path):
    small = [item.replace("model.pretrain.", "pretrain.") for item in SMALL_LM]
    done = python("-m", "grade_lightning.pretrain", *small, "data.source.unsupervised_rows=300", f"out={tmp_path / 'lm'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stdout
    assert (tmp_path / "lm" / "model.safetensors").exists()


def test_a_folder_with_other_contents_is_another_run(tmp_path, small_lm, monkeypatch):
    """The hash knows folders by name: what is in them is compared, for a finished run and for one that goes on."""
    from grade_lightning.data.synthetic import SyntheticSource
    from grade_lightning.training.course import Course
    from tests.data.test_sources import write_parquet

    corpus = SyntheticSource(1300, 24, 0).load()

    def write(leave_out: int) -> None:
        for name, reviews in (("train", corpus.train), ("test", corpus.test)):
            kept = list(range(leave_out, len(reviews.texts)))
            write_parquet(tmp_path / "data", [reviews.texts[row] for row in kept], [int(reviews.labels[row]) for row in kept], (name,))

    small = [item for item in SMALL if not item.startswith("data.source")]
    options = [*small, "model=local", f"model.path={small_lm}", "data=parquet", f"data.path={tmp_path / 'data'}", "reward.head.lr=3e-3",
               "reward.head.epochs=40", "run.checkpoint_every=1"]  # fmt: skip
    cfg = compose_run(options, tmp_path / "run")
    write(leave_out=0)
    finish = Course._finish
    monkeypatch.setattr(Course, "_finish", lambda *_: (_ for _ in ()).throw(RuntimeError("power cut")))
    with pytest.raises(RuntimeError, match="power cut"):
        execute(cfg)
    monkeypatch.setattr(Course, "_finish", finish)
    write(leave_out=1)
    with pytest.raises(ValueError, match=r"other inputs of the same names \(reviews\)"):
        execute(cfg)
    write(leave_out=0)
    results = execute(cfg)
    assert execute(cfg) == json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["steps"] == 2
    write(leave_out=1)
    with pytest.raises(ValueError, match=r"finished run of other reviews or prompts of the same name"):
        execute(cfg)
