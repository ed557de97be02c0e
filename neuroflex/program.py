"""A compiled job as a program image, and back.

The image holds the network beside the program, so that one file is enough to simulate and verify. Opening it compiles the network
again and insists on the same memory: what is simulated is what the file holds. An image of the policy ``measured`` says which policy that chose,
so that only this one is compiled; that it was the best one is not measured again.
"""
import base64
import dataclasses

import numpy as np

from neuroflex import flow
from neuroflex.compiler.image import ImageError, ProgramImage, Tensor
from neuroflex.formats import descriptor_lines

__all__ = ["open_image", "program_image"]


def program_image(job, *, policy, seed):
    """The image of a job.

    Parameters
    ----------
    job : neuroflex.compiler.lower.Job
    policy, seed
        What it was compiled with, see :func:`neuroflex.flow.compile_network`.

    Returns
    -------
    ProgramImage
    """
    network, per_descriptor = job.network, descriptor_lines(job.config)
    chosen = {"chosen": job.policy} if policy == "measured" and job.policy else {}
    tensors = tuple(Tensor(name=name, base=place.base, height=place.height, width=place.width, chunks=place.chunks,
                           positions=place.positions, levels=place.levels) for name, place in job.placements.items())
    return ProgramImage(config=job.config, memory=job.memory, tensors=tensors, input=network.input.name, output=network.layers[-1].name,
                        descriptors=tuple(job.program + i * per_descriptor for i in range(len(job.tiles) + 1)),
                        about={"network": base64.b64encode(network.to_bytes()).decode(), "name": network.name, "policy": policy,
                               "seed": seed, **chosen})


def open_image(path):
    """Read an image that `program_image` made.

    Returns
    -------
    job : neuroflex.compiler.lower.Job
    image : ProgramImage

    Raises
    ------
    ImageError
        When the file is damaged, or was compiled by a version that compiles differently.
    neuroflex.compiler.network.NetworkError
        When the network in it is damaged.
    """
    image = ProgramImage.load(path)
    network = image.network(path)
    try:
        policy, seed = image.about["policy"], image.about["seed"]
    except KeyError as error:
        raise ImageError(f"{path}: holds no {error.args[0]}, so that there is nothing to compare with; make it with "
                         "`neuroflex compile`") from None
    if policy not in (*flow.POLICIES, "measured") or type(seed) is not int or seed < 0:
        raise ImageError(f"{path}: compiled with policy {policy!r} and seed {seed!r}, which this version does not know; compile the network again")
    if "chosen" in image.about:         # images of earlier versions do not say
        chosen = image.about["chosen"]
        if policy != "measured" or chosen not in flow.MEASURED:
            raise ImageError(f"{path}: says that policy {policy!r} chose {chosen!r}; 'measured' chooses from {', '.join(flow.MEASURED)}")
        policy = chosen
    job = flow.compile_network(network, image.config, policy=policy, seed=seed)
    if not np.array_equal(job.memory, image.memory):
        raise ImageError(f"{path}: compiled by a version of NeuroFlex that compiles differently; compile the network again")
    return dataclasses.replace(job, memory=image.memory), image
