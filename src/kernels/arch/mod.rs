//! The vector primitives of each processor: one zero-size proof value a file. All algorithms are
//! written once over [`Simd`](super::isa::Simd); nothing here knows what it is used for.

pub mod scalar;

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
mod int8_neon;
#[cfg(target_arch = "x86_64")]
mod int8_x86;
#[cfg(target_arch = "aarch64")]
pub mod neon;
