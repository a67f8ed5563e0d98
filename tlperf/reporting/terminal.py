"""Results as text for a terminal; the same values as --json, rounded for reading.

print(render_train({"runs": [...]}))
"""

from collections.abc import Callable, Sequence
from typing import Any

from tlperf.core.errors import escape_text
from tlperf.core.units import (
    NOT_AVAILABLE,
    format_bytes,
    format_count,
    format_number,
    format_secs,
)
from tlperf.reporting.latency_terminal import render_latency
from tlperf.reporting.plan_terminal import render_job_plan
from tlperf.reporting.terminal_table import render_table, render_values

# A longer table would push the rest off the screen; --json has all of it.
_MOST_CLASS_ROWS = 40
_BAR_WIDTH = 40


def render_serve(result: dict[str, Any]) -> str:
    """A server in one line."""
    return f"{result['role']} at {result['address']}"


def render_train(result: dict[str, Any]) -> str:
    """A row a backbone; or the plan of a dry run."""
    if "data" in result:
        return render_job_plan(result)
    rows = [
        [
            run["backbone"],
            str(len(run["epochs"])),
            format_number(run["epochs"][-1]["loss"], 4),
            format_number(max(row["val_accuracy"] for row in run["epochs"]), 4),
            format_secs(run["train_secs"]),
            format_number(run["images_per_sec"], 1),
            f"{run['input_wait_fraction']:.1%}",
        ]
        for run in result["runs"]
    ]
    columns = ["backbone", "epochs", "loss", "best val acc", "time", "images/s"]
    return render_table([*columns, "input wait"], rows)


def render_evaluate(result: dict[str, Any]) -> str:
    """A row a backbone with the 95 % interval of its accuracy."""
    rows = [
        [
            run["backbone"],
            format_number(run["accuracy"], 4),
            "-".join(format_number(edge, 3) for edge in run["interval"]),
            format_number(run["loss"], 4),
            str(run["images"]),
        ]
        for run in result["runs"]
    ]
    return render_table(["backbone", "accuracy", "95 %", "loss", "images"], rows)


def render_input(result: dict[str, Any]) -> str:
    """The rate, a bar for each ceiling and way, and what to do about it."""
    rates = {"as it is": result["images_per_sec"]}
    rates |= {f"{name} alone": rate for name, rate in result["stages"].items()}
    rates |= {way["change"]: way["images_per_sec"] for way in result["ways"]}
    most = max(rate for rate in rates.values() if rate is not None)
    rows = [
        [
            name,
            NOT_AVAILABLE if rate is None else f"{rate:,.0f}",
            "" if rate is None else "#" * max(1, round(_BAR_WIDTH * rate / most)),
        ]
        for name, rate in rates.items()
    ]
    state = result["state"]
    state += "" if state == "in-memory" else f" from the {result['data_from']}"
    measured = (
        f"{result['batches']} batches of {result['batch_size']} in "
        f"{format_secs(result['seconds'])}, {result['image_size']} px, encoding "
        f"{result['encoding']}, decode {result['decode']}, cache {result['cache']}, "
        f"{state}, {result['cores']} cores, {result['device']}"
    )
    table = render_table(["", "images/s", ""], rows)
    return "\n".join([measured, table, *result["advice"]])


def render_predict(result: dict[str, Any]) -> str:
    """A row an image, and what was counted."""
    rows = [
        [
            escape_text(row["path"]),
            escape_text(row["class"]),
            format_number(row["probability"], 4),
        ]
        for row in result["predictions"]
    ]
    counts = (
        f"{result['images']} images in {format_secs(result['seconds'])} "
        f"({format_number(result['images_per_sec'], 1)} images/s), "
        f"{len(result['problems'])} could not be used, {result['ignored']} files are "
        "no images by their name"
    )
    table = render_table(["path", "class", "probability"], rows)
    return f"{table}\n\n{counts}"


def render_export(result: dict[str, Any]) -> str:
    """A row a file."""
    rows = [
        [
            row["backbone"],
            row["format"],
            format_bytes(row["bytes"]),
            f"{row['parity']['max_relative_difference']:.1e}",
            f"{row['parity']['limit']:.0e}",
            escape_text(row["path"]),
        ]
        for row in result["exports"]
    ]
    columns = ["backbone", "format", "size", "logits differ by", "limit", "path"]
    return render_table(columns, rows)


def render_run(result: dict[str, Any]) -> str:
    """The summary of a run, or the plan of a dry run."""
    if "report" not in result:
        return render_job_plan(result)
    trained = {"runs": [run["train"] for run in result["runs"]]}
    evaluated = {"runs": [run["evaluate"] for run in result["runs"]]}
    timed = {"runs": [row for run in result["runs"] for row in run["latency"]]}
    parts = [render_train(trained), render_evaluate(evaluated), render_latency(timed)]
    if result["smoke"]:
        parts.insert(0, "smoke figures: they show that the machinery runs, no more")
    parts.append(f"report: {result['report']} (in {format_secs(result['seconds'])})")
    return "\n\n".join(parts)


