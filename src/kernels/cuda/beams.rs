//! How beams likely go on: `beams.cu`.

use candle_core::Result;
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;

use super::best::CardBest;
use super::launch::Argument;
use super::{CardChooser, Numbers};

/// What is known of beams, of which each source has as many.
#[derive(Clone, Copy)]
pub struct Beams<'a> {
    /// Of each row: after which row of the step before it is.
    pub from: &'a [u32],
    /// The scores of the beams so far.
    pub scores: &'a [f32],
    /// Where a row's part of what is ruled out ends.
    pub ends: &'a [u32],
    /// Tokens that do not follow a row.
    pub ruled_out: &'a [u32],
    /// Tokens that end a sequence.
    pub stops: &'a [u32],
    /// How many beams a source has.
    pub count: usize,
}

/// The rows of the step that comes next.
#[derive(Clone, Copy)]
pub struct NextRows {
    /// Their tokens, to be written; those behind the last row are like it.
    pub tokens: Numbers,
    /// Their slots, and how many entries they see.
    pub target: Numbers,
    /// Which slot has each entry of a slot's history: changes as beams continue others.
    pub origins: Numbers,
    /// How many slots there are.
    pub slots: usize,
}

/// `Beams` of `beams.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct BeamsParameter {
    /// `from`, `scores`, `ends`, `ruled_out`, `stops`.
    pointers: [CUdeviceptr; 5],
    stop_count: i32,
    beams: i32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for BeamsParameter {}

/// Threads of a block, which has a source.
const THREADS: usize = 128;

impl Beams<'_> {
    /// Whether the kernel continues them, among tokens below `limit`.
    pub fn takes(count: usize, limit: usize) -> bool {
        const MOST_BEAMS: usize = 16;
        count <= MOST_BEAMS && limit <= 1 << 24
    }
}

impl CardChooser {
    /// Has the card continue beams after the rows of which it has found the best, and remember how:
    /// [`CardBest::fetch`] brings it.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn continue_beams(
        &mut self,
        best: &CardBest,
        beams: &Beams<'_>,
        next: NextRows,
    ) -> Result<()> {
        let rows = beams.from.len();
        assert!(rows.is_multiple_of(beams.count) && beams.count > 0, "beams of each source");
        assert!(beams.from.iter().all(|&row| (row as usize) < best.rows()), "rows");
        assert!([beams.scores.len(), beams.ends.len()] == [rows; 2], "one for each row");
        assert!(beams.ends.is_sorted(), "ends");
        assert!(beams.ends.last().is_none_or(|&end| end as usize == beams.ruled_out.len()), "ends");
        let filled_up = next.tokens.count;
        assert!(filled_up >= rows && next.target.count == 2 * filled_up, "rows of the next step");
        let scores: Vec<u32> = beams.scores.iter().map(|score| score.to_bits()).collect();
        let parts = [beams.from, &scores, beams.ends, beams.ruled_out, beams.stops];
        let pointers = self.send(parts)?;
        let parameter = BeamsParameter {
            pointers,
            stop_count: beams.stops.len() as i32,
            beams: beams.count as i32,
        };
        let [log_sums, found, continued] = best.parts();
        let arguments = [
            Argument::Pointer(found),
            Argument::Pointer(log_sums),
            Argument::Int(best.count() as i32),
            Argument::Beams(parameter),
            Argument::Pointer(next.target.start),
            Argument::Pointer(next.origins.start),
            Argument::Int(next.slots as i32),
            Argument::Int(rows as i32),
            Argument::Pointer(continued),
            Argument::Pointer(next.tokens.start),
            Argument::Int(filled_up as i32),
        ];
        let grid = (rows / beams.count, 1, 1);
        self.card().launch("continue_beams", grid, THREADS, 0, &arguments)
    }
}
