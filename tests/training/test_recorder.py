"""Checkpoints that cannot be read are named with what helps."""

from pathlib import Path

import pytest
import torch

from grade_lightning.training.recorder import check_checkpoint


def test_what_is_said_of_a_checkpoint(tmp_path):
    file = tmp_path / "last.ckpt"
    torch.save({"state": torch.zeros(2)}, file)
    check_checkpoint(file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"is damaged .*remove .*begins with the first step"):
        check_checkpoint(file)
    torch.save({"callbacks": {"mine": Path("place")}}, file)  # a healthy file: nobody should remove it
    with pytest.raises(ValueError, match="of a callback's state_dict: training can go on from it without that callback alone") as raised:
        check_checkpoint(file)
    assert "damaged" not in str(raised.value)
