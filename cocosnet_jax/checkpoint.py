"""Saves and restores checkpoints with Orbax.

A workdir's `checkpoints/STEP/` contains three items: `state`, the arrays of a TrainState;
`settings`, the JSON that translation, export and a resumed run read first; and `checksums` of both.
A checkpoint gets its name only when it is complete, and older ones are deleted only after that.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Sharding, SingleDeviceSharding
from jaxtyping import PyTree

from cocosnet_jax import distributed, files, integrity, weights_file
from cocosnet_jax import settings as settings_lib
from cocosnet_jax.errors import StorageError, UserError
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState, state_shapes

FOLDER = "checkpoints"


def absolute(path: str | epath.PathLike) -> epath.Path:
    """Returns an absolute path. Orbax rejects relative ones late, in a background thread.

    Raises:
      UserError: it is in a bucket that cannot be used.
    """
    if files.is_url(path):
        files.check_bucket(path)
        return epath.Path(path)
    return epath.Path(path).expanduser().resolve()


def abstract_state(settings: Settings, sharding: Sharding) -> TrainState:
    """Returns shapes and types of a TrainState, without computing anything."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state_shapes(settings)
    )


class Checkpoints:
    """The checkpoints of one run, written in the background; only the newest are kept.

    All processes must call every method at the same steps.
    """

    def __init__(
        self, workdir: epath.Path, settings: Settings, name: str = FOLDER, keep_all: bool = False
    ):
        """Opens `workdir`/`name` or creates it; `keep_all` overrules `train.keep_checkpoints`."""
        every = settings.train.checkpoint_every
        self._settings = settings
        self._keep = None if keep_all else settings.train.keep_checkpoints
        self._saving = 0  # Step of the newest save, which may be in progress.
        self._manager = ocp.CheckpointManager(
            absolute(workdir) / name,
            item_names=("state", "settings", "checksums"),
            options=ocp.CheckpointManagerOptions(
                should_save_fn=lambda step, _: step % every == 0,
                max_to_keep=self._keep,
                cleanup_tmp_directories=True,  # Left by interrupted writes.
            ),
        )

    @property
    def latest_step(self) -> int | None:
        """The newest checkpoint's step, or None."""
        return self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def due(self, step: int) -> bool:
        """Whether `save` writes at this step: because of the interval, or of a preemption.

        Raises:
          UserError: the previous checkpoint cannot be written; earlier ones are intact.
        """
        if not self._manager.is_saving_in_progress():
            # Raises the error of a save that has ended, which would else come with the next one.
            self.wait()
        return self._manager.should_save(step)

    def preempted(self, step: int) -> bool:
        """Whether the machines are about to be preempted; the same answer in all processes."""
        return self._manager.reached_preemption(step)

    def save(self, step: int, state: TrainState, *, force: bool = False) -> bool:
        """Saves if the step is due, or if `force` and not yet saved; returns whether it saves.

        Raises:
          UserError: this or the previous checkpoint cannot be written; earlier ones are intact.
        """
        if step in self.steps or not (force or self.due(step)):
            return False
        self.wait()
        self._saving = step
        settings = settings_lib.to_file(self._settings)
        # The first process writes JSON.
        checksums = integrity.checksums(state, settings) if distributed.is_lead() else {}
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            settings=ocp.args.JsonSave(settings),
            checksums=ocp.args.JsonSave(checksums),
        )
        self._try(lambda: self._manager.save(step, args=arguments, force=True))
        return True

    def delete(self, step: int) -> None:
        """Deletes the checkpoint of a step."""
        self._manager.delete(step)

    def wait(self) -> None:
        """Waits until saved checkpoints are on disk; raises UserError if that fails."""
        self._try(self._manager.wait_until_finished)
        self._try(self._manager.check_for_errors)

    def move_damaged_aside(self) -> None:
        """See `integrity.move_damaged_aside`."""
        if self.steps:
            integrity.move_damaged_aside(self._manager.directory)
            self._manager.reload()

    def restore(self, sharding: Sharding) -> tuple[int, TrainState]:
        """Returns the newest undamaged state and its step; there must be a checkpoint.

        Renames newer, damaged checkpoints to `STEP.damaged`, so that the run can save at these
        steps again.

        Raises:
          UserError: it belongs to another model or version, or all checkpoints are damaged.
          StorageError: the storage cannot be reached.
        """
        folder = self._manager.directory
        step, damaged = integrity.newest_whole(folder, integrity.steps(folder))
        newest = folder / str(step)
        differences = model_differences(_settings_of(newest), self._settings)
        if differences:
            raise _another_model(newest, differences)
        wanted = abstract_state(self._settings, sharding)
        integrity.check_shapes(newest, wanted)
        if damaged:
            integrity.move_aside(folder, damaged)
            self._manager.reload()
        try:
            arguments = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
            state = self._manager.restore(step, args=arguments)["state"]
        # Orbax raises many kinds of errors.
        except Exception as error:
            raise integrity.read_error(newest, error) from error
        if self._keep is not None and len(self.steps) == self._keep + 1:
            # Its deletion had begun, or was about to, when the run was killed.
            self.delete(self.steps[0])
        return step, state

    def close(self) -> None:
        """Waits as `wait` does, and releases resources."""
        self.wait()
        self._manager.close()

    def _try(self, call: Callable[[], object]) -> None:
        """Calls Orbax, and raises its errors as a StorageError."""
        try:
            call()
        except (OSError, ValueError, RuntimeError) as error:
            folder = self._manager.directory
            complete = integrity.steps(folder)
            kept = f"step {complete[0]} is intact" if complete else "there is no earlier one"
            raise StorageError(
                f"checkpoint of step {self._saving} cannot be written to {folder}:"
                f" {integrity.reason(error)}; {kept}. Free some space or choose another --workdir,"
                " then run the same command again"
            ) from error


