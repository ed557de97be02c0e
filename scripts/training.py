"""What the training scripts share: saving a network into the zoo."""

__all__ = ["ZOO", "import_and_save"]

from pathlib import Path

from neuroflex.compiler.network import Examples
from neuroflex.compiler.torch_import import import_torch
from neuroflex.progress import Display
from neuroflex.sim.network import evaluate
from neuroflex.training.stages import integer_accuracy

ZOO = Path(__file__).parent.parent / "neuroflex" / "zoo"


def import_and_save(module, *, name, x_train, x_test, y_test, pixel_scale, facts, kept_tests, kept_calibration=64):
    """Import a trained module, measure the integer network on all test images, and write it into the zoo.

    Images are uint8 arrays (n, C, H, W). The integer accuracy must be within 0.5 points of the float one or nothing is written.
    """
    module.eval()
    examples = Examples(test_images=x_test[:kept_tests], test_labels=y_test[:kept_tests], calibration_images=x_train[:kept_calibration])
    network = import_torch(module, x_test.shape[1:], name=name, pixel_scale=pixel_scale, calibration=x_train[:1000], examples=examples)
    facts = facts | {"accuracy_integer": integer_accuracy(network, x_test, y_test, show=Display()), "test_images": len(x_test)}
    print(f"{name}: float {facts['accuracy_float']:.4f}, integer {facts['accuracy_integer']:.4f}")
    if facts["accuracy_integer"] < facts["accuracy_float"] - 0.005:
        raise SystemExit(f"{name}: the integer network loses more than 0.5 points; not saved")
    network.metadata.update(facts)
    path = ZOO / f"{name}.npz"
    network.save(path)
    trace = evaluate(network, x_test[:100])
    for layer in network.layers:
        values = trace.layers[layer.name]
        print(f"  {layer.name:12} K {layer.weights.shape[0]:4} N {layer.columns:4} rows {values.rows:4} "
              f"A {values.density:.2f} W {values.weight_density:.2f} theta {layer.theta.min()} … {layer.theta.max()} "
              f"matches/image {values.matches.sum() / len(trace.output):.0f}")
    print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")
