//! Placeholder products (naive, one thread) until the real ones land: take the other side of a
//! merge conflict in this file.
#![allow(missing_docs, clippy::all)]
use super::pack;
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Epilogue {
    None,
    Gelu,
}
pub fn linear(
    x: &[f32],
    m: usize,
    k: usize,
    w: &[f32],
    n: usize,
    bias: Option<&[f32]>,
    e: Epilogue,
    out: &mut [f32],
) {
    for i in 0..m {
        for (p, panel) in w.chunks(k * 32).enumerate() {
            let mut acc = [0f32; 32];
            for t in 0..k {
                for l in 0..32 {
                    acc[l] += x[i * k + t] * panel[t * 32 + l];
                }
            }
            for l in 0..32.min(n - p * 32) {
                out[i * n + p * 32 + l] = acc[l] + bias.map_or(0.0, |b| b[p * 32 + l]);
            }
        }
    }
    if e == Epilogue::Gelu {
        let x = out.to_vec();
        super::gelu::forward(&x, out);
    }
}
pub fn linear_backward_input(dy: &[f32], m: usize, n: usize, w: &[f32], k: usize, dx: &mut [f32]) {
    let mut rows = vec![0.0; n * k];
    pack::to_rows(w, n, k, &mut rows);
    dx.fill(0.0);
    for i in 0..m {
        for j in 0..n {
            let g = dy[i * n + j];
            for t in 0..k {
                dx[i * k + t] += g * rows[j * k + t];
            }
        }
    }
}
pub fn linear_backward_weight(x: &[f32], dy: &[f32], m: usize, k: usize, n: usize, dw: &mut [f32]) {
    let mut rows = vec![0.0; n * k];
    for i in 0..m {
        for j in 0..n {
            let g = dy[i * n + j];
            for t in 0..k {
                rows[j * k + t] += g * x[i * k + t];
            }
        }
    }
    pack::from_rows(&rows, n, k, dw);
}
pub fn column_sums(dy: &[f32], m: usize, n: usize, db: &mut [f32]) {
    db.fill(0.0);
    for i in 0..m {
        for j in 0..n {
            db[j] += dy[i * n + j];
        }
    }
}
