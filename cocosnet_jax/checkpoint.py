"""Checkpoints: Orbax behind one small face.

A workdir's `checkpoints/STEP/` holds two items: `state`, the arrays of a TrainState, and
`settings`, the JSON that translation, export and a resumed run read first. A checkpoint appears
under its name only when it is complete.
"""

import functools
from typing import NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Sharding, SingleDeviceSharding
from jaxtyping import PyTree

from cocosnet_jax import settings as settings_lib
from cocosnet_jax.errors import StorageError, UserError
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState, create_state

FOLDER = "checkpoints"

# What weights were learned for, beside most of the section `model`; and what of it may change.
_LEARNED_FOR = ("data.channels", "data.condition")
_FREE = (
    "model.correlation",
    "model.dtype",
    "model.mask_at_inference",
    "model.mask_epochs",
    "model.rematerialise",
    "model.warped_mask",
)


def absolute(path: str | epath.PathLike) -> epath.Path:
    """Returns the path in full: Orbax finds a relative one wrong late, in a background thread."""
    here = epath.Path(path).expanduser()
    return here if "://" in str(path) else here.resolve()


def abstract_state(settings: Settings, sharding: Sharding) -> TrainState:
    """Returns shapes and types of a TrainState, without computing anything."""
    # The length of an epoch enters learning rates only, no shape.
    shapes = jax.eval_shape(
        functools.partial(create_state, settings, steps_per_epoch=1), jax.random.key(0)
    )
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


