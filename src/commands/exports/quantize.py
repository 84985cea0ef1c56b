"""Quantize: an ONNX file with 8-bit weights and activations, calibrated on training pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from src import require
from src.config.build import Experiment
from src.runs.exports import import_onnxruntime

SAMPLES, BATCH = 512, 16
# of the pixels' front, the probabilities' tail, and norms that no convolution could take in: they stay in float32
KEPT = ("Cast", "Sub", "Div", "Softmax", "Sigmoid", "BatchNormalization")


def training_pictures(x: Experiment) -> np.ndarray:
    """Return up to SAMPLES random training pictures, not augmented, (N, C, H, W), uint8."""
    data: Any = x.data
    state = data.state_dict()
    data.prepare_data()
    data.setup("fit")
    data.load_state_dict(state)  # refuses another split
    train = data.splits["train"]
    index = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:SAMPLES].sort().values
    return train[index][1].cpu().numpy()  # type: ignore[no-any-return]


def quantize(source: Path, target: Path, pictures: np.ndarray) -> None:
    """Write an ONNX file with 8-bit weights of each channel and unsigned activations in their calibrated ranges."""
    import onnx

    import_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        batches = iter(np.array_split(pictures, -(-len(pictures) // BATCH)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(({"images": batch} for batch in self.batches), None)

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    nodes = onnx.load(prepared).graph.node
    require(any(node.op_type in ("Conv", "MatMul", "Gemm") for node in nodes), "--quantize: the net has no layers")
    quantize_static(
        prepared,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,  # 7 bits: without VNNI instructions, sums of two products of 8 bits saturate
        extra_options={"CalibMovingAverage": True},  # ranges are means over batches, so that no outlier makes them wide
        nodes_to_exclude=[node.name for node in nodes if node.op_type in KEPT],
    )
    prepared.unlink()
