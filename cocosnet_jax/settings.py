"""Typed settings of a run, checked before anything is compiled or written.

A config file (`configs/*.py`) returns an `ml_collections.ConfigDict` with one section per class
below. `from_mapping` converts it into `Settings`; all other code takes these frozen classes or
plain arguments. A checkpoint stores them as JSON (`to_json`).

The metadata of a field defines what a change of the setting means; see `setting`.

Longer than other files: it keeps all settings together, with their documentation and checks.
"""

import dataclasses
import json
import math
import os
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from cocosnet_jax.errors import UserError

# Version of the settings in files. Raise it whenever a field is added, removed or renamed.
VERSION = 7
# Version -> renamed fields: `section.field` in files of earlier versions -> its new name.
RENAMED: dict[int, dict[str, str]] = {}

# Most steps that `train.profile` traces.
PROFILED_STEPS = 100

# Maps a setting's value to the part that must not change; None if all of it may change.
Kept = Callable[[Any], Any] | None


def _value(value: Any) -> Any:
    return value


def setting(default: Any, *, on_resume: Kept = _value, for_weights: Kept = _value) -> Any:
    """A field with other rules for changes than its section.

    By default, no setting may change when a run resumes, and weights depend on the section `model`
    only: if it differs, a checkpoint belongs to another model.

    Args:
      default: of the field.
      on_resume: maps the value to the part that must not change when a run resumes.
      for_weights: maps the value to the part that the weights depend on.
    """
    return dataclasses.field(
        default=default, metadata={"on_resume": on_resume, "for_weights": for_weights}
    )


def _free(default: Any) -> Any:
    """A field without effect on what is learned, which may change when a run resumes."""
    return setting(default, on_resume=None, for_weights=None)


def _file(default: Any) -> Any:
    """A field for a file, which may move to another folder when a run resumes."""
    return setting(default, on_resume=os.path.basename, for_weights=None)


# Datasets whose inputs are OpenPose's poses.
POSE_DATASETS = ("deepfashion", "folder_poses")


def is_pose_size(value: str) -> bool:
    """Whether a value is valid for `data.pose_size`."""
    return value in ("", "photograph") or bool(re.fullmatch(r"[1-9]\d*x[1-9]\d*", value))


