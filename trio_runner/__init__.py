"""trio_runner: a drop-in task runner for n8n's Python Code node.

The package root stays empty of imports: the zygote imports it, and every module it pulled in would be paid for at
start-up.
"""

__version__ = "0.1.0"
