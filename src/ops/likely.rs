//! What is likely chosen after a step, so that a card can go on with it before the host has chosen.

/// What is known of the choices after the rows of a step.
#[derive(Debug, Default)]
pub struct Likely {
    /// For each row: a token that is certain to follow it, or [`UNKNOWN`].
    pub given: Vec<u32>,
    /// Tokens that do not follow it, row after row, and where each row's end.
    pub ruled_out: Vec<u32>,
    /// See there.
    pub ends: Vec<u32>,
    /// How one of the others is drawn; `None`: the best follows.
    pub draw: Option<Draw>,
    /// The key of each row's draws ([`Stream::key`](crate::random::Stream::key)), if there are any.
    pub keys: Vec<[u32; 2]>,
}

/// Stands for a token that is not known.
pub const UNKNOWN: u32 = u32::MAX;

/// A draw among the best, in proportion to their probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// How many.
    pub candidates: usize,
    /// At which temperature.
    pub temperature: f32,
    /// Among the first of them that together have this probability; 1: among all.
    pub top_p: f32,
}

impl Likely {
    /// Forgets the rows.
    pub fn clear(&mut self) {
        self.given.clear();
        self.ruled_out.clear();
        self.ends.clear();
        self.keys.clear();
    }

    /// Adds a row.
    pub fn push(&mut self, given: Option<u32>, ruled_out: &[u32]) {
        self.given.push(given.unwrap_or(UNKNOWN));
        self.ruled_out.extend_from_slice(ruled_out);
        self.ends.push(self.ruled_out.len() as u32);
    }
}