def render_verify(result: dict[str, Any]) -> str:
    """`ok` or every problem, one a line."""
    counts = f"{result['records']} records in {result['shards']} shards"
    if result["ok"]:
        return f"ok: {counts}"
    problems = [
        f"{escape_text(str(row['file']))}"
        + ("" if row["record"] is None else f" (record {row['record']})")
        + f": {escape_text(row['what'])}"
        for row in result["problems"]
    ]
    count = format_count(len(problems), "problem")
    remedy = "run tlperf shard again with the same flags, which writes what is damaged"
    return "\n".join([f"{count}, {counts}", *problems, remedy])


def render_inspect(result: dict[str, Any]) -> str:
    """The dataset, its images by class and split, sizes, what else was counted."""
    side = result["image_size"]
    stored = f"{result['format']}, encoding {result['encoding']}"
    stored += f" at {side} x {side} pixels" if side else ""
    head = (
        f"{escape_text(result['name'])}: {result['images']} images "
        f"of {len(result['classes'])} classes, "
        f"{format_bytes(result['bytes'])} in {result['shards']} shards\n"
        f"stored as {stored}, EXIF {result['exif']}"
    )
    rest = {name: result[name] for name in ("quarantined", "duplicates", "ignored")}
    rest |= {"reasons": result["reasons"] or "none"}
    rest |= {"flags": result["flags"] or "none", "digest": result["digest"]}
    parts = [head, _render_classes(result), _render_sizes(result["sizes"])]
    parts.append(render_values(rest))
    if "near_duplicates" in result:
        parts.append(_render_near_duplicates(result["near_duplicates"]))
    if "png" in result:
        parts.append(_render_picture(result))
    return "\n\n".join(parts)


def _align_right(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The cells of numbers under each other; the first column stays as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        [row[0], *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    ]


def _render_classes(result: dict[str, Any]) -> str:
    splits = result["splits"]
    counts = [
        [name, *(split[name] for split in splits.values())]
        for name in result["classes"]
    ]
    shown = counts[:_MOST_CLASS_ROWS]
    rows = [[escape_text(name), *map(str, row), str(sum(row))] for name, *row in shown]
    totals = [sum(split.values()) for split in splits.values()]
    rows.append(["total", *map(str, totals), str(sum(totals))])
    columns, *body = _align_right([["class", *splits, "total"], *rows])
    lines = render_table(columns, body).splitlines()
    if more := len(counts) - len(shown):
        lines.insert(-1, f"({more} more: --json shows all classes)")
    return "\n".join(lines)


def _render_sizes(sizes: dict[str, Any]) -> str:
    def cell(values: dict[str, float | None], unit: Callable[[Any], str]) -> str:
        return " / ".join(unit(values[key]) for key in ("min", "median", "max"))

    def pixels(value: float | None) -> str:
        return NOT_AVAILABLE if value is None else f"{value:.10g}"

    rows = [
        [
            name,
            cell(row["width"], pixels),
            cell(row["height"], pixels),
            cell(row["payload_bytes"], format_bytes),
        ]
        for name, row in sizes.items()
    ]
    columns = ["min / median / max", "width (pixels)", "height (pixels)", "payload"]
    return render_table(columns, rows)


def _render_near_duplicates(found: dict[str, Any]) -> str:
    head = (
        f"near duplicates (at most {found['distance']} of 64 bits differ): "
        f"{found['pairs']} pairs of {found['images']} images, "
        f"{found['across_splits']} across splits, "
        f"{found['across_classes']} across classes"
    )
    if not found["pairs"]:
        return head
    rows = [
        [str(row["bits"])]
        + [
            escape_text(text)
            for side in "ab"
            for text in (row[side], row[f"split_{side}"], row[f"class_{side}"])
        ]
        for row in found["examples"]
    ]
    table = render_table(["bits", *["image", "split", "class"] * 2], rows)
    more = found["pairs"] - len(rows)
    return f"{head}\n{table}" + (f"\n({more} more pairs)" if more else "")


def _render_picture(result: dict[str, Any]) -> str:
    left_out = [
        f"{result[key]} {what}"
        for key, what in (
            ("png_classes_left_out", "classes without bars"),
            ("png_rows_left_out", "rows of images not shown"),
        )
        if result[key]
    ]
    path = escape_text(result["png"])
    return f"picture: {path}" + (f" ({', '.join(left_out)})" if left_out else "")


def render_doctor(result: dict[str, Any]) -> str:
    """A line a check, with what to do, and how many there were of each kind."""
    marks = {"ok": "ok  ", "warn": "WARN", "bad": "BAD "}
    lines = []
    for check in result["checks"]:
        text = f"{check['name']}: {check['found']}"
        text += f"; {check['advice']}" if check["advice"] else ""
        lines.append(f"{marks[check['level']]} {escape_text(text)}")
    levels = [check["level"] for check in result["checks"]]
    counts = ", ".join(f"{levels.count(level)} {level}" for level in marks)
    return "\n".join([*lines, counts])
