"""Which of torch's attention kernels may be used."""

from __future__ import annotations

import torch


def avoid_faulty_attention() -> None:
    """Leave cuDNN's attention out in this process, for every model in it.

    Where a mask is given, 16-bit gradients of queries are NaN on an H100 or H200 from torch 2.11 on if the length of the whole sequences
    leaves 64 on division by 128, as 32 tokens of prompt and 32 of completion do, and a query sees nothing, as padding does, or scores
    below -88 alone (pytorch issue 196678).  torch's other kernels do not have this fault.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
