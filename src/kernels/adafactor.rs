//! Adafactor (Shazeer and Stern, 2018): the mean square of a matrix' gradient is kept as one number a
//! row and one a column, and an update is no larger than the parameter itself is. As in Keras.
//!
//! Unlike the rules of [`super::optimizer`] it looks at rows, columns and whole parameters, so it passes
//! over gradients three times. Every sum is taken in f64 and in one order: neither the number of threads
//! nor the instruction set changes a bit. Limit: memory bandwidth.

use super::elementwise::sum_of_squares;
use super::isa::{self, Kernel, Simd, with_isa};
use super::optimizer::Common;
use super::team;

/// Rows that lie side by side at most; those of a panel of weights.
const MOST_LANES: usize = 32;
/// Values of one part of a pass, about.
const PART: usize = 64 * 1024;

/// How values lie as matrices: row-major, or in panels of `lanes` rows that lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrices {
    /// Matrices, one behind the other; more than one only row-major.
    pub count: usize,
    /// Rows of each.
    pub rows: usize,
    /// Columns of each.
    pub columns: usize,
    /// Rows side by side: 1 is row-major.
    pub lanes: usize,
}

impl Matrices {
    /// Values stored, padding included.
    pub fn stored(self) -> usize {
        self.count * self.rows.div_ceil(self.lanes) * self.lanes * self.columns
    }

    /// Numbers kept for the rows, and for the columns.
    pub fn averages(self) -> [usize; 2] {
        [self.count * self.rows, self.count * self.columns]
    }

    /// Rows of a part: whole panels.
    fn rows_of_part(self) -> usize {
        (PART / self.columns.max(1)).div_ceil(self.lanes).max(1) * self.lanes
    }
}

/// Constants of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdafactorStep {
    /// The learning rate, at most one over the root of the step's number.
    rate: f64,
    keep: f32,
    epsilon_1: f32,
    epsilon_2: f64,
    clip_threshold: f64,
}

impl AdafactorStep {
    /// Step `number` (from 1): `keep = 1 - t^beta_2_decay`.
    pub fn new(
        (beta_2_decay, clip_threshold): (f64, f64),
        (epsilon_1, epsilon_2): (f64, f64),
        learning_rate: f64,
        number: u64,
    ) -> Self {
        let number = number as f64;
        Self {
            rate: learning_rate.min(1.0 / number.sqrt()),
            keep: (1.0 - number.powf(beta_2_decay)) as f32,
            epsilon_1: epsilon_1 as f32,
            epsilon_2,
            clip_threshold,
        }
    }

    fn advance(self, average: &mut f32, mean: f64) {
        *average = self.keep * *average + (1.0 - self.keep) * mean as f32;
    }

    /// The factor of updates whose squares sum up to `squares`, for a parameter of `count` values.
    fn factor(self, value: &[f32], squares: f64, count: usize, common: Common) -> f32 {
        let root_mean = |squares: f64| (squares / count.max(1) as f64).sqrt();
        let size = root_mean(sum_of_squares(value)) * (1.0 - f64::from(common.decay)).abs();
        let clip = (root_mean(squares) / self.clip_threshold).max(1.0);
        (size.max(self.epsilon_2) * self.rate / clip) as f32
    }
}

/// A step on a vector, whose mean squares `v` are kept one by one.
///
/// # Panics
/// If the lengths differ.
pub fn vector(
    value: &mut [f32],
    gradient: &[f32],
    v: &mut [f32],
    common: Common,
    step: AdafactorStep,
) {
    assert_eq!((gradient.len(), v.len()), (value.len(), value.len()), "adafactor: lengths");
    let update = |g: f32, v: f32| common.gradient(g) / v.sqrt();
    let mut squares = 0.0;
    for (&g, v) in gradient.iter().zip(v.iter_mut()) {
        let square = common.gradient(g).powi(2) + step.epsilon_1;
        step.advance(v, f64::from(square));
        squares += f64::from(update(g, *v)).powi(2);
    }
    let factor = step.factor(value, squares, value.len(), common);
    for ((w, &g), &v) in value.iter_mut().zip(gradient).zip(v.iter()) {
        *w = common.decayed(*w) - factor * update(g, v);
    }
}

