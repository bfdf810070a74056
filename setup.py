"""Builds the native libraries with ninja; everything else about the package is in pyproject.toml.

janus_fast/_engine is the decoding engine, a Python module that knows nothing of torch. janus_fast/_C.so holds the
operations and is built if torch is installed, which loads it through its stable interface: one build is meant to serve
every torch from 2.11 on (tried with 2.13 and 2.15). Where nvcc is found, the CUDA kernels are in it, too, whatever
torch is there; nothing of CUDA has to be there to load them. NVCC names another nvcc, or none (NVCC= pip install .).
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
from typing import NamedTuple

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
AVX512 = "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mprefer-vector-width=512"
ISAS = {  # bytes of a vector, and flags
    "generic": (16, ""),
    "avx2": (32, "-mavx2 -mfma"),
    "avx2_vnni": (32, "-mavx2 -mfma -mavxvnni"),
    "avx512": (64, AVX512),
    "avx512_vnni": (64, f"{AVX512} -mavx512vnni"),
    "avx512_bf16": (64, f"{AVX512} -mavx512vnni -mavx512bf16"),
    "avx512_bf16_amx": (64, f"{AVX512} -mavx512vnni -mavx512bf16 -mamx-tile -mamx-int8 -mamx-bf16"),
}
ENGINE_ALONE = ("avx2_vnni", "avx512_vnni")  # VNNI multiplies int8, which the operations do not
FLAGS = (
    "-std=c++17 -O3 -ffp-contract=fast -fPIC -fvisibility=hidden -fvisibility-inlines-hidden -Wall -Wextra -Wno-psabi"
)


CUDA_FLAGS = "-std=c++17 -O3 -Xcompiler -fPIC,-fvisibility=hidden " + " ".join(
    f"-gencode arch=compute_{virtual},code={real}"
    for virtual, real in ((80, "sm_80"), (90, "sm_90"), (100, "sm_100"), (80, "compute_80"))  # the last one is PTX
)


class Library(NamedTuple):
    sources: list[Path]
    kernels: Path  # compiled once for each of the instruction sets
    isas: list[str]
    include: list[Path]
    link: str


def path(location: Path) -> str:  # as ninja wants it
    return str(location).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def files(*patterns: str) -> list[Path]:
    return [p for pattern in patterns for p in sorted(ROOT.glob(pattern))]


def nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return os.environ.get("NVCC", shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")) or None


def cuda_link() -> str:
    """Flags that put CUDA's runtime into the library itself."""
    done = subprocess.run([nvcc(), "--dryrun", "-shared", "x.cu"], capture_output=True, text=True, check=True)
    libraries = next(line for line in done.stderr.splitlines() if "LIBRARIES=" in line).partition("=")[2]
    return f"{libraries.strip()} -Wl,--exclude-libs,libcudart_static.a -lcudart_static -lrt -ldl -lpthread"


def libraries() -> dict[str, Library]:
    python = [Path(pybind11.get_include()), Path(sysconfig.get_path("include"))]
    isas = list(ISAS) if platform.machine() in ("x86_64", "AMD64") else ["generic"]
    kernels = ROOT / "kernels/cpu/isa"
    engine = files("csrc/*.cpp", "csrc/engine/*.cpp")
    found = {"janus_fast._engine": Library(engine, kernels / "engine.cpp", isas, python, "-pthread")}
    if torch := importlib.util.find_spec("torch"):
        include, library = (Path(torch.origin).parent / name for name in ("include", "lib"))
        link = f"-Wl,--no-as-needed -L{shlex.quote(str(library))} -ltorch -ltorch_cpu -lc10"
        sources = files("csrc/*.cpp", "csrc/cpu/*.cpp")
        isas = [isa for isa in isas if isa not in ENGINE_ALONE]
        if nvcc():
            sources += files("csrc/cuda/*.cpp", "csrc/cuda/*.cu")
            link += f" {cuda_link()}"
        found["janus_fast._C"] = Library(sources, kernels / "operations.cpp", isas, [include], link)
    return found


def build_file(library: Library, output: Path) -> str:
    """The text of build.ninja."""
    folders = ["-I", ROOT, f"-ffile-prefix-map={ROOT}=."]
    for folder in library.include:
        folders += ["-isystem", folder, f"-ffile-prefix-map={folder}=include"]
    lines = [
        f"cxx = {os.environ.get('CXX', 'c++')}",
        f"flags = {FLAGS} -DTORCH_TARGET_VERSION=0x020b000000000000 {shlex.join(map(str, folders))}",
        f"more = {os.environ.get('CXXFLAGS', '')}",
        "rule compile",
        "  command = $cxx $flags $isa $more -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "rule cuda",
        f"  command = {nvcc() or 'false'} {CUDA_FLAGS} -I {shlex.quote(str(ROOT))} -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "rule link",
        f"  command = $cxx $more -shared -o $out $in {library.link} {os.environ.get('LDFLAGS', '')}",
    ]
    objects = []
    for source in library.sources:
        objects.append("_".join(source.relative_to(ROOT).parts) + ".o")
        rule = "cuda" if source.suffix == ".cu" else "compile"
        lines += [f"build {objects[-1]}: {rule} {path(source)}"]
    for isa in library.isas:
        vector, flags = ISAS[isa]
        objects.append(f"{library.kernels.stem}_{isa}.o")
        lines += [
            f"build {objects[-1]}: compile {path(library.kernels)}",
            f"  isa = {flags} -DJANUS_ISA={isa} -DJANUS_VECTOR_BYTES={vector}",
        ]
    return "\n".join([*lines, f"build {path(output)}: link {' '.join(objects)}", ""])


class Build(build):
    def run(self):
        """Starts with no files of an earlier build, which would be packed with this one's; objects are kept."""
        old = Path(self.build_lib).resolve() / "janus_fast"
        if old.parent != ROOT:
            shutil.rmtree(old, ignore_errors=True)
        super().run()


class BuildNative(build_ext):
    def get_ext_filename(self, fullname):  # torch's library is no Python module, so it has no Python's tag
        suffix = ".so" if fullname.endswith("_C") else sysconfig.get_config_var("EXT_SUFFIX")
        return fullname.replace(".", "/") + suffix

    def build_extension(self, ext):
        # An editable install gets a temporary folder; objects stay where they are found again, by ninja.
        kept = ROOT / f"build/temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        folder = (kept if self.editable_mode else Path(self.build_temp).resolve()) / ext.name
        for directory in (output.parent, folder):
            directory.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_text(build_file(libraries()[ext.name], output))
        ninja = shutil.which("ninja") or Path(sys.executable).parent / "ninja"
        subprocess.run([ninja, "-C", folder], check=True)


setup(
    packages=find_packages(include=["janus_fast*"]),
    package_dir={"janus_fast.kernels": "kernels/triton"},
    ext_modules=[Extension(name, sources=[]) for name in libraries()],
    cmdclass={"build": Build, "build_ext": BuildNative},
)
