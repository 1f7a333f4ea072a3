"""TRL's RLOOTrainer on the same work: same model, prompts, lengths, LoRA, reward head and reference pass."""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks import clock
from experiments.benchmarks.serve import answer
from experiments.benchmarks.setting import GROUP, Setting, load, prompts, random_model
from grade_lightning.data.prompts import Prompt, collate
from grade_lightning.rewards.base import Completions

STEPS = 10_000  # more than anyone asks for


class _EndOfInput(Exception):
    """Nobody asks for another step."""


def serve_trl(setting: Setting) -> None:
    """As :func:`experiments.benchmarks.serve.serve`: a step of the trainer (generation, gradient, optimizer) for each line."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import RLOOConfig, RLOOTrainer

    base, _, reward = load(setting)
    texts, _ = prompts(setting, base, distinct=setting.rows // GROUP)

    class Turns(TrainerCallback):
        start: float | None = None

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 0:
                return  # warms up
            if self.start is None:
                answer()
            if not sys.stdin.readline():
                raise _EndOfInput
            clock.wait(setting.device)
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.wait(setting.device)
            if self.start is not None:
                answer(seconds=time.perf_counter() - self.start, memory=None, peak=None, hops=None, first_ratio=None)

    @torch.no_grad()
    def score(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        ids = [base.tokenizer(prompt)["input_ids"] for prompt in prompts]
        written = torch.tensor(completion_ids, device=setting.device)
        batch = collate([Prompt(tuple(row), 0, 0) for row in ids], 0, rows=range(len(ids))).to(setting.device)
        return reward.score(Completions(batch, written, torch.ones_like(written, dtype=torch.bool), base.tokenizer)).tolist()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = RLOOConfig(
            output_dir=str(folder / "out"), max_steps=STEPS, per_device_train_batch_size=setting.rows, num_generations=GROUP,
            max_completion_length=setting.new_tokens, generation_kwargs={"min_new_tokens": setting.new_tokens}, top_k=setting.top_k,
            temperature=1.0, beta=0.05, learning_rate=1e-4, report_to=[], use_cpu=setting.device == "cpu",
            bf16=setting.precision == "bf16", seed=0, save_strategy="no", disable_tqdm=True, gradient_checkpointing=False,
            logging_strategy="no",
        )  # fmt: skip
        peft = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM")
        trainer = RLOOTrainer(
            model=setting.model or random_model(setting, setting.device), processing_class=base.tokenizer, reward_funcs=score, args=config,
            train_dataset=Dataset.from_dict({"prompt": texts}), peft_config=peft, callbacks=[Turns()],
        )  # fmt: skip
        with suppress(_EndOfInput):
            trainer.train()
