"""I3D as published, written out slowly in NumPy: the layers' table, and 'SAME' without any padding.

The table is that of Carreira and Zisserman (CVPR 2017, Figure 3) and of google-deepmind/kinetics-i3d's `i3d.py`: kernels
and strides (time, height, width). TensorFlow's 'SAME': an axis of n cells gives ceil(n / stride); the first kernel
tap of output i stands at i * stride - before, with before = max((ceil(n / s) - 1) s + k - n, 0) // 2. Taps outside the
volume are left out: they would add 0 to a convolution and -inf to a maximum.
"""

import itertools

import numpy as np

CONV, POOL, MIXED = "conv", "pool", "mixed"
TABLE = (  # name, kind, kernel, stride, channels that leave it
    ("Conv3d_1a_7x7", CONV, (7, 7, 7), (2, 2, 2), 64),
    ("MaxPool3d_2a_3x3", POOL, (1, 3, 3), (1, 2, 2), 64),
    ("Conv3d_2b_1x1", CONV, (1, 1, 1), (1, 1, 1), 64),
    ("Conv3d_2c_3x3", CONV, (3, 3, 3), (1, 1, 1), 192),
    ("MaxPool3d_3a_3x3", POOL, (1, 3, 3), (1, 2, 2), 192),
    ("Mixed_3b", MIXED, None, (1, 1, 1), 256),
    ("Mixed_3c", MIXED, None, (1, 1, 1), 480),
    ("MaxPool3d_4a_3x3", POOL, (3, 3, 3), (2, 2, 2), 480),
    ("Mixed_4b", MIXED, None, (1, 1, 1), 512),
    ("Mixed_4c", MIXED, None, (1, 1, 1), 512),
    ("Mixed_4d", MIXED, None, (1, 1, 1), 512),
    ("Mixed_4e", MIXED, None, (1, 1, 1), 528),
    ("Mixed_4f", MIXED, None, (1, 1, 1), 832),
    ("MaxPool3d_5a_2x2", POOL, (2, 2, 2), (2, 2, 2), 832),
    ("Mixed_5b", MIXED, None, (1, 1, 1), 832),
    ("Mixed_5c", MIXED, None, (1, 1, 1), 1024),
)
BRANCHES = (  # of every Mixed block; all strides are 1
    ("Branch_0", (("Conv3d_0a_1x1", CONV, 1),)),
    ("Branch_1", (("Conv3d_0a_1x1", CONV, 1), ("Conv3d_0b_3x3", CONV, 3))),
    ("Branch_2", (("Conv3d_0a_1x1", CONV, 1), ("Conv3d_0b_3x3", CONV, 3))),
    ("Branch_3", (("MaxPool3d_0a_3x3", POOL, 3), ("Conv3d_0b_1x1", CONV, 1))),
)
EPSILON = 1e-3


def shapes(size):
    """The output (channels, z, y, x) of every endpoint for an input (z, y, x): each stride divides, rounding up."""
    found = {}
    for name, _, _, stride, channels in TABLE:
        size = tuple(-(-n // s) for n, s in zip(size, stride, strict=True))
        found[name] = (channels, *size)
    return found


def taps(size, kernel, stride):
    """For each output of one axis: the inputs that the kernel touches, and which of its taps touch them."""
    outputs = -(-size // stride)
    before = max((outputs - 1) * stride + kernel - size, 0) // 2
    for i in range(outputs):
        first = i * stride - before
        low, high = max(first, 0), min(first + kernel, size)
        yield i, slice(low, high), slice(low - first, high - first)


def windows(shape, kernel, stride):
    axes = [list(taps(*one)) for one in zip(shape, kernel, stride, strict=True)]
    for triple in itertools.product(*axes):
        yield (tuple(column) for column in zip(*triple, strict=True))


def conv(x, weight, stride):
    """(C, z, y, x) and (O, C, kz, ky, kx) -> (O, z', y', x')."""
    out = np.zeros((len(weight), *(-(-n // s) for n, s in zip(x.shape[1:], stride, strict=True))))
    for where, inputs, kernel in windows(x.shape[1:], weight.shape[2:], stride):
        out[(slice(None), *where)] = np.tensordot(weight[(..., *kernel)], x[(slice(None), *inputs)], 4)
    return out


def pool(x, kernel, stride):
    """(C, z, y, x) -> (C, z', y', x')."""
    out = np.zeros((len(x), *(-(-n // s) for n, s in zip(x.shape[1:], stride, strict=True))))
    for where, inputs, _ in windows(x.shape[1:], kernel, stride):
        out[(slice(None), *where)] = x[(slice(None), *inputs)].max((1, 2, 3))
    return out


def unit(x, tensors, name, kernel, stride):
    """Convolution, BatchNorm in evaluation mode, ReLU."""
    weight = tensors[f"{name}.conv.weight"]
    assert weight.shape[2:] == kernel, name
    x = conv(x, weight, stride)
    mean, variance, scale, shift = (
        tensors[f"{name}.bn.{key}"][:, None, None, None] for key in ("running_mean", "running_var", "weight", "bias")
    )
    return np.maximum((x - mean) / np.sqrt(variance + EPSILON) * scale + shift, 0)


def features(x, tensors):
    """The map after the last block, (C, z, y, x), of one input (channels, z, y, x); tensors: float64 arrays by name."""
    for name, kind, kernel, stride, _ in TABLE:
        if kind == CONV:
            x = unit(x, tensors, name, kernel, stride)
        elif kind == POOL:
            x = pool(x, kernel, stride)
        else:
            x = np.concatenate([branch(x, tensors, f"{name}.{part}", layers) for part, layers in BRANCHES])
    return x


def branch(x, tensors, name, layers):
    for layer, kind, size in layers:
        cube = (size,) * 3
        x = unit(x, tensors, f"{name}.{layer}", cube, (1, 1, 1)) if kind == CONV else pool(x, cube, (1, 1, 1))
    return x
