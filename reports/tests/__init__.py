"""Tests of nestbench_reports: run `PYTHONPATH=reports /usr/bin/python3 -m pytest reports/tests`."""
