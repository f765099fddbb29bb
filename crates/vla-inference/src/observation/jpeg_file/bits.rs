//! The bits of an entropy-coded segment.

/// Reads bits, most significant first, up to the next marker.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// The next bits, from the top. Behind them zeros, or bits of the data that are read again.
    bits: u64,
    count: u32,
}

/// The bits ended before what was to be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended;

impl<'a> Bits<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, bits: 0, count: 0 }
    }

    /// Bytes taken so far. After a scan: at its next marker, or before it.
    pub fn position(&self) -> usize {
        self.at
    }

    #[inline]
    fn fill(&mut self) {
        // Eight bytes at once where none of them is 255, which is nearly everywhere.
        if self.count < 56
            && let Some(bytes) = self.data.get(self.at..).and_then(|rest| rest.first_chunk::<8>())
        {
            let (word, inverse) = (u64::from_be_bytes(*bytes), !u64::from_be_bytes(*bytes));
            if inverse.wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080 == 0 {
                let taken = (63 - self.count) / 8;
                self.bits |= word >> self.count;
                self.at += taken as usize;
                self.count += taken * 8;
                return;
            }
        }
        while self.count <= 56 {
            let Some(&byte) = self.data.get(self.at) else { return };
            if byte == 0xff {
                // A zero is stuffed behind a data byte of 255; anything else is a marker.
                if self.data.get(self.at + 1) != Some(&0) {
                    return;
                }
                self.at += 1;
            }
            self.at += 1;
            self.bits |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// The next 16 bits; what follows the last is no data.
    #[inline]
    pub fn peek(&mut self) -> u16 {
        if self.count < 32 {
            self.fill();
        }
        (self.bits >> 48) as u16
    }

    /// Passes over bits, at most 32.
    #[inline]
    pub fn skip(&mut self, bits: u32) -> Result<(), Ended> {
        if self.count < bits {
            self.fill();
            if self.count < bits {
                return Err(Ended);
            }
        }
        self.bits <<= bits;
        self.count -= bits;
        Ok(())
    }

    /// The value of the next bits, at most 15.
    pub fn take(&mut self, bits: u32) -> Result<u32, Ended> {
        if bits == 0 {
            return Ok(0);
        }
        let value = u32::from(self.peek()) >> (16 - bits);
        self.skip(bits).map(|()| value)
    }

    /// Passes a restart marker, and whatever precedes it. `false`: another marker, or none.
    pub fn restart(&mut self) -> bool {
        (self.bits, self.count) = (0, 0);
        loop {
            match self.data.get(self.at..) {
                Some([0xff, 0xd0..=0xd7, ..]) => {
                    self.at += 2;
                    return true;
                }
                // A marker may be preceded by any number of 255.
                Some([0xff, 0xff, ..] | [0..=0xfe, ..]) => self.at += 1,
                Some([0xff, 0, ..]) => self.at += 2,
                _ => return false,
            }
        }
    }
}
