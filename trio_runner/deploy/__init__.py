"""Deployment files for the installed version: `trio-runner init`.

``commands`` is the command line, ``settings`` what goes into a file, ``render`` how, ``kinds`` and ``launcher`` what
each kind consists of, ``installed`` what is on this machine; the files are in ``templates``. Nothing here runs in a
runner.
"""
