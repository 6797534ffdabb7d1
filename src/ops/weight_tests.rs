//! Products and look-ups of weights in every form, against their definition, by both ways.

use candle_core::Device;

use super::*;
use crate::ops::embed::embed;
use crate::ops::hidden::Hidden;
use crate::ops::linear::{linear, linear_gelu};
use crate::ops::testing::in_way;
use crate::random;

const ROWS: usize = 7;
const INPUTS: usize = 50;
const OUTPUTS: usize = 45;

fn noise(stream: u64, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    random::fill_normal(7, stream, 1.0, &mut values);
    values
}

fn tensor_of(values: Vec<f32>, shape: (usize, usize)) -> Tensor {
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A weight in each form, what its products multiply and what its look-ups give.
fn forms(values: &[f32]) -> Vec<(&'static str, Weight, Vec<f32>, Vec<f32>)> {
    let round = |format: HalfFormat| {
        let mut rounded = vec![0.0; values.len()];
        format.round(values, &mut rounded);
        rounded
    };
    let shape = Weight::panel_shape(OUTPUTS, INPUTS);
    let panels = Weight::pack(values, OUTPUTS, INPUTS);
    let panels = Tensor::from_vec(panels, shape, &Device::Cpu).unwrap();
    let float = Weight::new(panels.clone(), OUTPUTS, INPUTS);
    let mut all = vec![("float32", float.clone(), values.to_vec(), values.to_vec())];
    for format in [HalfFormat::Float16, HalfFormat::Bfloat16] {
        let narrow = panels.to_dtype(dtype(format)).unwrap();
        let kept = Weight::new(narrow, OUTPUTS, INPUTS);
        all.push(("kept in 16 bits", kept, round(format), round(format)));
        let mixed = float.clone().rounded_to(format);
        all.push(("rounded to 16 bits", mixed, round(format), values.to_vec()));
    }
    let mut packed = vec![int8::OFFSET; int8::packed_len(OUTPUTS, INPUTS)];
    let mut scales = vec![0.0; OUTPUTS];
    int8::quantize_rows(OUTPUTS, INPUTS, &mut packed, &mut scales, &|first, run| {
        run.copy_from_slice(&values[first..][..run.len()]);
        Ok::<(), ()>(())
    })
    .unwrap();
    let whole = int8::to_rows(&packed, OUTPUTS, INPUTS);
    let scaled = whole.iter().enumerate().map(|(i, q)| f32::from(*q) / scales[i / INPUTS]);
    let scaled: Vec<f32> = scaled.collect();
    let shape = int8::packed_shape(OUTPUTS, INPUTS);
    let stored = Tensor::from_vec(packed, shape, &Device::Cpu).unwrap();
    let scales = Tensor::from_vec(scales, OUTPUTS, &Device::Cpu).unwrap();
    all.push(("int8", Weight::int8(stored, scales, OUTPUTS, INPUTS), scaled.clone(), scaled));
    all
}

/// The inputs as a product with this weight takes them.
fn inputs(x: &[f32], weight: &Weight) -> Vec<f32> {
    let mut taken = x.to_vec();
    if weight.rounds_inputs() {
        HalfFormat::Bfloat16.round(x, &mut taken);
    } else if weight.scales().is_some() {
        for row in taken.chunks_mut(INPUTS) {
            let mut whole = vec![0; INPUTS];
            let scale = int8::quantize_row(row, &mut whole);
            row.iter_mut().zip(whole).for_each(|(x, q)| *x = f32::from(q) / scale);
        }
    }
    taken
}

fn assert_close(got: &Hidden, expected: &[f64], what: &str) {
    let got = got.read(<[f32]>::to_vec).unwrap();
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let allowed = 3e-5 * expected.abs().max(1.0);
        assert!((f64::from(*got) - expected).abs() < allowed, "{what} [{i}]: {got}, {expected}");
    }
}

#[test]
fn products_and_look_ups_of_every_form_are_their_definition_by_both_ways() {
    let (x, bias) = (noise(1, ROWS * INPUTS), noise(2, OUTPUTS));
    let bias_tensor = Tensor::from_vec(bias.clone(), OUTPUTS, &Device::Cpu).unwrap();
    let positions = noise(3, 4 * INPUTS);
    let positions_tensor = tensor_of(positions.clone(), (4, INPUTS));
    let (tokens, places) = ([44, 0, 31, 32, 0], [3, 0, 1, 1, 2]);
    for (name, weight, multiplied, looked_up) in forms(&noise(4, OUTPUTS * INPUTS)) {
        let taken = inputs(&x, &weight);
        let product = |row: usize, output: usize| -> f64 {
            let (x, w) = (&taken[row * INPUTS..][..INPUTS], &multiplied[output * INPUTS..]);
            let sum: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            sum + f64::from(bias[output])
        };
        let expected: Vec<f64> =
            (0..ROWS * OUTPUTS).map(|i| product(i / OUTPUTS, i % OUTPUTS)).collect();
        let activated = tensor_of(expected.iter().map(|y| *y as f32).collect(), (ROWS, OUTPUTS));
        let activated = activated.gelu_erf().unwrap().flatten_all().unwrap();
        let activated: Vec<f64> =
            activated.to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect();
        let rows: Vec<f64> = (0..tokens.len() * INPUTS)
            .map(|i| {
                let (t, j) = (i / INPUTS, i % INPUTS);
                let row = f64::from(looked_up[tokens[t] as usize * INPUTS + j]);
                row * 1.5 + f64::from(positions[places[t] as usize * INPUTS + j])
            })
            .collect();
        let both = in_way(|| {
            let x = Hidden::new(ROWS, INPUTS, |floats| floats.copy_from_slice(&x)).unwrap();
            let embedded = embed(&weight, &tokens, 1.5, &positions_tensor, &places).unwrap();
            (
                linear(&x, &weight, Some(&bias_tensor)).unwrap(),
                linear_gelu(&x, &weight, &bias_tensor).unwrap(),
                embedded,
            )
        });
        for (way, (y, gelu, embedded)) in [("kernel", both.kernel), ("portable", both.portable)] {
            assert_close(&y, &expected, &format!("{name}, {way}, linear"));
            assert_close(&gelu, &activated, &format!("{name}, {way}, gelu"));
            assert_close(&embedded, &rows, &format!("{name}, {way}, embed"));
        }
    }
}
