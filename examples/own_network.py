"""A network of your own, as ONNX: trained with scikit-learn, quantised by ONNX Runtime, with the images that the accelerator's tools want beside it.

``.venv/bin/python examples/own_network.py FOLDER`` writes ``own.onnx``, ``calibration.npy`` and ``test.npz``. What to do with them: ``docs/first_network.md``.
"""
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

FULL = 16       # a pixel of these digits is 0 to 16; the network is trained on 0 to 1
HIDDEN = 32


def float_model(classifier):
    """The classifier as ONNX: image (n, 1, 8, 8) to scores (n, 10)."""
    weights = [array.astype(np.float32) for array in (*classifier.coefs_, *classifier.intercepts_)]
    nodes = [helper.make_node("Flatten", ["image"], ["pixels"]),
             helper.make_node("Gemm", ["pixels", "w1", "b1"], ["sums"], name="hidden"), helper.make_node("Relu", ["sums"], ["levels"]),
             helper.make_node("Gemm", ["levels", "w2", "b2"], ["scores"], name="scores")]
    graph = helper.make_graph(
        nodes, "own", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(array, name) for array, name in zip(weights, ("w1", "w2", "b1", "b2"))])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Pixels(CalibrationDataReader):
    """The images from which ONNX Runtime finds the ranges of the tensors."""

    def __init__(self, images):
        self._batches = iter([{"image": (images / FULL).astype(np.float32)}])

    def get_next(self):
        return next(self._batches, None)


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8)[:, None], digits.target        # (n, 1, 8, 8), bytes
    train, test = slice(0, 1400), slice(1400, None)
    classifier = MLPClassifier(hidden_layer_sizes=(HIDDEN,), max_iter=400, tol=1e-3, random_state=0)
    classifier.fit(images[train].reshape(-1, 64) / FULL, labels[train])
    onnx.save(float_model(classifier), folder / "float.onnx")
    # Symmetric codes and INT8 activations: a tensor then has at most 127 levels, and a zero stays a zero.
    quantize_static(folder / "float.onnx", folder / "own.onnx", Pixels(images[:100]), quant_format=QuantFormat.QDQ, activation_type=QuantType.QInt8,
                    per_channel=True, extra_options={"ActivationSymmetric": True})
    np.save(folder / "calibration.npy", images[:100])
    np.savez(folder / "test.npz", images=images[test], labels=labels[test].astype(np.int64))
    right = classifier.score(images[test].reshape(-1, 64) / FULL, labels[test])
    print(f"trained: {right:.1%} of {len(labels[test])} test images right in floating point; wrote own.onnx, calibration.npy, test.npz to {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("build/own"))
