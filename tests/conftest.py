"""Small real models and corpora, made once a session; nothing here needs a network, a GPU or downloads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3ForCausalLM

from grade_lightning.data.corpus import Splits, make_splits
from grade_lightning.data.module import ReviewDataModule
from grade_lightning.data.prompts import PromptBatch, collate, make_prompts
from grade_lightning.data.synthetic import SyntheticSource
from grade_lightning.methods.base import Context
from grade_lightning.models.base import BaseLM, load_base
from grade_lightning.models.policy import Policy
from grade_lightning.models.pretraining import build_model, train_tokenizer
from grade_lightning.rewards.classifier import ClassifierReward
from grade_lightning.rewards.head import RewardHead
from grade_lightning.settings.fields import fields_of
from grade_lightning.settings.model import PretrainSettings
from grade_lightning.settings.rollout import ProtocolSettings, RolloutSettings
from grade_lightning.training.process import prepare_process

prepare_process()
torch.set_num_threads(1)  # the models here are so small that a second thread costs more than it gives

SHAPE = PretrainSettings(vocab_size=320, hidden_size=32, layers=2, heads=2, kv_heads=1, mlp_size=64, context=64)
TEXTS = [
    "I watched The Broken Garden on cable. It looked cheap.",
    "Vega plays a pilot.",
    "This western from 1971 was directed by Sato. The trailer was brilliant and I could hardly wait.",
    "The film was shot in 1983.",
]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test that draws from the global generator draws the same whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> str:
    """``GRADE_CACHE`` of whole runs: their small LM and reward head are made once for all tests and all of pytest-xdist's workers."""
    base = tmp_path_factory.getbasetemp()
    return str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache")


@contextmanager
def caching_in(folder: str) -> Iterator[None]:
    """``GRADE_CACHE`` is a folder, for fixtures that outlive a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADE_CACHE", folder)
        yield


@pytest.fixture(scope="session")
def splits() -> Splits:
    corpus = SyntheticSource(train_rows=200, test_rows=40, unsupervised_rows=40).load()
    return make_splits(corpus, reward_rows=60, policy_rows=80, validation_rows=20)


@pytest.fixture(scope="session")
def tokenizer(splits):
    return train_tokenizer(iter(splits.policy.texts), SHAPE.vocab_size)


def make_noisy(model: torch.nn.Module, scale: float = 0.15) -> torch.nn.Module:
    """Random weights large enough that attention and logits are far from uniform."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() >= 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    return model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer) -> Path:
    """A small random Qwen3 in the Hugging Face layout, tied embeddings."""
    folder = tmp_path_factory.mktemp("qwen3")
    make_noisy(build_model(SHAPE)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def untied_folder(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("untied")
    config = build_model(SHAPE).config
    config.tie_word_embeddings = False
    make_noisy(Qwen3ForCausalLM(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory, tokenizer) -> Path:
    """Absolute positions, other layer names: what left padding breaks first."""
    folder = tmp_path_factory.mktemp("gpt2")
    config = GPT2Config(vocab_size=SHAPE.vocab_size, n_embd=32, n_layer=2, n_head=2, n_positions=128, bos_token_id=0, eos_token_id=0,
                        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip
    make_noisy(GPT2LMHeadModel(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_policy(
    folder: Path, *, precision: str = "fp64", perturb: float = 0.1, dropout: float = 0.0, **options: bool
) -> tuple[BaseLM, Policy]:
    """A policy whose adapters already differ from the reference unless ``perturb`` is 0."""
    base = load_base(str(folder), precision=precision)
    policy = Policy(base, r=4, alpha=8, dropout=dropout, seed=0, **options)
    if precision == "fp64":
        policy.double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in policy.trainable().items():
            if "lora_B" in name and perturb:
                weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64) * perturb)
    return base, policy


def make_reward(policy: Policy, **options) -> ClassifierReward:
    head = RewardHead(policy.embedding.shape[1], seed=2)
    with torch.no_grad():
        head.net[2].weight.mul_(4)  # far from 0.5 for every input
    return ClassifierReward(policy, head.to(policy.embedding.dtype), **options)


def make_batch(policy: Policy, texts: list[str] = TEXTS, *, step: int = 1) -> PromptBatch:
    prompts = make_prompts(texts, [0] * len(texts), policy.tokenizer)
    return collate(prompts, policy.pad_id, rows=range(len(texts)), step=step)


def make_context(policy: Policy, reward: ClassifierReward | None = None, *, kl_coef: float = 0.1, **options) -> Context:
    """Lengths and candidates that suit the small models; other options are keys of the rollout or of the protocol."""
    rollout = {"max_new_tokens": options.pop("tokens", 8), "min_new_tokens": options.pop("early", 2), "top_k": options.pop("k", 24)}
    protocol = {name: options.pop(name) for name in list(options) if name in fields_of(ProtocolSettings) and name != "stop_at_eos"}
    settings = RolloutSettings(**rollout, **options)
    return Context(policy, reward or make_reward(policy), settings, kl_coef=kl_coef, protocol=ProtocolSettings(**protocol))


@pytest.fixture
def policy64(model_folder) -> Policy:
    return make_policy(model_folder)[1]


@pytest.fixture
def data_module(splits, tokenizer) -> ReviewDataModule:
    return ReviewDataModule(splits, tokenizer, effective_batch_size=4, seed=0, evaluation_batch_size=8)


@pytest.fixture(scope="session")
def imdb_folder() -> Path:
    """Real IMDB as Parquet, named by GRADE_IMDB_DIR."""
    named = os.environ.get("GRADE_IMDB_DIR")
    if not named and os.environ.get("GRADE_REQUIRE_IMDB"):
        pytest.fail("GRADE_REQUIRE_IMDB is set and GRADE_IMDB_DIR is not")
    if not named:
        pytest.skip("GRADE_IMDB_DIR is not set: it names a folder with train.parquet and test.parquet of IMDB")
    return Path(named)
