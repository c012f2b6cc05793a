"""Options that no machine could serve, or that are no numbers at all: refused at once."""

import pytest

from tests.faults.battery import EVALUATE, IMPORT, PLAN, PREDICT, TRAIN, UNUSABLE, Row, check


def nothing(_):
    pass


FAULTS: list[Row] = [
    (words[:40], nothing, f"{command} {words}", UNUSABLE, said)
    for command, words, said in (
        (PLAN, "--patch-size 1000000000 8 8", "'1000000000' is not a whole number from 1 to 65536"),
        (PLAN, "--patch-size 0 8 8", "'0' is not a whole number from 1 to 65536"),
        (PLAN, "--patch-size 60000 60000 60000", "--patch-size"),
        (PLAN, "--batch-size 1000000000000000000000000000000", "is not a whole number from 1 to 65536"),
        (PLAN, "--batch-size -1", "'-1' is not a whole number"),
        (PLAN, "--spacing nan 1 1", "'nan' is not a number above 0"),
        (PLAN, "--spacing inf 1 1", "'inf' is not a number above 0"),
        (PLAN, "--spacing 1e300 1 1", "'1e300' is not a number above 0 and up to 1000000"),
        (PLAN, "--spacing 99999 99999 99999", "voxels of case case_0 would become 1."),
        (PLAN, "--spacing 1e-9 1 1", "voxels of case case_0 would become"),
        (PLAN, "--time-per-fold 1e300h", "'1e300h' is not a duration"),
        (PLAN, "--time-per-fold 99999999999999d", "of at most ten years"),
        (PLAN, "--time-per-fold nanh", "'nanh' is not a duration"),
        (PLAN, "--latency -5s", "expected one argument"),
        (PLAN, "--memory infGB", "'infGB' is not a size"),
        (PLAN, "--memory 1e30GB", "'1e30GB' is not a size"),
        (PLAN, "--memory 0.000001GB", "--memory"),
        (PLAN, "--folds 1000000000", "is not a whole number from 1 to 65536"),
        (PLAN, "-j 1000000000", "is not a whole number from 1 to 1024"),
        (PLAN, "--device cuda:99999999999999999999", "--device"),
        (PLAN, "--label-names liver=99999999999999", "expected NAME=VALUE"),
        (PLAN, "--group-by '('", "--group-by"),
        (PLAN, "-c 3d_fullres ../../evil", "../../evil"),
        (PLAN, "--planner no_such", "no_such"),
        (PLAN, "--channels CT,PET", "channel"),
        (TRAIN, "--epochs 1000000000000", "is not a whole number from 1 to 1000000000"),
        (TRAIN, "--lr 1e300", "'1e300' is not a number above 0"),
        (TRAIN, "--lr nan", "'nan' is not a number above 0"),
        (TRAIN, "--seed 99999999999999999999999", "is not a whole number from 0"),
        (TRAIN, "--devices 100000", "is not a whole number from 1 to 1024"),
        (TRAIN, "-f ../0", "'../0' does not exist"),
        (TRAIN, "-f 99999999999", "'99999999999' does not exist"),
        (TRAIN, "-c ../2d", "no configuration '../2d'"),
        (PREDICT, "--overlap nan", "overlap must be in [0, 1)"),
        (PREDICT, "--overlap 1", "overlap must be in [0, 1)"),
        (PREDICT, "--overlap -0.1", "overlap must be in [0, 1)"),
        (PREDICT, "--max-memory 1e99GB", "is not a size"),
        (PREDICT, "--part 0/3", "is not K/N"),
        (PREDICT, "--part 99999999999999999999/1", "is not K/N"),
        (PREDICT, "-f 7", "7"),
        (PREDICT, "-c 2d", "no configuration '2d'"),
        (EVALUATE, "--tolerance nan", "--tolerance"),
        (PLAN, f"-w {'n' * 300}", "File name too long"),
        (PREDICT, f"-o {'n' * 300}", "File name too long"),
        (PREDICT, f"-i {'n' * 300}", "File name too long"),
        (PREDICT, f"-m {'n' * 300}", "File name too long"),
        (IMPORT, f"--trained-as '{'x' * 3000}'", "does not exist"),
    )
]


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: row[0])
def test_options(place, row, capsys):
    check(place, row, capsys)
