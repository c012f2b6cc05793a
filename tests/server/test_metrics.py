"""The text that Prometheus reads, line by line against its grammar, with figures worked out by hand."""

import re

from autoseg.server.jobs import Jobs
from autoseg.server.metrics import RequestCounts, format_metrics
from autoseg.server.settings import ServerSettings
from tests.server.served import StandIn

LINE = re.compile(r"# (HELP [a-z_]+ .+|TYPE [a-z_]+ (counter|gauge))|[a-z_]+(\{([a-z]+=\"[^\"]*\",?)+\})? [0-9.e+]+")


def test_every_line_is_one_of_the_format(tmp_path):
    jobs, counts = Jobs(StandIn(), ServerSettings(), tmp_path), RequestCounts()
    counts.add("GET", "/v1/jobs/{job}", 200, 0)
    counts.add("GET", "/v1/jobs/{job}", 200, 10)
    counts.add('P"UT', "other", 404, 5)
    jobs.counts.prediction_seconds, jobs.counts.ended["failed"] = 1.25, 3
    text = format_metrics(jobs, counts)
    lines = text.splitlines()
    assert text.endswith("\n")
    assert 'autoseg_requests_total{method="GET",route="/v1/jobs/{job}",status="200"} 2' in lines
    assert r'autoseg_requests_total{method="P\"UT",route="other",status="404"} 1' in lines
    assert {
        'autoseg_jobs_total{state="failed"} 3', "autoseg_received_bytes_total 15",
        "autoseg_prediction_seconds_total 1.25", "autoseg_process_resident_bytes 12345", "autoseg_ready 0",
    } <= set(lines)  # fmt: skip
    plain = [line for line in lines if r"\"" not in line]
    assert all(LINE.fullmatch(line) for line in plain), plain
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names)) == 9