class Checkpoints:
    """The checkpoints of one run, newest kept, written in the background.

    All processes call every method at the same steps.
    """

    def __init__(self, workdir: epath.Path, settings: Settings):
        """Opens `workdir`/checkpoints, and makes it where it is missing."""
        every = settings.train.checkpoint_every
        self._settings = settings
        self._saving = 0  # step of the newest save, which may still be going on
        self._manager = ocp.CheckpointManager(
            absolute(workdir) / FOLDER,
            item_names=("state", "settings"),
            options=ocp.CheckpointManagerOptions(
                should_save_fn=lambda step, _: step % every == 0,
                max_to_keep=settings.train.keep_checkpoints,
                # What an interrupted write left behind.
                cleanup_tmp_directories=True,
            ),
        )

    @property
    def latest_step(self) -> int | None:
        """The newest checkpoint's step, or None."""
        return self._manager.latest_step()

    def due(self, step: int) -> bool:
        """Whether `save` will write at this step: by the interval, or before a preemption."""
        return self._manager.should_save(step)

    def preempted(self, step: int) -> bool:
        """Whether the machines are about to be taken away, agreed upon by all processes."""
        return self._manager.reached_preemption(step)

    def save(self, step: int, state: TrainState, *, force: bool = False) -> bool:
        """Saves if the step is due, or if `force` and not yet saved; returns whether it did.

        Raises:
          UserError: this or the previous checkpoint cannot be written; those before are intact.
        """
        if force and step == self.latest_step:
            return False
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            settings=ocp.args.JsonSave(settings_lib.to_mapping(self._settings)),
        )
        try:
            self._manager.check_for_errors()
            if not force and not self._manager.should_save(step):
                return False
            self._manager.wait_until_finished()
            self._saving = step
            return self._manager.save(step, args=arguments, force=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._write_error(error) from error

    def wait(self) -> None:
        """Waits until what was saved is on disk; raises UserError if it cannot be written."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except (OSError, ValueError, RuntimeError) as error:
            raise self._write_error(error) from error

    def restore(self, sharding: Sharding) -> TrainState:
        """Returns the newest state, placed by `sharding`; there must be one.

        Raises:
          UserError: it is another model's, or cannot be read.
        """
        step = self.latest_step
        assert step is not None
        folder = self._manager.directory / str(step)
        state = ocp.args.StandardRestore(abstract_state(self._settings, sharding))
        try:
            saved = self._manager.restore(
                step, args=ocp.args.Composite(settings=ocp.args.JsonRestore())
            )["settings"]
            differences = _of_another_model(settings_lib.from_mapping(saved), self._settings)
            if not differences:
                return self._manager.restore(step, args=ocp.args.Composite(state=state))["state"]
        # Orbax raises a bare Exception for a damaged file.
        except Exception as error:
            raise _read_error(folder, error) from error
        raise _another_model(folder, differences)

    def close(self) -> None:
        """Waits as `wait` does, and frees what the manager holds."""
        self.wait()
        self._manager.close()

    def _write_error(self, error: Exception) -> StorageError:
        folder = self._manager.directory
        complete = [step for step in ocp.utils.checkpoint_steps(folder)]
        kept = f"step {max(complete)} is intact" if complete else "there is none before it"
        return StorageError(
            f"checkpoint of step {self._saving} cannot be written to {folder}: {_reason(error)};"
            f" {kept}. Make room or choose another --workdir, then run the same command again"
        )


class Restored(NamedTuple):
    """What translation needs of a checkpoint.

    Attributes:
      settings: of the run that wrote it.
      state: the translation's parameters, or all networks'; optimisers are left out.
      step: optimisation steps it had taken.
      folder: the checkpoint itself.
    """

    settings: Settings
    state: TrainState
    step: int
    folder: epath.Path


def restore_for_inference(
    path: str | epath.PathLike, sharding: Sharding | None = None, *, all_networks: bool = False
) -> Restored:
    """Reads a checkpoint for translation.

    Args:
      path: a workdir, its `checkpoints` folder (the newest step of either), or a step's folder.
      sharding: where the arrays go; None means the first device.
      all_networks: also read the discriminator, and the parameters beside their average.

    Raises:
      UserError: there is no checkpoint, or it cannot be read.
    """
    folder = _step_folder(absolute(path))
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    try:
        saved = checkpointer.restore(
            folder, args=ocp.args.Composite(settings=ocp.args.JsonRestore())
        )
        settings = settings_lib.from_mapping(saved["settings"])
        everything = abstract_state(settings, sharding or SingleDeviceSharding(jax.devices()[0]))
        players = ("generator", "discriminator") if all_networks else ("generator",)
        wanted: dict[str, PyTree] = {
            "step": everything.step,
            "variables": {name: everything.variables[name] for name in players},
        }
        if everything.ema is not None:
            wanted["ema"] = everything.ema
        if everything.ema is None or all_networks:
            wanted["params"] = {name: everything.params[name] for name in players}
        state = checkpointer.restore(
            folder,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    item=wanted,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                    partial_restore=True,
                )
            ),
        )["state"]
    # Orbax raises a bare Exception for a damaged file.
    except Exception as error:
        raise _read_error(folder, error) from error
    finally:
        checkpointer.close()
    return Restored(
        settings,
        TrainState(
            step=state["step"],
            params=state.get("params", {}),
            variables=state["variables"],
            opt_state={},
            ema=state.get("ema"),
        ),
        int(state["step"]),
        folder,
    )


def check_model(restored: Restored, settings: Settings) -> None:
    """Raises UserError if a checkpoint is of another model than these settings'."""
    if differences := _of_another_model(restored.settings, settings):
        raise _another_model(restored.folder, differences)


def _another_model(folder: epath.Path, differences: list[str]) -> UserError:
    return UserError(
        f"checkpoint {folder} is of another model; choose another --workdir, or set its settings."
        " They differ in (there, here):\n  " + "\n  ".join(differences)
    )


def _of_another_model(theirs: Settings, ours: Settings) -> list[str]:
    """Fields in which settings differ that give the weights another meaning, or other arrays."""
    keep_averages = [bool(settings.optimiser.ema) for settings in (theirs, ours)]

    def counts(field: str) -> bool:
        if field == "optimiser.ema":
            return keep_averages[0] != keep_averages[1]
        return field in _LEARNED_FOR or (field.startswith("model.") and field not in _FREE)

    found = settings_lib.differences(theirs, ours)
    return [f"{field}: {values}" for field, values in found.items() if counts(field)]


def _step_folder(path: epath.Path) -> epath.Path:
    for folder in (path, path / FOLDER):
        if (folder / "state").is_dir() and folder.name.isdigit():
            return folder
        if folder.is_dir() and (steps := ocp.utils.checkpoint_steps(folder)):
            return folder / str(max(steps))
    raise UserError(
        f"{path} holds no checkpoint: give a run's workdir, its {FOLDER} folder, or one step's"
        f" folder ({FOLDER}/1000)"
    )


def _read_error(folder: epath.Path, error: Exception) -> UserError:
    return UserError(
        f"checkpoint {folder} cannot be read: {_reason(error)}; give or keep an older one"
    )


def _reason(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # Long ones name temporary files first; the cause comes last.
    return line if len(line) < 200 else f"...{line[-200:]}"
