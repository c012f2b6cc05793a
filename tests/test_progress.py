from autoseg.progress import no_bar


def test_a_bar_that_shows_nothing_takes_every_step(capsys):
    with no_bar("reading") as progress:
        for done in range(3):
            progress(done, 3)
    assert capsys.readouterr() == ("", "")
