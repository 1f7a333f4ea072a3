"""The Python API against the command line, against itself in one process, and the gradient of one rollout against the method's."""

import subprocess
import sys

import lightning as L
import pytest
import torch
from datasets import Dataset

from grade_lightning import Experiment, Run, train
from grade_lightning.chain.gradient import gradient
from grade_lightning.compose import composed, config_hash
from grade_lightning.estimators import gumbel_noise
from grade_lightning.methods import GradeGradient
from grade_lightning.methods.base import Totals
from grade_lightning.methods.gradients import take_gradient
from grade_lightning.methods.meter import Meter
from grade_lightning.models.base import as_base
from grade_lightning.models.policy import Policy
from grade_lightning.rollout.sampling import sample
from tests.conftest import make_batch, make_context, make_policy
from tests.methods.suite import EvenTokens, recorded

TEXTS = [f"The {noun} of this film was {word}" for noun in ("story", "music", "cast") for word in ("a", "not", "so", "quite")]
SMALL = {
    "max_steps": 2,
    "max_new_tokens": 6,
    "effective_batch_size": 4,
    "data__prompt__max_tokens": 32,
    "rollout": {"top_k": 32, "min_new_tokens": 2},
}


def length(completions, **_):
    return [float(len(text)) for text in completions]


def test_the_same_run_as_the_command_line(model_folder, tmp_path):
    first = train(model_folder, TEXTS, length, "rloo", dir=tmp_path / "python", **SMALL)
    made = Experiment(model_folder, tmp_path / "python" / "prompts.jsonl", length, "rloo", dir=tmp_path / "same", **SMALL, data={
        "validation_rows": 1, "test_rows": 2})  # fmt: skip
    assert made.command.startswith("python -m grade_lightning.run model=local ")
    assert config_hash(composed(made.overrides)) == first.results["config_hash"]
    assert recorded(made.run().dir) == recorded(first.dir)


def test_calls_in_one_process_do_not_disturb_each_other(model_folder, tmp_path):
    """A function, then another one of the same name, then the first again: the same record, and each run generates with its own."""
    runs = []
    for number, scale in enumerate((1.0, -1.0, 1.0)):

        def score(completions, scale=scale, **_):
            return [scale * len(text) for text in completions]

        runs.append(train(model_folder, TEXTS, score, "rloo", dir=tmp_path / str(number), **SMALL))
    assert recorded(runs[0].dir) == recorded(runs[2].dir) != recorded(runs[1].dir)
    signs = [run.generate("The film")[0]["after"]["reward"] > 0 for run in runs]
    assert signs == [True, False, True]


def test_a_reward_that_takes_columns_scores_generations_of_rows(model_folder, tmp_path):
    def near(completions, wanted, **_):
        return [-float(abs(len(text) - length)) for text, length in zip(completions, wanted, strict=True)]

    rows = [{"prompt": text, "wanted": 5} for text in TEXTS]
    run = train(model_folder, rows, near, "rloo", dir=tmp_path / "run", **SMALL)
    first, second = (pair["after"] for pair in run.generate([{"prompt": "The film", "wanted": wanted} for wanted in (0, 1000)]))
    assert [measured["reward"] for measured in (first, second)] == [-len(first["completion"]), len(second["completion"]) - 1000]
    with pytest.raises(ValueError, match="needs wanted, columns that these prompts do not have: add columns="):
        run.generate("The film")
    for wrong in ([3], [[{"role": "user", "content": "hi"}]], [{"wanted": 3}]):
        with pytest.raises(ValueError, match="prompts are texts to continue"):
            run.generate(wrong)
    assert len(run.generate({"prompt": "The film", "wanted": 3})) == 1


