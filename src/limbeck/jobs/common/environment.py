"""The first decisions of every job: threads, device, number format, and the tokens of a row and a step."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from limbeck.config import Settings
from limbeck.config.defaults import SEQ_LEN, STEPS, WIDE
from limbeck.errors import BadSetting, LimbeckError, Mismatch
from limbeck.jobs.common.folder import begun, begun_in_tf32
from limbeck.models.configuration import load_config
from limbeck.planning.cost.machine import multiplies_bfloat16
from limbeck.run.log import console
from limbeck.run.sharded import REPLICATE, layout_of, sharded
from limbeck.run.world import World, join, named


@dataclass(frozen=True)
class Environment:
    """The processes and device of a job, its number format, and whether layers in training steps may use TF32.

    ``scarce``: whether memory is, so that models that are measured are held in the number format of a teacher.
    """

    world: World
    bf16: bool
    tf32: bool = False
    scarce: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The format of a teacher's weights; a student's stay in float32."""
        return torch.bfloat16 if self.bf16 else torch.float32

    @property
    def measured_in(self) -> torch.dtype:
        """The format of the weights of a student that is measured, and of the model before tuning."""
        return self.dtype if self.scarce else torch.float32


def require_one_process(command: str) -> None:
    """Raises BadSetting for a command that torchrun started in several processes, though it runs in one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadSetting(f"{command} runs in one process: start it without torchrun")


def environment_of(settings: Settings, *models: str | Path | None, width: int = 0) -> Environment:
    """Sets threads, denormals and full products, joins the other ranks, and chooses the number format.

    ``models`` are those that the command computes with, ``width`` that of one it makes (`_automatic`). Raises BadSetting for a
    device that is not available.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
        os.environ.setdefault("RAYON_NUM_THREADS", str(settings.threads))  # the tokenizer's, which have not begun
    require_device(settings.device)
    torch.set_flush_denormal(True)  # vanishing gradients make a CPU 3 to 13 times slower otherwise
    try:
        world = join(settings.device)
    except RuntimeError as error:
        raise BadSetting(f"--device {settings.device}: {error}. Use auto, cpu, cuda or cuda:1.") from error
    console.quiet = not world.first
    torch.set_float32_matmul_precision("highest")  # of whatever is measured or written; training steps may choose TF32
    _advise_threads(settings)
    auto = settings.dtype == "auto"
    bf16 = _automatic(settings, world.device, filter(None, models), width) if auto else settings.dtype == "bfloat16"
    tf32 = world.device.type == "cuda" and _chooses_tf32(settings)
    scarce = getattr(settings, "trained", None) == "qlora"
    return Environment(_meshed(settings, world, bf16=bf16), bf16, tf32, scarce)


def _chooses_tf32(settings: Settings) -> bool:
    """Whether training steps use TF32 where a GPU has it: a run that was begun keeps its arithmetic, by its record."""
    before = begun_in_tf32(settings.out) if settings.out else None
    return True if before is None else before


def _meshed(settings: Settings, world: World, *, bf16: bool) -> World:
    """The processes with the weights as --mesh spreads them. Raises BadSetting for a mesh that does not fit them."""
    mesh = getattr(settings, "mesh", None) or REPLICATE
    try:
        narrow = getattr(settings, "weights_dtype", None) == "bfloat16"
        return sharded(world, *layout_of(mesh, world.size), dtype=torch.bfloat16 if bf16 else None, narrow=narrow)
    except ValueError as error:
        raise BadSetting(f"--mesh {mesh}: {error}") from error


def _automatic(settings: Settings, device: torch.device, models: Iterable[str | Path], width: int) -> bool:
    """Whether "auto" is bfloat16: on a device with units for it, and on a CPU only where the widest model has `WIDE` channels.

    Narrow models gain little there, and stay exact to more digits. A run that was begun keeps its format, even where an older
    version or another machine chose it.
    """
    signature = begun(settings.out) if settings.out else {}
    if signature.get("dtype") == "auto" and isinstance(signature.get("bf16"), bool):
        return bool(signature["bf16"])
    if not multiplies_bfloat16(device):
        return False
    return device.type == "cuda" or max([width, *map(_width, models)]) >= WIDE


def _width(model: str | Path) -> int:
    """The channels of a model; 0 of one that cannot be read, which is an error where it is loaded."""
    try:
        return int(getattr(load_config(model).get_text_config(), "hidden_size", 0))
    except LimbeckError:
        return 0


def require_device(device: str) -> None:
    """Raises BadSetting for a device that torch does not know, or does not see here."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BadSetting(f"--device {device}: torch sees no CUDA device here; use --device cpu")
    try:
        named(device)
    except RuntimeError as error:
        raise BadSetting(f"--device {device}: {error}. Use auto, cpu, cuda or cuda:1.") from error


def _advise_threads(settings: Settings) -> None:
    """Prints a note on a busy machine, where threads that wait for each other are slower than one."""
    threads, cores = torch.get_num_threads(), psutil.cpu_count() or 1
    load = psutil.getloadavg()[0]
    if settings.threads is None and threads > 1 and load > cores / 2:
        console.print(
            f"note: this machine is busy (load {load:.1f} on {cores} cores), and {threads} threads that wait for one "
            "another may be slower than --threads 1"
        )


def row_length(settings: Settings, context: int | None, device: torch.device, *, name: str, extra: int = 0) -> int:
    """Tokens of a row: the setting, or the default of the device, within the model's context.

    ``extra``: tokens of the context that a row needs besides its own. Raises Mismatch for rows that do not fit.
    """
    if settings.length is None:
        usual = SEQ_LEN.get(device.type, SEQ_LEN["cpu"])
        return min(usual, context - extra) if context else usual
    if context and settings.length + extra > context:
        raise Mismatch(
            f"--seq-len {settings.length}: rows longer than the context of {name}, which is {context} tokens"
            f"{f', of which a query needs {extra} besides the row' if extra else ''}. "
            f"Use --seq-len {context - extra} or less."
        )
    return settings.length


def batch_rows(settings: Settings, length: int, ranks: int) -> tuple[int, int]:
    """(rows of one step, steps). Without --batch-tokens about `STEPS` steps, of at least 4 rows and at most 512.

    Raises BadSetting if the tokens are fewer than one step, or the batch has less than one row for each process.
    """
    if settings.batch_tokens is None:
        rows = max(4, min(512, round(settings.tokens / STEPS / length)))
    else:
        rows = round(settings.batch_tokens / length)
        if settings.batch_tokens < length * ranks:
            raise BadSetting(
                f"--batch-tokens {settings.batch_tokens} is less than one row of {length} tokens for each of {ranks} "
                f"processes: give {length * ranks} or more, or a smaller --seq-len"
            )
    rows = max(rows, ranks)
    steps = round(settings.tokens / (rows * length))
    if steps == 0:
        raise BadSetting(
            f"--tokens {settings.tokens} is less than one step of {rows} rows of {length} tokens: give "
            f"{rows * length} or more, or a smaller --seq-len"
        )
    return rows, steps
