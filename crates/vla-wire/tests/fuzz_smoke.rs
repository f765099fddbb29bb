//! The fuzz targets' functions for messages, driven briefly with seeded mutations of good ones.
//! Long runs: `cargo +nightly fuzz run wire_msgpack`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../fuzz/wire_entries.rs"]
mod wire_entries;

use vla_wire::json_numpy::{self, Encoding};
use vla_wire::msgpack::{self, Names};
use vla_wire::value::object;
use vla_wire::{Dtype, NdArray, Value};

/// SplitMix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

fn observation() -> Value {
    let pixels = NdArray::new(Dtype::U8, vec![2, 3, 3], (0..18).collect()).unwrap();
    object([
        ("image", pixels.into()),
        ("state", NdArray::vector(&[0.5, -1.0]).into()),
        ("floats", NdArray::single(vec![3, 1, 2], &[0.5; 6]).unwrap().into()),
        ("list", Value::List(vec![Value::Int(-3), Value::Float(0.25), Value::Nil])),
        ("instruction", "pick \"it\" up".into()),
    ])
}

/// One to four bytes changed, cut, repeated or moved.
fn mutated(good: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..1 + random.below(4) {
        let place = random.below(bytes.len());
        match random.below(6) {
            0 => bytes.truncate(place),
            1 if !bytes.is_empty() => bytes[place] = random.below(256) as u8,
            2 if !bytes.is_empty() => bytes[place] ^= 1 << random.below(8),
            3 => bytes.insert(place, random.below(256) as u8),
            4 if !bytes.is_empty() => drop(bytes.remove(place)),
            _ => {
                let end = bytes.len().min(place + random.below(30));
                let part = bytes[place..end].to_vec();
                let at = random.below(bytes.len());
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

fn drive(good: &[u8], entry: fn(&[u8]) -> bool, seed: u64) {
    assert!(entry(good));
    let mut random = Random(seed);
    let accepted = (0..20_000).filter(|_| entry(&mutated(good, &mut random))).count();
    assert!((1..20_000).contains(&accepted), "{accepted} of 20000 accepted");
}

#[test]
fn json_numpy_survives_mutations() {
    for encoding in [Encoding::Single, Encoding::Double] {
        let body = json_numpy::encode_request(&observation(), encoding).unwrap();
        drive(&body, wire_entries::fuzz_json_numpy, 1);
    }
}

#[test]
fn msgpack_survives_mutations() {
    for names in [Names::Bytes, Names::Text] {
        let message = msgpack::encode(&observation(), names).unwrap();
        drive(&message, wire_entries::fuzz_msgpack, 2);
    }
    let file = object([("image", Value::File("png".into(), vec![1, 2, 3])), ("n", 0.5.into())]);
    drive(&msgpack::encode(&file, Names::Text).unwrap(), wire_entries::fuzz_msgpack, 3);
}
