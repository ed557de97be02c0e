"""A trained network on the accelerator, from Python: compile, verify in every cycle, read the figures.

Run it with ``.venv/bin/python examples/digits.py``; the simulator is built the first time (about a minute).
"""
from neuroflex import flow, zoo
from neuroflex.config import PRESETS
from neuroflex.sim.network import quantise

network = zoo.load("digits")
job = flow.compile_network(network, PRESETS["tiny"], policy="hybrid")
images = quantise(network.input, network.examples.test_images[:2])

for tensor, label in zip(images, network.examples.test_labels):
    verdict = flow.verify(job, tensor)          # RTL and golden model, side by side
    rtl = verdict.rtl
    print(f"a {label}: the RTL says {rtl.output.argmax()} after {rtl.cycles} cycles; "
          f"{verdict.cycle_mismatches} cycles differ from the golden model")

print("matches per PE and cycle:", {core: round(share, 2) for core, share in rtl.utilisation.items()})
print(f"energy (counted events × measured-sky130): {flow.energy_pj(job, images[0]) / 1e3:.0f} nJ per image")
