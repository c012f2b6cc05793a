"""Networks of other packages: metadata as an installer leaves it."""

import pytest

from autoseg.errors import UsageError
from autoseg.networks.providers import declare_network, find_network, network_names
from autoseg.records.external import NetworkDeclaration
from tests.builders import install_networks


def test_a_network_is_found_with_its_package_and_what_it_declares(tmp_path, monkeypatch):
    install_networks(tmp_path, "first_nets", "first = first_nets:build")
    monkeypatch.syspath_prepend(tmp_path)
    assert "first" in network_names()
    assert find_network("first").package == "first-nets"
    assert declare_network("first", {}) == (
        "first-nets", NetworkDeclaration(divisors=(2, 4, 4), smallest_patch=(4, 8, 8), requires=("torch",)),
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"'first' of package 'first-nets': it has one setting, features"):
        declare_network("first", {"depth": "3"})


def test_one_entry_point_may_stand_for_many_networks(tmp_path, monkeypatch):
    source = (
        "from autoseg.records.external import NetworkDeclaration\n"
        "def build(spec): ...\n"
        "def declare(name, options):\n"
        "    edge = int(name.split(':')[1])\n"
        "    return NetworkDeclaration(divisors=(edge, edge, edge))\n"
    )
    install_networks(tmp_path, "many_nets", "many = many_nets:build", source)
    monkeypatch.syspath_prepend(tmp_path)
    assert declare_network("many:8", {})[1].divisors == (8, 8, 8)
    with pytest.raises(UsageError, match="'many' of package 'many-nets': list index out of range"):
        declare_network("many", {})


def test_a_network_that_declares_nothing_takes_multiples_of_32(tmp_path, monkeypatch):
    install_networks(tmp_path, "silent_nets", "silent = silent_nets:build", "def build(spec): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert declare_network("silent", {})[1].divisors == (32, 32, 32)


def test_what_is_missing_is_named_with_what_to_install(tmp_path, monkeypatch):
    install_networks(tmp_path, "broken_nets", "broken = broken_nets:build", "import not_there\n")
    install_networks(tmp_path, "twin_nets", "broken_twin = twin_nets:build\ntwin = twin_nets:build")
    install_networks(tmp_path, "other_nets", "twin = other_nets:build\nnumber = other_nets:NUMBER", "NUMBER = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"No installed package has a network 'gone'; installed: broken, "):
        find_network("gone")
    with pytest.raises(UsageError, match=r"'gone:small' needs gone-nets torch, .* pip install gone-nets torch$"):
        find_network("gone:small", "gone-nets torch")
    with pytest.raises(UsageError, match=r"'broken' of package 'broken-nets' cannot be loaded .*No module .*not_there"):
        find_network("broken")
    with pytest.raises(UsageError, match=r"'twin' is in several packages: other-nets, twin-nets"):
        find_network("twin")
    with pytest.raises(UsageError, match=r"other_nets:NUMBER is not a function"):
        find_network("number")