/// A step on matrices, with the averages of their rows and of their columns.
///
/// # Panics
/// If a length is not that of `shape`, or it has too many lanes.
pub fn matrices(
    value: &mut [f32],
    gradient: &[f32],
    [row, column]: [&mut [f32]; 2],
    shape: Matrices,
    common: Common,
    step: AdafactorStep,
) {
    let stored = shape.stored();
    assert!(shape.lanes <= MOST_LANES && (shape.lanes == 1 || shape.count == 1), "{shape:?}");
    assert_eq!((value.len(), gradient.len()), (stored, stored), "adafactor: lengths");
    assert_eq!([row.len(), column.len()], shape.averages(), "adafactor: averages");
    if stored == 0 {
        return;
    }
    let each = stored / shape.count;
    let (rows, columns) = (shape.rows, shape.columns);
    let means: Vec<f64> = gradient
        .chunks(each)
        .zip(row.chunks_mut(rows).zip(column.chunks_mut(columns)))
        .map(|(gradient, (row, column))| advance(gradient, row, column, shape, common, step))
        .collect();
    let averages = || row.chunks(rows).zip(column.chunks(columns)).zip(&means);
    let mut squares = 0.0;
    for (gradient, ((row, column), &mean)) in gradient.chunks(each).zip(averages()) {
        let updates = Updates { row, column, mean, shape, common };
        squares += updates.squares(gradient);
    }
    let factor = step.factor(value, squares, shape.count * rows * columns, common);
    let parts = value.chunks_mut(each).zip(gradient.chunks(each)).zip(averages());
    for ((value, gradient), ((row, column), &mean)) in parts {
        let updates = Updates { row, column, mean, shape, common };
        updates.apply(value, gradient, factor);
    }
}

/// A part of a gradient on its way into the averages: of its rows whole, of the columns its share.
struct Advance<'a> {
    gradient: &'a [f32],
    row: &'a mut [f32],
    columns: Vec<f64>,
    shape: Matrices,
    common: Common,
    step: AdafactorStep,
}

impl Kernel for &mut Advance<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Matrices { lanes, columns, .. } = self.shape;
        let panels = self.gradient.chunks(columns * lanes).zip(self.row.chunks_mut(lanes));
        for (panel, row) in panels {
            let mut sums = [0.0_f64; MOST_LANES];
            for (values, total) in panel.chunks(lanes).zip(&mut self.columns) {
                let mut of_column = 0.0;
                for (&g, sum) in values.iter().zip(&mut sums).take(row.len()) {
                    let g = self.common.gradient(g);
                    let square = f64::from(g * g + self.step.epsilon_1);
                    *sum += square;
                    of_column += square;
                }
                *total += of_column;
            }
            for (average, sum) in row.iter_mut().zip(sums) {
                self.step.advance(average, sum / columns as f64);
            }
        }
    }
}

/// Takes a gradient into the averages; the mean of those of the rows.
fn advance(
    gradient: &[f32],
    row: &mut [f32],
    column: &mut [f32],
    shape: Matrices,
    common: Common,
    step: AdafactorStep,
) -> f64 {
    let of_part = shape.rows_of_part();
    let mut parts: Vec<Advance<'_>> = gradient
        .chunks(of_part * shape.columns)
        .zip(row.chunks_mut(of_part))
        .map(|(gradient, row)| Advance {
            gradient,
            row,
            columns: vec![0.0; shape.columns],
            shape,
            common,
            step,
        })
        .collect();
    let isa = isa::current();
    team::run_chunks(&mut parts, 1, &|_, part| with_isa(isa, &mut part[0]));
    let mut columns = vec![0.0_f64; shape.columns];
    for part in &parts {
        columns.iter_mut().zip(&part.columns).for_each(|(sum, x)| *sum += x);
    }
    drop(parts);
    for (average, sum) in column.iter_mut().zip(columns) {
        step.advance(average, sum / shape.rows as f64);
    }
    row.iter().map(|&x| f64::from(x)).sum::<f64>() / row.len() as f64
}

/// The updates of a matrix before they are clipped: `g / sqrt(row column / mean(row))`.
#[derive(Clone, Copy)]
struct Updates<'a> {
    row: &'a [f32],
    column: &'a [f32],
    mean: f64,
    shape: Matrices,
    common: Common,
}

