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
/// Values of a whole panel side by side: loops over them have a constant length, and become vectors.
type Panel = [f32; MOST_LANES];
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
    let updates: Vec<Updates> = row
        .chunks(rows)
        .zip(column.chunks(columns))
        .zip(means)
        .map(|((row, column), mean)| Updates::new(row, column, mean, shape, common))
        .collect();
    let mut squares = 0.0;
    for (gradient, updates) in gradient.chunks(each).zip(&updates) {
        squares += updates.squares(gradient);
    }
    let factor = step.factor(value, squares, shape.count * rows * columns, common);
    for ((value, gradient), updates) in
        value.chunks_mut(each).zip(gradient.chunks(each)).zip(&updates)
    {
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
        let (common, epsilon) = (self.common, self.step.epsilon_1);
        let panels = self.gradient.chunks(columns * lanes).zip(self.row.chunks_mut(lanes));
        for (panel, row) in panels {
            let mut sums = [0.0_f64; MOST_LANES];
            for (values, total) in panel.chunks(lanes).zip(&mut self.columns) {
                let mut squares = [0.0_f64; MOST_LANES];
                // Whole panels in a loop of constant length, which becomes vectors.
                match <&Panel>::try_from(values) {
                    Ok(values) if row.len() == MOST_LANES => {
                        for (square, &g) in squares.iter_mut().zip(values) {
                            *square = regulated_square(common, g, epsilon);
                        }
                    }
                    _ => {
                        for (square, &g) in squares.iter_mut().zip(values).take(row.len()) {
                            *square = regulated_square(common, g, epsilon);
                        }
                    }
                }
                sums.iter_mut().zip(&squares).for_each(|(sum, square)| *sum += square);
                *total += tree_sum(squares);
            }
            for (average, sum) in row.iter_mut().zip(sums) {
                self.step.advance(average, sum / columns as f64);
            }
        }
    }
}

#[inline(always)]
fn regulated_square(common: Common, g: f32, epsilon: f32) -> f64 {
    let g = common.gradient(g);
    f64::from(g * g + epsilon)
}

/// The sum, half added to half: in one order, and side by side.
#[inline(always)]
fn tree_sum(mut values: [f64; MOST_LANES]) -> f64 {
    let mut half = MOST_LANES / 2;
    while half > 0 {
        let (low, high) = values.split_at_mut(half);
        low.iter_mut().zip(high).for_each(|(low, high)| *low += *high);
        half /= 2;
    }
    values[0]
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

/// The updates of a matrix before they are clipped, `g / sqrt(row column / mean(row))`: the gradient
/// times a factor of its row and one of its column.
struct Updates {
    row: Vec<f32>,
    column: Vec<f32>,
    shape: Matrices,
    common: Common,
}

impl Updates {
    fn new(row: &[f32], column: &[f32], mean: f64, shape: Matrices, common: Common) -> Self {
        let root = |x: f64| (1.0 / x.sqrt()) as f32;
        Updates {
            row: row.iter().map(|&x| root(f64::from(x) / mean)).collect(),
            column: column.iter().map(|&x| root(f64::from(x))).collect(),
            shape,
            common,
        }
    }

    /// Values of a part.
    fn of_part(&self) -> usize {
        self.shape.rows_of_part() * self.shape.columns
    }

    /// The sum of the squares of all updates.
    fn squares(&self, gradient: &[f32]) -> f64 {
        let rows = self.row.chunks(self.shape.rows_of_part());
        let mut parts: Vec<Squares<'_>> = gradient
            .chunks(self.of_part())
            .zip(rows)
            .map(|(gradient, row)| Squares { updates: self, row, gradient, sum: 0.0 })
            .collect();
        let isa = isa::current();
        team::run_chunks(&mut parts, 1, &|_, part| with_isa(isa, &mut part[0]));
        parts.iter().fold(0.0, |total, part| total + part.sum)
    }

    /// Changes the weights by `factor` times the updates.
    fn apply(&self, value: &mut [f32], gradient: &[f32], factor: f32) {
        let rows = self.row.chunks(self.shape.rows_of_part());
        let arrays = value.chunks_mut(self.of_part()).zip(gradient.chunks(self.of_part()));
        let mut parts: Vec<Change<'_>> = arrays
            .zip(rows)
            .map(|((value, gradient), row)| Change { updates: self, row, value, gradient, factor })
            .collect();
        let isa = isa::current();
        team::run_chunks(&mut parts, 1, &|_, part| with_isa(isa, &mut part[0]));
    }
}

/// A part of a gradient whose updates are squared.
struct Squares<'a> {
    updates: &'a Updates,
    row: &'a [f32],
    gradient: &'a [f32],
    sum: f64,
}

impl Kernel for &mut Squares<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Updates { column, shape, common, .. } = self.updates;
        let lanes = shape.lanes;
        let panels = self.gradient.chunks(shape.columns * lanes).zip(self.row.chunks(lanes));
        let mut sums = [0.0_f64; MOST_LANES];
        for (panel, row) in panels {
            for (values, &column) in panel.chunks(lanes).zip(column) {
                if let (Ok(values), Ok(row)) = (<&Panel>::try_from(values), <&Panel>::try_from(row))
                {
                    for ((sum, &g), &row) in sums.iter_mut().zip(values).zip(row) {
                        let update = f64::from(common.gradient(g) * row * column);
                        *sum += update * update;
                    }
                } else {
                    for ((sum, &g), &row) in sums.iter_mut().zip(values).zip(row) {
                        let update = f64::from(common.gradient(g) * row * column);
                        *sum += update * update;
                    }
                }
            }
        }
        self.sum = tree_sum(sums);
    }
}

/// A part of the weights that is changed.
struct Change<'a> {
    updates: &'a Updates,
    row: &'a [f32],
    value: &'a mut [f32],
    gradient: &'a [f32],
    factor: f32,
}

impl Kernel for &mut Change<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Updates { column, shape, common, .. } = self.updates;
        let (lanes, factor) = (shape.lanes, self.factor);
        let of_panel = shape.columns * lanes;
        let panels = self.value.chunks_mut(of_panel).zip(self.gradient.chunks(of_panel));
        for ((value, panel), row) in panels.zip(self.row.chunks(lanes)) {
            let columns = value.chunks_mut(lanes).zip(panel.chunks(lanes));
            for ((value, values), &column) in columns.zip(column) {
                if let (Ok(value), Ok(values), Ok(row)) = (
                    <&mut Panel>::try_from(&mut *value),
                    <&Panel>::try_from(values),
                    <&Panel>::try_from(row),
                ) {
                    for ((w, &g), &row) in value.iter_mut().zip(values).zip(row) {
                        *w = common.decayed(*w) - factor * (common.gradient(g) * row * column);
                    }
                } else {
                    for ((w, &g), &row) in value.iter_mut().zip(values).zip(row) {
                        *w = common.decayed(*w) - factor * (common.gradient(g) * row * column);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "adafactor_tests.rs"]
mod tests;
