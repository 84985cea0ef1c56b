"""What several tests of callbacks use."""

import os
from collections.abc import Iterator
from unittest import mock

import pytest
import torch

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture
def one_ddp_process() -> Iterator[dict[str, object]]:
    """Return Trainer settings for DDP in this process, and undo what Lightning leaves behind."""
    with mock.patch.dict(os.environ):
        yield {"strategy": "ddp", "devices": 1}
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
