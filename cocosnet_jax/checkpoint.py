"""Checkpoints: Orbax behind one small face.

A workdir's `checkpoints/STEP/` holds two items: `state`, the arrays of a TrainState, and
`settings`, the JSON that translation, export and a resumed run read first. A checkpoint appears
under its name only when it is complete.
"""

from typing import NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Sharding, SingleDeviceSharding
from jaxtyping import PyTree

from cocosnet_jax import distributed, integrity
from cocosnet_jax import settings as settings_lib
from cocosnet_jax.errors import StorageError, UserError
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState, state_shapes

FOLDER = "checkpoints"


def absolute(path: str | epath.PathLike) -> epath.Path:
    """Returns the path in full: Orbax finds a relative one wrong late, in a background thread."""
    here = epath.Path(path).expanduser()
    return here if "://" in str(path) else here.resolve()


def abstract_state(settings: Settings, sharding: Sharding) -> TrainState:
    """Returns shapes and types of a TrainState, without computing anything."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state_shapes(settings)
    )


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
            settings=ocp.args.JsonSave(settings_lib.to_file(self._settings)),
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

    def restore(self, sharding: Sharding) -> tuple[int, TrainState]:
        """Returns the newest state that is whole, and its step; there must be a checkpoint.

        Newer checkpoints, which are damaged, are moved aside as `STEP.damaged`, so that the run can
        save at these steps again.

        Raises:
          UserError: it is another model's or another version's, or all are damaged.
          StorageError: what is stored cannot be reached.
        """
        folder = self._manager.directory
        step, damaged = integrity.newest_whole(folder, integrity.steps(folder))
        newest = folder / str(step)
        differences = of_another_model(_settings_of(newest), self._settings)
        if differences:
            raise _another_model(newest, differences)
        wanted = abstract_state(self._settings, sharding)
        _check_arrays(newest, wanted)
        if damaged:
            if distributed.is_lead():
                for one in damaged:
                    integrity.move_aside(folder / str(one))
            distributed.wait_for_all(f"damaged checkpoints of {folder} are moved aside")
            self._manager.reload()
        try:
            arguments = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
            return step, self._manager.restore(step, args=arguments)["state"]
        # Orbax raises what it likes.
        except Exception as error:
            raise integrity.read_error(newest, error) from error

    def close(self) -> None:
        """Waits as `wait` does, and frees what the manager holds."""
        self.wait()
        self._manager.close()

    def _write_error(self, error: Exception) -> StorageError:
        folder = self._manager.directory
        complete = integrity.steps(folder)
        kept = f"step {complete[0]} is intact" if complete else "there is none before it"
        return StorageError(
            f"checkpoint of step {self._saving} cannot be written to {folder}:"
            f" {integrity.reason(error)}; {kept}. Make room or choose another --workdir, then run"
            " the same command again"
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
      UserError: there is no checkpoint, or none that is whole.
      StorageError: what is stored cannot be reached.
    """
    above, candidates = _find(absolute(path))
    step, _ = integrity.newest_whole(above, candidates)
    folder = above / str(step)
    settings = _settings_of(folder)
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
    _check_arrays(folder, wanted)
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
    # Orbax raises what it likes.
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


def check_model(restored: Restored, settings: Settings) -> None:
    """Raises UserError if a checkpoint is of another model than these settings'."""
    if differences := of_another_model(restored.settings, settings):
        raise _another_model(restored.folder, differences)


def _another_model(folder: epath.Path, differences: list[str]) -> UserError:
    return UserError(
        f"checkpoint {folder} is of another model; choose another --workdir (there, --init_from"
        " starts from these weights), or set its settings. They differ in (there, here):\n  "
        + "\n  ".join(differences)
    )


def of_another_model(theirs: Settings, ours: Settings) -> list[str]:
    """Fields in which settings differ that give the weights another meaning, or other arrays."""
    found = settings_lib.differences(theirs, ours, "for_weights")
    return [f"{field}: {values}" for field, values in found.items()]


def _find(path: epath.Path) -> tuple[epath.Path, list[int]]:
    """The folder above the checkpoints that a path means, and their steps, newest first."""
    for folder in (path, path / FOLDER):
        if found := integrity.steps(folder):
            return folder, found
    if path.name.isdigit() and (path.parent.name == FOLDER or (path / "state").is_dir()):
        if path.is_dir():
            return path.parent, [int(path.name)]
        path = path.parent
        if there := integrity.steps(path):
            raise UserError(
                f"{path} has no checkpoint of this step; it has {', '.join(map(str, there))}"
            )
    raise UserError(
        f"{path} holds no checkpoint: give a run's workdir, its {FOLDER} folder, or one step's"
        f" folder ({FOLDER}/1000)"
    )


def _settings_of(folder: epath.Path) -> Settings:
    try:
        return settings_lib.from_json((folder / "settings/metadata").read_text())
    except UserError as error:
        raise UserError(
            f"checkpoint {folder} is of another version of this program ({error}); use that"
            " version, or another checkpoint"
        ) from error


def _check_arrays(folder: epath.Path, wanted: PyTree) -> None:
    """Raises UserError unless a checkpoint has all arrays of `wanted`, in their shapes."""
    there = {name: array.shape for name, array in integrity.arrays(folder).items()}
    named = jax.tree_util.tree_flatten_with_path(wanted)[0]
    shapes = {jax.tree_util.keystr(path, simple=True, separator="."): x.shape for path, x in named}
    wrong = [name for name, shape in shapes.items() if there.get(name) != shape]
    if wrong:
        name = wrong[0]
        raise UserError(
            f"checkpoint {folder} has other arrays than its settings make here ({len(wrong)}"
            f" differ: {name} is {there.get(name, 'missing')}, not {shapes[name]}): it is of"
            " another version of this program, or its optimisers are other ones. Use that version,"
            " or start a new run from its weights with --init_from"
        )
