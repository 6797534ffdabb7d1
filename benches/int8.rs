//! scratch
use bart_fast::kernels::gemm::Epilogue;
use bart_fast::kernels::int8::{self, Int8Weight};
use bart_fast::kernels::{isa, limits, team};
fn main() {
    bart_fast::kernels::configure().unwrap();
    println!("{} {} threads", isa::current_name(), team::num_threads());
    for (m, k, n) in [
        (1, 768, 50265),
        (2, 768, 50265),
        (4, 768, 50265),
        (8, 768, 50265),
        (16, 768, 50265),
        (1, 768, 3072),
        (1, 768, 768),
        (4, 768, 768),
        (8, 768, 3072),
        (64, 768, 3072),
        (512, 768, 3072),
        (512, 3072, 768),
        (512, 768, 768),
    ] {
        let mut seed = 1u32;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            (seed >> 8) as f32 / 8388608.0 - 1.0
        };
        let x: Vec<f32> = (0..m * k).map(|_| next()).collect();
        let w = Int8Weight::from_rows(n, k, |row: &mut [f32]| -> Result<(), ()> {
            row.iter_mut().for_each(|x| *x = next());
            Ok(())
        })
        .unwrap();
        let mut out = vec![0.0; m * n];
        let bw = limits::memory_read_bandwidth(8);
        let mut run = || int8::linear(&x, &w, None, Epilogue::None, &mut out);
        let t = limits::best_seconds(3, &mut run);
        let rounds = (0.3 / t).clamp(5.0, 2000.0) as usize;
        let best = limits::best_seconds(rounds, &mut run);
        let bw = bw.max(limits::memory_read_bandwidth(8));
        println!(
            "{m}x{k}x{n}: {:.1} us, {:.1} GB/s of {:.1}, {:.0} Gop/s",
            best * 1e6,
            (n * k) as f64 / best / 1e9,
            bw / 1e9,
            (2 * m * n * k) as f64 / best / 1e9
        );
    }
}
