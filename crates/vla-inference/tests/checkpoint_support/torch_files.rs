//! Files of `torch.save`, made byte by byte so that tests can lie in any of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

/// A pickle under protocol 2.
pub struct Pickle(pub Vec<u8>);

impl Pickle {
    pub fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn byte(self, byte: u8) -> Self {
        self.bytes(&[byte])
    }

    pub fn global(self, module: &str, name: &str) -> Self {
        self.bytes(format!("c{module}\n{name}\n").as_bytes())
    }

    pub fn text(self, text: &str) -> Self {
        self.byte(b'X').bytes(&(text.len() as u32).to_le_bytes()).bytes(text.as_bytes())
    }

    pub fn int(self, number: i32) -> Self {
        self.byte(b'J').bytes(&number.to_le_bytes())
    }

    pub fn ints(self, numbers: &[i32]) -> Self {
        let all = numbers.iter().fold(self.byte(b'('), |pickle, &number| pickle.int(number));
        all.byte(b't')
    }

    pub fn tuple1(self) -> Self {
        self.byte(0x85)
    }

    pub fn reduce(self) -> Self {
        self.byte(b'R')
    }

    pub fn ordered_dict(self) -> Self {
        self.global("collections", "OrderedDict").byte(b')').reduce()
    }

    pub fn stop(self) -> Self {
        self.byte(b'.')
    }
}

/// Name, storage type, storage key, elements of the storage, offset, shape, strides.
pub type Listed<'a> = (&'a str, &'a str, &'a str, i32, i32, &'a [i32], &'a [i32]);

/// The pickle of a state dict with these tensors.
pub fn state_dict(tensors: &[Listed<'_>]) -> Pickle {
    let mut pickle = Pickle::new().ordered_dict().byte(b'(');
    for &(name, kind, key, elements, offset, shape, strides) in tensors {
        pickle = pickle
            .text(name)
            .global("torch._utils", "_rebuild_tensor_v2")
            .byte(b'(')
            .byte(b'(')
            .text("storage")
            .global("torch", kind)
            .text(key)
            .text("cuda:0")
            .int(elements)
            .byte(b't')
            .byte(b'Q')
            .int(offset)
            .ints(shape)
            .ints(strides)
            .byte(0x89)
            .ordered_dict()
            .byte(b't')
            .reduce();
    }
    pickle.byte(b'u').byte(b'}').text("_metadata").byte(b'}').byte(b's').byte(b'b').stop()
}

/// An entry of an archive, with what its directory record claims about it.
pub struct Stored {
    name: String,
    bytes: Vec<u8>,
    method: u16,
    size: u32,
    /// Offset of the local header, when not the true one.
    offset: Option<u32>,
}

pub fn stored(name: &str, bytes: &[u8]) -> Stored {
    let size = bytes.len() as u32;
    Stored { name: name.into(), bytes: bytes.into(), method: 0, size, offset: None }
}

impl Stored {
    pub fn deflated(self) -> Self {
        Self { method: 8, ..self }
    }

    pub fn claiming(self, size: u32) -> Self {
        Self { size, ..self }
    }

    pub fn at(self, offset: u32) -> Self {
        Self { offset: Some(offset), ..self }
    }
}

/// The common middle of a local header and a directory record.
fn fields(entry: &Stored) -> Vec<u8> {
    let mut out = Vec::new();
    for value in [20, 0, entry.method, 0, 33] {
        out.extend_from_slice(&u16::to_le_bytes(value));
    }
    let sizes = [crc32(&entry.bytes), entry.bytes.len() as u32, entry.size];
    sizes.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
    out.extend_from_slice(&(entry.name.len() as u16).to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out
}

/// The archive of these entries.
pub fn join(entries: &[Stored]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let offset = entry.offset.unwrap_or(out.len() as u32);
        out.extend_from_slice(b"PK\x03\x04");
        out.extend_from_slice(&fields(entry));
        out.extend_from_slice(entry.name.as_bytes());
        out.extend_from_slice(&entry.bytes);
        directory.extend_from_slice(b"PK\x01\x02\x14\0");
        directory.extend_from_slice(&fields(entry));
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(entry.name.as_bytes());
    }
    let start = out.len() as u32;
    out.extend_from_slice(&directory);
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    for _ in 0..2 {
        out.extend_from_slice(&(entries.len() as u16).to_le_bytes());
    }
    out.extend_from_slice(&(directory.len() as u32).to_le_bytes());
    out.extend_from_slice(&start.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out
}

/// The archive of entries that say the truth.
pub fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    join(&entries.iter().map(|(name, bytes)| stored(name, bytes)).collect::<Vec<_>>())
}

/// CRC-32 of ISO-HDLC, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}