def _require(ok: bool, field: str, value: object, allowed: str) -> None:
    if not ok:
        raise UserError(f"config.{field} is {value!r}; it must be {allowed}")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which photographs, at which size, and where exemplars come from (SPEC section 1).

    Attributes:
      dataset: name of a builder in `cocosnet_jax.data`.
      source: folder with the dataset's own files; empty for generated data.
      data_dir: folder of prepared data; empty means TFDS's default folder.
      image_size: H, side of the square network input; divisible by 32.
      load_size: side to which training images are resized before the random crop.
      condition: how bytes of `Batch.label` become x_A: `labels` one-hot of a class map,
        `labels_glasses` the same with the glasses mask as channel 16, `channels` value / 255.
      channels: C, channels of x_A; 0 if the classes of the user's label maps are yet to be counted
        (by `python -m cocosnet_jax.prepare`).
      value_255: meaning of 255 in the user's label maps (`folder`): `class_1` for black and white
        maps; `unknown` if it marks unknown pixels (void), which become class 0; empty if 255 is an
        error.
      classes: the lines of `classes.txt`, with colours if label maps are read by colour. Training
        sets it from the dataset, for translation.
      palette: the colours of class numbers, `NUMBER #RRGGBB` per line, if label maps are palette
        images; training sets it from the dataset.
      flip: random horizontal flips in training.
      exemplar_list: list file for training images (`key,ref1,ref2,...`), `random` for any other
        image, or empty for none.
      validation_exemplar_list: the same for validation images.
      exemplar_probability: how often training uses the listed exemplar instead of the image itself.
      hard_probability: how often that is the last entry of the list's line instead of the first.
      distortion: how an image becomes its own exemplar: `crop_flip` by another crop and flip (the
        release), `geometric` also by an affine map and a smooth warp (the paper).
      self_pair_list: list file (`key,view1,view2,...`) of other views of the same person in the
        same clothes, which training uses instead of the image itself; `names` to derive them from
        file names (DeepFashion, and drawn scenes of one style); empty for none.
      pose_size: `WIDTHxHEIGHT` of the pictures in which all poses were detected, if these were not
        the photographs at their own size; `photograph` if they were, although most poses fill only
        a corner; empty: a file's own canvas, else the photograph.
    """

    dataset: str = "toy_scenes"
    source: str = _free("")
    data_dir: str = _free("")
    image_size: int = 256
    load_size: int = 286
    condition: Literal["labels", "labels_glasses", "channels"] = setting("labels")
    channels: int = setting(151)
    value_255: Literal["", "class_1", "unknown"] = ""
    # Read from the dataset after the workdir is checked; see `workdir.check_colours`.
    classes: str = _free("")
    palette: str = _free("")
    flip: bool = True
    exemplar_list: str = _file("")
    validation_exemplar_list: str = _free("")
    exemplar_probability: float = 0.7
    hard_probability: float = 0.2
    distortion: Literal["crop_flip", "geometric"] = "crop_flip"
    self_pair_list: str = _file("")
    pose_size: str = ""

    def __post_init__(self) -> None:
        size = self.image_size
        _require(
            size >= 32 and size % 32 == 0,
            "data.image_size",
            size,
            f"a positive multiple of 32, for example {max(64, round(size / 32) * 32)}",
        )
        _require(
            self.load_size >= size,
            "data.load_size",
            self.load_size,
            f"at least data.image_size ({size}): crops are taken from it",
        )
        if not (self.channels == 0 and self.dataset == "folder"):
            _require(1 <= self.channels <= 255, "data.channels", self.channels, "between 1 and 255")
        if self.value_255 and self.dataset != "folder":
            raise UserError(
                f"config.data.value_255 is {self.value_255!r}, but it applies only to"
                f" config.data.dataset=folder, not to {self.dataset}; leave it out"
            )
        if self.value_255 == "class_1" and self.channels not in (0, 2):
            raise UserError(
                f"config.data.channels is {self.channels}, but config.data.value_255=class_1 makes"
                " 2 classes, black and white; set config.data.channels=2"
            )
        for field in ("exemplar_probability", "hard_probability"):
            value = getattr(self, field)
            _require(0 <= value <= 1, f"data.{field}", value, "between 0 and 1")
        _require(
            is_pose_size(self.pose_size),
            "data.pose_size",
            self.pose_size,
            "WIDTHxHEIGHT, for example 256x256, or 'photograph', or empty",
        )
        if self.pose_size and self.dataset not in POSE_DATASETS:
            raise UserError(
                f"config.data.pose_size is {self.pose_size!r}, but {self.dataset} has no poses;"
                " leave it out"
            )
        if self.exemplar_probability > 0 and not self.exemplar_list:
            raise UserError(
                f"config.data.exemplar_probability is {self.exemplar_probability}, but"
                " config.data.exemplar_list is empty; set it to a list file or to 'random' (which"
                " pairs any two images), or set the probability to 0"
            )

    @property
    def planes(self) -> int:
        """p, the number of planes of `Batch.label`, (b, H, W, p)."""
        return {"labels": 1, "labels_glasses": 2, "channels": self.channels}[self.condition]


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The two networks of a translation and the discriminator (SPEC sections 2 to 5 and 9).

    Attributes:
      base_filters: f; every width of the networks is a multiple of it.
      adaptor_kernel: K, kernel of the adaptors' two strided convolutions.
      warp_stride: s, image pixels per correspondence position.
      block_norm: norm in the adaptors' SPADE blocks.
      feature_norm: norm in the adaptive feature block.
      generator_norm: norm in the generator's SPADE blocks.
      match_kernel: side of the compared neighbourhoods, 1 or 3.
      centre: mean to subtract before features are compared: each position's mean over `channels`,
        or each channel's mean over `positions`.
      correlation: store the correlation of all pairs of positions (`dense`), compute it block by
        block (`streaming`; `pallas` does so by kernels of its own on TPUs, not timed yet, and
        streams elsewhere), or `auto`: block by block for neighbourhoods centred over channels, or
        above 4,096 positions (256 x 256 pixels at stride 4). With `pallas`, kernels also compute
        the generator's non-local block where its attention is streamed.
      temperature: divisor of the cosines in the softmax (1 / alpha of equation 4).
      warp_upsampling: how the warped exemplar is upsampled to H x H; `patch` warps whole patches.
      mask_input: where the network takes the exemplar's (and the input's) label map: `features`
        concatenated after the adaptors (release), `adaptor` concatenated to the image adaptor's
        input (paper's warm-up), or `none`.
      mask_epochs: training epochs after which noise replaces the mask; negative: never.
      mask_at_inference: give the mask in evaluation and translation, instead of noise.
      projection: the 1x1 convolutions before the comparison: `separate` for input and exemplar
        (release), or `shared`, the feature block's last layer (paper).
      warped_mask: the warped mask in the loss: `direct`, `cycle` or `none`.
      generator_input: the downsampled `condition` (release) or a learned `constant` (paper).
      generator_condition: SPADE's condition: `warped_and_input`, `warped`, or `input` alone (a
        plain translation network without exemplar).
      condition_resize: how the SPADE condition is resized to each layer.
      non_local: whether generator and discriminator have their non-local block.
      spectral_everywhere: spectral norm on every convolution, not only on the release's.
      modulation: how SPADE blocks with positional norm normalise and modulate, and how the feature
        block with instance norm normalises: `plain`, or by kernels of their own on TPUs, where
        these move fewer bytes (`pallas`, not timed yet). With `pallas`, other devices compute in
        the plain way, and keep as much for the backward pass as TPUs.
      dtype: of activations; parameters, statistics of norms, losses and the correlation stay
        float32.
      rematerialise: what the backward pass recomputes to save memory: `nothing`, `elementwise`
        operations (norms, activations), or whole `blocks`; the results are the same.
    """

    base_filters: int = 64
    adaptor_kernel: Literal[3, 4] = 3
    warp_stride: Literal[2, 4] = 4
    block_norm: Literal["positional", "batch"] = "positional"
    feature_norm: Literal["instance", "batch"] = "instance"
    generator_norm: Literal["positional", "batch"] = "positional"
    match_kernel: Literal[1, 3] = 3
    centre: Literal["channels", "positions"] = "channels"
    correlation: Literal["auto", "dense", "streaming", "pallas"] = _free("auto")
    temperature: float = 0.01
    warp_upsampling: Literal["nearest", "bilinear", "patch"] = "nearest"
    mask_input: Literal["none", "features", "adaptor"] = "features"
    mask_epochs: int = setting(-1, for_weights=None)
    mask_at_inference: bool = setting(True, for_weights=None)
    projection: Literal["separate", "shared"] = "separate"
    warped_mask: Literal["none", "direct", "cycle"] = setting("direct", for_weights=None)
    generator_input: Literal["condition", "constant"] = "condition"
    generator_condition: Literal["warped_and_input", "warped", "input"] = "warped_and_input"
    condition_resize: Literal["nearest", "bilinear"] = "nearest"
    non_local: bool = True
    spectral_everywhere: bool = False
    modulation: Literal["plain", "pallas"] = _free("plain")
    dtype: Literal["float32", "bfloat16"] = setting("float32", for_weights=None)
    rematerialise: Literal["nothing", "elementwise", "blocks"] = _free("elementwise")

    def __post_init__(self) -> None:
        f = self.base_filters
        _require(f >= 2 and f % 2 == 0, "model.base_filters", f, "an even number, 2 or more")
        _require(self.temperature > 0, "model.temperature", self.temperature, "positive")

    @property
    def needs_exemplar(self) -> bool:
        """Whether the networks take an exemplar."""
        return self.generator_condition != "input"

    @property
    def needs_exemplar_label(self) -> bool:
        """Whether the correspondence network takes the exemplar's map outside of training."""
        return self.mask_input != "none" and self.mask_at_inference


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """Weights of the objective; 0 switches a term off (SPEC section 6).

    Attributes:
      alignment: domain alignment, equation 9 (`no_vgg_feat`).
      adversarial: hinge loss of both players (`GAN`, `D_Fake`, `D_real`).
      discriminator_features: feature matching in the discriminator (`GAN_Feat`).
      pseudo_exemplar: feature loss on self exemplars, equation 8 (`fm`).
      perceptual: equation 10 (`perc`), at `perceptual_layer`, as `perceptual_norm`.
      contextual: equation 11 (`contextual`) over relu3_2 to relu5_2, and relu2_2 with
        `contextual_relu2_2`; features are centred by the exemplar's mean over `contextual_centre`.
      mask: cross-entropy of the warped mask.
      mask_schedule: `always`, or `warm_up`: only while the correspondence network takes masks
        (`model.mask_epochs`).
      regularisation: L_reg, the cycle of the warp, equation 12 (`G_warp_cycle`).
      self_warp: the warped exemplar against the truth on self exemplars (`G_warp_self`).
      colour: the result's colours against the truth's on self exemplars, as means of s x s pixels.
      class_colour: the result's mean colour of each class against the exemplar's.
      warp_class_colour: that of the warped exemplar, which teaches the correspondence.
      group_size: r, number of consecutive samples in a group. `pseudo_exemplar`, `self_warp`,
        `colour` and `mask` are computed per group and then averaged, so their weight does not
        depend on the batch size; in the release, a group is a replica's batch. r divides the batch
        size; a smaller batch is one group, with the weight of a full one.
    """

    alignment: float = 10.0
    adversarial: float = 10.0
    discriminator_features: float = 10.0
    pseudo_exemplar: float = 10.0
    perceptual: float = 0.001
    perceptual_layer: Literal["relu4_2", "relu5_2"] = "relu4_2"
    perceptual_norm: Literal["l1", "l2"] = "l2"
    contextual: float = 10.0
    contextual_relu2_2: bool = False
    contextual_centre: Literal["channels", "positions"] = "channels"
    mask: float = 0.0
    mask_schedule: Literal["always", "warm_up"] = "always"
    regularisation: float = 0.0
    self_warp: float = 0.0
    colour: float = 0.0
    class_colour: float = 0.0
    warp_class_colour: float = 0.0
    group_size: int = 4

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is float:
                _require(
                    value >= 0 and math.isfinite(value), f"loss.{field.name}", value, "0 or more"
                )
        _require(self.group_size >= 1, "loss.group_size", self.group_size, "1 or more")


