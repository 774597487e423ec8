"""Runs several studies of transfer beside each other and sums up what they found: tables, charts, and the goals."""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ehr_tl.errors import RunError
from ehr_tl.files import read_json, whole, write_json
from ehr_tl.report.learning_curve import chart, estimate
from ehr_tl.report.words import count
from ehr_tl.threads import limit

log = logging.getLogger("ehr_tl")

#: Files of the sum.
TABLE, PAGE = "transfer.md", "transfer.html"

#: Arms of the table, in order; and what else stands in it.
LOCAL, SOURCES = ("local_lightgbm", "local_logistic"), ("source", "source_head")
SHOWN = (*LOCAL, *SOURCES, "pooled", "weighted", "anchored", "probe", "continued", "finetuned", "blend")
PAIRS = {
    "chosen - best local": "blend less best local",
    "chosen - best single": "blend less best single",
    "chosen - best single without networks": "blend less best single that is no network",
    "chosen - the same without networks": "blend less itself without networks",
}

#: What was hoped for: of the AUROC with few cases and a source that knows the outcome, and of one that does not; how
#: far the blend may stay behind the best single arm; and the slope with 64 cases.
FEW, WITH_LABEL, WITHOUT_LABEL, BEHIND, SLOPES = 64, 0.10, 0.05, 0.005, (0.8, 1.2)


@dataclass(frozen=True)
class Plan:
    """A study and what it needs.

    Attributes:
        name: A study that ships, or a file.
        events: Names of its events folders, below WORK/events.
        goals: Whether the goals hold for it: not where there are too few cases to tell.
    """

    name: str
    events: tuple[str, ...]
    goals: bool = True


