"""Reads what Weights & Biases writes offline: records of protocol buffers in LevelDB's log format, behind a header of 7 bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _HEAD = 32768, 7  # of LevelDB's log: bytes of a block; crc32 (4), length (2), type (1)
_LAST = (1, 4)  # types of a chunk that ends a record: FULL, LAST


def records(run: Path) -> Iterator[Any]:
    """All records of an ``offline-run-*`` folder, in order."""
    from wandb.proto import wandb_internal_pb2

    (file,) = run.glob("run-*.wandb")
    data, place, held = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + _HEAD <= len(data):
        if _BLOCK - place % _BLOCK < _HEAD:
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + _HEAD])
        held += data[place + _HEAD : place + _HEAD + length]
        place += _HEAD + length
        if kind in _LAST:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(held)
            held = b""
            yield record
