//! The products beside what the machine could do at best, measured in the same run.
//!
//! `cargo bench --bench kernels` prints one line a case: time, rate, and the share of the limit it
//! stands against (multiply-adds for many rows, memory reads for few). Every result is compared
//! with the definition before it is timed. An argument picks the cases whose name contains it.
//!
//! Two cautions: weights of 768 by 768 stay in a cache and may be read faster than memory, so their
//! share goes above 100 %; elsewhere such a share says that the machine was busy with something else
//! while its limit was measured, and the run is worth nothing.

use std::time::Instant;

use bart_fast::kernels::gemm::{self, Epilogue};
use bart_fast::kernels::{isa, limits, pack, team};

/// Sizes of one product.
#[derive(Clone, Copy)]
struct Size {
    m: usize,
    k: usize,
    n: usize,
}

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Linear,
    BackwardInput,
    BackwardWeight,
}

/// What a case stands against.
#[derive(Clone, Copy, PartialEq)]
enum Limit {
    MultiplyAdds,
    MemoryReads,
}

fn main() {
    // `cargo test --release --bench kernels -- --test` checks the results and leaves.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let untimed = arguments.iter().any(|a| a == "--test");
    let filter = arguments.iter().find(|a| !a.starts_with('-'));
    bart_fast::kernels::configure().unwrap_or_else(|error| panic!("{error}"));
    println!("{}, {}, {} threads", processor(), isa::current_name(), team::num_threads());
    for (kind, size, limit) in cases() {
        let name = format!("{kind:?} {}x{}x{}", size.m, size.k, size.n);
        if filter.is_none_or(|f| name.to_lowercase().contains(&f.to_lowercase())) {
            let mut case = Case::new(kind, size);
            case.run();
            case.check(&name);
            if !untimed {
                case.time(&name, limit);
            }
        }
    }
}

fn cases() -> Vec<(Kind, Size, Limit)> {
    use Kind::{BackwardInput, BackwardWeight, Linear};
    use Limit::{MemoryReads, MultiplyAdds};
    let mut cases = Vec::new();
    for m in [1, 4, 8, 16] {
        cases.push((Linear, Size { m, k: 768, n: 50265 }, MemoryReads));
    }
    for m in [1, 4, 16] {
        cases.push((Linear, Size { m, k: 768, n: 768 }, MemoryReads));
    }
    for (m, k, n) in [(32, 768, 768), (64, 768, 3072), (128, 768, 768), (512, 768, 3072)] {
        cases.push((Linear, Size { m, k, n }, MultiplyAdds));
    }
    cases.push((Linear, Size { m: 512, k: 3072, n: 768 }, MultiplyAdds));
    cases.push((Linear, Size { m: 2048, k: 768, n: 768 }, MultiplyAdds));
    for kind in [BackwardInput, BackwardWeight] {
        for (m, k, n) in [(256, 768, 768), (256, 768, 3072), (512, 768, 3072), (256, 3072, 768)] {
            cases.push((kind, Size { m, k, n }, MultiplyAdds));
        }
    }
    cases
}

/// Operands of one product and its result.
struct Case {
    kind: Kind,
    size: Size,
    left: Vec<f32>,
    right: Vec<f32>,
    out: Vec<f32>,
}

impl Case {
    fn new(kind: Kind, size: Size) -> Self {
        let Size { m, k, n } = size;
        let packed = pack::packed_len(n, k);
        let (left, right, out) = match kind {
            Kind::Linear => (m * k, n * k, m * n),
            Kind::BackwardInput => (m * n, n * k, m * k),
            Kind::BackwardWeight => (m * k, m * n, packed),
        };
        let mut right = numbers(right, 2);
        if kind != Kind::BackwardWeight {
            let mut weight = vec![0.0; packed];
            pack::from_rows(&right, n, k, &mut weight);
            right = weight;
        }
        Case { kind, size, left: numbers(left, 1), right, out: vec![f32::NAN; out] }
    }

    fn run(&mut self) {
        let Size { m, k, n } = self.size;
        let (left, right, out) = (&self.left, &self.right, &mut self.out);
        match self.kind {
            Kind::Linear => gemm::linear(left, m, k, right, n, None, Epilogue::None, out),
            Kind::BackwardInput => gemm::linear_backward_input(left, m, n, right, k, out),
            Kind::BackwardWeight => gemm::linear_backward_weight(left, right, m, k, n, out),
        }
    }

    /// Compares some elements, over all of the result, with the sum of products in `f64`.
    fn check(&self, name: &str) {
        let Size { m, k, n } = self.size;
        let (rows, columns, depth) = match self.kind {
            Kind::Linear => (m, n, k),
            Kind::BackwardInput => (m, k, n),
            Kind::BackwardWeight => (n, k, m),
        };
        for sample in 0..500 {
            let (i, j) = (sample * 7919 % rows, sample * 104_729 % columns);
            let term = |d: usize| match self.kind {
                Kind::Linear => (self.left[i * k + d], self.right[pack::index(j, d, k)]),
                Kind::BackwardInput => (self.left[i * n + d], self.right[pack::index(d, j, k)]),
                Kind::BackwardWeight => (self.right[d * n + i], self.left[d * k + j]),
            };
            let terms = (0..depth).map(|d| f64::from(term(d).0) * f64::from(term(d).1));
            let (exact, size) = terms.fold((0.0, 0.0), |(s, a), t: f64| (s + t, a + t.abs()));
            let got = match self.kind {
                Kind::BackwardWeight => self.out[pack::index(i, j, k)],
                _ => self.out[i * columns + j],
            };
            let bound = depth as f64 * f64::from(f32::EPSILON) * size;
            let error = (f64::from(got) - exact).abs();
            assert!(error <= bound, "{name} [{i}, {j}]: {got:e}, exact {exact:e}");
        }
    }

    /// The limit is measured right before and after, and the better of the two counts: a busy
    /// neighbour must not make us look good.
    fn time(&mut self, name: &str, limit: Limit) {
        let measure = || match limit {
            Limit::MultiplyAdds => limits::multiply_add_peak(20),
            Limit::MemoryReads => limits::memory_read_bandwidth(8),
        };
        let before = measure();
        let started = Instant::now();
        self.run();
        let rounds = (0.4 / started.elapsed().as_secs_f64()).clamp(5.0, 2000.0) as usize;
        let best = limits::best_seconds(rounds, || self.run());
        let most = measure().max(before);
        let Size { m, k, n } = self.size;
        let (rate, unit) = match limit {
            Limit::MultiplyAdds => ((2 * m * k * n) as f64 / best, "GF/s"),
            Limit::MemoryReads => ((n * k * size_of::<f32>()) as f64 / best, "GB/s"),
        };
        println!(
            "{name:32} {:9.1} us  {:7.1} {unit}  {:4.0} % of {:.1}",
            best * 1e6,
            rate / 1e9,
            100.0 * rate / most,
            most / 1e9
        );
    }
}

/// Numbers in (-1, 1), the same for the same seed (xorshift).
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// The processor's name, as far as the system tells it.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |name: &str| {
        let found = info.lines().find(|line| line.starts_with(name));
        found.and_then(|line| line.split(": ").nth(1)).unwrap_or("?").to_owned()
    };
    format!("{} (family {}, model {})", line("model name"), line("cpu family"), line("model\t"))
}
