"""Where things live. Environment: REPRO_DATA, REPRO_RESULTS, REPRO_CACHE."""

import os
from pathlib import Path


def home() -> Path:
    """The clone this package runs from, or the working directory when it is installed elsewhere."""
    clone = Path(__file__).resolve().parents[1]
    return clone if (clone / "pyproject.toml").exists() else Path.cwd()


def results_dir() -> Path:
    """Result files: `results/` of the clone, or REPRO_RESULTS."""
    return Path(os.environ.get("REPRO_RESULTS") or home() / "results").expanduser().absolute()


def runs_dir() -> Path:
    """Weights, checkpoints, logs and predictions: `runs/` beside the results."""
    return results_dir().parent / "runs"


def tables_dir() -> Path:
    """Generated tables and figures: `tables/` beside the results."""
    return results_dir().parent / "tables"


def data_dir() -> Path:
    """Data sets in their official layouts: REPRO_DATA, or `runs/data` of the clone."""
    return Path(os.environ.get("REPRO_DATA") or home() / "runs" / "data").expanduser().absolute()


def cache_dir() -> Path:
    """Decoded data: REPRO_CACHE, or `runs/cache`."""
    return Path(os.environ.get("REPRO_CACHE") or runs_dir() / "cache").expanduser().absolute()
