//! Every kernel that takes pointers, over slices with a page on either side that nobody may touch: what
//! reads or writes outside of a slice ends the test run. Results are those over ordinary slices.

use super::attention::{self, NoKey, Ragged};
use super::gemm::{self, Epilogue, Numbers, Panels};
use super::half_float::HalfFormat;
use super::int8;
use super::isa;
use super::kv_cache::{CachedRow, KvCache};
use super::pack;
use super::testing::{Guarded, Side, assert_same_bits, noise, on_every_isa};

/// Runs `work` with slices allotted by its argument: at first as they come, then against either page.
fn on_every_side(mut work: impl FnMut(&Allot) -> Vec<f32>) {
    on_every_isa(|isa| {
        let mut each = |what: &str| {
            let expected = work(&Allot(None));
            for side in [Side::Start, Side::End] {
                assert_same_bits(&work(&Allot(Some(side))), &expected, what);
            }
        };
        each(isa.name());
        if let Some((isa, name)) = isa::plain(isa) {
            isa::forced::with(isa, || each(name));
        }
    });
}

/// Where slices are put.
struct Allot(Option<Side>);

impl Allot {
    fn of<T: Copy>(&self, values: &[T]) -> Guarded<T> {
        Guarded::new(values, self.0)
    }

    /// Numbers of mixed sign.
    fn noise(&self, len: usize, seed: u64) -> Guarded<f32> {
        self.of(&noise(len, seed))
    }

    /// Numbers that are to be overwritten.
    fn room(&self, len: usize) -> Guarded<f32> {
        self.of(&vec![f32::NAN; len])
    }
}

/// (rows, inputs, outputs): odd, whole, and with each kind of end.
const SIZES: [(usize, usize, usize); 7] =
    [(1, 1, 1), (1, 67, 33), (2, 768, 31), (5, 9, 100), (13, 40, 64), (25, 33, 47), (150, 17, 65)];

#[test]
fn products_of_floats_stay_inside() {
    on_every_side(|allot| {
        let mut results = Vec::new();
        for (m, k, n) in SIZES {
            let (x, bias) = (allot.noise(m * k, 1), allot.noise(n, 2));
            let rows = allot.noise(n * k, 3);
            let mut packed = allot.of(&vec![0.0; pack::packed_len(n, k)]);
            pack::from_rows(&rows, n, k, &mut packed);
            let mut unpacked = allot.room(n * k);
            pack::to_rows(&packed, n, k, &mut unpacked);
            results.extend_from_slice(&unpacked);
            let mut multiply = |w: Panels| {
                let mut out = allot.room(m * n);
                gemm::linear(&x, m, k, w, n, Some(&bias), Epilogue::Gelu, &mut out);
                results.extend_from_slice(&out);
            };
            multiply(Panels::Float(&packed));
            for format in [HalfFormat::Float16, HalfFormat::Bfloat16] {
                let mut halves = allot.of(&vec![0_u16; packed.len()]);
                format.narrow(&packed, &mut halves);
                multiply(Panels::Half(format, &halves));
                multiply(Panels::Rounded(format, &packed));
                let mut wide = allot.room(k);
                format.widen(&halves[..k], &mut wide);
                format.round(&rows[..k], &mut wide);
            }
            let dy = allot.noise(m * n, 4);
            for numbers in [Numbers::Float32, Numbers::Bfloat16Pairs] {
                let (mut dx, mut dw) = (allot.room(m * k), allot.room(packed.len()));
                let mut y = allot.room(m * n);
                let w = Panels::Float(&packed);
                let layer = gemm::Layer { w, n, bias: None, out: &mut y };
                gemm::linear_each_in(numbers, &x, m, k, [layer], Epilogue::None);
                gemm::linear_backward_input(numbers, &dy, m, n, &packed, k, &mut dx);
                gemm::linear_backward_weight(numbers, &x, &dy, m, k, n, &mut dw);
                results.extend(dx.iter().chain(dw.iter()).chain(y.iter()));
            }
        }
        results
    });
}

