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
    let names = [
        "linear",
        "int8",
        "norm",
        "cache",
        "attention",
        "attention_half",
        "best",
        "round",
        "dropout",
        "optimizer",
    ];
    let includes: String = names.map(|name| format!("#include \"{name}.cu\"\n")).concat();
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
