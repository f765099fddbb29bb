#![allow(clippy::unwrap_used)]
use super::*;
use image::codecs::jpeg::JpegEncoder;

/// Noise over waves: blocks of all lengths.
fn pixels(width: u32, height: u32) -> Vec<u8> {
    let value = |i: u32| {
        let (x, y) = (i / 3 % width, i / 3 / width);
        let wave = 90.0 * f64::from(x * 3 + y * (i % 3 + 1)).sin();
        (128.0 + wave) as u8 ^ (i.wrapping_mul(2_654_435_761) >> 28) as u8
    };
    (0..width * height * 3).map(value).collect()
}

fn encoded(width: u32, height: u32, quality: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality)
        .encode(&pixels(width, height), width, height, image::ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}

fn entropy_begin(bytes: &[u8]) -> usize {
    let at = bytes.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    at + 2 + usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]))
}

#[test]
fn whole_pictures_end_at_their_marker() {
    for (width, height) in [(1, 1), (8, 8), (9, 17), (64, 48), (333, 77)] {
        for quality in [5, 75, 100] {
            let bytes = encoded(width, height, quality);
            let whole = examine(&bytes).unwrap().unwrap();
            assert_eq!(whole, Whole { bytes: bytes.len(), lacks_tables: false });
            let more = [bytes.as_slice(), b"\n\xff\xd9 and a video"].concat();
            assert_eq!(examine(&more).unwrap().unwrap().bytes, bytes.len());
        }
    }
}

/// Any cut loses a bit of a block; only the end marker itself, and the bits that fill the last
/// byte, can be missing.
#[test]
fn every_cut_is_found_with_and_without_an_end_marker() {
    for (width, height, quality) in [(40, 24, 90), (17, 9, 30)] {
        let bytes = encoded(width, height, quality);
        let begin = entropy_begin(&bytes);
        for keep in begin..bytes.len() - 3 {
            // Half of a stuffed 255 is no cut of an encoder's.
            if bytes[keep - 1] == 0xff {
                continue;
            }
            let glued = [&bytes[..keep], &[0xff, 0xd9]].concat();
            for cut in [&bytes[..keep], &glued] {
                let problem = examine(cut).unwrap_err();
                assert!(matches!(&problem, Problem::Incomplete(_)), "{keep}: {problem:?}");
            }
        }
        assert!(examine(&bytes[..bytes.len() - 2]).unwrap().is_some());
        for keep in 2..begin {
            assert!(examine(&bytes[..keep]).is_err(), "{keep}");
        }
    }
}

#[test]
fn the_row_of_the_cut_is_named() {
    let bytes = encoded(64, 480, 90);
    let half = [&bytes[..bytes.len() / 2], &[0xff, 0xd9]].concat();
    let Err(Problem::Incomplete(reason)) = examine(&half) else { unreachable!() };
    let row: usize =
        reason.split("row ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((200..280).contains(&row) && reason.contains("of 480"), "{reason}");
}

#[test]
fn standard_tables_are_taken_where_there_are_none() {
    // The encoder of `image` uses the standard tables.
    let bytes = encoded(40, 24, 80);
    let mut bare = bytes[..2].to_vec();
    let mut segments = Segments { bytes: &bytes, at: 2 };
    while let Some(segment) = segments.next() {
        if segment.code != marker::DHT {
            bare.extend([0xff, segment.code]);
            bare.extend((segment.content.len() as u16 + 2).to_be_bytes());
            bare.extend(segment.content);
        }
        if segment.code == marker::SOS {
            break;
        }
    }
    bare.extend(&bytes[segments.at..]);
    assert!(bare.len() < bytes.len());
    assert_eq!(examine(&bare).unwrap().unwrap(), Whole { bytes: bare.len(), lacks_tables: true });
}

#[test]
fn standard_tables_are_well_formed() {
    assert_eq!(STANDARD_TABLES[2..4], 418_u16.to_be_bytes());
    let mut tables = Tables::default();
    assert!(tables.define(&STANDARD_TABLES[4..]).is_some());
    let count = |tables: &[Option<Huffman>; 4]| tables.iter().flatten().count();
    assert_eq!((count(&tables.dc), count(&tables.ac)), (2, 2));
}

#[test]
fn sizes_are_bounded_before_anything_is_reserved() {
    let mut bytes = encoded(16, 16, 50);
    let at = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    bytes[at + 5..at + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    assert_eq!(examine(&bytes), Err(Problem::Side(65_535, 65_535)));
}

proptest::proptest! {
    #[test]
    fn damage_does_not_panic(
        damage in proptest::collection::vec((proptest::prelude::any::<u16>(), 0u8..), 1..8),
        progressive: bool,
    ) {
        let mut bytes = encoded(40, 24, 70);
        if progressive {
            let at = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
            bytes[at + 1] = 0xc2;
        }
        for (place, value) in damage {
            let place = usize::from(place) % bytes.len();
            bytes[place] = value;
        }
        let _ = examine(&bytes);
        let _ = orientation(&bytes);
    }
}
