"""What the training scripts share: batches, magnitude pruning, accuracy, and saving a network into the zoo."""

__all__ = ["ZOO", "accuracy", "fit", "import_and_save", "prune"]

from pathlib import Path

import torch
from torch import nn

from neuroflex.compiler.network import Examples
from neuroflex.compiler.torch_import import import_torch
from neuroflex.sim.network import evaluate

torch.set_num_threads(1)     # these networks are too small to gain from more
ZOO = Path(__file__).parent.parent / "neuroflex" / "zoo"


def prunable(module):
    """Weight tensors that pruning thins out."""
    return [m.weight for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def fit(module, images, labels, *, epochs, rate, batch=64, masks=None, seed=0):
    """Train with Adam and a cosine rate; ``masks`` keep pruned weights at zero."""
    generator = torch.Generator().manual_seed(seed)
    clips = [p for name, p in module.named_parameters() if name.endswith("clip")]
    others = [p for name, p in module.named_parameters() if not name.endswith("clip")]
    optimiser = torch.optim.AdamW([{"params": others, "weight_decay": 1e-2}, {"params": clips, "weight_decay": 0.0}], lr=rate)
    steps = epochs * -(-len(images) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for epoch in range(epochs):
        module.train()
        total = 0.0
        for part in torch.randperm(len(images), generator=generator).split(batch):
            loss = nn.functional.cross_entropy(module(images[part]), labels[part], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if masks is not None:
                with torch.no_grad():
                    for weight, mask in zip(prunable(module), masks):
                        weight *= mask
            total += loss.item() * len(part)
        print(f"  epoch {epoch + 1}/{epochs}: loss {total / len(images):.4f}", flush=True)


@torch.no_grad()
def prune(module, density, *, keep_last=True):
    """Set the smallest weights of each layer to zero; returns the masks. The last layer keeps all unless told."""
    masks = []
    weights = prunable(module)
    for index, weight in enumerate(weights):
        share = 1.0 if keep_last and index == len(weights) - 1 else density
        count = max(int(weight.numel() * share), 1)
        limit = weight.abs().flatten().kthvalue(weight.numel() - count + 1).values
        masks.append((weight.abs() >= limit).to(weight.dtype))
        weight *= masks[-1]
    return masks


@torch.no_grad()
def accuracy(module, images, labels):
    """Share of images whose largest output is their label."""
    module.eval()
    right = sum((module(x).argmax(1) == y).sum().item() for x, y in zip(images.split(500), labels.split(500)))
    return right / len(images)


def import_and_save(module, *, name, raw, pixel_scale, facts, kept_tests, kept_calibration=64):
    """Import a trained module, measure the integer network on all test images, and write it into the zoo.

    ``raw`` holds uint8 arrays ``x_train, x_test`` (n, C, H, W) and ``y_test``. The integer accuracy must be within 0.5 points
    of the float one or nothing is written.
    """
    module.eval()
    examples = Examples(test_images=raw["x_test"][:kept_tests], test_labels=raw["y_test"][:kept_tests],
                        calibration_images=raw["x_train"][:kept_calibration])
    network = import_torch(module, raw["x_test"].shape[1:], name=name, pixel_scale=pixel_scale,
                           calibration=raw["x_train"][:1000], examples=examples)
    right, seen = 0, 0
    for start in range(0, len(raw["x_test"]), 500):
        trace = evaluate(network, raw["x_test"][start:start + 500])
        guess = trace.output.reshape(len(trace.output), -1).argmax(axis=1)
        right += int((guess == raw["y_test"][start:start + 500]).sum())
        seen += len(guess)
    facts = facts | {"accuracy_integer": right / seen, "test_images": seen}
    print(f"{name}: float {facts['accuracy_float']:.4f}, integer {facts['accuracy_integer']:.4f}")
    if facts["accuracy_integer"] < facts["accuracy_float"] - 0.005:
        raise SystemExit(f"{name}: the integer network loses more than 0.5 points; not saved")
    network.metadata.update(facts)
    path = ZOO / f"{name}.npz"
    network.save(path)
    for layer in network.layers:
        values = trace.layers[layer.name]
        print(f"  {layer.name:12} K {layer.weights.shape[0]:4} N {layer.columns:4} rows {values.rows:4} "
              f"A {values.density:.2f} W {values.weight_density:.2f} theta {layer.theta.min()} … {layer.theta.max()} "
              f"matches/image {values.matches.sum() / len(trace.output):.0f}")
    print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")
