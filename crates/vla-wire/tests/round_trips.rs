//! Messages as the Python packages write them, damaged ones, and what survives a round trip.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use vla_wire::json_numpy::{self, Encoding};
use vla_wire::msgpack::{self, Names};
use vla_wire::value::object;
use vla_wire::{Dtype, Limits, NdArray, Value, WireError};

fn json(text: &str) -> Result<Value, WireError> {
    json_numpy::decode(text.as_bytes(), &Limits::default())
}

fn packed(bytes: &[u8]) -> Result<Value, WireError> {
    msgpack::decode(bytes, &Limits::default())
}

/// `json_numpy.dumps({"image": np.arange(6, dtype=np.uint8).reshape(1, 2, 3), "state":
/// np.array([0.5, -1.0], np.float32), "n": np.float32(0.25)})` of json-numpy 2.1.1.
#[test]
fn what_json_numpy_writes() {
    let value = json(
        r#"{"image": {"__numpy__": "AAECAwQF", "dtype": "|u1", "shape": [1, 2, 3]},
            "state": {"__numpy__": "AAAAPwAAgL8=", "dtype": "<f4", "shape": [2]},
            "n": {"__numpy__": "AACAPg==", "dtype": "<f4", "shape": []}}"#,
    )
    .unwrap();
    let Some(Value::Array(image)) = value.get("image") else { panic!("{value:?}") };
    assert_eq!((image.shape(), image.data()), (&[1, 2, 3][..], &[0, 1, 2, 3, 4, 5][..]));
    assert_eq!(value.get("state").unwrap().numbers("state").unwrap(), [0.5, -1.0]);
    assert_eq!(value.get("n").unwrap().numbers("n").unwrap(), [0.25]);
}