@dataclasses.dataclass(frozen=True)
class OptimiserSettings:
    """Adam for generator and discriminator, and the schedule (SPEC section 7).

    Attributes:
      generator_rate: learning rate of the correspondence network and the generator.
      discriminator_rate: learning rate of the discriminator.
      beta1, beta2: Adam's decay rates.
      generator_eps, discriminator_eps: Adam's epsilon.
      constant_epochs, decay_epochs: epochs at a constant rate, then epochs of linear decay to 0.
      ema: decay of the averaged weights, which translation uses; 0 disables averaging.
      correspondence: train the correspondence network, too, and not only the generator.
    """

    generator_rate: float = 1e-4
    discriminator_rate: float = 4e-4
    beta1: float = 0.0
    beta2: float = 0.9
    generator_eps: float = 1e-3
    discriminator_eps: float = 1e-8
    constant_epochs: int = 100
    decay_epochs: int = 100
    ema: float = setting(0.0, for_weights=bool)  # Whether averaged weights exist.
    correspondence: bool = True

    def __post_init__(self) -> None:
        for field in ("generator_rate", "discriminator_rate"):
            value = getattr(self, field)
            _require(value >= 0, f"optimiser.{field}", value, "0 or more")
        for field in ("beta1", "beta2", "ema"):
            value = getattr(self, field)
            _require(0 <= value < 1, f"optimiser.{field}", value, "at least 0 and below 1")
        for field in ("generator_eps", "discriminator_eps"):
            value = getattr(self, field)
            _require(value > 0, f"optimiser.{field}", value, "positive")
        for field in ("constant_epochs", "decay_epochs"):
            value = getattr(self, field)
            _require(value >= 0, f"optimiser.{field}", value, "0 or more")
        epochs = self.constant_epochs + self.decay_epochs
        _require(epochs > 0, "optimiser.constant_epochs + decay_epochs", epochs, "at least 1")


