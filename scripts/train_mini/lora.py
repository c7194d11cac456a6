"""Low-rank adapters: what is trained of a model that is too large to train whole.

An adapter adds a product `up @ down` of a small rank to a frozen matrix. It is a parametrization
(torch.nn.utils.parametrize): the layer stays the layer that it was and computes with the sum, and
merging is torch's own remove_parametrizations. The usual library for this, peft, is made for
transformers' models; it would be a dependency, and would still have to be fitted to docr's.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from docr.engine.model.decoder import MLP, Attention
from docr.engine.model.deepseek_ocr import DeepseekOCR

SCALE = 2.0
"""What an adapter's product is multiplied with: an "alpha" of twice the rank."""


class LowRank(nn.Module):
    """What is added to a matrix [O,I]: zero at first, and never of more than a rank R.

    Attributes:
        down: fp32 [R,I], random.
        up: fp32 [O,R], zero.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        down = torch.empty(rank, inputs, device=weight.device).normal_(std=inputs**-0.5)
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(outputs, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted matrix, in the dtype of `weight`."""
        # fp32 under autocast, too: what is trained with is then, bit for bit, what is merged.
        with torch.autocast(weight.device.type, enabled=False):
            return (weight.float() + SCALE * (self.up @ self.down)).to(weight.dtype)


def add_adapters(model: DeepseekOCR, rank: int) -> None:
    """Freeze a model, and adapt the decoder's attention and its dense and shared MLPs.

    The routed experts are left as they are: a token goes through a few of them, so that each
    would learn from little, and their adapters would outnumber all others. The encoder is left as
    well, so that training keeps none of its activations.
    """
    model.requires_grad_(False)
    linears: list[nn.Linear] = []
    for module in model.decoder.modules():
        if isinstance(module, Attention):
            linears += (module.qkv_proj, module.o_proj)
        elif isinstance(module, MLP):
            linears += (module.gate_up_proj, module.down_proj)
    for linear in linears:
        parametrize.register_parametrization(linear, "weight", LowRank(linear.weight, rank))


def merge_adapters(model: DeepseekOCR) -> None:
    """Write all adapters into the matrices that they adapt; without any, nothing is changed."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
