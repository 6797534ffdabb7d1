//! The products beside what the machine could do at best, measured in the same run.
//!
//! `cargo bench --bench kernels` measures with criterion and adds to each case the share of the limit
//! it stands against (multiply-adds for many rows, memory reads for few). Every result is compared
//! with the definition before it is timed. An argument picks the cases whose name contains it.
//!
//! Two cautions: weights of 768 by 768 stay in a cache and may be read faster than memory, so their
//! share goes above 100 %; elsewhere such a share says that the machine was busy with something else
//! while its limit was measured, and the run is worth nothing.

use std::time::{Duration, Instant};

use bart_fast::kernels::gemm::Panels;
use bart_fast::kernels::gemm::{self, Epilogue, Numbers};
use bart_fast::kernels::half_float::HalfFormat;
use bart_fast::kernels::{int8, isa, limits, pack, team};
use criterion::{Bencher, Criterion, Throughput};

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
    LinearBfloat16,
    LinearInt8,
    BackwardInput,
    BackwardWeight,
}

/// What a case stands against.
#[derive(Clone, Copy, PartialEq)]
enum Limit {
    MultiplyAdds,
    Int8MultiplyAdds,
    MemoryReads,
}

fn main() {
    bart_fast::kernels::configure().unwrap_or_else(|error| panic!("{error}"));
    println!("{}, {}, {} threads", processor(), isa::current_name(), team::num_threads());
    // `cargo test --release --bench kernels -- --test` checks the results and leaves.
    let timed = !std::env::args().any(|argument| argument == "--test");
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .configure_from_args();
    for (kind, size, limit) in cases() {
        bench(&mut criterion, kind, size, limit, timed);
    }
    criterion.final_summary();
}

/// Measures one case, if it is asked for. Its limit is measured right before and after, and the better
/// of the two counts: a busy neighbour must not make us look good.
fn bench(criterion: &mut Criterion, kind: Kind, size: Size, limit: Limit, timed: bool) {
    let Size { m, k, n } = size;
    let (mut case, mut best, mut before) = (None, f64::INFINITY, 0.0);
    let mut group = criterion.benchmark_group(format!("{kind:?}"));
    group.throughput(match limit {
        Limit::MemoryReads => Throughput::Bytes((n * k * kind.bytes()) as u64),
        _ => Throughput::Elements((2 * m * k * n) as u64),
    });
    group.bench_function(format!("{m}x{k}x{n}"), |bencher| {
        let case = case.get_or_insert_with(|| {
            before = if timed { limit.measure() } else { 0.0 };
            Case::checked(kind, size)
        });
        case.time(bencher, &mut best);
    });
    group.finish();
    if timed && case.is_some() {
        let work = match limit {
            Limit::MemoryReads => n * k * kind.bytes(),
            _ => 2 * m * k * n,
        };
        let most = limit.measure().max(before);
        let (share, giga) = (100.0 * work as f64 / best / most, most / 1e9);
        println!("    best {:.1} us: {share:.0} % of {giga:.1} {}\n", best * 1e6, limit.unit());
    }
}

impl Limit {
    /// What the machine can do a second.
    fn measure(self) -> f64 {
        match self {
            Limit::MultiplyAdds => limits::multiply_add_peak(20),
            Limit::Int8MultiplyAdds => limits::int8_multiply_add_peak(20),
            Limit::MemoryReads => limits::memory_read_bandwidth(8),
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Limit::MultiplyAdds => "GF/s",
            Limit::Int8MultiplyAdds => "Gop/s",
            Limit::MemoryReads => "GB/s",
        }
    }
}

impl Kind {
    /// Bytes of an element of the right operand.
    fn bytes(self) -> usize {
        match self {
            Kind::LinearInt8 => 1,
            Kind::LinearBfloat16 => 2,
            _ => 4,
        }
    }
}

fn cases() -> Vec<(Kind, Size, Limit)> {
    use Kind::{BackwardInput, BackwardWeight, Linear, LinearBfloat16, LinearInt8};
    use Limit::{Int8MultiplyAdds, MemoryReads, MultiplyAdds};
    let mut cases = Vec::new();
    // 600 megabytes whatever the precision: of a single table's bytes a cache might keep a good part.
    for (kind, tables) in [(Linear, 4), (LinearBfloat16, 8), (LinearInt8, 16)] {
        for m in [1, 4, 8, 16] {
            cases.push((kind, Size { m, k: 768, n: tables * 50265 }, MemoryReads));
        }
    }
    for m in [1, 4, 16] {
        cases.push((Linear, Size { m, k: 768, n: 768 }, MemoryReads));
    }
    for (m, k, n) in [(32, 768, 768), (64, 768, 3072), (128, 768, 768), (512, 768, 3072)] {
        cases.push((Linear, Size { m, k, n }, MultiplyAdds));
    }
    cases.push((Linear, Size { m: 512, k: 3072, n: 768 }, MultiplyAdds));
    cases.push((Linear, Size { m: 2048, k: 768, n: 768 }, MultiplyAdds));
    for (m, k, n) in [(64, 768, 3072), (512, 768, 768), (512, 768, 3072), (512, 3072, 768)] {
        cases.push((LinearInt8, Size { m, k, n }, Int8MultiplyAdds));
    }
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
    right: Right,
    out: Vec<f32>,
}

/// The right operand.
enum Right {
    Floats(Vec<f32>),
    Bfloat16(Vec<u16>),
    Int8 { packed: Vec<u8>, scales: Vec<f32> },
}