class Restored(NamedTuple):
    """A checkpoint, read for translation.

    Attributes:
      settings: of the run that wrote it.
      state: parameters of the translation networks, or of all networks; without optimisers.
      step: number of optimisation steps.
      folder: the checkpoint's folder, or the file of weights.
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
      path: a workdir or its `checkpoints` folder (the newest step), its `best` folder, a step's
        folder, or a file that `weights_file` wrote.
      sharding: of the arrays; None means the first device.
      all_networks: also read the discriminator, and the parameters if there are averaged ones.

    Raises:
      UserError: there is no checkpoint, or all are damaged; `all_networks` of a file of weights.
      StorageError: the storage cannot be reached.
    """
    sharding = sharding or SingleDeviceSharding(jax.devices()[0])
    if weights_file.is_one(path):
        return _restore_file(absolute(path), sharding, all_networks)
    above, candidates = find(absolute(path))
    step, _ = integrity.newest_whole(above, candidates)
    folder = above / str(step)
    settings = _settings_of(folder)
    everything = abstract_state(settings, sharding)
    players = ("generator", "discriminator") if all_networks else ("generator",)
    wanted: dict[str, PyTree] = {
        "step": everything.step,
        "variables": {name: everything.variables[name] for name in players},
    }
    if everything.ema is not None:
        wanted["ema"] = everything.ema
    if everything.ema is None or all_networks:
        wanted["params"] = {name: everything.params[name] for name in players}
    integrity.check_shapes(folder, wanted)
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    try:
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
    # Orbax raises many kinds of errors.
    except Exception as error:
        raise integrity.read_error(folder, error) from error
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


def _restore_file(path: epath.Path, sharding: Sharding, all_networks: bool) -> Restored:
    if all_networks:
        raise UserError(
            f"{path} holds what translation needs, and neither a discriminator nor the weights"
            " beside their average: give the workdir of the run that it was made of"
        )
    found = weights_file.read(path)
    state = weights_file.fill(found, abstract_state(found.settings, sharding), path)
    return Restored(found.settings, state, found.step, path)


def check_model(restored: Restored, settings: Settings) -> None:
    """Raises UserError if a checkpoint belongs to another model than these settings."""
    if differences := model_differences(restored.settings, settings):
        raise _another_model(restored.folder, differences)


def _another_model(folder: epath.Path, differences: list[str]) -> UserError:
    return UserError(
        f"checkpoint {folder} belongs to another model. Set its settings, or choose another"
        " --workdir, where --init_from can start from these weights. Different settings"
        " (checkpoint, now):\n  " + "\n  ".join(differences)
    )


def model_differences(theirs: Settings, ours: Settings) -> list[str]:
    """Differences of settings that change the meaning or shapes of weights, one line each."""
    fields = settings_lib.differences(theirs, ours, "for_weights")
    return [f"{field}: {values}" for field, values in fields.items()]


def find(path: epath.Path) -> tuple[epath.Path, list[int]]:
    """The folder of `path`'s checkpoints, and their steps, newest first; UserError without any."""
    for folder in (path, path / FOLDER):
        if steps := integrity.steps(folder):
            return folder, steps
    if path.name.isdigit() and (path.parent.name == FOLDER or (path / "state").is_dir()):
        if path.is_dir():
            return path.parent, [int(path.name)]
        path = path.parent
        if steps := integrity.steps(path):
            raise UserError(
                f"{path} has no checkpoint of this step; it has {', '.join(map(str, steps))}"
            )
    raise UserError(
        f"{path} contains no checkpoint; name a run's workdir, its folder {FOLDER}, or a step's"
        f" folder ({FOLDER}/1000)"
    )


def _settings_of(folder: epath.Path) -> Settings:
    try:
        return settings_lib.from_json((folder / "settings/metadata").read_text())
    except UserError as error:
        raise UserError(
            f"checkpoint {folder} is from another version of this program ({error}); use that"
            " version, or another checkpoint"
        ) from error
