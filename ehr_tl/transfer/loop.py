"""The training loop of pretraining: on one machine or several GPUs, and on from where it was killed.

Whatever is random is a matter of the seed, the epoch and the step, so a state need hold no generator: weights, the
optimiser's moments and the number of steps done are all that there is to know.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ehr_tl.errors import EhrTlError, RunError
from ehr_tl.files import locked
from ehr_tl.models import training
from ehr_tl.models.network import EhrModel
from ehr_tl.progress import Bar, bar
from ehr_tl.transfer.held_out import TRAIN, VALIDATION
from ehr_tl.transfer.objectives import Exercise, Objective, next_slot
from ehr_tl.transfer.recipe import TrainingConfig
from ehr_tl.transfer.sources import Drawn, Lanes, Source, steps
from ehr_tl.transfer.validation import validate

log = logging.getLogger("ehr_tl")

T = TypeVar("T")

_SAVE_SECONDS = 120.0  # between two states: what a kill can cost
_MOST_VALUES = 4096  # of the next slots that one step asks for


@dataclass(frozen=True)
class Progress:
    """How far a training has come, as its state holds it.

    Attributes:
        epoch, step: Whole epochs done, and steps done of the next.
        history: Of each epoch its number, and by part, of those who train and those who validate, the losses.
        sums: Of this epoch's losses, by name, each with the number of steps.
        seconds, slots: Time spent and slots read since the very beginning.
    """

    epoch: int
    step: int
    history: list[dict[str, Any]]
    sums: dict[str, list[float]]
    seconds: float
    slots: int

    @classmethod
    def begin(cls) -> Progress:
        return cls(0, 0, [], {}, 0.0, 0)


class Loop:
    """Trains a network on sources.

    Args:
        network: The network, trained in place.
        sources: Whom it learns from.
        config: How.
        seed: Fixes everything random.
        state: Folder of the state, in safetensors and JSON.
        tensorboard: Folder for TensorBoard's logs; None: none are written.
        given: Stands for the weights and records that it begins with; a state of others is not taken up.

    Attributes:
        main: Whether this process is the one of several that validates, tells and writes.
    """

    def __init__(
        self,
        network: EhrModel,
        sources: Many[Source],
        config: TrainingConfig,
        seed: int,
        state: Path,
        tensorboard: Path | None = None,
        given: str = "",
    ):
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs

        self.accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
        self.sources, self.config, self.seed, self.state = sources, config, seed, state
        self.network = network
        objective = Objective(network, config, training.multiplies_halves(self.accelerator.device))
        optimiser = training.optimiser(objective, config.learning_rate, config.weight_decay)
        self.objective, self.optimiser = self.accelerator.prepare(objective, optimiser)
        self.settings = {**asdict(config), "horizons_days": list(config.horizons_days), "seed": seed}
        self.settings["network"] = network.config.to_dict()
        self.settings.update(given=given, processes=self.accelerator.num_processes)
        self.main = self.accelerator.is_main_process
        self.tensorboard = tensorboard if self.main else None

    def run(self) -> Progress:
        """Trains to the end and returns how it went; the history of a process that is not `main` has no validation.

        Raises:
            RunError: Another process trains in the same state, nobody has a record, or the losses are no numbers.
        """
        with self._alone():
            done = self._load() or Progress.begin()
            shows = bar("pretraining", self.config.epochs, shown=self.main)
            with _writer(self.tensorboard, done.slots) as board, shows as shown:
                shown.advance(done.epoch)
                while done.epoch < self.config.epochs:
                    with training.trained_quickly(self.network):
                        done = self._epoch(done, shown, board)
                    self._save(done)
                    if self.main:
                        log.info("pretraining: %s", done.history[-1])
        self.network.to("cpu").eval()
        return done

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other trainings off the state; the other processes of this one are let in by its main one."""
        if not self.main:
            yield
            return
        self.state.mkdir(parents=True, exist_ok=True)
        with locked(self.state):
            yield

    def _epoch(self, done: Progress, shown: Bar, board: Any) -> Progress:
        work = self._work(done.epoch)
        sums = {name: list(pair) for name, pair in done.sums.items()}
        shown.advance(done.step / len(work))
        began = saved = time.monotonic()
        slots = 0
        self.objective.train()
        for step in range(done.step, len(work)):
            drawn, lanes = work[step]
            parts = self._step(drawn, lanes, done.epoch, step, len(work))
            for name, loss in parts.items():
                total = sums.setdefault(name, [0.0, 0])
                total[0], total[1] = total[0] + loss, total[1] + 1
            slots += sum(len(sequence) for lane in lanes for sequence in lane) * self.accelerator.num_processes
            now = time.monotonic()
            shown.advance(1 / len(work), f"{slots / (now - began):,.0f} slots/s, loss {parts['loss']:.3f}")
            _tell(board, {**parts, "slots per second": slots / (now - began)}, done.slots + slots)
            if now - saved > _SAVE_SECONDS and step + 1 < len(work):
                seconds = done.seconds + now - began
                self._save(Progress(done.epoch, step + 1, done.history, sums, seconds, done.slots + slots))
                saved = now
        losses = {name: round(total / count, 4) for name, (total, count) in sums.items()}
        held_out = validate(self.network, self.sources, self.config, self.seed) if self.main else {}
        if not math.isfinite(losses["loss"] + held_out.get("loss", 0.0)):
            raise RunError(
                "The loss is no number any more: the training has diverged",
                expected="weights that stay finite",
                fix="lower learning_rate in the recipe",
            )
        history = [*done.history, {"epoch": done.epoch + 1, TRAIN: losses, VALIDATION: held_out}]
        _tell(board, {f"{VALIDATION} {name}": value for name, value in held_out.items()}, done.slots + slots)
        seconds = done.seconds + time.monotonic() - began
        return Progress(done.epoch + 1, 0, history, {}, seconds, done.slots + slots)

    def _work(self, epoch: int) -> list[tuple[Drawn, Lanes]]:
        """This process's batches of an epoch, those of all sources mixed."""
        rng = np.random.default_rng((self.seed, epoch))
        work = []
        for source in self.sources:
            drawn = source.draw(TRAIN, self.config.queries, self.network.config.max_slots, rng)
            batches = steps(drawn.sequences(rng), self.config.batch_slots, self.config.lane_slots)
            work += [(drawn, lanes) for lanes in batches]
        if not work:
            raise RunError("Nobody's record has anything to learn from", expected="events before the export's end")
        mixed = [work[i] for i in rng.permutation(len(work))]
        return shared(mixed, self.accelerator.process_index, self.accelerator.num_processes)

    def _step(self, drawn: Drawn, lanes: Lanes, epoch: int, step: int, count: int) -> dict[str, float]:
        rng = np.random.default_rng((self.seed, epoch, step, self.accelerator.process_index))
        training.set_rate(self.optimiser, self.config.learning_rate, (epoch + step / count) / self.config.epochs)
        total, parts = self.objective(exercise(drawn, lanes, self.config, rng))
        self.optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(total)
        self.accelerator.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimiser.step()
        return {"loss": float(total.detach()), **{name: float(loss) for name, loss in parts.items()}}

    def _save(self, done: Progress) -> None:
        if self.main:
            modules = {"network": self.network}
            training.save_state(self.state, modules, _plain(self.optimiser), asdict(done), self.settings)

    def _load(self) -> Progress | None:
        modules = {"network": self.network}
        notes = training.load_state(self.state, modules, _plain(self.optimiser), self.settings)
        self.accelerator.wait_for_everyone()
        if self.main and notes is None and (self.state / training.STATE).exists():
            log.warning("%s is not of this training, or broken: it begins anew", self.state / training.STATE)
        return None if notes is None else Progress(**notes)


