"""What samples say about a model: statistics, perhaps from the cache, and a record for tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from fastprune.calibration import Statistics, collect_statistics
from fastprune.calibration.cache import StatisticsCache
from fastprune.calibration.recorder import Recorder, record
from fastprune.calibration.trace import Trace, depth_within
from fastprune.data import Samples
from fastprune.device import batch_tokens, device_of, evaluation_mode, trace_bytes
from fastprune.distributed import Group, share
from fastprune.fingerprint import fingerprint, fingerprint_model, fingerprint_samples
from fastprune.kprune import Reference
from fastprune.report import Stopwatch
from fastprune.settings import Settings
from fastprune.structure import Site, find_sites
from fastprune.structure.declaration import anatomy
from fastprune.version import __version__


class Survey:
    """Runs the samples of a run through its models.

    Attributes:
        share: the samples that this process runs.
        trace: what the dense model does with them, once a pass has recorded it; else None.
    """

    def __init__(
        self,
        dense: nn.Module,
        sites: Sequence[Site],
        samples: Samples,
        settings: Settings,
        group: Group,
    ) -> None:
        """Nothing is run yet.

        Args:
            dense: the model to prune.
            sites: its sites.
            samples: of all processes.
            settings: of the run.
            group: the processes that share the work.

        Raises:
            DataError: fewer samples than processes.
        """
        self._dense, self._sites, self._samples = dense, sites, samples
        self._settings, self._group = settings, group
        self.share = share(samples, group, together=settings.together)
        self.trace: Trace | None = None

    def statistics(self, watch: Stopwatch) -> Statistics | None:
        """Of the dense model: from the cache, or from a pass that is recorded for tuning, too.

        Those from the cache are in the first process alone; None in the others.
        """
        settings = self._settings
        cache, found = None, None
        if settings.cache is not None and self._group.rank == 0:
            cache = StatisticsCache(settings.cache)
            with watch.stage("calibrate"):
                key = self._cache_key()
                found = cache.load(key)
            if found is not None:
                found.check_fit(self._sites, **settings.needs)
                found = found.to(device_of(self._dense))
        if self._group.first(lambda: found is not None):
            return found
        recorder = Recorder(**self._recording()) if settings.imitates_dense else None
        statistics = self.collect(self._dense, watch, recorder)
        self.trace = None if recorder is None else recorder.trace()
        if cache is not None:
            cache.store(key, statistics)
        return statistics

    def collect(
        self, model: nn.Module, watch: Stopwatch, recorder: Recorder | None = None
    ) -> Statistics:
        """Statistics of the dense model, or of what an earlier stage has left of it."""
        settings = self._settings
        with watch.stage("calibrate"):
            return collect_statistics(
                model,
                self.share,
                fisher=settings.fisher_kind,
                targets=settings.targets,
                batch_size=settings.batch_size,
                seed=settings.seed,
                dtype=settings.dtype,
                recorder=recorder,
                group=self._group,
                progress=settings.progress,
                sites=settings.sites(model),
                **settings.needs,
            )

    def refer(self, watch: Stopwatch) -> Reference:
        """What selection while tuning needs to know of the dense model; recorded in passing."""
        settings = self._settings
        recorder = Recorder(**self._recording())
        with watch.stage("calibrate"):
            reference = Reference(
                self._dense,
                self.share,
                batch_size=settings.batch_size,
                seed=settings.seed,
                dtype=settings.dtype,
                recorder=recorder,
                group=self._group,
            )
        self.trace = recorder.trace()
        return reference

    def record(self) -> None:
        """Record the dense model in a pass of its own, where no other has."""
        if self.trace is not None:
            return
        settings = self._settings
        tokens = batch_tokens(self._dense, settings.dtype)
        batches = self.share.batches(settings.batch_size, tokens=tokens)
        with evaluation_mode(self._dense):
            self.trace = record(batches=batches, **self._recording())

    def _recording(self) -> dict[str, Any]:
        """What is kept of the dense model's work for tuning."""
        dtype = self._settings.dtype
        tokens = sum(self.share.lengths)
        limit = trace_bytes(device_of(self._dense))
        projections = find_sites(self._dense)  # however finely attention is cut
        return {
            "model": self._dense,
            "blocks": anatomy(self._dense).blocks,
            "sites": projections,
            # Images of a model that does not tell its number of patches: nothing is recorded.
            "depth": depth_within(projections, tokens, dtype, limit) if tokens else 0,
            "dtype": dtype,
            "tokens": tokens,
        }

    def _cache_key(self) -> str:
        """Tells statistics apart that may differ."""
        settings = self._settings
        mini_batches = settings.batch_size if settings.fisher_kind == "batch" else None
        return fingerprint(
            {
                "fastprune": __version__,
                "model": fingerprint_model(self._dense),
                "samples": fingerprint_samples(self._samples),
                "fisher": (settings.fisher_kind, mini_batches),
                "targets": settings.targets,
                "granularity": settings.granularity,
                "seed": settings.seed,
                "dtype": settings.dtype,
                "device": device_of(self._dense).type,
                "needs": settings.needs,
            }
        )
