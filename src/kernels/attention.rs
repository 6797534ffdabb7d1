//! Placeholder until the real kernels land: take the other side of a merge conflict in this file.
#![allow(missing_docs, clippy::all)]
use super::dropout::Dropout;
pub struct Ragged<'a> {
    pub q_offsets: &'a [usize],
    pub k_offsets: &'a [usize],
    pub key_visible: Option<&'a [bool]>,
    pub causal: bool,
    pub heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    pub dropout: Option<Dropout>,
}
pub fn dropout_keep(d: &Dropout, h: usize, q: usize, head: usize, k: usize) -> bool {
    d.keeps(((q * h + head) * 4096 + k) as u64)
}
pub fn forward(_r: &Ragged<'_>, _q: &[f32], _k: &[f32], _v: &[f32], _o: &mut [f32]) {
    unimplemented!()
}
pub fn forward_save(
    _r: &Ragged<'_>,
    _q: &[f32],
    _k: &[f32],
    _v: &[f32],
    _o: &mut [f32],
    _l: &mut [f32],
) {
    unimplemented!()
}
pub fn backward(
    _r: &Ragged<'_>,
    _q: &[f32],
    _k: &[f32],
    _v: &[f32],
    _o: &[f32],
    _do: &[f32],
    _l: &[f32],
    _dq: &mut [f32],
    _dk: &mut [f32],
    _dv: &mut [f32],
) {
    unimplemented!()
}
