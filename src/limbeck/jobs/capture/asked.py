"""The teacher that a capture asks: a model in memory, or one that is read from disk layer by layer."""

from __future__ import annotations

from limbeck.config import CaptureSettings
from limbeck.disk import writing
from limbeck.errors import BadSetting
from limbeck.jobs.capture.certificate import kept_bytes
from limbeck.jobs.setup import Machine
from limbeck.models.load import LanguageModel, load
from limbeck.models.room import in_bytes
from limbeck.models.streamed import StreamedModel, load_streamed
from limbeck.run.log import console
from limbeck.teachers.cache import CELLS

Asked = LanguageModel | StreamedModel


def check_memory(settings: CaptureSettings) -> None:
    """Raises BadSetting where a limit is given that nothing would keep."""
    if settings.device_memory is not None and not settings.stream:
        raise BadSetting(
            f"--device-memory {in_bytes(settings.device_memory)}: it is kept only where the teacher is read layer by layer; add "
            "--stream, or leave it out"
        )


def asked(settings: CaptureSettings, where: Machine, *, length: int) -> Asked:
    """The teacher of a capture. Raises what loading it raises, and BadSetting where it needs more memory than it may take."""
    if not settings.stream:
        return load(settings.teacher, device=where.world.device, dtype=where.dtype)
    with writing(settings.out):
        settings.out.mkdir(parents=True, exist_ok=True)
    teacher = load_streamed(
        settings.teacher,
        device=where.world.device,
        dtype=where.dtype,
        memory=settings.device_memory,
        length=length,
        spill=settings.out,
        beside=kept_bytes,
    )
    room = teacher.room
    console.print(
        f"read from disk layer by layer, in {in_bytes(room.peak)}: {room.block_tokens:,} tokens at each pass over its weights, "
        f"{room.micro_tokens:,} of them at a time; hidden states wait "
        + ("on disk" if room.spilled else "in memory")
        + (", the next layer is read meanwhile" if room.ahead else "")
    )
    return teacher


def about(teacher: Asked) -> LanguageModel:
    """What a teacher is, without asking it."""
    return teacher if isinstance(teacher, LanguageModel) else teacher.about


def cells_of(teacher: Asked) -> int:
    """Logits of a teacher that may exist at a time."""
    return CELLS if isinstance(teacher, LanguageModel) else teacher.room.cells
