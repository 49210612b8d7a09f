"""What `torch.use_deterministic_algorithms(True)` refuses on CUDA, and a mode that finds it on any device.

By the documentation of that function in torch 2.14, its list of operations that throw a RuntimeError, under the names
that they have below autograd.
"""

from torch.utils._python_dispatch import TorchDispatchMode

REFUSED = {
    "AvgPool3d, differentiated": {"avg_pool3d_backward"},
    "AdaptiveAvgPool2d and 3d, differentiated": {"_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"},
    "AdaptiveMaxPool2d, differentiated": {"adaptive_max_pool2d_backward"},
    "FractionalMaxPool2d and 3d, differentiated": {"fractional_max_pool2d_backward", "fractional_max_pool3d_backward"},
    "MaxUnpool": {"max_unpool2d", "max_unpool3d"},
    "interpolate, differentiated": {
        *("upsample_linear1d_backward", "upsample_bilinear2d_backward", "_upsample_bilinear2d_aa_backward"),
        *("upsample_bicubic2d_backward", "_upsample_bicubic2d_aa_backward", "upsample_trilinear3d_backward"),
    },
    "ReflectionPad, differentiated": {f"reflection_pad{n}d_backward" for n in (1, 2, 3)},
    "NLLLoss": {"nll_loss_forward", "nll_loss2d_forward"},
    "CTCLoss, differentiated": {"_ctc_loss_backward"},
    "EmbeddingBag, differentiated": {"_embedding_bag_dense_backward"},
    "put_": {"put_", "put"},
    "histc and bincount": {"histc", "bincount"},
    "median with indices": {"median.dim", "nanmedian.dim"},
    "grid_sample, differentiated": {"grid_sampler_2d_backward", "grid_sampler_3d_backward"},
    "scatter_reduce": {"scatter_reduce.two", "scatter_reduce_.two"},
}
NAMES = {name: why for why, names in REFUSED.items() for name in names}


class Deterministic(TorchDispatchMode):
    """Raises where an operation is refused."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        why = NAMES.get(f"{name}.{function._overloadname}") or NAMES.get(name)
        if why:
            raise AssertionError(f"{name} is not deterministic on CUDA ({why})")
        return function(*args, **(kwargs or {}))
