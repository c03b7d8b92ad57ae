"""Train a study and write its tables and plots."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import statistics
from pathlib import Path
from typing import Any

from src.cli.errors import UserError
from src.cli.signals import Interrupted
from src.cli.yaml_files import dump
from src.config import RUN_CONFIG, parse_train, to_yaml, with_keys
from src.files.atomic import check_place, write_text
from src.files.locks import locked
from src.files.run_folder import make_folder
from src.network.convolutions import replaced_widths
from src.study.config import Base, StudyConfig, Words, base_of, read_study
from src.study.design import Design, Point, differences, make_design
from src.study.pictures import draw_axes
from src.study.results import SPLITS, accuracies, markdown, percent, read_result, spread, write_csv
from src.study.running import Job, train_all
from src.training.plan import RUN_ENTRIES

STUDY, TABLE_CSV, TABLE = "study.yaml", "study.csv", "study.md"


def run_study(study: StudyConfig, words: Words) -> int:
    """Train the runs of a study that are not finished, and return the exit code: 1 if any of them has failed.

    Raises UserError, before anything is written, for invalid keys, unusable data and a folder of another study, and
    Interrupted, after the running trainings have saved, on a signal.
    """
    base = base_of(words)
    study = _with_former(study, base)
    design = make_design(study, base)
    waiting = [run for run in design.runs() if read_result(run[2]) is None]
    for warning in dict.fromkeys(replaced_widths(dataclasses.asdict(point.config.model)) for point in design.points):
        if warning:
            print(warning)
    print(_plan(design, len(waiting), study.jobs), flush=True)
    if study.dry_run:
        return 0
    with locked(design.folder):
        names = [RUN_CONFIG, STUDY, TABLE_CSV, TABLE, *(f"{key}.png" for key in design.axes)]
        check_place(*(design.folder / name for name in names))
        write_text(design.folder / RUN_CONFIG, to_yaml(base.config))
        kept = {"vary": [f"{key}={','.join(values)}" for key, values in design.axes.items()]}
        write_text(design.folder / STUDY, dump({**kept, "grid": study.grid, "seeds": design.seeds}))
        jobs = [_job(design, *run) for run in waiting]
        try:
            failures = train_all(jobs, study.jobs, lambda job: _result_line(job.folder))
        except (Interrupted, KeyboardInterrupt):
            _report(design)
            print(f"stopped; continue with: python study.py --resume {design.folder}", flush=True)
            raise
        print("\n" + _report(design))
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}")
    print(f"tables and plots: {design.folder}" + ("; try again with --resume" if failures else ""))
    return 1 if failures else 0


def _with_former(study: StudyConfig, base: Base) -> StudyConfig:
    """Return the study together with what was planned in its folder before.

    Raises UserError, which names the keys, for a folder with another base, or with a study that is not to be resumed.
    """
    folder = Path(base.config.run.output_path)
    file = folder / STUDY
    if not os.path.lexists(file):
        present = [name for name in RUN_ENTRIES if os.path.lexists(folder / name)]
        if present:
            raise UserError(f"{folder}: contains {present[0]}, but no study; choose another --output_path")
        return study
    if not base.resume:
        raise UserError(
            f"{folder}: already contains a study; continue or extend it with --resume, or choose another --output_path"
        )
    former = read_study(file)
    with contextlib.redirect_stderr(io.StringIO()):
        begun = parse_train([f"--config={folder / RUN_CONFIG}"], "")
    found = differences(base.config, begun)
    if found:
        raise UserError(f"{folder}: the study was started with another base ({found}); choose another --output_path")
    return dataclasses.replace(
        study,
        vary=[*former.vary, *study.vary],
        grid=former.grid or study.grid,
        seeds=list(dict.fromkeys([*former.seeds, *study.seeds])),
    )


def _plan(design: Design, waiting: int, at_once: int) -> str:
    seeds, runs = ", ".join(map(str, design.seeds)), len(design.points) * len(design.seeds)
    rows = [
        [point.name, *point.values.values(), f"{point.parameters:,}", f"{point.multiply_adds:,}"]
        for point in design.points
    ]
    return (
        f"study of {', '.join(design.axes)}: {len(design.points)} configurations, seeds {seeds}: {runs} runs in "
        f"{design.folder}; {runs - waiting} are finished, {waiting} to train, {at_once} at a time\n"
        + markdown(["folder", *design.axes, "parameters", "multiply-adds"], rows)
    )


def _job(design: Design, point: Point, seed: int, folder: Path) -> Job:
    """Write the configuration of a run, and return the run as a Job."""
    file = design.folder / point.name / RUN_CONFIG
    make_folder(file.parent)
    write_text(file, to_yaml(with_keys(point.config, output_path=str(file.parent))))
    return Job(f"{point.name}, seed {seed}", file, seed, folder, file.parent / f"seed_{seed}.log")


def _result_line(folder: Path) -> str:
    result = read_result(folder)
    figures = [f"{split} accuracy {result[split]['accuracy']:.2%}" for split in SPLITS if result[split]]
    return ", ".join([*figures, f"{result['minutes']:.1f} min"])


def _report(design: Design) -> str:
    """Write the tables and plots of the finished runs, and return the table."""
    found = [
        (point, [r for seed in design.seeds if (r := read_result(design.run_folder(point, seed))) is not None])
        for point in design.points
    ]
    write_csv(design.folder / TABLE_CSV, [_record(point, results) for point, results in found])
    columns = [*design.axes, "parameters", "MB", "multiply-adds", "runs", *SPLITS, "minutes"]
    table = markdown(columns, [_row(point, results) for point, results in found])
    finished, planned = sum(len(results) for _, results in found), len(list(design.runs()))
    text = (
        f"# Study of {', '.join(design.axes)}\n\n{design.subject()}; {finished} of {planned} runs finished. Accuracies "
        f"are means ± sample standard deviations over the seeds, MB are 10^6 bytes of float32.\n\n{table}"
    )
    for key, file in draw_axes(design, {point.name: results for point, results in found}).items():
        text += f"\n![{key}]({file.name})\n"
    write_text(design.folder / TABLE, text)
    return table


def _record(point: Point, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of a configuration in the CSV file; accuracies are fractions."""
    record = {"folder": point.name, **point.values, "parameters": point.parameters, "bytes": point.bytes}
    record |= {"multiply_adds": point.multiply_adds, "runs": len(results)}
    for split in SPLITS:
        values = accuracies(results, split)
        record |= {f"{split}_mean": statistics.fmean(values) if values else None, f"{split}_std": spread(values)}
    return record | {"minutes": statistics.fmean(r["minutes"] for r in results) if results else None}


def _row(point: Point, results: list[dict[str, Any]]) -> list[str]:
    """Return the row of a configuration in the table."""
    sizes = [f"{point.parameters:,}", f"{point.bytes / 1e6:.3g}", f"{point.multiply_adds:,}", str(len(results))]
    figures = [percent(accuracies(results, split)) for split in SPLITS]
    minutes = f"{statistics.fmean(r['minutes'] for r in results):.1f}" if results else ""
    return [*point.values.values(), *sizes, *figures, minutes]
