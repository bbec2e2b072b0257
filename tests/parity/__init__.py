"""What backends compute of the same inputs, each in a process of its own."""

from pathlib import Path

WORKERS = Path(__file__).parent
ROOT = WORKERS.parents[1]
