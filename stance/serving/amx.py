"""Lets a worker of vLLM use AMX, the matrix unit of Intel processors: `--worker-extension-cls stance.serving.amx.Amx`.

Linux gives the unit to a process that asks for it. vLLM 0.32 leaves the asking to oneDNN, which does at its first large
product: an engine whose first prompt had three tokens ended by an illegal instruction in its attention.
"""

import torch


class Amx:
    """Adds nothing to the worker; that this module is imported there is what counts."""


torch.cpu._init_amx()
