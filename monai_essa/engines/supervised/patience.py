# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""An early end of the training, when the metric of the validation has not risen for a while."""

from __future__ import annotations

import logging
import math
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import EarlyStopHandler

from monai_essa.outside import Nullable, Number

__all__ = ["Patience"]

_logger = logging.getLogger(__name__)


class Patience:
    """Handler of the trainer that ends the training after some validations without a new best metric.

    MONAI's ``EarlyStopHandler`` counts them; its count is worked out again when a run resumes, from the best epoch that
    :class:`~monai_essa.engines.BestMetric` brings back. The training ends after the handlers of its epoch, as if
    that were the last one, so the best epoch is restored and the results are written. Attach it after the handler that
    resumes.

    Args:
        evaluator: the engine that validates, with a key metric of which more is better.
        validations: how many in a row may bring no new best, from 1 on; None: the training never ends early.
        val_interval: epochs from one validation to the next.

    Raises:
        ValueError: if ``validations`` is no whole number above 0, or, when attached, if there is nothing to validate.

    Example:
        >>> from monai.engines import SupervisedEvaluator
        >>> Patience(SupervisedEvaluator(device="cpu", val_data_loader=[], network=None), validations=0)
        Traceback (most recent call last):
        ValueError: patience: expected a whole number from 1 to 1e+06, got 0
    """

    def __init__(self, evaluator: Evaluator, validations: int | None = None, val_interval: int = 1) -> None:
        self.evaluator = evaluator
        self.validations = Nullable(Number(1, 1_000_000, whole=True)).check(validations, "patience")
        self.val_interval = val_interval
        self.handler = EarlyStopHandler(self.validations, _key_metric)

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer and to the evaluator, if the training may end early."""
        if self.validations is None:
            return
        if len(self.evaluator.data_loader) == 0:  # type: ignore[arg-type]
            raise ValueError(
                f"patience {self.validations} needs a validation, and this run has none: leave out patience, or "
                "last_epoch.yaml"
            )
        self.handler.set_trainer(engine)
        self.handler.attach(self.evaluator)
        engine.add_event_handler(Events.STARTED, self._go_on)
        engine.add_event_handler(Events.COMPLETED, self._say)

    def _go_on(self, engine: Any) -> None:
        """Count the validations since the best one that a resumed run has behind it; it may have ended already."""
        counted: Any = self.handler._handler
        counted.reset()
        if self.evaluator.state.best_metric_epoch > 0:
            counted.best_score = self.evaluator.state.best_metric
            counted.counter = self._since_best(engine.state.epoch)
            if counted.counter >= self.validations:
                engine.terminate()

    def _say(self, engine: Any) -> None:
        epoch, best = engine.state.epoch, self.evaluator.state
        if epoch < engine.state.max_epochs:
            _logger.info(
                "stopped early after epoch %d of %d: no better %s in %d validations since epoch %d (%.4f)",
                *(epoch, engine.state.max_epochs, best.key_metric_name),
                *(self._since_best(epoch), best.best_metric_epoch, best.best_metric),
            )

    def _since_best(self, epoch: int) -> int:
        return epoch // self.val_interval - self.evaluator.state.best_metric_epoch // self.val_interval


def _key_metric(evaluator: Any) -> float:
    """Return the key metric; one that is undefined is no improvement."""
    value = float(evaluator.state.metrics[evaluator.state.key_metric_name])
    return -math.inf if math.isnan(value) else value
