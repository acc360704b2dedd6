"""Networks in Keras that compute what timm's ResNets do, with attention blocks of this project in either style."""

import keras
from keras import layers as stock

from attention_keras import functional, layers


def resnet(
    shape,
    depths,
    attend,
    *,
    widths=(64, 128, 256, 512),
    bottleneck=False,
    stem=(),
    average=False,
    classes=10,
    dtype="float32",
):
    """A channels-last functional model whose layers have timm's names, with "_" for ".".

    Args:
        shape: (height, width, 3).
        depths: blocks of each stage.
        attend: a function (x, channels, name) -> x, as of `layers_style` or `functional_style`.
        widths: channels of each stage, less the expansion of bottlenecks.
        bottleneck: three convolutions a block instead of two.
        stem: widths of the first convolutions of a deep stem; () for one of 7x7.
        average: whether shortcuts pool before they convolve.
    """
    net = Network(attend, dtype)
    x = inputs = keras.Input(shape, dtype=dtype)
    if stem:
        for number, width in enumerate((*stem, widths[0])):
            is_last = number == len(stem)
            x = net.conv(x, width, 3, f"conv1_{3 * number}", strides=1 if number else 2)
            x = net.relu(net.norm(x, "bn1" if is_last else f"conv1_{3 * number + 1}"))
    else:
        x = net.relu(net.norm(net.conv(x, widths[0], 7, "conv1", strides=2), "bn1"))
    x = stock.MaxPooling2D(3, 2, dtype=dtype)(stock.ZeroPadding2D(1, dtype=dtype)(x))  # zeros lose to a ReLU's output
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        for number in range(depth):
            strides = 2 if stage and not number else 1
            x = net.block(x, width, f"layer{stage + 1}_{number}", strides, bottleneck, average)
    x = stock.GlobalAveragePooling2D(dtype=dtype)(x)
    return keras.Model(inputs, stock.Dense(classes, name="fc", dtype=dtype)(x))


class Network:
    """The layers of one network: where their attention comes from, and their dtype."""

    def __init__(self, attend, dtype):
        self.attend, self.dtype = attend, dtype

    def block(self, x, width, name, strides, bottleneck, average):
        """A residual block."""
        outputs = width * (4 if bottleneck else 1)
        shortcut = x
        if strides > 1 or x.shape[-1] != outputs:
            shortcut = self.shortcut(x, outputs, name, strides, average)
        plan = [(width, 1, 1), (width, 3, strides), (outputs, 1, 1)] if bottleneck else []
        plan = plan or [(width, 3, strides), (outputs, 3, 1)]
        for number, (channels, size, step) in enumerate(plan, 1):
            x = self.norm(self.conv(x, channels, size, f"{name}_conv{number}", strides=step), f"{name}_bn{number}")
            x = self.relu(x) if number < len(plan) else self.attend(x, channels, f"{name}_se", self.dtype)
        return self.relu(stock.Add(dtype=self.dtype)([x, shortcut]))

    def shortcut(self, x, outputs, name, strides, average):
        """The convolution beside a block that changes the shape."""
        if average and strides > 1:
            x = stock.AveragePooling2D(2, strides, padding="same", dtype=self.dtype)(x)
        path, step = f"{name}_downsample", 1 if average else strides
        x = self.conv(x, outputs, 1, f"{path}_{int(average)}", strides=step)
        return self.norm(x, f"{path}_{int(average) + 1}")

    def conv(self, x, channels, size, name, strides=1):
        """A convolution that pads as PyTorch does: "same" would put the zeros of a stride elsewhere."""
        if size > 1:
            x = stock.ZeroPadding2D(size // 2, dtype=self.dtype)(x)
        return stock.Conv2D(channels, size, strides, use_bias=False, name=name, dtype=self.dtype)(x)

    def norm(self, x, name):
        """PyTorch's batch norm."""
        return stock.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name, dtype=self.dtype)(x)

    def relu(self, x):
        return stock.ReLU(dtype=self.dtype)(x)


def layers_style(block, **options):
    """`attend` by the layer `block` of `attention_keras.layers`; options may be functions of the channels."""

    def attend(x, channels, name, dtype):
        return getattr(layers, block)(**_given(options, channels), name=name, dtype=dtype)(x)

    return attend


def functional_style(block, **options):
    """`attend` by the function `block` of `attention_keras.functional`."""

    def attend(x, channels, name, dtype):
        return getattr(functional, block)(x, **_given(options, channels), name=name, dtype=dtype)

    return attend


def _given(options, channels):
    return {name: value(channels) if callable(value) else value for name, value in options.items()}
