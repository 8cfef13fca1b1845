"""A plain PyTorch implementation of CoCosNet, for the comparison in `benchmarks.pytorch`.

It has the networks, losses and training step of `configs/ade20k.py:released`, written directly from
SPEC: eager, float32, NCHW, batch 1. Weights are random. It imports nothing of this project.
"""

import resource
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import spectral_norm

CLASSES = 151
WIDTH = 64  # base filters


def reflect(x: Tensor) -> Tensor:
    """Pads by one reflected pixel on every side."""
    return F.pad(x, (1, 1, 1, 1), mode="reflect")


def positional_norm(x: Tensor) -> Tensor:
    """Positional norm: normalises each position over its channels."""
    return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt()


def unit(x: Tensor) -> Tensor:
    """Scales the vector of each position to length 1."""
    return x / (x.norm(dim=1, keepdim=True) + 2**-52)


def double(x: Tensor) -> Tensor:
    """Doubles the size, by nearest."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Spade(nn.Module):
    """SPADE with positional norm."""

    def __init__(self, features: int, condition: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(condition, 2 * WIDTH, 3)
        self.gamma, self.beta = (nn.Conv2d(2 * WIDTH, features, 3) for _ in range(2))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        condition = F.interpolate(condition, size=x.shape[2:], mode="nearest")
        read = reflect(F.relu(self.shared(reflect(condition))))
        return positional_norm(x) * (1 + self.gamma(read)) + self.beta(read)


class SpadeBlock(nn.Module):
    """Residual block of two SPADE-conditioned convolutions."""

    def __init__(self, cin: int, cout: int, condition: int) -> None:
        super().__init__()
        middle = min(cin, cout)
        self.norm_0, self.norm_1 = Spade(cin, condition), Spade(middle, condition)
        self.conv_0 = spectral_norm(nn.Conv2d(cin, middle, 3))
        self.conv_1 = spectral_norm(nn.Conv2d(middle, cout, 3))
        self.narrower = cin != cout
        if self.narrower:
            self.norm_s = Spade(cin, condition)
            self.conv_s = spectral_norm(nn.Conv2d(cin, cout, 1, bias=False))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shortcut = self.conv_s(self.norm_s(x, condition)) if self.narrower else x
        dx = self.conv_0(reflect(F.leaky_relu(self.norm_0(x, condition), 0.2)))
        return shortcut + self.conv_1(reflect(F.leaky_relu(self.norm_1(dx, condition), 0.2)))


class NonLocal(nn.Module):
    """Self-attention over 2 x 2 pooled positions."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.theta, self.phi, self.g, self.o = (
            spectral_norm(nn.Conv2d(cin, cout, 1, bias=False))
            for cin, cout in ((c, c // 8), (c, c // 8), (c, c // 2), (c // 2, c))
        )
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        phi, g = (F.max_pool2d(y(x), 2).flatten(2) for y in (self.phi, self.g))
        attention = (self.theta(x).flatten(2).transpose(1, 2) @ phi).softmax(-1)
        attended = (g @ attention.transpose(1, 2)).view(len(x), -1, *x.shape[2:])
        return x + self.gain * self.o(attended)


class Adaptor(nn.Module):
    """The domain adaptor of one domain."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers = (
            (channels, WIDTH, 1),
            (WIDTH, 2 * WIDTH, 2),
            (2 * WIDTH, 4 * WIDTH, 1),
            (4 * WIDTH, 8 * WIDTH, 2),
        )
        self.convs = nn.ModuleList(
            spectral_norm(nn.Conv2d(cin, cout, 3, stride, 1, bias=False))
            for cin, cout, stride in (*layers, (8 * WIDTH, 8 * WIDTH, 1))
        )
        widths = ((8 * WIDTH, 8 * WIDTH), (8 * WIDTH, 8 * WIDTH), (8 * WIDTH, 4 * WIDTH))
        self.blocks = nn.ModuleList(SpadeBlock(*width, channels) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i, conv in enumerate(self.convs):
            y = F.instance_norm(conv(y))
            if i < len(self.convs) - 1:
                y = F.leaky_relu(y, 0.2)
        for block in self.blocks:
            y = block(y, x)
        return unit(y)


class Residual(nn.Module):
    """Residual block of the feature block."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv_0, self.conv_1 = nn.Conv2d(c, c, 3), nn.Conv2d(c, c, 3)
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(F.instance_norm(self.conv_0(reflect(x))))
        return self.prelu(x + F.instance_norm(self.conv_1(reflect(y))))


class Translator(nn.Module):
    """Correspondence, warp and generator."""

    def __init__(self) -> None:
        super().__init__()
        self.input_adaptor, self.image_adaptor = Adaptor(CLASSES), Adaptor(3)
        width = 4 * WIDTH + CLASSES
        self.features = nn.Sequential(*(Residual(width) for _ in range(4)))
        self.theta, self.phi = nn.Conv2d(width, 4 * WIDTH, 1), nn.Conv2d(width, 4 * WIDTH, 1)
        condition = CLASSES + 3
        self.stem = nn.Conv2d(condition, 16 * WIDTH, 3, padding=1)
        widths = ((16, 16), (16, 16), (16, 16), (16, 8), (8, 4), (4, 2), (2, 1))
        self.blocks = nn.ModuleList(
            SpadeBlock(cin * WIDTH, cout * WIDTH, condition) for cin, cout in widths
        )
        self.attention = NonLocal(4 * WIDTH)
        self.to_image = nn.Conv2d(WIDTH, 3, 3, padding=1)

    def forward(
        self, semantics: Tensor, exemplar: Tensor, exemplar_semantics: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        def compared(adapted: Tensor, mask: Tensor, project: nn.Module) -> Tensor:
            mask = F.interpolate(mask, size=adapted.shape[2:], mode="nearest")
            x = project(self.features(torch.cat([adapted, mask], 1)))
            x = F.unfold(x, 3, padding=1)
            return unit(x - x.mean(1, keepdim=True))

        adapted = self.input_adaptor(semantics)
        theta = compared(adapted, semantics, self.theta)
        phi = compared(self.image_adaptor(exemplar), exemplar_semantics, self.phi)
        match = (theta.transpose(1, 2) @ phi / 0.01).softmax(-1)

        def warp(values: Tensor) -> Tensor:
            carried = match @ values.flatten(2).transpose(1, 2)
            return carried.transpose(1, 2).view_as(values)

        warped = warp(F.avg_pool2d(exemplar, 4))
        # Inference does not need a warped mask.
        mask = F.interpolate(exemplar_semantics, scale_factor=0.25, mode="nearest")
        mask = warp(mask) if self.training else mask
        warped = F.interpolate(warped, scale_factor=4, mode="nearest")
        condition = torch.cat([warped, semantics], 1)
        small = [side // 32 for side in semantics.shape[2:]]
        x = self.stem(F.interpolate(condition, size=small, mode="nearest"))
        for i, block in enumerate(self.blocks):
            if i == 5:
                x = self.attention(x)
            x = block(x, condition)
            if i in (0, 2, 3, 4, 5):
                x = double(x)
        return self.to_image(F.leaky_relu(x, 0.2)).tanh(), adapted, mask


class Patches(nn.Module):
    """The discriminator of one scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(CLASSES + 3, WIDTH, 4, 2, 1)
        self.middle = nn.ModuleList(
            spectral_norm(nn.Conv2d(cin * WIDTH, 2 * cin * WIDTH, 4, stride, 1, bias=False))
            for cin, stride in ((1, 2), (2, 2), (4, 1))
        )
        self.attention = NonLocal(4 * WIDTH)
        self.last = nn.Conv2d(8 * WIDTH, 1, 4, 1, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.leaky_relu(self.first(x), 0.2)
        found = [x]
        for i, conv in enumerate(self.middle):
            x = self.attention(x) if i == 2 else x
            x = F.leaky_relu(F.instance_norm(conv(x)), 0.2)
            found.append(x)
        return [*found, self.last(x)]


class Discriminator(nn.Module):
    """Both scales, with fake and real images in one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ModuleList(Patches() for _ in range(2))

    def forward(self, semantics: Tensor, fake: Tensor, real: Tensor) -> Any:
        x = torch.cat([torch.cat([semantics, y], 1) for y in (fake, real)])
        half = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        found = [scale(y) for scale, y in zip(self.scales, (x, half), strict=True)]
        return [[[y[i : i + 1] for y in scale] for scale in found] for i in range(2)]


class Vgg(nn.Module):
    """VGG-19 up to relu5_2, not trained."""

    def __init__(self) -> None:
        super().__init__()
        cin, stages = 3, []
        for count, width in ((2, 64), (2, 128), (4, 256), (4, 512), (2, 512)):
            stages.append(nn.ModuleList())
            for _ in range(count):
                stages[-1].append(nn.Conv2d(cin, width, 3, padding=1))
                cin = width
        self.stages = nn.ModuleList(stages)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        means = x.new_tensor((0.40760392, 0.45795686, 0.48501961)).view(3, 1, 1)
        x = (((x + 1) / 2).flip(1) - means) * 255
        found = []
        for i, stage in enumerate(self.stages):
            x = F.max_pool2d(x, 2) if i else x
            for j, conv in enumerate(stage):
                x = F.relu(conv(x))
                if j == 1:
                    found.append(x)
        return found


def contextual(x: Tensor, y: Tensor) -> Tensor:
    """Contextual loss of one layer, -log CX, centred over channels."""
    mean = y.mean(1, keepdim=True)
    x, y = unit((x - mean).flatten(2)), unit((y - mean).flatten(2))
    distance = 1 - x.transpose(1, 2) @ y
    relative = distance / (distance.min(-1, keepdim=True).values + 1e-3)
    weights = ((1 - relative) / 0.1).exp()
    affinity = weights / weights.sum(-1, keepdim=True)
    return -affinity.max(-1).values.mean(-1).log().mean()


class Batch(NamedTuple):
    """One sample: class map, one-hot maps of input and exemplar, truth and exemplar."""

    label: Tensor
    semantics: Tensor
    exemplar_semantics: Tensor
    image: Tensor
    exemplar: Tensor


def training_step(
    translator: nn.Module, discriminator: nn.Module, batch: Batch
) -> Callable[[], None]:
    """Returns a function that trains both players on one batch (SPEC sections 6 and 7).

    Weights of terms that depend on the batch are omitted, since they take no time.
    """
    label, semantics, exemplar_semantics, image, exemplar = batch
    vgg = Vgg()
    optimiser = torch.optim.Adam(translator.parameters(), 1e-4, (0.0, 0.9), eps=1e-3)
    discriminator_optimiser = torch.optim.Adam(discriminator.parameters(), 4e-4, (0.0, 0.9))

    def step() -> None:
        discriminator.requires_grad_(False)
        fake, adapted, mask = translator(semantics, exemplar, exemplar_semantics)
        loss = 10 * (adapted - translator.image_adaptor(image)).abs().mean()
        fake_layers, real_layers = discriminator(semantics, fake, image)
        fake_features = vgg(fake)
        with torch.no_grad():
            truth, style = vgg(image), vgg(exemplar)
        for fake_scale, real_scale in zip(fake_layers, real_layers, strict=True):
            loss = loss - 10 * fake_scale[-1].mean() / 2
            for a, b in zip(fake_scale[:-1], real_scale[:-1], strict=True):
                loss = loss + 5 * (a - b.detach()).abs().mean()
        for weight, a, b in zip(
            (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1), fake_features, truth, strict=True
        ):
            loss = loss + weight * (a - b).abs().mean()
        loss = loss + 0.01 * (fake_features[4] - truth[4]).square().mean()
        pooled = [F.avg_pool2d(y[2], 2) for y in (fake_features, style)]
        pairs = ((8, fake_features[4], style[4]), (4, fake_features[3], style[3]), (2, *pooled))
        for weight, a, b in pairs:
            loss = loss + 10 * weight * contextual(a, b)
        picked = mask.gather(1, F.interpolate(label[None].float(), size=mask.shape[2:]).long())
        loss = loss - 100 * (picked + 1e-10).log().mean()
        assert loss.isfinite()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

        discriminator.requires_grad_(True)
        fake_layers, real_layers = discriminator(semantics, fake.detach(), image)
        terms = [
            5 * (F.relu(1 + a[-1]).mean() + F.relu(1 - b[-1]).mean())
            for a, b in zip(fake_layers, real_layers, strict=True)
        ]
        loss = torch.stack(terms).sum()
        discriminator_optimiser.zero_grad()
        loss.backward()
        discriminator_optimiser.step()

    return step


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Measures one pass.

    Args:
      case: `pass` (`translate` or `train`), `size` in pixels, `calls`.

    Returns:
      Seconds of the fastest call after a first one that is not counted, the process's peak memory
      in GiB, and the number of parameters of each network.
    """
    torch.manual_seed(0)
    size = case["size"]
    translator = Translator()
    labels = [torch.randint(CLASSES, (1, size, size)) for _ in range(2)]
    semantics, exemplar_semantics = (
        F.one_hot(label, CLASSES).permute(0, 3, 1, 2).float().contiguous() for label in labels
    )
    image, exemplar = (torch.rand(1, 3, size, size) * 2 - 1 for _ in range(2))
    learned: dict[str, nn.Module] = {"generator": translator}
    call: Callable[[], Any]
    if case["pass"] == "translate":
        translator.eval()
        call = torch.no_grad()(lambda: translator(semantics, exemplar, exemplar_semantics))
    else:
        discriminator = learned["discriminator"] = Discriminator()
        batch = Batch(labels[0], semantics, exemplar_semantics, image, exemplar)
        call = training_step(translator, discriminator, batch)
    best = float("inf")
    for i in range(case["calls"] + 1):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began) if i else best
    return {
        "seconds": best,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "learned": {
            name: sum(x.numel() for x in net.parameters()) for name, net in learned.items()
        },
    }