impl Case {
    /// A case whose result was compared with the definition.
    fn checked(kind: Kind, size: Size) -> Self {
        let mut case = Case::new(kind, size);
        case.run();
        case.check(&format!("{kind:?} {}x{}x{}", size.m, size.k, size.n));
        case
    }

    fn new(kind: Kind, size: Size) -> Self {
        let Size { m, k, n } = size;
        let packed = pack::packed_len(n, k);
        let (left, right, out) = match kind {
            Kind::BackwardInput => (m * n, n * k, m * k),
            Kind::BackwardWeight => (m * k, m * n, packed),
            _ => (m * k, n * k, m * n),
        };
        let (left, right) = (numbers(left, 1), numbers(right, 2));
        let panels = || {
            let mut panels = vec![0.0; packed];
            pack::from_rows(&right, n, k, &mut panels);
            panels
        };
        let right = match kind {
            Kind::BackwardWeight => Right::Floats(right),
            Kind::LinearInt8 => {
                let mut packed = vec![int8::OFFSET; int8::packed_len(n, k)];
                let mut scales = vec![0.0; n];
                let read = |first: usize, run: &mut [f32]| -> Result<(), ()> {
                    run.copy_from_slice(&right[first..][..run.len()]);
                    Ok(())
                };
                int8::quantize_rows(n, k, &mut packed, &mut scales, &read).expect("enough rows");
                Right::Int8 { packed, scales }
            }
            Kind::LinearBfloat16 => {
                let mut narrow = vec![0; packed];
                HalfFormat::Bfloat16.narrow(&panels(), &mut narrow);
                Right::Bfloat16(narrow)
            }
            Kind::Linear | Kind::BackwardInput => Right::Floats(panels()),
        };
        Case { kind, size, left, right, out: vec![f32::NAN; out] }
    }

    fn run(&mut self) {
        let Size { m, k, n } = self.size;
        let (x, out) = (&self.left, &mut self.out);
        match (&self.right, self.kind) {
            (Right::Floats(right), Kind::BackwardInput) => {
                gemm::linear_backward_input(Numbers::Float32, x, m, n, right, k, out);
            }
            (Right::Floats(right), Kind::BackwardWeight) => {
                gemm::linear_backward_weight(Numbers::Float32, x, right, m, k, n, out);
            }
            (Right::Floats(right), _) => {
                gemm::linear(x, m, k, Panels::Float(right), n, None, Epilogue::None, out);
            }
            (Right::Bfloat16(right), _) => {
                let panels = Panels::Half(HalfFormat::Bfloat16, right);
                gemm::linear(x, m, k, panels, n, None, Epilogue::None, out);
            }
            (Right::Int8 { packed, scales }, _) => {
                let weight = int8::Weight { packed, scales };
                int8::linear(x, m, k, weight, n, None, Epilogue::None, out);
            }
        }
    }

    /// Element `(j, d)` of the right operand as a matrix `[columns, depth]`.
    fn right(&self, j: usize, d: usize) -> f32 {
        let Size { k, n, .. } = self.size;
        match (&self.right, self.kind) {
            (Right::Floats(right), Kind::BackwardInput) => right[pack::index(d, j, k)],
            (Right::Floats(right), Kind::BackwardWeight) => right[d * n + j],
            (Right::Floats(right), _) => right[pack::index(j, d, k)],
            (Right::Bfloat16(right), _) => {
                f32::from_bits(u32::from(right[pack::index(j, d, k)]) << 16)
            }
            (Right::Int8 { packed, scales }, _) => {
                let mut row = vec![0.0; k];
                int8::gather_rows(packed, scales, n, k, &[j as u32], &mut row);
                row[d]
            }
        }
    }

    /// Compares some elements, over all of the result, with the sum of products in `f64`.
    fn check(&self, name: &str) {
        let Size { m, k, n } = self.size;
        let (rows, columns, depth) = match self.kind {
            Kind::BackwardInput => (m, k, n),
            Kind::BackwardWeight => (k, n, m),
            _ => (m, n, k),
        };
        for sample in 0..300 {
            let (i, j) = (sample * 7919 % rows, sample * 104_729 % columns);
            let term = |d: usize| match self.kind {
                Kind::BackwardInput => (self.left[i * n + d], self.right(j, d)),
                Kind::BackwardWeight => (self.left[d * k + i], self.right(j, d)),
                _ => (self.left[i * k + d], self.right(j, d)),
            };
            let terms = (0..depth).map(|d| f64::from(term(d).0) * f64::from(term(d).1));
            let (exact, size) = terms.fold((0.0, 0.0), |(s, a), t: f64| (s + t, a + t.abs()));
            let got = match self.kind {
                Kind::BackwardWeight => self.out[pack::index(j, i, k)],
                _ => self.out[i * columns + j],
            };
            // Inputs that are quantised are half a step of 127 off, at most.
            let bound = match self.kind {
                Kind::LinearInt8 => 0.02 * size,
                _ => depth as f64 * f64::from(f32::EPSILON) * size,
            };
            let error = (f64::from(got) - exact).abs();
            assert!(error <= bound, "{name} [{i}, {j}]: {got:e}, exact {exact:e}");
        }
    }

    /// Times the product; `best` becomes the shortest of all, in seconds.
    fn time(&mut self, bencher: &mut Bencher<'_>, best: &mut f64) {
        bencher.iter_custom(|rounds| {
            let _awake = team::session();
            let mut total = Duration::ZERO;
            for _ in 0..rounds {
                let started = Instant::now();
                self.run();
                let taken = started.elapsed();
                *best = best.min(taken.as_secs_f64());
                total += taken;
            }
            total
        });
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