@dataclasses.dataclass(frozen=True)
class VggSettings:
    """The VGG of the losses (SPEC section 6): the paper's VGG-19, or VGG-16.

    Attributes:
      weights: a weight file (the release's .pth, torchvision's .pth, Keras's notop .h5); `keras`
        for Keras's VGG-19, downloaded if needed; or `random` for untrained weights, for tests only.
      width: channels of the first layer; trained networks have 64, others need `random` weights.
    """

    weights: str = _file("")
    width: int = 64

    def __post_init__(self) -> None:
        _require(self.width >= 1, "vgg.width", self.width, "positive")
        if self.width != 64 and self.weights != "random":
            raise UserError(
                f"config.vgg.width is {self.width}, but trained weights have 64; set"
                " config.vgg.width=64, or config.vgg.weights=random"
            )


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """The training loop.

    Attributes:
      seed: determines all random choices.
      batch_size: samples per step over all devices.
      batch_per_device: samples per step and device; if above 0, it replaces batch_size by
        batch_per_device times the number of devices.
      accumulate: k, number of small batches that a step consists of, to save memory. They are
        computed one after another, and the step equals one on the whole batch. Only batch norm sees
        a difference: its statistics are those of a small batch.
      stop_after: stop after this many steps of the schedule; 0 runs all of it.
      log_every, images_every, checkpoint_every: steps between log lines, picture grids and
        checkpoints; images_every=0 writes no pictures.
      keep_checkpoints: number of newest checkpoints to keep.
      evaluation_batch_size: samples per evaluation step over all devices; rounded up to a multiple
        of the number of devices.
      evaluate_every: steps between measurements of the first `evaluate_images` validation pairs.
        0 measures none, which saves compiling one more program.
      evaluate_images: number of these pairs.
      keep_best: metric, such as `warp_accuracy` or `pck@0.1`, whose best checkpoint is kept in the
        workdir's `best` folder; empty keeps none.
      profile: steps to trace into the workdir's folder `profile`, FIRST:LAST; empty traces none.
      hang_minutes: minutes without a step after which the stacks of all threads are written, unless
        20 mean steps take longer; 0 never writes them.
    """

    seed: int = 0
    batch_size: int = 32
    batch_per_device: int = 0
    accumulate: int = _free(1)
    stop_after: int = _free(0)
    log_every: int = _free(50)
    images_every: int = _free(1000)
    checkpoint_every: int = _free(1000)
    keep_checkpoints: int = _free(3)
    evaluation_batch_size: int = _free(8)
    evaluate_every: int = _free(0)
    evaluate_images: int = _free(64)
    keep_best: str = _free("")
    profile: str = _free("")
    hang_minutes: float = _free(30.0)

    def __post_init__(self) -> None:
        for field in (
            "batch_size",
            "accumulate",
            "log_every",
            "checkpoint_every",
            "keep_checkpoints",
            "evaluation_batch_size",
            "evaluate_images",
        ):
            value = getattr(self, field)
            _require(value >= 1, f"train.{field}", value, "1 or more")
        for field in ("seed", "batch_per_device", "stop_after", "images_every", "evaluate_every"):
            value = getattr(self, field)
            _require(value >= 0, f"train.{field}", value, "0 or more")
        _require(
            0 <= self.hang_minutes < math.inf,
            "train.hang_minutes",
            self.hang_minutes,
            "0 or more",
        )
        if self.profile:
            steps = re.fullmatch(r"(\d+):(\d+)", self.profile)
            first, last = map(int, steps.groups()) if steps else (0, 0)
            _require(
                1 <= first <= last < first + PROFILED_STEPS,
                "train.profile",
                self.profile,
                "FIRST:LAST, the numbers of the first and the last step to trace, such as 20:24;"
                f" at most {PROFILED_STEPS} steps, because traces are large",
            )
        if self.keep_best and not self.evaluate_every:
            raise UserError(
                f"config.train.keep_best is {self.keep_best!r}, but nothing is measured: set"
                f" config.train.evaluate_every, for example to {self.checkpoint_every}"
            )


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run."""

    data: DataSettings = DataSettings(exemplar_list="random")
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    vgg: VggSettings = VggSettings()
    train: TrainSettings = TrainSettings()

    def __post_init__(self) -> None:
        has_classes = self.data.condition != "channels"
        _require(
            self.data.image_size >= 64,
            "data.image_size",
            self.data.image_size,
            "at least 64, the smallest input of the second discriminator",
        )
        if self.data.condition == "labels_glasses":
            _require(
                self.data.channels > 16,
                "data.channels",
                self.data.channels,
                "above 16, the channel of the glasses with data.condition='labels_glasses'",
            )
        if self.loss.mask > 0 and not (has_classes and self.model.warped_mask != "none"):
            raise UserError(
                f"config.loss.mask is {self.loss.mask}, but the model makes no warped mask; set"
                " config.model.warped_mask to 'direct' or 'cycle' (label maps only), or"
                " config.loss.mask=0"
            )

        for field in ("class_colour", "warp_class_colour"):
            value = getattr(self.loss, field)
            if value > 0 and not has_classes:
                raise UserError(
                    f"config.loss.{field} is {value}, but config.data.condition='channels' has no"
                    f" classes; set config.loss.{field}=0"
                )

        batch, group = self.train.batch_size, self.loss.group_size
        if batch > group and batch % group and not self.train.batch_per_device:
            below = batch // group * group
            raise UserError(
                f"config.train.batch_size is {batch}, which is not a multiple of"
                f" config.loss.group_size={group}; set the batch size to {below} or"
                f" {below + group}, or the group size to a divisor of {batch}"
            )
        if batch % self.train.accumulate and not self.train.batch_per_device:
            divisors = [k for k in range(1, batch + 1) if batch % k == 0]
            raise UserError(
                f"config.train.accumulate is {self.train.accumulate}, but config.train.batch_size,"
                f" {batch}, does not split into so many equal parts; set accumulate to one of"
                f" {', '.join(map(str, divisors))}"
            )
        if self.loss.mask_schedule == "warm_up" and self.model.mask_input == "none":
            raise UserError(
                "config.loss.mask_schedule is 'warm_up', but there is no warm-up without masks"
                " (config.model.mask_input='none'); set it to 'always', or"
                " config.model.mask_input to 'features' or 'adaptor'"
            )

        if not self.model.needs_exemplar:
            if not self.optimiser.correspondence:
                raise UserError(
                    "config.optimiser.correspondence is False, but there is no correspondence"
                    " network with config.model.generator_condition='input'; leave it out"
                )
            for field in (
                "alignment",
                "contextual",
                "mask",
                "regularisation",
                "self_warp",
                "colour",
                "class_colour",
                "warp_class_colour",
            ):
                value = getattr(self.loss, field)
                if value > 0:
                    raise UserError(
                        f"config.loss.{field} is {value}, but it needs an exemplar, which"
                        " config.model.generator_condition='input' does without; set"
                        f" config.loss.{field}=0"
                    )

    @property
    def epochs(self) -> int:
        """The length of the schedule in epochs."""
        return self.optimiser.constant_epochs + self.optimiser.decay_epochs

    def on_devices(self, devices: int) -> "Settings":
        """The settings of a run on this many devices, with the actual `train.batch_size`.

        `train.batch_per_device` becomes 0, so that runs with equal batch sizes have equal settings.

        Raises:
          UserError: the batch size is not a multiple of `loss.group_size`.
        """
        if not self.train.batch_per_device:
            return self
        batch_size = self.train.batch_per_device * devices
        train = dataclasses.replace(self.train, batch_size=batch_size, batch_per_device=0)
        try:
            return dataclasses.replace(self, train=train)
        except UserError as error:
            raise UserError(
                f"config.train.batch_per_device is {self.train.batch_per_device}, on {devices}"
                f" device(s): {error}"
            ) from error


def _check_type(path: str, value: Any, kind: Any) -> Any:
    """Returns `value` as `kind` (int, float, bool, str or a Literal), or raises a `UserError`."""
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices or isinstance(value, bool):
            allowed = ", ".join(repr(choice) for choice in choices)
            raise UserError(f"config.{path} is {value!r}; allowed are {allowed}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise UserError(f"config.{path} is {value!r}; it must be of type {kind.__name__}")
    return value


def _build(cls: Any, values: Any, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(f"config.{path} is {values!r}; it must be a section with fields")
    kinds = typing.get_type_hints(cls)
    prefix = f"{path}." if path else ""
    for name in values:
        if name not in kinds:
            raise UserError(
                f"config.{prefix}{name} is unknown; config{'.' + path if path else ''} has"
                f" {', '.join(sorted(kinds))}"
            )
    fields: dict[str, Any] = {}
    for name, kind in kinds.items():
        if name not in values:
            continue
        if dataclasses.is_dataclass(kind):
            fields[name] = _build(kind, values[name], prefix + name)
        else:
            fields[name] = _check_type(prefix + name, values[name], kind)
    return cls(**fields)


def from_mapping(values: Mapping[str, Any]) -> Settings:
    """Settings from nested dictionaries; missing fields take their defaults.

    Raises:
      UserError: an unknown section or field, or an invalid value; the message names the field, the
        value and the allowed values.
    """
    settings = _build(Settings, values, "")
    assert isinstance(settings, Settings)
    return settings


def to_mapping(settings: Settings) -> dict[str, Any]:
    """Settings as nested dictionaries, for a ConfigDict."""
    return dataclasses.asdict(settings)


def to_file(settings: Settings) -> dict[str, Any]:
    """Settings as nested dictionaries for a file, with their version."""
    return {"version": VERSION, **to_mapping(settings)}


def from_file(values: Any) -> Settings:
    """The inverse of `to_file`, for this and all earlier versions.

    Raises:
      UserError: the settings are from a later version, or invalid.
    """
    if not isinstance(values, dict):
        raise UserError("the content is not settings")
    # The first files had no version, and the fields of version 1.
    version = values.get("version", 1)
    if not isinstance(version, int) or version > VERSION:
        raise UserError(f"settings of version {version}; this program reads up to {VERSION}")
    # Copied, because fields may be renamed.
    sections = {
        name: dict(section) if isinstance(section, dict) else section
        for name, section in values.items()
        if name != "version"
    }
    for since in range(version + 1, VERSION + 1):
        for old, new in RENAMED.get(since, {}).items():
            (old_section, old_field), (new_section, new_field) = old.split("."), new.split(".")
            if old_field in sections.get(old_section, {}):
                value = sections[old_section].pop(old_field)
                sections.setdefault(new_section, {})[new_field] = value
    return from_mapping(sections)


def to_json(settings: Settings) -> str:
    """Settings as readable JSON; `from_json` reads it back to an equal object."""
    return json.dumps(to_file(settings), indent=2)


def from_json(text: str) -> Settings:
    """The inverse of `to_json`.

    Raises:
      UserError: see `from_file`.
      ValueError: the text is not JSON.
    """
    return from_file(json.loads(text))


def differences(
    a: Settings, b: Settings, what: Literal["all", "on_resume", "for_weights"] = "all"
) -> dict[str, str]:
    """Fields in which two settings differ: `section.field` -> `value of a, value of b`.

    Args:
      a: settings.
      b: other settings.
      what: which differences count: `all`, those that prevent a run from resuming (`on_resume`), or
        those that weights depend on (`for_weights`).
    """
    fields = {}
    for section in dataclasses.fields(Settings):
        left, right = getattr(a, section.name), getattr(b, section.name)
        for field in dataclasses.fields(left):
            kept: Kept = _value
            if what == "for_weights" and section.name != "model":
                kept = None
            kept = field.metadata.get(what, kept)
            values = getattr(left, field.name), getattr(right, field.name)
            if kept and kept(values[0]) != kept(values[1]):
                fields[f"{section.name}.{field.name}"] = "{!r}, {!r}".format(*values)
    return fields
