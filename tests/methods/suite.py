"""What every method must pass, whichever it is."""

from __future__ import annotations

import abc
import csv

import pytest
import torch
from torch import nn

from grade_lightning.data.module import ReviewDataModule
from grade_lightning.data.prompts import PromptBatch
from grade_lightning.models.policy import Policy
from grade_lightning.records.folder import RunFolder
from grade_lightning.training.course import Course
from grade_lightning.training.module import MethodModule
from tests.conftest import make_batch, make_policy
from tests.methods.harness import gradient, train_steps


class EvenTokens(nn.Module):
    """Reward = share of the completion's real tokens with an even id.  Another reward is one class."""

    differentiable, soft, reads_states, range = True, True, False, (None, None)

    def __init__(self, vocab_size: int):
        super().__init__()
        self.vocabulary = vocab_size

    def score(self, completions):
        soft, ids, mask = completions.soft, completions.ids, completions.mask
        even = (ids % 2 == 0).float() if soft is None else (soft.weights * (soft.indices % 2 == 0)).sum(-1)
        return (even * mask).sum(1) / mask.sum(1)


class MethodSuite(abc.ABC):
    """Subclass it and define ``make``."""

    task_batch, task_tokens, task_threshold = 4, 8, 0.95

    @abc.abstractmethod
    def make(self, policy: Policy, **options) -> MethodModule:
        """The method under test; ``options`` as :func:`tests.methods.harness.make_module` takes them."""

    def test_gradient_reaches_exactly_the_trainable_weights(self, model_folder, data_module):
        _, policy = make_policy(model_folder, precision="fp32")
        before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
        method = self.make(policy, lr=1e-2)
        head = [weight.clone() for weight in method.method.reward.parameters()]
        train_steps(method, data_module, 1)
        changed = {name for name, weight in policy.named_parameters() if not torch.equal(weight, before[name])}
        trainable = {name for name, weight in policy.named_parameters() if weight.requires_grad}
        assert changed == trainable
        assert all("lora_" in name for name in trainable)
        assert all(torch.equal(a, b) for a, b in zip(head, method.method.reward.parameters(), strict=True))

    def test_kl_is_zero_at_the_first_step(self, model_folder, data_module):
        _, policy = make_policy(model_folder, precision="fp32", perturb=0)
        measured = train_steps(self.make(policy, lr=1e-2), data_module, 2)
        assert abs(measured[0]["kl"]) < 1e-6
        assert measured[1]["kl"] > 1e-5

    def test_every_step_has_its_own_prompts_and_noise(self, model_folder, data_module, monkeypatch):
        """Through the real trainer: it must tell the sampler which step it is."""
        seen = []
        _, policy = make_policy(model_folder, precision="fp32")
        method = self.make(policy)
        sample = method.sample_effective_batch
        monkeypatch.setattr(method, "sample_effective_batch", lambda batch: seen.append(batch) or sample(batch))
        train_steps(method, data_module, 3)
        assert [batch.step for batch in seen] == [1, 2, 3]
        assert len({key for batch in seen for key in batch.keys}) == 12

    def test_same_seed_same_run(self, model_folder, data_module):
        runs = []
        for _ in range(2):
            _, policy = make_policy(model_folder, precision="fp32", perturb=0)
            measured = train_steps(self.make(policy, lr=1e-2), data_module, 3)
            runs.append((measured, [weight.detach().clone() for weight in policy.trainable().values()]))
        assert runs[0][0] == runs[1][0]
        assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))

    @pytest.mark.parametrize("dropout", [0.0, 0.3])
    def test_any_accumulation_gives_the_same_update(self, model_folder, dropout):
        found = {}
        for accumulation in (1, 2, 4):
            _, policy = make_policy(model_folder, dropout=dropout)
            found[accumulation] = gradient(self.make(policy, grad_accumulation=accumulation, kl_coef=0.3), make_batch(policy))
        assert found[1].norm() > 1e-6
        for accumulation in (2, 4):
            assert (found[accumulation] - found[1]).norm() < 2e-6 * found[1].norm()

    def test_a_padded_prompt_changes_nothing(self, gpt2_folder):
        _, policy = make_policy(gpt2_folder)
        batch = make_batch(policy)
        extra = (len(batch), 6)
        padded = PromptBatch(
            torch.cat([torch.full(extra, policy.pad_id), batch.ids], 1), torch.cat([torch.zeros(extra, dtype=torch.bool), batch.mask], 1),
            batch.keys, batch.labels, batch.rows, batch.step,
        )  # fmt: skip
        expected = gradient(self.make(policy, kl_coef=0.3), batch)
        assert (gradient(self.make(policy, kl_coef=0.3), padded) - expected).norm() < 1e-9 * expected.norm()

    def test_learns_a_solvable_task(self, model_folder, splits, tokenizer):
        """Write tokens with even ids: every token can be improved on its own, so reward must come close to 1.

        GRADE-STE ends above 0.99 from every one of 12 seeds, so that rounding, which sends a run down another path just as a seed
        does, cannot fail it; the policy gradients, on batches of 16, end between 0.80 and 0.997 from six seeds each, and start at 0.5.
        """
        _, policy = make_policy(model_folder, precision="fp32", perturb=0)
        method = self.make(policy, lr=2e-2, kl_coef=0.0, tokens=self.task_tokens, reward=EvenTokens(policy.vocab_size))
        prompts = self.task_batch // method.method.completions_per_prompt
        data = ReviewDataModule(splits, tokenizer, effective_batch_size=prompts, seed=0, evaluation_batch_size=8)
        measured = train_steps(method, data, 60)
        assert measured[0]["reward"] < 0.7
        assert sum(row["reward"] for row in measured[-5:]) / 5 > self.task_threshold

    def test_resumed_equals_uninterrupted(self, model_folder, data_module, tmp_path):
        """Stopped in step 4 and resumed from the checkpoint of step 2: the same record and the same weights, bit by bit."""
        whole, stopped = tmp_path / "whole", tmp_path / "stopped"
        self._run(model_folder, data_module, whole)
        with pytest.raises(RuntimeError, match="power cut"):
            self._run(model_folder, data_module, stopped, stop_in=4)
        folder = RunFolder(stopped)
        assert folder.checkpoint.exists()
        self._run(model_folder, data_module, stopped, resume=True)
        assert recorded(stopped) == recorded(whole)
        assert [row["step"] for row in recorded(stopped)] == ["1", "2", "3", "4", "5", "6"]
        name = "checkpoints/last/adapter_model.safetensors"
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()

    def _run(self, model_folder, data_module, folder, *, stop_in: int | None = None, resume: bool = False) -> None:
        _, policy = make_policy(model_folder, precision="fp32", perturb=0)
        method = self.make(policy, lr=1e-2)
        if stop_in is not None:
            update = method.update

            def stop(rollouts, totals, meter, step):
                if step == stop_in:
                    raise RuntimeError("power cut")
                update(rollouts, totals, meter, step)

            method.update = stop
        record = RunFolder(folder)
        Course(method, data_module, record, {}, max_steps=6, validate_every=2, test=False, checkpoint_every=2, resume=resume).run()


def recorded(folder) -> list[dict[str, str]]:
    """metrics.csv without what a clock measured."""
    with (folder / "metrics.csv").open() as stream:
        return [
            {key: value for key, value in row.items() if key not in ("train/seconds", "train/reward_seconds")}
            for row in csv.DictReader(stream)
        ]
