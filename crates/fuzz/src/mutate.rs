//! Changing good input into bad, at random and yet the same each time.

/// What parsers trip over: ends of numbers and texts, openers without closers, other alphabets.
const TOKENS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b":",
    b",",
    b"\n",
    b"\t",
    b"\0",
    b" ",
    b"=",
    b"#",
    b"/",
    b"..",
    b".",
    b"-",
    b"*",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"1e-999",
    b"0.1",
    b"18446744073709551615",
    b"18446744073709551616",
    b"9223372036854775808",
    b"4294967296",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\xc3\x28",
    b"\xe2\x80\xae",
    b"\xef\xbb\xbf",
    b"\x1b[2J",
    b"\r\n",
    b"../../",
    b"/etc/passwd",
    b"data:",
    b"event: ",
    b"[[",
    b"\x27\x27\x27",
    b"\"\"\"",
    b"version",
    b"task_id",
    b"dependencies",
];

/// The longest input.
const MOST: usize = 64 << 10;

/// Makes inputs of a corpus.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
    corpus: Vec<Vec<u8>>,
    input: Vec<u8>,
}

impl Mutator {
    /// Returns one that makes the same inputs for the same seed and corpus.
    pub fn new(seed: u64, corpus: Vec<Vec<u8>>) -> Self {
        Self { state: seed, corpus, input: Vec::new() }
    }

    /// Returns the next input.
    pub fn input(&mut self) -> &[u8] {
        let chosen = self.below(self.corpus.len());
        let mut input = std::mem::take(&mut self.input);
        input.clear();
        input.extend_from_slice(&self.corpus[chosen]);
        for _ in 0..=self.below(6) {
            self.change(&mut input);
        }
        input.truncate(MOST);
        self.input = input;
        &self.input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let len = self.below(input.len() - at + 1);
        // Most parts are short ones: most changes then leave most of it good.
        let len = if self.below(4) == 0 { len } else { len.min(1 + self.below(8)) };
        let part = at..at + len;
        match self.below(9) {
            0 => input.truncate(at),
            1 => drop(input.drain(part)),
            2 => {
                let token = TOKENS[self.below(TOKENS.len())];
                input.splice(part, token.iter().copied());
            }
            3 => {
                let token = TOKENS[self.below(TOKENS.len())];
                input.splice(at..at, token.iter().copied());
            }
            4 => {
                let copy = input[part].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            5 => {
                let times = 1 << self.below(12);
                let copy = input[part].to_vec();
                let copies =
                    copy.iter().copied().cycle().take(copy.len().saturating_mul(times).min(MOST));
                input.splice(at..at, copies);
            }
            6 => {
                let other = self.below(self.corpus.len());
                let from = self.below(self.corpus[other].len() + 1);
                let to = from + self.below(self.corpus[other].len() - from + 1);
                let piece = self.corpus[other][from..to].to_vec();
                input.splice(part, piece);
            }
            7 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << (self.state >> 61);
                }
            }
            _ => {
                let byte = self.next().to_le_bytes()[0];
                if let Some(place) = input.get_mut(at) {
                    *place = byte;
                }
            }
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap_or(0)
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
