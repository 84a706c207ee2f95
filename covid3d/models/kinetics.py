"""Names of the Kinetics-600 I3D checkpoint (google-deepmind/kinetics-i3d, Apache-2.0) and of our tensors.

The checkpoint is a TensorFlow bundle. Its kernels are stored (D, H, W, in, out); its BatchNorm has no scale.
"""

# One layer of the checkpoint breaks its own naming.
IRREGULAR = {"Mixed_5b/Branch_2/Conv3d_0a_3x3": "Mixed_5b/Branch_2/Conv3d_0b_3x3"}
TENSORS = {
    "conv_3d/w": "conv.weight",
    "batch_norm/beta": "bn.bias",
    "batch_norm/moving_mean": "bn.running_mean",
    "batch_norm/moving_variance": "bn.running_var",
}


def our_name(variable: str) -> str | None:
    """Return the name in InceptionI3d of a checkpoint variable; None for the logits and the optimiser's slots."""
    for ending, tensor in TENSORS.items():
        if variable.endswith("/" + ending) and not variable.startswith("Logits/"):
            layer = variable.removesuffix("/" + ending)
            return f"{IRREGULAR.get(layer, layer).replace('/', '.')}.{tensor}"
    return None


def our_shape(variable: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in InceptionI3d of a checkpoint variable: DHWIO -> OIDHW for kernels, (C,) for BatchNorm."""
    if variable.endswith("/w"):
        depth, height, width, inputs, outputs = shape
        return outputs, inputs, depth, height, width
    return (shape[-1],)
