"""Fixtures for tests of callbacks."""

import os
from collections.abc import Iterator
from unittest import mock

import pytest
import torch


@pytest.fixture
def one_ddp_process() -> Iterator[dict[str, object]]:
    """Trainer settings for DDP in this process, which Lightning would leave set up for later tests."""
    with mock.patch.dict(os.environ):
        yield {"accelerator": "cpu", "strategy": "ddp", "devices": 1}
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
