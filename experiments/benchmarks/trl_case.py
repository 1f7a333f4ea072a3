"""TRL's RLOOTrainer on the same work: same model, prompts, lengths, LoRA, reward head and reference pass."""

from __future__ import annotations

import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.setting import Setting, load, model_folder, prompts

GROUP = 4


def measure_trl(setting: Setting, repeats: int) -> dict[str, Any]:
    """Seconds from step to step of the trainer, the first one left out."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import RLOOConfig, RLOOTrainer

    base, _, reward = load(setting)
    texts, _ = prompts(setting, base, distinct=setting.rows // GROUP)
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    @torch.no_grad()
    def score(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        ids = [base.tokenizer(prompt)["input_ids"] for prompt in prompts]
        prompt_ids, completion = torch.tensor(ids), torch.tensor(completion_ids)
        everything = torch.ones_like(prompt_ids, dtype=torch.bool), torch.ones_like(completion, dtype=torch.bool)
        return reward.score(prompt_ids, everything[0], completion, everything[1]).tolist()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = model_folder(setting, folder)
        config = RLOOConfig(
            output_dir=str(folder / "out"), max_steps=repeats + 2, per_device_train_batch_size=setting.rows, num_generations=GROUP,
            max_completion_length=setting.new_tokens, generation_kwargs={"min_new_tokens": setting.new_tokens}, top_k=setting.top_k,
            temperature=1.0, beta=0.05, learning_rate=1e-4, report_to=[], use_cpu=True, bf16=False, seed=0, save_strategy="no",
            disable_tqdm=True, gradient_checkpointing=False, logging_strategy="no",
        )  # fmt: skip
        peft = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM")
        trainer = RLOOTrainer(
            model=str(path), reward_funcs=score, args=config, train_dataset=Dataset.from_dict({"prompt": texts * (repeats + 2)}),
            peft_config=peft, callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
    times = [later - earlier for earlier, later in pairwise(ends)]
    return {"seconds": times[1:], "memory": None, "hops": None, "first_ratio": None}
