"""Every file of the configuration composes and runs."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from grade_lightning.compose import CONFIG_DIR
from grade_lightning.given import give
from grade_lightning.run import execute
from tests.entry import SMALL, SMALL_LM, compose_run, run_small
from tests.rewards.test_function import length
from tests.rewards.test_preference import write_pairs
from tests.rewards.vocabularies import save_classifier

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
