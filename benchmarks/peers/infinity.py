"""Starts Infinity. Its onnxruntime engine imports a module, never used, that newer versions of torch have moved."""

import importlib
import sys

name = "symbolic_opset14"
sys.modules[f"torch.onnx.{name}"] = importlib.import_module(f"torch.onnx._internal.torchscript_exporter.{name}")

from infinity_emb.cli import cli  # noqa: E402

cli()
