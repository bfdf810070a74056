"""Builds the native library janus_fast/_C.so with ninja; everything else about the package is in pyproject.toml.

Torch loads it through its stable interface: one build is meant to serve every torch from 2.11 on (tried with 2.13).
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
ISA_FLAGS = {
    "generic": "",
    "avx2": "-mavx2 -mfma",
    "avx512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mprefer-vector-width=512",
}
FLAGS = (
    "-std=c++17 -O3 -ffp-contract=fast -fPIC -fvisibility=hidden -fvisibility-inlines-hidden -Wall -Wextra -Wno-psabi"
)


def path(location: Path) -> str:  # as ninja wants it
    return str(location).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def build_file(output: Path) -> str:
    """The text of build.ninja."""
    import torch

    include, library = (Path(torch.__file__).parent / name for name in ("include", "lib"))
    link = f"-Wl,--no-as-needed -L{shlex.quote(str(library))} -ltorch -ltorch_cpu -lc10"
    folders = ["-I", ROOT, "-isystem", include, f"-ffile-prefix-map={ROOT}=.", f"-ffile-prefix-map={include}=torch"]
    lines = [
        f"cxx = {os.environ.get('CXX', 'c++')}",
        f"flags = {FLAGS} -DTORCH_TARGET_VERSION=0x020b000000000000 {shlex.join(map(str, folders))}",
        "rule compile",
        "  command = $cxx $flags $isa -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "rule link",
        f"  command = $cxx -shared -o $out $in {link}",
    ]
    isas = ISA_FLAGS if platform.machine() in ("x86_64", "AMD64") else ("generic",)
    sources = [(p, "") for p in sorted(ROOT.glob("csrc/cpu/*.cpp"))]
    sources += [(ROOT / f"kernels/cpu/isa/{isa}.cpp", ISA_FLAGS[isa]) for isa in isas]
    objects = ["_".join(source.relative_to(ROOT).with_suffix(".o").parts) for source, _ in sources]
    for (source, flags), name in zip(sources, objects, strict=True):
        lines += [f"build {name}: compile {path(source)}", f"  isa = {flags}"]
    return "\n".join([*lines, f"build {path(output)}: link {' '.join(objects)}", ""])


class BuildNative(build_ext):
    def get_ext_filename(self, fullname):
        return fullname.replace(".", "/") + ".so"

    def build_extension(self, ext):
        output, folder = Path(self.get_ext_fullpath(ext.name)).resolve(), Path(self.build_temp).resolve()
        for directory in (output.parent, folder):
            directory.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_text(build_file(output))
        ninja = shutil.which("ninja") or Path(sys.executable).parent / "ninja"
        subprocess.run([ninja, "-C", folder], check=True)


class PlatformWheel(bdist_wheel):
    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("janus_fast._C", sources=[])],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
)
