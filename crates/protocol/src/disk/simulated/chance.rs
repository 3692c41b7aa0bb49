//! What a seed decides: numbers, what fails, and how the daemon ends.

/// Random numbers that are the same for the same seed (SplitMix64; Steele, Lea and Flood, 2014).
#[derive(Clone, Copy, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Returns the numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `n`; 0 when that is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next_u64() % n }
    }

    /// Returns an index below `len`.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// Returns true that many times of a thousand.
    pub fn per_mille(&mut self, n: u64) -> bool {
        n > 0 && self.below(1000) < n
    }
}

/// How often, of a thousand operations that could, one fails.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// There is no room at all.
    pub full: bool,
    /// A write or a new name finds no room.
    pub no_room: u64,
    /// A sync fails, and what was to be synced is lost.
    pub bad_sync: u64,
    /// Something can't be opened or made for lack of permission.
    pub denied: u64,
    /// Reading fails.
    pub bad_read: u64,
}

/// How the daemon comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// `kill -9`: what was written stays as it is.
    Kill,
    /// The host loses power.
    PowerCut,
}
