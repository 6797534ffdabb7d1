"""Builds the emulated card: a driver of NVIDIA's and its libraries, whose kernels run on the CPU.

    python tests/emulated_card/build.py FOLDER

`FOLDER` then has a compiler that compiles nothing (`bin/nvcc`), with which the core is built with
the feature `cuda`, and `lib/`, the libraries that this core finds in the place of NVIDIA's.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
FLAGS = [
    *("-std=c++17", "-O2", "-fPIC", "-fno-strict-aliasing", "-w", "-DEMULATE"),
    *(f"-I{HERE}", f"-I{HERE / 'include'}"),
]
# What of candle's kernels its operations on floats and ids use.
CANDLE = ("affine", "binary", "cast", "fill", "indexing", "reduce", "ternary", "unary")
# The libraries beside the driver, with the versions that NVIDIA gives them, and their sources.
LIBRARIES = {
    "cublas.so.13": "blas.cpp",
    "cublasLt.so.13": None,
    "cudart.so.13": None,
    "curand.so.10": "curand.cpp",
    "nvrtc.so.13": None,
}
# To take the place of CUDA's compiler it has a version, and writes what it is asked for.
NVCC = """#!/bin/sh
out= folder= previous=
for word; do
    case $word in --version | -V) printf "\\n\\n\\n, release 13.0, V13.0.88\\n"; exit ;; esac
    case $previous in -o) out=$word ;; --output-directory) folder=$word ;; esac
    previous=$word
done
case $out in
    "") ;;
    *.a) rm -f "$out"; ar rc "$out" ;;
    *.o) cc -xc -c /dev/null -o "$out" ;;
    *) echo "// kernels are found by their names" > "$out" ;;
esac
for word; do
    case $word in *.cu) ;; *) continue ;; esac
    [ -z "$folder" ] || cp /dev/null "$folder/$(basename "$word" .cu).ptx"
done
"""


def compile_kernels(source: Path, folder: Path, compiler: str = "c++") -> Path:
    """An object with the kernels of a source, which tells their names when it is loaded."""
    marked = [compiler, *FLAGS, "-E", "-P", "-D__global__=__kernel__", "-D__CUDA_ARCH__=800"]
    text = subprocess.run(
        [*marked, "-x", "c++", str(source)], check=True, capture_output=True, text=True
    ).stdout
    names = sorted(set(re.findall(r"__kernel__\s+void\s+(\w+)\s*\(", text)))
    known = "\n".join(f'static int add_{name} = emulated::add("{name}", {name});' for name in names)
    # Sources define the same helpers, each for itself; what they include they find included.
    wrapped = folder / f"{source.stem}.cpp"
    wrapped.write_text(
        "#include <algorithm>\n#include <cassert>\n#include <math.h>\n#include <stdint.h>\n"
        '#include "cuda_fp16.h"\n#include <cuda/std/limits>\n#define __CUDA_ARCH__ 800\n'
        "#define __CUDACC_VER_MAJOR__ 13\n#define __CUDACC_VER_MINOR__ 0\n"
        f'namespace {{\n#include "{source}"\n{known}\n}}\n'
    )
    target = folder / f"{source.stem}.o"
    command = [compiler, *FLAGS, f"-I{source.parent}", "-c", str(wrapped), "-o", str(target)]
    subprocess.run(command, check=True)
    return target


def our_kernels(folder: Path) -> Path:
    """One source with all kernels of this project."""
    sources = sorted((PROJECT / "src/kernels/cuda").glob("*.cu"))
    together = folder / "ours.cu"
    together.write_text("".join(f'#include "{source}"\n' for source in sources))
    return together


def candle_kernels() -> list[Path]:
    """The sources of candle's, where cargo keeps them."""
    command = ["cargo", "metadata", "--format-version", "1", "--features", "cuda", "--locked"]
    found = subprocess.run(command, check=True, capture_output=True, cwd=PROJECT).stdout
    for package in json.loads(found)["packages"]:
        if package["name"] == "candle-kernels":
            folder = Path(package["manifest_path"]).parent / "src"
            return [folder / f"{name}.cu" for name in CANDLE]
    raise SystemExit("cargo does not know candle-kernels")


def link(name: str, source: Path | None, more: list[str | Path], folder: Path) -> Path:
    """One of the libraries."""
    target = folder / f"lib{name}"
    inputs = ["-x", "c++", str(source or "/dev/null"), "-x", "none", *map(str, more)]
    command = ["c++", *FLAGS, "-shared", f"-Wl,-soname,lib{name}", "-o", str(target), *inputs]
    subprocess.run(command, check=True)
    return target


def link_driver(objects: list[Path], folder: Path) -> Path:
    """The driver with the kernels that these objects have."""
    return link("cuda.so.1", HERE / "driver.cpp", objects, folder)


def main(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("bin", "lib", "objects", "include"):
        (folder / name).mkdir(parents=True)
    compiler = folder / "bin/nvcc"
    compiler.write_text(NVCC)
    compiler.chmod(0o755)
    objects = folder / "objects"
    kernels = [our_kernels(objects), *candle_kernels()]
    compiled = [compile_kernels(source, objects) for source in kernels]
    lib = folder / "lib"
    driver = link_driver(compiled, lib)
    others = [
        link(name, source and HERE / source, [driver], lib) for name, source in LIBRARIES.items()
    ]
    for library in (driver, *others):
        (lib / f"{library.name.split('.')[0]}.so").symlink_to(library.name)
    (folder / "lib64").symlink_to("lib")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]).absolute())