def options(about: str, quick: str) -> argparse.Namespace:
    """What the command line says: `data`, `work`, `quick`, `threads`; and `began`, when."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the published records")
    parser.add_argument("--work", required=True, type=Path, help="folder for everything that is made")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--threads", type=int, default=2, help="studies at a time; default: 2")
    parser.set_defaults(began=time.monotonic())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    limit(1)
    return parser.parse_args()


def summed_up(found: Sequence[Mapping[str, Any]], asked: argparse.Namespace, goals: Collection[str] = ()) -> str:
    """What `write_summary` gives, written beside the studies; how long it all took, and where the charts are."""
    folder, minutes = asked.work / "studies" / ("quick" if asked.quick else ""), (time.monotonic() - asked.began) / 60
    return f"{write_summary(found, folder, goals)}\n{minutes:.0f} minutes; charts: {folder / PAGE}"


def run(waves: Sequence[Sequence[Plan]], work: Path, threads: int, quick: bool) -> list[dict[str, Any]]:
    """Runs studies, `threads` at a time, each in a process of its own; the waves one after the other.

    Studies of one wave have no checkpoint in common that would have to be pretrained, so none waits for another.

    Args:
        waves: The studies.
        work: Folder of events, checkpoints and studies.
        threads: Processes.
        quick: As of `ehr-tl study`.

    Returns:
        Their `results.json`, in order.

    Raises:
        RunError: One failed; its log tells why.
    """
    with ThreadPoolExecutor(threads) as pool:
        for wave in waves:
            list(pool.map(lambda plan: _run(plan, work, quick), wave))
    return [read_json(_folder(plan, work, quick) / "results.json") for wave in waves for plan in wave]


def _run(plan: Plan, work: Path, quick: bool) -> None:
    command = [sys.executable, "-c", "from ehr_tl.cli.main import main; main()", "study", plan.name]
    for name in plan.events:
        command += ["--events", f"{name}={work / 'events' / name}"]
    command += ["--out", str(work / "studies"), "--pretrained", str(work / "pretrained"), "--threads", "1"]
    told = work / "logs" / f"{Path(plan.name).stem}.log"
    told.parent.mkdir(parents=True, exist_ok=True)
    with told.open("w") as file:
        ended = subprocess.run([*command, *["--quick"] * quick], stdout=file, stderr=file, check=False)
    if ended.returncode:
        raise RunError(f"The study {plan.name} ended before its work was done", fix=f"read {told}")
    log.info("%s: done", plan.name)


def _folder(plan: Plan, work: Path, quick: bool) -> Path:
    return work / "studies" / ("quick" if quick else "") / Path(plan.name).stem


def check_splits(plans: Sequence[Plan], work: Path, quick: bool, committed: Path) -> None:
    """Whether seeds, test parts and draws are those of the committed file; studies that it lacks are added to it.

    Raises:
        RunError: A seed, a test part or a draw is another.
    """
    known = read_json(committed) if committed.is_file() else {}
    for plan in plans:
        made = _lines(read_json(_folder(plan, work, quick) / "splits.json"), quick)
        if plan.name not in known and not quick:
            known[plan.name] = made
            write_json(committed, known)
        elif wrong := [name for name, line in made.items() if known.get(plan.name, made).get(name) != line]:
            raise RunError(
                f"The study {plan.name} has other subjects or seeds than {committed.name} says, first in {wrong[0]}",
                expected="the same records, and the same code that draws from them",
                fix=f"take {plan.name} out of {committed} if its draws were meant to change: it is then added anew",
            )


def _lines(splits: Mapping[str, Any], quick: bool) -> dict[str, str]:
    """Seeds, test part and draws, a line each; of the latter subjects, those with the outcome, digest of the ids."""
    parts = {"test": splits["test"], **{f"{each['repeat']}-{each['size']}": each for each in splits["draws"]}}
    lines = {name: f"{each['subjects']} {each['events']} {each['digest']}" for name, each in parts.items()}
    seeds = {} if quick else {"seeds of pretraining": " ".join(map(str, splits["seeds"]))}
    return {"seed": str(splits["seed"]), **seeds, **lines}


def write_summary(found: Sequence[Mapping[str, Any]], folder: Path, goals: Collection[str] = ()) -> str:
    """Writes `transfer.md` and `transfer.html` and gives the former.

    Args:
        found: Results of studies.
        folder: Where to.
        goals: Names of the studies that have goals: which of these were met is said too.
    """
    lines = [*_table(found)]
    if goals:
        lines += ["", *_goals([each for each in found if each["name"] in goals])]
    text = "\n".join(lines) + "\n"
    with whole(folder / TABLE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with whole(folder / PAGE) as temporary:
        temporary.write_text(_page(found), encoding="utf-8")
    return text


def _table(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for results in found:
        synthetic = "synthetic; " if results["synthetic"] else ""
        test = results["test"]
        yield (
            f"\n**{results['title']}** ({synthetic}{test['subjects']:,} tested on, {test['events']:,} with the "
            f"outcome; {results['repeats']} repeats, {results['seconds'] / 60:,.0f} min of cells)\n"
        )
        sizes = results["sizes"]
        head = ["AUROC", *(f"{size['size']} ({size['events']:.0f})" for size in sizes)]
        yield _row(head)
        yield _row(["---"] + ["---:"] * len(sizes))
        for arm in SHOWN:
            if any(arm in size["arms"] for size in sizes):
                yield _row([arm, *(_value(size["arms"].get(arm, {}).get("auroc"), arm == "blend") for size in sizes)])
        for name, words in PAIRS.items():
            yield _row([words, *(_difference(size["differences"].get(name)) for size in sizes)])
        for measure in ("brier", "calibration_slope"):
            words = "Brier score of the blend" if measure == "brier" else "its slope, median"
            yield _row([words, *(estimate(size["arms"].get("blend", {}).get(measure)) for size in sizes)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _value(found: Mapping[str, Any] | None, whole_estimate: bool) -> str:
    if not found or found["value"] is None:
        return ""
    return estimate(found) if whole_estimate else f"{found['value']:.3f}"


def _difference(found: Mapping[str, Any] | None) -> str:
    if not found or found["value"] is None:
        return ""
    interval = "" if found["lower"] is None else f" ({found['lower']:+.3f} to {found['upper']:+.3f})"
    return f"{found['value']:+.3f}{interval}"


def _goals(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Each goal, and where it was met; a goal is met where the estimate reaches it, and the interval is told above."""
    cells = [(results, size) for results in found for size in results["sizes"] if size["chosen"] == "blend"]
    few = [(results, size) for results, size in cells if size["subjects"] <= FEW]
    labelled = {results["name"] for results, size in cells if "pooled" in size["arms"]}
    with_label = [cell for cell in few if cell[0]["name"] in labelled]
    without = [cell for cell in few if cell[0]["name"] not in labelled]
    yield "| goal | met | where not; of the last two, where |"
    yield "| --- | --- | --- |"
    local, single, tabular, network = PAIRS
    yield _goal(
        f"source has the label, {FEW} cases or fewer: {WITH_LABEL:+.2f} on the best local arm",
        with_label,
        lambda size: _at(size, local) >= WITH_LABEL,
        lambda size: f"{_at(size, local):+.3f}",
    )
    yield _goal(
        f"source has no label, {FEW} cases or fewer: {WITHOUT_LABEL:+.2f} on the best local arm",
        without,
        lambda size: _at(size, local) >= WITHOUT_LABEL,
        lambda size: f"{_at(size, local):+.3f}",
    )
    yield _goal(
        f"never more than {BEHIND} behind the best single arm",
        cells,
        lambda size: _at(size, single) >= -BEHIND,
        lambda size: f"{_at(size, single):+.3f}",
    )
    slopes = [cell for cell in cells if cell[1]["size"] == FEW]
    yield _goal(
        f"median slope with {FEW} cases within {SLOPES[0]} to {SLOPES[1]}",
        slopes,
        lambda size: SLOPES[0] <= _slope(size) <= SLOPES[1],
        lambda size: f"{_slope(size):.2f}",
    )
    yield _lifted("the blend above the best single arm that is no network, interval above 0", found, cells, tabular)
    yield _lifted("the blend above itself without networks, interval above 0", found, cells, network)


