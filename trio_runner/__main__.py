"""``python -m trio_runner`` is the command ``trio-runner``."""

from trio_runner.cli import main

main()