#[test]
fn products_of_bytes_stay_inside() {
    on_every_side(|allot| {
        let mut results = Vec::new();
        for (m, k, n) in SIZES {
            let (x, bias) = (allot.noise(m * k, 1), allot.noise(n, 2));
            let rows = noise(n * k, 3);
            let mut packed = allot.of(&vec![int8::OFFSET; int8::packed_len(n, k)]);
            let (mut scales, mut values) = (allot.room(n), allot.of(&vec![0_i8; n * k]));
            for ((row, values), scale) in
                rows.chunks_exact(k).zip(values.chunks_exact_mut(k)).zip(scales.iter_mut())
            {
                let (row, mut of_row) = (allot.of(row), allot.of(&*values));
                *scale = int8::quantize_row(&row, &mut of_row);
                values.copy_from_slice(&of_row);
            }
            let whole: &[i8] = &values;
            let read = |first: usize, run: &mut [i8]| -> Result<(), ()> {
                run.copy_from_slice(&whole[first..][..run.len()]);
                Ok(())
            };
            int8::read_rows(n, k, &mut packed, &read).unwrap();
            let weight = int8::Weight { packed: &packed, scales: &scales };
            let mut out = allot.room(m * n);
            int8::linear(&x, m, k, weight, n, Some(&bias), Epilogue::None, &mut out);
            results.extend_from_slice(&out);
        }
        results
    });
}

#[test]
fn attention_stays_inside() {
    on_every_side(|allot| {
        let mut results = Vec::new();
        for (head_dim, queries, keys, causal) in
            [(1, 1, 1, false), (5, 13, 13, true), (64, 31, 45, false), (24, 3, 70, true)]
        {
            let (heads, width) = (2, 2 * head_dim);
            let ragged = Ragged {
                q_offsets: &[0, queries],
                k_offsets: &[0, keys],
                key_visible: None,
                causal,
                heads,
                head_dim,
                scale: 0.4,
                q_stride: width + 3,
                kv_stride: width + 1,
                no_key: NoKey::MeanOfValues,
                dropout: None,
            };
            // Rows end with what is read of them.
            let rows =
                |count: usize, stride: usize, seed| allot.noise((count - 1) * stride + width, seed);
            let q = rows(queries, width + 3, 1);
            let (k, v) = (rows(keys, width + 1, 2), rows(keys, width + 1, 3));
            let (mut out, mut lse) = (allot.room(queries * width), allot.room(queries * heads));
            attention::forward_save(&ragged, &q, &k, &v, &mut out, &mut lse);
            if isa::pairs_of(isa::current()) != isa::Pairs::Missing {
                let mut coarse = allot.room(queries * width);
                attention::forward_bfloat16(&ragged, &q, &k, &v, &mut coarse);
                results.extend(coarse.iter());
            }
            let mut weights = allot.room(heads * queries * keys);
            attention::weights(&ragged, &q, &k, &mut weights);
            results.extend(out.iter().chain(weights.iter()));
            let dout = allot.noise(queries * width, 4);
            let (mut dq, mut dk) = (allot.room(queries * width), allot.room(keys * width));
            let mut dv = allot.room(keys * width);
            attention::backward(&ragged, &q, &k, &v, &out, &dout, &lse, &mut dq, &mut dk, &mut dv);
            results.extend(dq.iter().chain(dk.iter()).chain(dv.iter()));
        }
        results
    });
}

#[test]
fn cached_attention_stays_inside() {
    on_every_side(|allot| {
        let mut results = Vec::new();
        for (head_dim, length) in [(1, 1), (5, 33), (64, 40)] {
            for format in [None, Some(HalfFormat::Float16), Some(HalfFormat::Bfloat16)] {
                let width = 2 * head_dim;
                let mut cache = KvCache::new(2, head_dim, format, &[length, 3]);
                let stored: Vec<_> =
                    (1..=length).map(|length| CachedRow { slot: 0, length }).collect();
                let (k, v) = (allot.noise(length * width, 1), allot.noise(length * width, 2));
                cache.append(&k, &v, &stored);
                for rows in 1..8 {
                    let q = allot.noise(rows * width, 3);
                    let mut out = allot.room(rows * width);
                    let rows = vec![CachedRow { slot: 0, length }; rows];
                    cache.attend(&q, 0.4, &rows, &mut out);
                    results.extend_from_slice(&out);
                }
            }
        }
        results
    });
}