def test_a_reward_object_differentiates_and_callbacks_and_loggers_are_used(model_folder, tmp_path):
    class Count(L.Callback):
        steps = 0

        def on_train_batch_end(self, *_):
            self.steps += 1

    class Even(EvenTokens):
        def scoped(self, scope):
            return None

    count = Count()
    logger = L.pytorch.loggers.CSVLogger(tmp_path / "csv")
    reward = Even(320)
    made = Experiment(model_folder, Dataset.from_dict({"prompt": TEXTS}), reward, "grade_ste", dir=tmp_path / "run", **SMALL)
    run = made.run(callbacks=[count], loggers=[logger])
    assert count.steps == 2
    assert "train/reward" in next((tmp_path / "csv").rglob("metrics.csv")).read_text()
    assert 0 < run.metrics[-1]["train/reward"] <= 1
    assert run.metrics[-1]["train/grad_norm"] > 0
    assert "<table>" in run._repr_html_()
    assert "<table>" in run.generate(["One <b>film</b>"])._repr_html_()
    assert "<b>" not in run.generate(["One <b>film</b>"])._repr_html_()
    assert run.report().exists()
    assert {axes.get_title() for axes in run.plot().axes} > {"reward"}


def test_the_folder_of_a_finished_run_is_returned_as_it_is(model_folder, tmp_path):
    first = train(model_folder, TEXTS, length, "rloo", dir=tmp_path / "run", **SMALL)
    before = (first.dir / "results.json").stat().st_mtime_ns
    again = train(model_folder, TEXTS, length, "rloo", dir=tmp_path / "run", **SMALL)
    assert (again.dir / "results.json").stat().st_mtime_ns == before
    assert Run(first.dir).results == first.results
    assert repr(first).startswith("Run(")


def test_refusals_come_before_anything_is_loaded(model_folder, tmp_path):
    with pytest.raises(ValueError, match="give reward="):
        Experiment(model_folder, TEXTS, dir=tmp_path)
    with pytest.raises(ValueError, match="differentiable"):
        Experiment(model_folder, TEXTS, length, "grade_ste", dir=tmp_path / "a")
    with pytest.raises(ValueError, match="did you mean max_steps"):
        Experiment(model_folder, TEXTS, length, "rloo", dir=tmp_path / "b", max_stepz=3)
    with pytest.raises(ValueError, match="said by dir="):
        Experiment("tiny", dir=tmp_path, run={"dir": "elsewhere"})
    with pytest.raises(ValueError, match="exclude each other"):
        Experiment(model_folder, TEXTS, length, "rloo", dir=tmp_path / "c", data="synthetic")
    with pytest.raises(ValueError, match="no finished run"):
        Run(tmp_path)


def test_another_process_is_told_that_it_lacks_the_reward(model_folder, tmp_path):
    def local(completions, **_):
        return [0.5 for _ in completions]

    run = train(model_folder, TEXTS, local, "rloo", dir=tmp_path / "run", **SMALL)
    code = f"from grade_lightning import Run; Run({str(run.dir)!r}).generate('A film')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "given from Python in another process" in done.stderr


@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
def test_the_gradient_of_one_rollout_is_the_methods(model_folder, kl_coef):
    _, policy = make_policy(model_folder)
    batch = make_batch(policy)
    context = make_context(policy, kl_coef=kl_coef, kl_reduction="sequence")
    noise = gumbel_noise((len(batch), 8, 24), generator=torch.Generator().manual_seed(0))
    rollout = sample(policy, batch, noise, context.rollout)
    weights = policy.trainable()
    marked = next(iter(weights.values()))
    marked.grad = torch.ones_like(marked)
    found = gradient(policy, rollout, context.reward, kl_coef=kl_coef, tau=1.3, tol=1e-12)
    assert torch.equal(marked.grad, torch.ones_like(marked))
    take_gradient(weights.values())
    method = GradeGradient(context, temperature=lambda step: 1.3, tol=1e-12)
    method.accumulate([rollout], Totals(len(rollout), rollout.tokens), Meter(), 1)
    expected = take_gradient(weights.values())
    ours = torch.cat([found[name].flatten() for name in weights])
    assert (ours + expected).norm() < 1e-9 * expected.norm()
    assert expected.norm() > 0


def test_a_model_in_memory_becomes_a_policy(model_folder, tokenizer):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder)
    policy = Policy(as_base(model, tokenizer), r=2)
    ids = torch.tensor([[5, 6, 7]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    torch.testing.assert_close(policy.logits(policy.hidden(policy.embed(ids), mask)), policy.lm(input_ids=ids).logits)
    assert [weight.requires_grad for weight in policy.trainable().values()] == [True] * len(policy.trainable())
    assert len(policy.trainable()) > 0
