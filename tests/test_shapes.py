"""Shape annotations are really checked while tests run, and cost users nothing."""

import subprocess
import sys

import pytest
import torch
from jaxtyping import TypeCheckError

from grade_lightning.chain.chunks import token_chunks
from grade_lightning.estimators import gumbel_softmax_weights, sampled_kl, whiten


def test_a_wrong_shape_is_refused():
    whiten(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(TypeCheckError):
        whiten(torch.zeros(2, 3), torch.ones(3))


def test_dimensions_of_one_name_agree_between_arguments():
    with pytest.raises(TypeCheckError):
        gumbel_softmax_weights(torch.zeros(2, 4), torch.zeros(2, 4), 1.0, hard=torch.zeros(3, dtype=torch.long))


def test_a_wrong_type_is_refused():
    with pytest.raises(TypeCheckError):
        sampled_kl(torch.zeros(3, dtype=torch.long), "k2")


def test_the_chain_is_checked_too():
    assert token_chunks(torch.zeros(3, 2), 5) == [slice(0, 3)]
    with pytest.raises(TypeCheckError):
        token_chunks(torch.zeros(3, 2), "5")


def test_the_package_imports_no_type_checker_and_no_jax():
    code = "import sys, grade_lightning.estimators; print(sorted({'jax', 'beartype'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
