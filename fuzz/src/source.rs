//! Choices, made of bytes. When the bytes run out every choice is 0.

/// Bytes that are still to be used.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    bytes: &'a [u8],
}

impl<'a> Source<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Source { bytes }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// At most `len` bytes.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(len.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// What is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    fn number(&mut self, len: usize) -> u64 {
        let taken = self.take(len);
        taken
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// A byte.
    pub fn u8(&mut self) -> u8 {
        self.number(1) as u8
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self) -> u16 {
        self.number(2) as u16
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self) -> u32 {
        self.number(4) as u32
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self) -> u64 {
        self.number(8)
    }

    /// A number below `end`, from one byte.
    pub fn below(&mut self, end: u8) -> u8 {
        self.u8() % end
    }

    /// A yes or no.
    pub fn flag(&mut self) -> bool {
        self.u8() & 1 != 0
    }

    /// A number of any size; small ones take few bytes.
    pub fn any(&mut self) -> u64 {
        match self.u8() {
            small @ 0..=0xfb => u64::from(small),
            0xfc => self.number(2),
            0xfd => self.number(4),
            0xfe => self.number(8),
            0xff => u64::MAX - u64::from(self.u8()),
        }
    }

    /// One of `choices`, which are not empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.u16()) % choices.len()]
    }

    /// Bytes with their length before them, at most `len_max`.
    pub fn bytes(&mut self, len_max: usize) -> &'a [u8] {
        let len = self.any().min(len_max as u64) as usize;
        self.take(len)
    }

    /// Bytes of which only the length is given: as large as it says, whatever is left.
    pub fn filled(&mut self, len_max: usize) -> Vec<u8> {
        let len = self.any().min(len_max as u64) as usize;
        let seed = self.u8();
        (0..len).map(|at| seed.wrapping_add(at as u8)).collect()
    }
}