#[test]
fn both_encodings_of_a_request_and_its_answer() {
    let fields = object([("instruction", "pick \"it\" up".into()), ("unnorm_key", Value::Nil)]);
    for encoding in [Encoding::Single, Encoding::Double] {
        let body = json_numpy::encode_request(&fields, encoding).unwrap();
        let (decoded, found) = json_numpy::decode_request(&body, &Limits::default()).unwrap();
        assert_eq!((Value::Object(decoded), found), (fields.clone(), encoding));

        let action = Value::Array(NdArray::vector(&[0.1, -0.2]));
        let answer = json_numpy::encode(&action, encoding).unwrap();
        assert_eq!(json_numpy::decode_answer(&answer, &Limits::default()).unwrap(), action);
        let text = String::from_utf8(answer).unwrap();
        let (start, expected) = match encoding {
            Encoding::Single => (0, r#"{"__numpy__":"mpmZmZmZuT+amZmZmZnJvw==","dtype":"<f8","#),
            Encoding::Double => (1, r#"{\"__numpy__\":\""#),
        };
        assert!(text[start..].starts_with(expected), "{text}");
    }
    let refused = json_numpy::decode_answer(b"\"error\"", &Limits::default()).unwrap_err();
    assert_eq!(refused, WireError::ServerError("error".into()));
    let both = br#"{"encoded": "{}", "image": 1}"#;
    let error = json_numpy::decode_request(both, &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("'image' beside 'encoded'"), "{error}");
}

#[test]
fn unfit_json_is_refused_with_the_place() {
    let array = |numpy: &str, dtype: &str, shape: &str| {
        json(&format!(r#"{{"__numpy__": {numpy}, "dtype": {dtype}, "shape": {shape}}}"#))
            .unwrap_err()
            .to_string()
    };
    for (error, expected) in [
        (array("\"AA==\"", "\"|u1\"", "[2]"), "has 2 bytes; 1 came"),
        (array("\"A!==\"", "\"|u1\"", "[1]"), "not base64"),
        (array("\"AA==\"", "[[\"x\", \"<f4\"]]", "[1]"), "array of structures"),
        (array("\"AA==\"", "\"|u1\"", "[-1]"), "no list of lengths"),
        (array("\"AA==\"", "\"|u1\"", "[1e30]"), "no list of lengths"),
        (array("\"AA==\"", "\"|O\"", "[1]"), "no type of numbers"),
        (array("7", "\"|u1\"", "[1]"), "'__numpy__' is the number 7"),
        (json(r#"{"__numpy__": ""}"#).unwrap_err().to_string(), "without 'dtype'"),
        (json(r#"{"a": 1, "a": 2}"#).unwrap_err().to_string(), "'a' comes twice"),
        (json("{} x").unwrap_err().to_string(), "trailing characters"),
        (json(&"[".repeat(1000)).unwrap_err().to_string(), "more than 16 objects"),
        (json(&format!("[{}1]", "1,".repeat(20_000))).unwrap_err().to_string(), "20000 values"),
        (json("").unwrap_err().to_string(), "EOF"),
    ] {
        assert!(error.contains(expected), "{error} / {expected}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let many: Vec<String> = (0..300).map(|index| format!("\"{index}\": 0")).collect();
    let error = json(&format!("{{{}}}", many.join(","))).unwrap_err().to_string();
    assert!(error.contains("more than 256 fields"), "{error}");
    let list = json("[1]").unwrap().into_fields("JSON").unwrap_err().to_string();
    assert!(list.contains("the JSON message is a list"), "{list}");
}

/// `msgpack_numpy.packb({"observation/state": np.array([1.0, 2.0], np.float32), "prompt": "go",
/// "s": np.float32(0.5)})` of openpi-client 0.1.2.
#[test]
fn what_openpi_client_packs() {
    let bytes = [
        b"\x83\xb1observation/state\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x08".as_slice(),
        b"\x00\x00\x80?\x00\x00\x00@\xc4\x05dtype\xa3<f4\xc4\x05shape\x91\x02\xa6prompt\xa2go\xa1s",
        b"\x83\xc4\x0d__npgeneric__\xc3\xc4\x04data\xcb?\xe0\x00\x00\x00\x00\x00\x00\xc4\x05dtype",
        b"\xa3<f4",
    ]
    .concat();
    let value = packed(&bytes).unwrap();
    let state = NdArray::single(vec![2], &[1.0, 2.0]).unwrap();
    let expected =
        [("observation/state", state.into()), ("prompt", "go".into()), ("s", 0.5.into())];
    assert_eq!(value, object(expected));
    // What is written has the same bytes, but for the scalar, which is a number.
    let written = msgpack::encode(&value, Names::Bytes).unwrap();
    let scalar = bytes.windows(2).position(|pair| pair == b"\xa1s").unwrap();
    assert_eq!(written[..scalar], bytes[..scalar]);
}

#[test]
fn unfit_msgpack_is_refused() {
    for (bytes, expected) in [
        (&b""[..], "marker"),
        (b"\x81\xa1a", ""),
        (b"\xc0\xc0", "bytes after its end"),
        (b"\xc1", ""),
        (b"\xdd\xff\xff\xff\xff", ""),
        (b"\xc6\xff\xff\xff\xffabc", ""),
        (b"\xdf\xff\xff\xff\xff\x01\x02", "name of a field"),
        (b"\xd4\x01\x00", ""),
        (b"\x82\xa1a\x01\xc4\x01a\x02", "'a' comes twice"),
        (b"\x81\xc4\x0b__ndarray__\xc3", "without 'data'"),
        (b"\x82\xa9__image__\xc3\xa4data\xc4\x00", "without 'format'"),
    ] {
        let error = packed(bytes).unwrap_err().to_string();
        assert!(error.starts_with("not a msgpack message: "), "{error}");
        assert!(error.contains(expected), "{error} / {expected}");
    }
    let error = packed(&[0x91; 1000]).unwrap_err().to_string();
    assert!(error.contains("more than 16 objects"), "{error}");
    // A tree of a million empty lists would need 30 times the memory of the message.
    let many = [&b"\xdd\x00\x0f\x42\x40"[..], &[0x90; 1_000_000]].concat();
    let error = packed(&many).unwrap_err().to_string();
    assert!(error.contains("more than 20000 values"), "{error}");
}

#[test]
fn files_of_pictures_and_arrays_under_text_names() {
    let file = object([
        ("a", Value::File("png".into(), vec![1, 2])),
        ("b", NdArray::new(Dtype::U8, vec![2], vec![3, 4]).unwrap().into()),
    ]);
    let message = msgpack::encode(&file, Names::Text).unwrap();
    assert_eq!(packed(&message).unwrap(), file);
    assert!(message.windows(10).any(|part| part == b"\xa9__image__"));
    assert!(message.windows(12).any(|part| part == b"\xab__ndarray__"));
}

#[test]
fn rows_and_vectors() {
    let rows = |text: &str| json(text).unwrap().rows("actions");
    assert_eq!(rows("[1, 2.5]").unwrap(), [[1.0, 2.5]]);
    assert_eq!(rows("[[1, 2], [3, 4]]").unwrap(), [[1.0, 2.0], [3.0, 4.0]]);
    assert!(rows("[[1, 2], [3]]").is_err() && rows("\"error\"").is_err() && rows("{}").is_err());
    assert!(rows("[1, null]").is_err());
    let matrix = NdArray::matrix(&[vec![1.0, 2.0], vec![3.0, 4.0]]).unwrap();
    assert_eq!(Value::from(matrix.clone()).rows("actions").unwrap(), [[1.0, 2.0], [3.0, 4.0]]);
    assert!(Value::from(matrix).numbers("state").is_err());
}

fn array() -> impl Strategy<Value = Value> {
    const DTYPES: &[&str] = &["|u1", "<f4", "<f8", ">i2", "|b1"];
    (prop::sample::select(DTYPES), prop::collection::vec(0usize..4, 0..4)).prop_flat_map(
        |(dtype, shape)| {
            let dtype = Dtype::parse(dtype).unwrap();
            let bytes = shape.iter().product::<usize>() * dtype.size;
            prop::collection::vec(any::<u8>(), bytes..=bytes)
                .prop_map(move |data| NdArray::new(dtype, shape.clone(), data).unwrap().into())
        },
    )
}

fn value(bytes: bool) -> impl Strategy<Value = Value> {
    let finite = any::<f64>().prop_filter("finite", |value| value.is_finite());
    let plain = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(|value| Value::Int(value.into())),
        any::<u64>().prop_map(|value| Value::Int(value.into())),
        finite.prop_map(Value::Float),
        ".{0,8}".prop_map(Value::Text),
        array(),
    ];
    let leaf = match bytes {
        true => {
            let bytes = prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::Bytes);
            prop_oneof![plain, bytes].boxed()
        }
        false => plain.boxed(),
    };
    leaf.prop_recursive(3, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::List),
            prop::collection::btree_map("[a-z/]{1,6}", inner, 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn msgpack_keeps_every_value(value in value(true), text in any::<bool>()) {
        let names = if text { Names::Text } else { Names::Bytes };
        let message = msgpack::encode(&value, names).unwrap();
        prop_assert_eq!(packed(&message).unwrap(), value);
        // No beginning of it is a message.
        for end in 0..message.len() {
            prop_assert!(packed(&message[..end]).is_err());
        }
    }

    #[test]
    fn json_keeps_every_value(value in value(false)) {
        let body = json_numpy::encode(&value, Encoding::Single).unwrap();
        prop_assert_eq!(json_numpy::decode(&body, &Limits::default()).unwrap(), value);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let limits = Limits::default();
        let _ = packed(&bytes);
        let _ = json_numpy::decode(&bytes, &limits);
        let _ = json_numpy::decode_request(&bytes, &limits);
        let _ = json_numpy::decode_answer(&bytes, &limits);
    }

    #[test]
    fn one_changed_byte_never_panics(value in value(true), place in any::<prop::sample::Index>(),
                                     byte in any::<u8>()) {
        let mut message = msgpack::encode(&value, Names::Bytes).unwrap();
        let place = place.index(message.len());
        message[place] = byte;
        let _ = packed(&message);
    }
}
