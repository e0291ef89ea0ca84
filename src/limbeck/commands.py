"""The commands of the command line: the settings, the job and the printed result of each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import typer

from limbeck import config, dispatch
from limbeck.ending import show_ending
from limbeck.garbage import loading
from limbeck.results import Result
from limbeck.terminal import Terminal, visible

AnySettings = TypeVar("AnySettings", bound=config.Base)


def _print(settings: config.Base, result: Mapping[str, Any], shown: Callable[[], object]) -> None:
    """The result on stdout: one JSON object, or as a person reads it. Ranks that have none print nothing."""
    if not result:
        return
    if settings.json_:
        print(Result(result).json())
    else:
        shown()


def _distil(settings: config.DistilSettings) -> None:
    _where(settings, dispatch.distil(settings), "report", settings.out / "report.html")


def _tune(settings: config.TuneSettings) -> None:
    _where(settings, dispatch.tune(settings), "report", settings.out / "report.html")


def _capture(settings: config.CaptureSettings) -> None:
    what, name = ("text", "text.jsonl") if settings.text else ("logits", "")
    if settings.pairs is not None:
        what, name = "pairs", "pairs.jsonl"
    _where(settings, dispatch.capture(settings), what, settings.out / name)


def _pretrain(settings: config.PretrainSettings) -> None:
    _where(settings, dispatch.pretrain(settings), "model", settings.out / "model")


def _shrink(settings: config.ShrinkSettings) -> None:
    _where(settings, dispatch.shrink(settings), "student", settings.out)


def _grow(settings: config.GrowSettings) -> None:
    _where(settings, dispatch.grow(settings), "model", settings.out)


def _pilot(settings: config.PilotSettings) -> None:
    _where(settings, dispatch.pilot(settings), "points", settings.out / "points.parquet")


def _where(settings: config.Base, result: Result, what: str, place: Path) -> None:
    """Where the result is, on stdout; not where a person has just read it in the last screen, on stderr."""
    seen = sys.stdout.isatty() and sys.stderr.isatty()
    _print(settings, result, lambda: None if seen else print(visible(f"{what}: {place}")))


def _plan(settings: config.PlanSettings) -> None:
    result = dispatch.plan(settings)
    if result.overtraining is not None:
        from limbeck.jobs.plan.overtraining import overtraining_ending as last
        from limbeck.jobs.plan.overtraining import show_overtraining as show
    elif result.mixture is None:
        from limbeck.jobs.plan.ending import ending as last
        from limbeck.jobs.plan.show import show
    else:
        from limbeck.jobs.plan.ending import mixture_ending as last
        from limbeck.jobs.plan.mixers import show_mixture as show

    def shown() -> None:
        show(result.to_dict(), Terminal(soft_wrap=True))
        show_ending(last(result.to_dict(), settings), Terminal(soft_wrap=True))

    _print(settings, result, shown)


def _doctor(settings: config.DistilSettings) -> None:
    result = dispatch.doctor(settings)
    from limbeck.jobs.doctor.job import ending
    from limbeck.planning.checks.pair import Finding, show

    def shown() -> None:
        findings = [Finding(**found) for found in result.findings]
        show(findings, Terminal())
        show_ending(ending(findings), Terminal(soft_wrap=True))

    _print(settings, result, shown)
    raise typer.Exit(0 if result.ok else 2)


def _probe(settings: config.ProbeCommandSettings) -> None:
    result = dispatch.probe(settings)
    from limbeck.jobs.probe.ending import ending
    from limbeck.jobs.probe.job import show

    def shown() -> None:
        show(result["readings"].values(), Terminal())
        show_ending(ending(result, settings), Terminal(soft_wrap=True))

    _print(settings, result, shown)


def _constraints(settings: config.ConstraintsSettings) -> None:
    from limbeck.jobs.constraints.job import show, write

    result = write(settings)
    _print(settings, result, lambda: show(result, Terminal(soft_wrap=True)))


def _rank(settings: config.RankSettings) -> None:
    with loading():
        from limbeck.jobs.rank.job import rank, show

    result = rank(settings)
    _print(settings, result, lambda: show(result, Terminal(soft_wrap=True)))


def _chat(settings: config.ChatSettings) -> None:
    with loading():
        from limbeck.jobs.chat.job import main

    main(settings, Terminal)


def _export(settings: config.ExportSettings) -> None:
    result = dispatch.export(settings)
    from limbeck.jobs.export.ending import ending, show

    def shown() -> None:
        show(result, Terminal())
        show_ending(ending(result), Terminal(soft_wrap=True))

    _print(settings, result, shown)


def _push(settings: config.PushSettings) -> None:
    with loading():
        from limbeck.jobs.push.job import push, show

    result = push(settings)
    _print(settings, result, lambda: show(result, Terminal()))


def _import(settings: config.ImportSettings) -> None:
    with loading():
        from limbeck.jobs.importing.job import import_model, show

    result = import_model(settings)
    _print(settings, result, lambda: show(result, Terminal()))


def _predict(settings: config.PredictSettings) -> None:
    result = dispatch.predict(settings)
    from limbeck.jobs.predict.job import ending, show

    def shown() -> None:
        show(result, Terminal())
        show_ending(ending(result, settings), Terminal(soft_wrap=True))

    _print(settings, result, shown)


def _reproduce(settings: config.ReproduceSettings) -> None:
    result = dispatch.reproduce(settings)
    from limbeck.papers.reproduce import show

    _print(settings, result, lambda: show(result.to_dict(), Terminal()))


def _inspect(settings: config.InspectSettings) -> None:
    from limbeck.jobs.capture.verify import inspect, show_facts

    facts = inspect(settings.folder)
    _print(settings, facts, lambda: show_facts(facts, Terminal(soft_wrap=True)))


def _verify_logits(settings: config.VerifySettings) -> None:
    from limbeck.jobs.capture.verify import verify
    from limbeck.run.log import console

    result = verify(settings.folder, rows=settings.rows, seed=settings.seed, console=console)
    _print(settings, result, lambda: None)
    raise typer.Exit(0 if result["ok"] else 1)


def _merge(settings: config.MergeSettings) -> None:
    from limbeck.jobs.capture.merge import merge

    result = merge(settings.out, settings.shards)
    _print(settings, result, lambda: print(visible(f"logits: {settings.out}")))


def _choose(settings: config.CaptureSettings) -> None:
    from limbeck.jobs.capture.job import choose

    _print(settings, choose(settings), lambda: None)


def _verify(settings: config.FolderSettings) -> None:
    from limbeck.jobs.capture.verify import verify_files
    from limbeck.run.log import console

    result = verify_files(settings.folder, console)
    _print(settings, result, lambda: None)
    raise typer.Exit(0 if result["ok"] else 1)


def _report(settings: config.FolderSettings) -> None:
    from limbeck.report.family import write_family_report
    from limbeck.report.folder import read_run
    from limbeck.report.page import write_report

    write = write_family_report if "members" in read_run(settings.folder) else write_report
    print(visible(str(write(settings.folder))))


def _selftest(settings: config.Base) -> None:
    from limbeck.selftest import main

    raise typer.Exit(main())


def _with(action: Callable[[AnySettings], None]) -> Callable[[str, Path | None, Mapping[str, Any]], None]:
    """Runs an action on the settings that a command's file and flags make."""

    def run(name: str, file: Path | None, flags: Mapping[str, Any]) -> None:
        action(dispatch.settings_of(name, file, flags))  # type: ignore[arg-type]  # the table gives each its class

    return run


RUN: Mapping[str, Callable[[str, Path | None, Mapping[str, Any]], None]] = {
    "plan": _with(_plan),
    "doctor": _with(_doctor),
    "shrink": _with(_shrink),
    "grow": _with(_grow),
    "distil": _with(_distil),
    "tune": _with(_tune),
    "capture": _with(_capture),
    "cache inspect": _with(_inspect),
    "cache verify": _with(_verify_logits),
    "cache merge": _with(_merge),
    "cache choose": _with(_choose),
    "constraints write": _with(_constraints),
    "rank": _with(_rank),
    "probe": _with(_probe),
    "chat": _with(_chat),
    "export": _with(_export),
    "import": _with(_import),
    "push": _with(_push),
    "report": _with(_report),
    "pilot": _with(_pilot),
    "predict": _with(_predict),
    "pretrain": _with(_pretrain),
    "reproduce": _with(_reproduce),
    "verify": _with(_verify),
    "selftest": _with(_selftest),
}
