//! Compiles the kernels for NVIDIA's cards, where the feature `cuda` is on.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: &str = "src/kernels/cuda";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed={SOURCES}");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let all = out.join("kernels.cu");
    let files = std::fs::read_dir(SOURCES).expect("the sources are there");
    let mut names: Vec<_> = files.flatten().map(|file| file.file_name()).collect();
    names.retain(|name| Path::new(name).extension().is_some_and(|kind| kind == "cu"));
    names.sort();
    let include = |name| format!("#include \"{}\"\n", Path::new(name).display());
    let includes: String = names.iter().map(include).collect();
    std::fs::write(&all, includes).expect("OUT_DIR can be written");
    // Code for the oldest card we serve; the driver compiles it for the one that is there.
    let mut nvcc = Command::new(nvcc());
    nvcc.args(["-ptx", "-O3", "-std=c++17", "-arch=compute_80", "-I", SOURCES, "-o"]);
    let status = nvcc.arg(out.join("kernels.ptx")).arg(&all).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "nvcc failed\nhint: the feature `cuda` needs CUDA's compiler: set CUDA_HOME, or see docs/devices.md"
    );
}

fn nvcc() -> PathBuf {
    match env::var_os("CUDA_HOME") {
        Some(home) => Path::new(&home).join("bin/nvcc"),
        None => PathBuf::from("nvcc"),
    }
}
