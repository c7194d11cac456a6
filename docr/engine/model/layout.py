"""Which form the weights take on a CPU. On other devices they stay as they are."""

from torch import nn

from docr.engine.model.decoder import Experts
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.model.native import make_native
from docr.engine.model.packed import PackedExperts, pack_encoder, packing, packs
from docr.engine.native.products import HEADS, fits
from docr.errors import DeviceError
from docr.settings import Quantize


def lay_out(model: DeepseekOCR, quantize: Quantize) -> None:
    """Replace the weights by what multiplies fastest here: in 8 bits only the decoder's.

    Raises:
        DeviceError: 8-bit weights are asked for and cannot be had.
    """
    head = model.lm_head.weight
    if packs(head):
        pack_encoder(model.encoder)
    pack = packing(head, quantize)
    # Named nowhere: what is replaced must be free to go.
    fitting = fits(head, *(weight for weight in model.decoder.parameters() if weight.dim() > 1))
    if fitting and model.config.head_dim in HEADS:
        make_native(model, eight=quantize == "int8")
    elif pack is not None:
        for module in [model, *model.decoder.modules()]:
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, pack(child.weight))
                elif isinstance(child, Experts):
                    setattr(module, name, PackedExperts(child, pack))
    elif quantize == "int8":
        raise DeviceError(f"--quantize int8 needs a CPU and oneDNN in torch; not {head.device}")
