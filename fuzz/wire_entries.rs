//! Entry points of the fuzz targets for messages of policy servers. `crates/vla-wire/tests/
//! fuzz_smoke.rs` and `tests/fuzz_smoke.rs` include this file and drive the same functions with
//! seeded mutations.

use vla_wire::json_numpy::{self, Encoding};
use vla_wire::msgpack::{self, Names};
use vla_wire::picture::{PictureLimits, from_openpi, from_pillow};
use vla_wire::{Limits, Value, WireError};

const LIMITS: Limits = Limits { values: 20_000, fields: 256, depth: 16 };

fn refused(error: &WireError) -> bool {
    let line = error.to_string();
    assert!(!line.is_empty() && line.lines().count() == 1 && line.len() < 1000, "{line:?}");
    false
}

/// What the server and the client do with a value.
fn used(value: &Value) {
    let _ = (value.numbers("state"), value.rows("actions"), value.clone().into_text("prompt"));
    match value {
        Value::Array(array) => {
            for picture in [from_pillow, from_openpi] {
                if let Ok(rgb) = picture(array.clone(), &PictureLimits::default()) {
                    assert_eq!(rgb.pixels.len(), rgb.width * rgb.height * 3);
                }
            }
        }
        Value::List(values) => values.iter().for_each(used),
        Value::Object(fields) => fields.iter().for_each(|(_, value)| used(value)),
        _ => {}
    }
}

/// The bytes as a body of `/act` and as its answer. Accepted: what is written for it reads the
/// same.
pub fn fuzz_json_numpy(bytes: &[u8]) -> bool {
    let _ = json_numpy::decode_answer(bytes, &LIMITS).map_err(|error| refused(&error));
    match json_numpy::decode_request(bytes, &LIMITS) {
        Ok((fields, encoding)) => {
            let value = Value::Object(fields);
            used(&value);
            let body = json_numpy::encode_request(&value, encoding).unwrap();
            let (again, _) = json_numpy::decode_request(&body, &LIMITS).unwrap();
            assert_eq!(Value::Object(again), value);
            let _ = json_numpy::encode(&value, Encoding::Double).unwrap();
            true
        }
        Err(error) => refused(&error),
    }
}

/// The bytes as a message of openpi or vla-eval. Accepted: what is written for it reads the same.
pub fn fuzz_msgpack(bytes: &[u8]) -> bool {
    match msgpack::decode(bytes, &LIMITS) {
        Ok(value) => {
            used(&value);
            for names in [Names::Bytes, Names::Text] {
                // Written messages are compared: a NaN is not equal to itself.
                let message = msgpack::encode(&value, names).unwrap();
                let again = msgpack::decode(&message, &LIMITS).unwrap();
                assert_eq!(msgpack::encode(&again, names).unwrap(), message);
            }
            true
        }
        Err(error) => refused(&error),
    }
}