def _lifted(words: str, found: Sequence[Any], cells: Sequence[Any], name: str) -> str:
    """Where the interval of a difference lies above 0: sizes and the range of differences, study by study."""
    above: dict[str, list[Mapping[str, Any]]] = {}
    for results, size in cells:
        if (size["differences"].get(name, {}).get("lower") or 0) > 0:
            above.setdefault(results["name"], []).append(size)
    lines = []
    for study, sizes in above.items():
        gains = sorted(_at(size, name) for size in sizes)
        to = f" to {gains[-1]:+.3f}" * (len(gains) > 1)
        lines.append(f"{study} at {', '.join(str(size['size']) for size in sizes)}: {gains[0]:+.3f}{to}")
    return _row([words, f"{len(above)} of {len(found)} studies", "; ".join(lines) or "-"])


def _at(size: Mapping[str, Any], name: str) -> float:
    found = size["differences"].get(name)
    return found["value"] if found else 0.0


def _slope(size: Mapping[str, Any]) -> float:
    return size["arms"]["blend"]["calibration_slope"]["value"] or float("nan")


def _goal(words: str, cells: Sequence[Any], met: Any, shown: Any) -> str:
    missed = [f"{results['name']} {size['size']}: {shown(size)}" for results, size in cells if not met(size)]
    return _row([words, f"{len(cells) - len(missed)} of {len(cells)}", "; ".join(missed) or "-"])


def _page(found: Sequence[Mapping[str, Any]]) -> str:
    """A chart per study; it loads nothing."""
    css = (Path(chart.__code__.co_filename).parent / "templates" / "report.css").read_text(encoding="utf-8")
    links = [f"<a href='#{results['name']}'>{results['title']}</a>" for results in found]
    parts = [
        f"<section id='{results['name']}'><h2>{results['title']}</h2><p class='lead'>"
        f"{'Synthetic data. ' * results['synthetic']}AUROC on {count(results['test']['subjects'])} subjects, by number "
        "of local cases. Nothing here says that a model is fit for use on patients.</p>"
        f"<figure>{chart(results)}</figure></section>"
        for results in found
    ]
    head = f"<head><meta charset='utf-8'><title>Transfer</title><style>{css}</style></head>"
    body = f"<body><main><nav>{''.join(links)}</nav><div>{''.join(parts)}</div></main></body>"
    return f"<!doctype html><html lang='en'>{head}{body}</html>"
