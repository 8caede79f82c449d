"""AMX, the matrix unit of Intel processors, for a worker of vLLM: `--worker-extension-cls stance.serving.amx.Amx`.

A process must ask Linux for the unit. vLLM 0.32 leaves that to oneDNN, which asks at its first large matrix product. An
engine whose first prompt had three tokens had not asked by then, and ended by an illegal instruction in its attention.
Importing this module asks.
"""

import torch


class Amx:
    """An empty extension: the worker imports this module for it."""


torch.cpu._init_amx()
