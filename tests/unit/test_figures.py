"""What is computed from measurements."""

from __future__ import annotations

import math

import pytest

from bench import figures

SDIAG = """\
Backfilling stats
\tTotal backfilled jobs (since last slurm start): 7

Remote Procedure Call statistics by message type
\tREQUEST_PARTITION_INFO                  ( 2009) count:4      ave_time:128    total_time:512
\tREQUEST_STATS_INFO                      ( 2035) count:9      ave_time:100    total_time:900
\tREQUEST_JOB_USER_INFO                   ( 2039) count:31     ave_time:150    total_time:4650

Remote Procedure Call statistics by user
\troot            (       0) count:13     ave_time:120    total_time:1560
"""
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:A4D2 0100007F:0016 01 00000000:00000000 02:00099999 00000000     0        0 2 2 0 20 4 30 10 -1
   2: 0100007F:0016 0100007F:A4D2 01 00000000:00000000 02:00099999 00000000     0        0 3 4 0 20 4 30 10 -1
   3: 0100007F:A4D0 0100007F:0016 06 00000000:00000000 03:00000D5C 00000000     0        0 0 3 0
"""


def test_a_quantile_is_one_of_the_values() -> None:
    """p50 and p95 are the smallest value that this many don't exceed; of nothing they are nothing."""
    values = [float(number) for number in range(100, 0, -1)]
    assert (figures.quantile(values, 0.5), figures.quantile(values, 0.95)) == (50, 95)
    assert figures.quantile([3.0], 0.95) == 3
    assert math.isnan(figures.quantile([], 0.5))


def test_rpcs_are_counted_once_and_without_the_measurements_own() -> None:
    """Sdiag lists the same RPCs by type and by user, and its own question."""
    assert figures.rpc_count(SDIAG) == 35


def test_an_ssh_connection_within_the_pod_is_counted_once() -> None:
    """Both its ends are in the pod's table, with what listens and what has been closed."""
    assert figures.ssh_connections(TCP) == 1


def test_cpu_time_is_that_of_the_named_process_and_its_ended_children() -> None:
    """The name in a stat line may have spaces and parentheses."""
    line = "{} ({}) S 1 1 1 0 -1 4194304 64 0 0 0 {} 20 0 1 0"
    stats = "\n".join((line.format(44, "python3", "60 12 3 1"), line.format(45, "a (python3) b", "9 9 9 9")))
    assert figures.cpu_ticks(stats, "python3") == 76


def test_memory_is_what_processes_have_for_themselves() -> None:
    """Pages of files, which processes share, don't count."""
    assert (
        figures.private_memory("VmRSS:\t 999 kB\nRssAnon:\t   2 kB\nRssFile:\t 7 kB\nRssShmem:\t 1 kB\n")
        == 3072
    )


def test_layers_that_images_share_are_counted_once() -> None:
    """The size of two images is that of the union of their layers."""
    base = "├── ID: da5bf59b984c Size: 80.98MB Top Layer of: [base:1]\n"
    trees = (f"{base}└── ID: 0a Size:    52MB\n", f"{base}└── ID: 0b Size: 500B\n")
    assert figures.layers_size(trees) == pytest.approx(132_980_500)


def test_the_way_to_the_notebook_is_the_sum_of_its_steps() -> None:
    """What `verify` looks at besides (ssh, sudo) is no part of it, nor is what comes after."""
    walk = figures.steps(
        "step      time    seen\npage      9.00 s\nlogin     0.25 s  alice\nform      0.25 s\n"
        "ssh       9.00 s\nsbatch    1.00 s  job 1\nnode      0.50 s  node1\n"
        "callback  1.50 s\nproxy     0.50 s\nkernel    9.00 s\n"
    )
    assert figures.to_notebook(walk) == 4


def test_medians_are_taken_figure_by_figure() -> None:
    """A run that failed to measure something does not hide what others measured."""
    assert figures.medians([{"a": 1, "b": 5}, {"a": 9}, {"a": 2}]) == {"a": 2, "b": 5}


def test_a_load_has_a_cell_for_each_heading() -> None:
    """A load whose users all failed can be written down, too."""
    load = figures.Load(2, (), (), 0, 0, 0.5, 0.1, 1, 60, 4, 0.05, 10**9)
    assert len(load.row()) == len(figures.HEADINGS)
    assert load.row()[1] == "0 %"


def test_the_page_says_the_median_and_what_broke() -> None:
    """Each step's row has median, least and most; a user who failed is named; no load, no section."""
    runs = [{"down": 3.0, "memory": 2e6}, {"down": 1.0, "memory": 4e6}, {"down": 2.0, "memory": 9e6}]
    page = figures.report("a machine", {}, runs, {"image slurm": 6e8}, [], None)
    assert "| down | 2.00 s | 1.00 s | 3.00 s |" in page
    assert "| memory | 4 MB | 2 MB | 9 MB |" in page
    assert "| image slurm | 600 MB |" in page
    assert "Load" not in page
    load = figures.Load(2, (1.0,), (2.0,), 0, 1, 0.5, 0.1, 1, 60, 4, 0.05, 10**9, ("come: no",))
    page = figures.report("a machine", {}, runs, {}, [load], load)
    assert page.count("- 2 users: come: no\n") == 2
    assert "| 2, no shared query | 50 % |" in page