impl Updates<'_> {
    /// Shares of each row of a panel, one for rows that are not there.
    #[inline(always)]
    fn shares(&self, row: &[f32]) -> [f32; MOST_LANES] {
        let mut shares = [1.0; MOST_LANES];
        let mean = self.mean as f32;
        shares.iter_mut().zip(row).for_each(|(share, row)| *share = row / mean);
        shares
    }

    /// The rows of a part, and its values, by parts.
    fn parts<'b, T>(
        &'b self,
        values: impl Iterator<Item = T> + 'b,
    ) -> impl Iterator<Item = (&'b [f32], T)> {
        self.row.chunks(self.shape.rows_of_part()).zip(values)
    }

    fn squares(&self, gradient: &[f32]) -> f64 {
        struct Part<'a> {
            updates: &'a Updates<'a>,
            row: &'a [f32],
            gradient: &'a [f32],
            sum: f64,
        }
        impl Kernel for &mut Part<'_> {
            type Output = ();

            #[inline(always)]
            fn run<S: Simd>(self, _: S) {
                let Matrices { lanes, columns, .. } = self.updates.shape;
                let panels = self.gradient.chunks(columns * lanes).zip(self.row.chunks(lanes));
                let mut sums = [0.0_f64; MOST_LANES];
                for (panel, row) in panels {
                    let shares = self.updates.shares(row);
                    for (values, &column) in panel.chunks(lanes).zip(self.updates.column) {
                        let lanes = values.iter().zip(&shares).zip(&mut sums).take(row.len());
                        for ((&g, &share), sum) in lanes {
                            let update = self.updates.common.gradient(g) / (share * column).sqrt();
                            *sum += f64::from(update) * f64::from(update);
                        }
                    }
                }
                self.sum = sums.iter().sum();
            }
        }
        let of_part = self.shape.rows_of_part() * self.shape.columns;
        let mut parts: Vec<Part<'_>> = self
            .parts(gradient.chunks(of_part))
            .map(|(row, gradient)| Part { updates: self, row, gradient, sum: 0.0 })
            .collect();
        let isa = isa::current();
        team::run_chunks(&mut parts, 1, &|_, part| with_isa(isa, &mut part[0]));
        parts.iter().fold(0.0, |total, part| total + part.sum)
    }

    fn apply(&self, value: &mut [f32], gradient: &[f32], factor: f32) {
        struct Part<'a> {
            updates: &'a Updates<'a>,
            row: &'a [f32],
            value: &'a mut [f32],
            gradient: &'a [f32],
            factor: f32,
        }
        impl Kernel for &mut Part<'_> {
            type Output = ();

            #[inline(always)]
            fn run<S: Simd>(self, _: S) {
                let (common, factor) = (self.updates.common, self.factor);
                let Matrices { lanes, columns, .. } = self.updates.shape;
                let values = self.value.chunks_mut(columns * lanes);
                let panels = values.zip(self.gradient.chunks(columns * lanes));
                for ((value, panel), row) in panels.zip(self.row.chunks(lanes)) {
                    let shares = self.updates.shares(row);
                    let columns = value.chunks_mut(lanes).zip(panel.chunks(lanes));
                    for ((value, values), &column) in columns.zip(self.updates.column) {
                        let lanes = value.iter_mut().zip(values).zip(&shares).take(row.len());
                        for ((w, &g), &share) in lanes {
                            let update = common.gradient(g) / (share * column).sqrt();
                            *w = common.decayed(*w) - factor * update;
                        }
                    }
                }
            }
        }
        let of_part = self.shape.rows_of_part() * self.shape.columns;
        let mut parts: Vec<Part<'_>> = self
            .parts(value.chunks_mut(of_part).zip(gradient.chunks(of_part)))
            .map(|(row, (value, gradient))| Part { updates: self, row, value, gradient, factor })
            .collect();
        let isa = isa::current();
        team::run_chunks(&mut parts, 1, &|_, part| with_isa(isa, &mut part[0]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::isa::available;
    use crate::kernels::isa::forced::with;
    use crate::kernels::pack;
    use crate::kernels::parallel::with_threads;
    use crate::kernels::testing::{assert_same_bits, noise};

    const COMMON: Common = Common { learning_rate: 0.1, decay: 0.01, scale: 0.5, limit: 0.75 };

    fn step(number: u64) -> AdafactorStep {
        AdafactorStep::new((-0.8, 0.5), (1e-30, 1e-3), 0.1, number)
    }

    /// The definition in f64, three steps on one row-major matrix.
    fn definition(value: &[f32], gradients: &[Vec<f32>], (n, k): (usize, usize)) -> Vec<f64> {
        let mut w: Vec<f64> = value.iter().map(|&x| f64::from(x)).collect();
        let (mut r, mut c) = (vec![0.0; n], vec![0.0; k]);
        for (t, gradient) in (1..).zip(gradients) {
            let g: Vec<f64> =
                gradient.iter().map(|&g| (f64::from(g) * 0.5).clamp(-0.75, 0.75)).collect();
            let keep = 1.0 - f64::from(t).powf(-0.8);
            for i in 0..n {
                let mean = (0..k).map(|j| g[i * k + j].powi(2) + 1e-30).sum::<f64>() / k as f64;
                r[i] = keep * r[i] + (1.0 - keep) * mean;
            }
            for j in 0..k {
                let mean = (0..n).map(|i| g[i * k + j].powi(2) + 1e-30).sum::<f64>() / n as f64;
                c[j] = keep * c[j] + (1.0 - keep) * mean;
            }
            let mean = r.iter().sum::<f64>() / n as f64;
            let u: Vec<f64> =
                (0..n * k).map(|i| g[i] / (r[i / k] * c[i % k] / mean).sqrt()).collect();
            let root = |x: &[f64]| (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt();
            w.iter_mut().for_each(|w| *w *= 0.99);
            let alpha = root(&w).max(1e-3) * f64::min(0.1, 1.0 / f64::from(t).sqrt());
            let clip = (root(&u) / 0.5).max(1.0);
            w.iter_mut().zip(&u).for_each(|(w, u)| *w -= alpha * u / clip);
        }
        w
    }

    #[test]
    fn panels_and_rows_follow_the_definition_on_every_isa_with_any_team() {
        for (n, k) in [(1, 1), (5, 3), (32, 7), (70, 40), (333, 401)] {
            let value: Vec<f32> = noise(n * k, 1);
            let gradients: Vec<Vec<f32>> = (2..5).map(|seed| noise(n * k, seed)).collect();
            let expected = definition(&value, &gradients, (n, k));
            let run = |lanes: usize| {
                let shape = Matrices { count: 1, rows: n, columns: k, lanes };
                let stored = |rows: &[f32]| {
                    let mut packed = vec![0.0; shape.stored()];
                    match lanes {
                        1 => packed.copy_from_slice(rows),
                        _ => pack::from_rows(rows, n, k, &mut packed),
                    }
                    packed
                };
                let (mut w, mut row, mut column) = (stored(&value), vec![0.0; n], vec![0.0; k]);
                for (t, gradient) in (1..).zip(&gradients) {
                    let averages = [&mut row[..], &mut column[..]];
                    matrices(&mut w, &stored(gradient), averages, shape, COMMON, step(t));
                }
                w
            };
            for lanes in [1, 32] {
                let once = with_threads(1, || run(lanes));
                let mut rows = once.clone();
                if lanes > 1 {
                    rows = vec![0.0; n * k];
                    pack::to_rows(&once, n, k, &mut rows);
                    let padding: f32 = once.iter().map(|x| x.abs()).sum::<f32>()
                        - rows.iter().map(|x| x.abs()).sum::<f32>();
                    assert!(padding.abs() < 1e-2 * n as f32, "padding moved: {padding}");
                }
                for (got, expected) in rows.iter().zip(&expected) {
                    assert!((f64::from(*got) - expected).abs() < 2e-6, "{n} {k} {lanes}");
                }
                for isa in available() {
                    let again = with_threads(3, || with(isa, || run(lanes)));
                    assert_same_bits(&again, &once, isa.name());
                }
            }
        }
    }

    #[test]
    fn several_matrices_share_the_size_of_their_updates_only() {
        let (n, k) = (4, 6);
        let (value, gradient) = (noise(2 * n * k, 1), noise(2 * n * k, 2));
        let shape = Matrices { count: 2, rows: n, columns: k, lanes: 1 };
        let (mut w, mut row, mut column) = (value.clone(), vec![0.0; 2 * n], vec![0.0; 2 * k]);
        matrices(&mut w, &gradient, [&mut row, &mut column], shape, COMMON, step(1));
        for half in 0..2 {
            let of = |x: &[f32]| x[half * n * k..(half + 1) * n * k].to_vec();
            let (mut alone, shape) = (of(&value), Matrices { count: 1, ..shape });
            let (mut r, mut c) = (vec![0.0; n], vec![0.0; k]);
            matrices(&mut alone, &of(&gradient), [&mut r, &mut c], shape, COMMON, step(1));
            assert_same_bits(&row[half * n..(half + 1) * n], &r, "rows");
            let moved = |w: &[f32], i: usize| w[i] - 0.99 * of(&value)[i];
            let factor = moved(&of(&w), 0) / moved(&alone, 0);
            for i in 0..n * k {
                assert!((moved(&of(&w), i) / moved(&alone, i) - factor).abs() < 1e-3 * factor);
            }
        }
        matrices(&mut [], &[], [&mut [], &mut []], Matrices { count: 0, ..shape }, COMMON, step(1));
    }
}
