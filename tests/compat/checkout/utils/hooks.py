from contextlib import ExitStack, contextmanager
from functools import partial


def _masked(mask, module, arguments):
    hidden, residual = arguments
    return hidden * mask, residual


@contextmanager
def filters_masked(model, masks):
    with ExitStack() as stack:
        for layer, mask in zip(model.bert.encoder.layer, masks, strict=True):
            handle = layer.output.register_forward_pre_hook(partial(_masked, mask))
            stack.callback(handle.remove)
        yield
