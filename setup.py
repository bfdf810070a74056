"""Builds the native libraries with ninja; everything else about the package is in pyproject.toml.

janus_fast/_engine is the decoding engine, a Python module that knows nothing of torch. janus_fast/_C.so holds the
operations and is built if torch is installed, which loads it through its stable interface: one build is meant to serve
every torch from 2.11 on (tried with 2.13).
"""

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
AVX512 = "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mprefer-vector-width=512"
ISA_FLAGS = {
    "generic": "",
    "avx2": "-mavx2 -mfma",
    "avx2_vnni": "-mavx2 -mfma -mavxvnni",
    "avx512": AVX512,
    "avx512_vnni": f"{AVX512} -mavx512vnni",
    "avx512_bf16": f"{AVX512} -mavx512vnni -mavx512bf16",
}
FLAGS = (
    "-std=c++17 -O3 -ffp-contract=fast -fPIC -fvisibility=hidden -fvisibility-inlines-hidden -Wall -Wextra -Wno-psabi"
)


def path(location: Path) -> str:  # as ninja wants it
    return str(location).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def libraries() -> dict[str, tuple[str, str, list[Path], str]]:
    """Of each extension: folder of the sources, folder of the instruction sets, include folders, flags to link."""
    python = [Path(pybind11.get_include()), Path(sysconfig.get_path("include"))]
    found = {"janus_fast._engine": ("csrc/engine", "kernels/cpu/engine_isa", python, "-pthread")}
    if torch := importlib.util.find_spec("torch"):
        include, library = (Path(torch.origin).parent / name for name in ("include", "lib"))
        link = f"-Wl,--no-as-needed -L{shlex.quote(str(library))} -ltorch -ltorch_cpu -lc10"
        found["janus_fast._C"] = ("csrc/cpu", "kernels/cpu/isa", [include], link)
    return found


def build_file(sources: str, isas: str, include: list[Path], link: str, output: Path) -> str:
    """The text of build.ninja."""
    folders = ["-I", ROOT, f"-ffile-prefix-map={ROOT}=."]
    for folder in include:
        folders += ["-isystem", folder, f"-ffile-prefix-map={folder}=include"]
    lines = [
        f"cxx = {os.environ.get('CXX', 'c++')}",
        f"flags = {FLAGS} -DTORCH_TARGET_VERSION=0x020b000000000000 {shlex.join(map(str, folders))}",
        f"more = {os.environ.get('CXXFLAGS', '')}",
        "rule compile",
        "  command = $cxx $flags $isa $more -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "rule link",
        f"  command = $cxx $more -shared -o $out $in {link} {os.environ.get('LDFLAGS', '')}",
    ]
    x86 = platform.machine() in ("x86_64", "AMD64")
    files = [(p, "") for p in sorted(ROOT.glob(f"{sources}/*.cpp"))]
    files += [(p, ISA_FLAGS[p.stem]) for p in sorted(ROOT.glob(f"{isas}/*.cpp")) if x86 or p.stem == "generic"]
    objects = ["_".join(source.relative_to(ROOT).with_suffix(".o").parts) for source, _ in files]
    for (source, flags), name in zip(files, objects, strict=True):
        lines += [f"build {name}: compile {path(source)}", f"  isa = {flags}"]
    return "\n".join([*lines, f"build {path(output)}: link {' '.join(objects)}", ""])


class BuildNative(build_ext):
    def get_ext_filename(self, fullname):  # torch's library is no Python module, so it has no Python's tag
        suffix = ".so" if fullname.endswith("_C") else sysconfig.get_config_var("EXT_SUFFIX")
        return fullname.replace(".", "/") + suffix

    def build_extension(self, ext):
        output, folder = Path(self.get_ext_fullpath(ext.name)).resolve(), Path(self.build_temp).resolve() / ext.name
        for directory in (output.parent, folder):
            directory.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_text(build_file(*libraries()[ext.name], output))
        ninja = shutil.which("ninja") or Path(sys.executable).parent / "ninja"
        subprocess.run([ninja, "-C", folder], check=True)


setup(
    ext_modules=[Extension(name, sources=[]) for name in libraries()],
    cmdclass={"build_ext": BuildNative},
)