def shared(work: list[T], process: int, processes: int) -> list[T]:
    """What one of several processes does of the work: as much as any other, since they wait for each other.

    Examples:
        >>> [shared([1, 2, 3, 4, 5], process, 2) for process in range(2)]
        [[1, 3], [2, 4]]
        >>> [shared([1, 2], process, 3) for process in range(3)]
        [[1], [2], [1]]
    """
    each = max(1, len(work) // processes)
    return [work[(number * processes + process) % len(work)] for number in range(each)]


def exercise(drawn: Drawn, lanes: Lanes, config: TrainingConfig, rng: np.random.Generator) -> Exercise:
    """A batch with random events and codes hidden.

    How many codes are hidden differs from step to step, from none to twice the mean: so the network meets hospitals
    that it knows well and such whose codes are all their own.
    """
    batch = drawn.reading.batch(lanes)
    codes = len(drawn.reading.asked.records.codes)
    seen = training.drop_events(batch, config.event_dropout, codes, rng)
    share = 2 * config.code_dropout * rng.random()
    hidden, alone = torch.from_numpy(rng.random(codes) < share), torch.from_numpy(rng.random(codes) < 0.5)
    return Exercise(drawn, batch, seen, next_slot(batch, codes).some(_MOST_VALUES, rng), hidden, alone)


def _plain(optimiser: Any) -> torch.optim.Optimizer:
    """What `accelerate` has wrapped."""
    return getattr(optimiser, "optimizer", optimiser)


def require_tensorboard() -> None:
    """Raises an `EhrTlError` where TensorBoard is not installed: asked before the records are read."""
    if find_spec("tensorboard") is None:
        raise EhrTlError(
            "TensorBoard is not installed",
            expected="the package tensorboard, to write its logs",
            fix="pip install 'ehr_tl[tensorboard]', or leave --tensorboard out",
        )


@contextmanager
def _writer(folder: Path | None, slots: int) -> Iterator[Any]:
    """TensorBoard's writer; what an earlier process wrote beyond the state that was found is taken back."""
    if folder is None:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder, purge_step=slots or None) as writer:
        yield writer


def _tell(board: Any, values: dict[str, float], slots: int) -> None:
    if board is not None:
        for name, value in values.items():
            board.add_scalar(name, value, slots)
