"""The doctor finds each thing it says it looks for: distributions are written to a folder, not mocked."""

import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distributions

import pytest

from unipic2_train import doctor


def write_distribution(folder, name, version="1.0", scripts=(), requires=()):
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
    lines = "".join(f"{script} = {name.replace('-', '_')}:main\n" for script in scripts)
    (info / "entry_points.txt").write_text(f"[console_scripts]\n{lines}")
    return Distribution.at(info)


def find_in(folder):
    def find(name):
        for dist in distributions(path=[str(folder)]):
            if dist.metadata["Name"] == name:
                return dist
        raise PackageNotFoundError(name)

    return find


@pytest.mark.parametrize(("found", "fine"), [((3, 10), False), ((3, 11), True), ((3, 14), True)])
def test_python(found, fine):
    assert doctor._python(found).fine is fine


@pytest.mark.parametrize("name", ["lightning", "pytorch-lightning"])
@pytest.mark.parametrize(("release", "fine"), [("2.6.2", False), ("2.6.3", False), ("2.6.6", True)])
def test_malicious_release(tmp_path, name, release, fine):
    write_distribution(tmp_path, name, release)
    (finding,) = doctor._malicious_releases(lambda wanted: find_in(tmp_path)(wanted).version)
    assert finding.fine is fine
    assert release in finding.text


def test_script_is_ours(tmp_path):
    (tmp_path / "lightning").write_text("from unipic2_train.cli import lightning")
    ours = write_distribution(tmp_path, "unipic2-train", scripts=["lightning"])
    assert doctor._lightning_script([ours], tmp_path).fine


def test_script_claimed_by_another(tmp_path):
    (tmp_path / "lightning").write_text("from unipic2_train.cli import lightning")
    both = [
        write_distribution(tmp_path, "unipic2-train", scripts=["lightning"]),
        write_distribution(tmp_path, "litserve", scripts=["lightning"]),
    ]
    finding = doctor._lightning_script(both, tmp_path)
    assert not finding.fine
    assert "litserve, unipic2-train" in finding.text
    assert finding.mend.startswith("pip uninstall litserve;")


def test_script_overwritten(tmp_path):
    (tmp_path / "lightning").write_text("from litserve.cli import main")
    ours = write_distribution(tmp_path, "unipic2-train", scripts=["lightning"])
    assert "overwritten" in doctor._lightning_script([ours], tmp_path).text


def test_clashing_package(tmp_path):
    write_distribution(tmp_path, "lightning-sdk")
    (finding,) = doctor._script_clashes(lambda wanted: find_in(tmp_path)(wanted).version)
    assert not finding.fine
    assert "lightning-sdk 1.0" in finding.text


@pytest.mark.parametrize(("needs", "fine"), [(["torch==2.13.0"], True), (["torch == 2.10.0"], False), ([], True)])
def test_torchvision(tmp_path, needs, fine):
    write_distribution(tmp_path, "torch", "2.13.0+cpu")
    write_distribution(tmp_path, "torchvision", "0.28.0", requires=needs)
    assert doctor._torchvision(find_in(tmp_path)).fine is fine


def test_no_torchvision(tmp_path):
    assert doctor._torchvision(find_in(tmp_path)).fine


def test_full_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("UNIPIC2_HOME", str(tmp_path / "not" / "made" / "yet"))
    monkeypatch.setattr(doctor, "NEEDED_GIB", 2**40)
    findings = list(doctor._free_disk())
    assert [finding.fine for finding in findings] == [False, False]
    assert str(tmp_path) in findings[1].text


def test_the_environment_of_the_tests_runs_our_command():
    result = subprocess.run(
        [sys.executable, "-m", "unipic2_train.doctor"], capture_output=True, text=True, check=False, timeout=120
    )
    lines = result.stdout.splitlines()
    assert any(line.startswith("ok    the `lightning` command is unipic2-train's") for line in lines), result.stdout
    assert result.returncode == int(any(line.startswith("FAIL") for line in lines)), result.stderr


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["--fix"], 2)])
def test_command_line(arguments, code, capsys):
    assert doctor.main(arguments) == code
    assert "usage: python -m unipic2_train.doctor" in capsys.readouterr().out
