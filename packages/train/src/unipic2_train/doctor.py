"""`make doctor`: what is wrong with this environment, and how to mend it.

Only metadata and files are looked at, except for torch: nothing else is imported, since a package that is broken or
malicious must not run in order to be found.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions, version
from pathlib import Path
from typing import NamedTuple

from unipic2_train import home

__all__ = ["Finding", "diagnose", "main"]

OWNER = "unipic2-train"
MALICIOUS = {"lightning": ("2.6.2", "2.6.3"), "pytorch-lightning": ("2.6.2", "2.6.3")}
SCRIPT_CLASHES = ("litserve", "lightning-sdk")
NEEDED_GIB = 5


class Finding(NamedTuple):
    """One thing that was looked at."""

    fine: bool
    text: str
    """What was found."""
    mend: str = ""
    """What to do if it is not fine."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every finding.

    Args:
        arguments: Command line; there are no options.

    Returns:
        0 if all is fine, 1 if something needs mending, 2 for a bad command line.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given:
        print("usage: python -m unipic2_train.doctor\n\nSays what is wrong with this environment, if anything.")
        return 0 if set(given) <= {"-h", "--help"} else 2
    findings = list(diagnose())
    for finding in findings:
        print(f"{'ok  ' if finding.fine else 'FAIL'}  {finding.text}")
        if not finding.fine:
            print(f"      mend: {finding.mend}")
    return 0 if all(finding.fine for finding in findings) else 1


def diagnose() -> Iterator[Finding]:
    """Yield the findings of every check, cheap ones first."""
    yield _python(sys.version_info[:2])
    yield from _malicious_releases()
    yield _lightning_script(list(distributions()), Path(sysconfig.get_path("scripts")))
    yield from _script_clashes()
    yield from _free_disk()
    yield _torchvision()
    yield _torch()


def _python(found: tuple[int, int]) -> Finding:
    return Finding(
        found >= (3, 11),
        f"Python {found[0]}.{found[1]} ({sys.executable})",
        "use Python 3.11 or newer: remove .venv, then make install PYTHON=/path/to/python3.11",
    )


def _malicious_releases(installed: Callable[[str], str] = version) -> Iterator[Finding]:
    for name, bad in MALICIOUS.items():
        try:
            found = installed(name)
        except PackageNotFoundError:
            continue
        yield Finding(
            found not in bad,
            f"{name} {found}" + (" is a malicious release that steals credentials" if found in bad else ""),
            "remove .venv without running anything from it, change every credential this user can reach, make install",
        )


def _lightning_script(installed: Sequence[Distribution], scripts: Path) -> Finding:
    owners = sorted(
        {
            dist.metadata["Name"]
            for dist in installed
            for point in dist.entry_points
            if point.group == "console_scripts" and point.name == "lightning"
        }
    )
    script = scripts / ("lightning.exe" if os.name == "nt" else "lightning")
    others = [owner for owner in owners if owner != OWNER]
    mend = (f"pip uninstall {' '.join(others)}; " if others else "") + "remove .venv/.installed, then make install"
    if owners != [OWNER]:
        return Finding(False, f"the `lightning` command is claimed by {', '.join(owners) or 'no package'}", mend)
    if not script.is_file() or b"unipic2_train" not in script.read_bytes():
        return Finding(False, f"the `lightning` command ({script}) is missing or was overwritten", mend)
    return Finding(True, f"the `lightning` command is {OWNER}'s ({script})")


def _script_clashes(installed: Callable[[str], str] = version) -> Iterator[Finding]:
    for name in SCRIPT_CLASHES:
        try:
            found = installed(name)
        except PackageNotFoundError:
            continue
        text = f"{name} {found} is installed and ships a `lightning` command that overwrites ours"
        yield Finding(False, text, f"pip uninstall {name}; remove .venv/.installed, then make install")


def _free_disk() -> Iterator[Finding]:
    for what, folder in (("this folder, for runs", Path.cwd()), ("$UNIPIC2_HOME", home.folder())):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free / 2**30
        yield Finding(
            free >= NEEDED_GIB,
            f"{free:.0f} GiB free at {folder} ({what})",
            f"make room for {NEEDED_GIB} GiB there, or set UNIPIC2_HOME to a folder on a larger disk",
        )


def _torchvision(find: Callable[[str], Distribution] = distribution) -> Finding:
    try:
        vision = find("torchvision")
    except PackageNotFoundError:
        return Finding(True, "torchvision is not installed (nothing here needs it)")
    wanted = [
        need.split(";")[0].strip() for need in vision.requires or [] if need.replace(" ", "").startswith("torch==")
    ]
    torch = find("torch").version.split("+")[0]
    return Finding(
        not wanted or wanted[0].replace(" ", "") == f"torch=={torch}",
        f"torchvision {vision.version} wants {wanted[0] if wanted else 'any torch'}, torch is {torch}",
        "pip uninstall torchvision (nothing here needs it), or install the build that fits torch",
    )


def _torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding(False, f"torch can't be imported: {error}", "remove .venv, then make install")
    gpu_seen = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Finding(True, f"torch {torch.__version__} on CUDA: {names}")
    return Finding(
        not gpu_seen,
        f"torch {torch.__version__} on {torch.get_num_threads()} CPU threads"
        + (", but this machine has an NVIDIA driver" if gpu_seen else ""),
        "install a CUDA build of torch into .venv that fits the driver",
    )


if __name__ == "__main__":
    sys.exit(main())
