"""The networks of the metrics (Inception, VGG, LPIPS), and the files that they come from."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from cocosnet_jax import files
from cocosnet_jax.data import problems
from cocosnet_jax.distributed import say
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import inception as inception_files
from cocosnet_jax.pretrained import lpips as lpips_files
from cocosnet_jax.pretrained import vgg as vgg_files
from cocosnet_jax.pretrained.inception import Inception
from cocosnet_jax.vgg import VggWeights

_Read = TypeVar("_Read")


@dataclasses.dataclass(frozen=True)
class Yardsticks:
    """The networks; those that are not given are None.

    Attributes:
      inception: of FID.
      vgg: of semantic consistency and style relevance.
      vgg_name: network, preprocessing, file and hash, for reports.
      lpips: LPIPS's VGG-16 and its heads.
      lpips_name: as `vgg_name`.
    """

    INCEPTION_HOW: ClassVar[str] = inception_files.HOW
    LPIPS_HOW: ClassVar[str] = lpips_files.HOW

    inception: Inception | None = None
    vgg: VggWeights | None = None
    vgg_name: str = ""
    lpips: tuple[VggWeights, dict[str, Any]] | None = None
    lpips_name: str = ""

    @property
    def inception_name(self) -> str:
        """Network and hash, for reports."""
        assert self.inception is not None
        return f"{self.inception.name} (sha256 {self.inception.sha256})"

    def networks(self) -> dict[str, Any]:
        """The weights, by the names that `metrics.rows` uses."""
        found: dict[str, Any] = {}
        if self.inception is not None:
            found["inception"] = self.inception.params
        if self.vgg is not None:
            found["vgg"] = self.vgg
        if self.lpips is not None:
            found["lpips_vgg"], found["heads"] = self.lpips
        return found

    def identity(self) -> list[str]:
        """Identifies these networks."""
        return [self.inception.sha256 if self.inception else "", self.vgg_name, self.lpips_name]


def load(
    inception: str = "",
    vgg_weights: str = "",
    lpips: str = "",
    lpips_vgg: str = "",
    width: int = 64,
    vgg_flag: str = "--vgg",
) -> Yardsticks:
    """Reads the weight files that are named.

    Args:
      inception: pytorch-fid's file.
      vgg_weights: as config.vgg.weights.
      lpips: LPIPS's heads.
      lpips_vgg: torchvision's VGG-16, where `vgg_weights` is another network.
      width: of `vgg_weights`, where they are random.
      vgg_flag: the setting that `vgg_weights` comes from, for messages.

    Raises:
      UserError: lists the files that are missing or wrong, and says which are needed, where they
        come from, and their hashes.
    """
    wrong: list[str] = []

    def tried(read: Callable[..., _Read], *arguments: Any) -> _Read | None:
        try:
            return read(*arguments)
        except UserError as error:
            wrong.append(str(error))
            return None

    network = tried(inception_files.load, inception) if inception else None
    judge = tried(vgg_files.load, vgg_weights, width, vgg_flag) if vgg_weights else None
    heads = tried(lpips_files.load, lpips) if lpips else None
    other = tried(_load_of_lpips, lpips_vgg) if lpips_vgg else judge
    if lpips and other is not None and not _is_of_lpips(other):
        wrong.append(
            f"{'--lpips-vgg' if lpips_vgg else vgg_flag} is {describe(other)}, and --lpips reads"
            " torchvision's VGG-16 (vgg16-397923af.pth): set --lpips-vgg to that file"
        )
    elif lpips and not (lpips_vgg or vgg_weights):
        wrong.append(
            f"--lpips reads torchvision's VGG-16 (vgg16-397923af.pth): name it as {vgg_flag}, or as"
            f" --lpips-vgg where {vgg_flag} is VGG-19"
        )
    problems.raise_if_any("the set of weight files", wrong)
    if network is not None and not network.is_known:
        say(
            f"note: --inception={inception} has the FID Inception's layers, but is not"
            f" pytorch-fid's own file: its SHA-256 does not begin with"
            f" {inception_files.SHA256_BEGINS}"
        )
    pair, pair_name = None, ""
    if heads is not None and other is not None:
        pair = other, heads
        network_name = _named(other, lpips_vgg or vgg_weights)
        pair_name = f"LPIPS 0.1, {network_name}, heads {_hash(lpips)}"
    return Yardsticks(
        inception=network,
        vgg=judge,
        vgg_name=_named(judge, vgg_weights) if judge is not None else "",
        lpips=pair,
        lpips_name=pair_name,
    )


def _load_of_lpips(path: str) -> VggWeights:
    """The network of `--lpips-vgg`."""
    if not files.local(path, "--lpips-vgg").is_file():
        raise UserError(
            f"--lpips-vgg={path} is no file; needed is torchvision's VGG-16, vgg16-397923af.pth,"
            " the one that torchvision.models.vgg16(weights='IMAGENET1K_V1') downloads"
        )
    return vgg_files.load(path, flag="--lpips-vgg")


def _is_of_lpips(weights: VggWeights) -> bool:
    return weights.network == "VGG-16" and weights.preprocessing == "torchvision"


def describe(weights: VggWeights) -> str:
    """The network, and the origin of its weights."""
    whose = {"caffe": "Caffe", "torchvision": "torchvision"}[weights.preprocessing]
    return f"{weights.network} ({whose})"


def _named(weights: VggWeights, given: str) -> str:
    if given == "random":
        return f"{describe(weights)}, untrained: for trying things out, not for results"
    return f"{describe(weights)} {_hash(given)}"


def _hash(given: str | os.PathLike[str]) -> str:
    path = Path(given).expanduser()
    if not path.is_file():
        return f"({given})"
    return f"({path.name}, sha256 {files.sha256(path)})"
